"""Fields that are in use only where a condition holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.engines.placement import place
from swarmtune.errors import ConfigValidationError
from swarmtune.space import Field, Space

FIELDS = (
    Field("speculation", "--speculation", dtype="enum", dtype_param=["off", "ngram"], value="off"),
    Field("tokens", "--tokens", 1, 8, value=3, when="speculation != 'off'"),
    Field("share", "--share", 0.1, 0.9, "ratio", dtype_param="tokens", when="speculation == 'ngram'"),
    Field("seqs", "--seqs", 1, 64),
)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_at_rest_all_values_are_one_setting(point: list[float]) -> None:
    space = Space(FIELDS)
    setting = space.decode(point)
    assert space.decode(space.encode(setting)) == setting
    moved = space.decode([point[0], 1 - point[1], 1 - point[2], point[3]])
    if setting.values["speculation"] == "off":
        assert setting.values["tokens"] == 3
        assert moved == setting


def test_in_use_it_is_searched_and_written_and_at_rest_it_is_not() -> None:
    space = Space(FIELDS)
    used = space.decode([0.99, 0.99, 0.5, 0.5])
    assert used.values["tokens"] == 8
    assert "--tokens" in place(FIELDS, used).flags
    assert "--tokens" not in place(FIELDS, space.default()).flags
    assert space.setting({"speculation": "ngram", "tokens": 5}).values["tokens"] == 5
    assert space.setting({"tokens": 5}).values["tokens"] == 3


def test_random_settings_use_the_whole_space() -> None:
    space = Space(FIELDS)
    rng = np.random.default_rng(1)
    seen = {space.decode(space.sample(rng)).values["tokens"] for _ in range(200)}
    assert seen == set(range(1, 9))


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("spec != 1", "'spec', which is not a field"),
        ("tokens > 1", "depends on itself"),
        ("seqs >", "not an expression"),
    ],
)
def test_mistakes_are_told(when: str, said: str) -> None:
    with pytest.raises(ConfigValidationError, match=said):
        Space([Field("seqs", "--seqs", 1, 64), Field("tokens", "--tokens", 1, 8, when=when)])


def test_a_circle_of_conditions_is_told() -> None:
    with pytest.raises(ConfigValidationError, match="circle"):
        Space([Field("a", "--a", 1, 8, when="b > 1"), Field("b", "--b", 1, 8, when="a > 1")])
