"""The small language of constraints, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.space import Constraint, ConstraintError


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("a >= b", {"a": 2, "b": 1}, True),
        ("a * b == 8 and not c", {"a": 2, "b": 4, "c": False}, True),
        ("min(a, b) < 3 or kind in ['f16', 'q8_0']", {"a": 5, "b": 4, "kind": "q8_0"}, True),
        ("1 <= a <= 10", {"a": 11}, False),
        ("a / b > 1", {"a": 1, "b": 0}, False),
        ("kind > 3", {"kind": "text"}, False),
        ("flag == true", {"flag": True}, True),
        ("-a < abs(b) % 3", {"a": 1, "b": -2}, True),
        ("kind not in ('x', 'y')", {"kind": "x"}, False),
    ],
)
def test_expressions(text: str, values: dict[str, int | str], expected: bool) -> None:
    assert Constraint.parse(text).holds(values) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a >",
        "a.b",
        "a[0]",
        "f(a)",
        "lambda: 1",
        "a ** 9",
        "a if b else c",
        "(x := 1)",
        "min()",
        "max(a, key=b)",
        "a << 9",
        "f'{a}'",
        "a" * 600,
    ],
)
def test_what_is_not_in_the_language_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError):
        Constraint.parse(text)


@given(st.text(max_size=60))
def test_no_text_does_harm(text: str) -> None:
    try:
        constraint = Constraint.parse(text)
    except ConstraintError:
        return
    assert constraint.holds(dict.fromkeys(constraint.names, 1)) in (True, False)
