"""Encode/decode round trips, legality of every decoded setting, exact derived values: for random spaces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtune.errors import ConfigValidationError
from swarmtune.space import DTYPES, Dimension, Field, Space

INDEPENDENT = ("int", "float", "bool", "enum", "range")


@st.composite
def independent_field(draw: st.DrawFn, name: str) -> Field:
    dtype = draw(st.sampled_from(INDEPENDENT))
    if dtype == "bool":
        return Field(name, dtype=dtype, min=0, max=1)
    if dtype == "enum":
        pool = st.one_of(st.integers(-50, 50), st.sampled_from(["f16", "q8_0", "q4_0", "auto"]))
        choices = draw(st.lists(pool, min_size=1, max_size=6, unique=True))
        return Field(name, dtype=dtype, dtype_param=choices)
    low = draw(st.integers(1, 500))
    high = low + draw(st.integers(0, 70_000))
    if dtype == "range":
        step = draw(
            st.sampled_from([1, 2, 7, 10, 100, *([0.5] if high - low < 50_000 else [])])
        )  # 100,000 values at most
        return Field(name, dtype=dtype, min=low, max=max(high, low + step), dtype_param=step)
    return Field(name, dtype=dtype, min=low, max=high, log=draw(st.booleans()))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """A few independent fields, and one of each derived kind."""
    fields = [draw(independent_field(f"p{i}")) for i in range(draw(st.integers(1, 4)))]
    low = draw(st.integers(1, 20))
    batch = Field("batch", dtype="int", min=low, max=low + draw(st.integers(0, 1000)))
    lowest = draw(st.sampled_from([0.0, 0.1, 0.25]))
    ratio = Field("part", dtype="ratio", min=lowest, max=draw(st.sampled_from([0.3, 0.7, 1.0])), dtype_param="batch")
    share = Field("rest", dtype="share", dtype_param="batch")
    product = draw(st.sampled_from([1, 8, 12, 16, 36, 64]))
    tp = Field("tp", dtype="int", min=1, max=draw(st.integers(1, 70)))
    dp = Field("dp", dtype="factories", dtype_param={"target_name": "tp", "product": product})
    twice = Field("tokens", dtype="times", dtype_param={"target_name": "batch", "product": draw(st.integers(1, 9))})
    a = Field("a", dtype="enum", dtype_param=[1, 2, 3, 4, 6, 8])
    b = Field("b", dtype="int", min=1, max=draw(st.integers(1, 20)))
    priorities = st.sampled_from(["a", ["a"], ["a", "b"], ["b", "a"]])
    policy = draw(st.just({}) | priorities.map(lambda p: {"priority_policy": "fixed", "priority": p}))
    pair = {"target_names": ["a", "b"], "product": product}
    quotient = Field("c", dtype="ternary_factories", dtype_param={**pair, **policy})
    triple = Field("d", dtype="ternary_times", dtype_param={**pair})
    order = draw(st.permutations([*fields, batch, ratio, share, tp, dp, twice, a, b, quotient, triple]))
    return Space(order)


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_decode_is_legal_and_encode_is_its_inverse(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for point in (rng.uniform(size=len(space.dimensions)), rng.integers(0, 2, len(space.dimensions)).astype(float)):
        setting = space.decode(point)
        values = setting.values
        for dimension in space.dimensions:
            field = next(f for f in space.fields if f.name == dimension.name)
            if field.dtype != "ratio":
                assert dimension.contains(values[dimension.name])
        unit = space.encode(setting)
        assert np.all((unit >= 0) & (unit <= 1))
        assert space.decode(unit) == setting
        assert space.from_coordinates(space.coordinates(setting)) == setting
        by_name = {f.name: f for f in space.fields}
        low, high = by_name["part"].min or 0, by_name["part"].max or 0
        assert math.floor(low * values["batch"]) <= values["part"] <= high * values["batch"]
        assert values["rest"] == by_name["batch"].min + by_name["batch"].max - values["batch"]
        assert values["tp"] * values["dp"] == by_name["dp"].dtype_param["product"]
        assert values["tokens"] == values["batch"] * by_name["tokens"].dtype_param["product"]
        assert values["a"] * values["b"] * values["c"] == by_name["c"].dtype_param["product"]
        assert values["d"] == values["a"] * values["b"] * by_name["d"].dtype_param["product"]


@given(independent_field("p"))
@settings(max_examples=200, deadline=None)
def test_every_value_of_a_grid_owns_a_share(field: Field) -> None:
    if field.fixed is not None:
        assert not field.searched
        return
    dimension = Dimension.of(field)
    if dimension.count is not None and dimension.count <= 2000:
        if dimension.choices:
            values = list(dimension.choices)
        else:
            values = list(range(int(dimension.low), int(dimension.high) + 1))
        assert [dimension.decode(dimension.encode(v)) for v in values] == values
    assert dimension.contains(dimension.decode(0.0))
    assert dimension.contains(dimension.decode(1.0))


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_repair_gives_a_legal_point_or_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fields = (
        Field("seqs", dtype="int", min=1, max=512, log=True),
        Field("tokens", dtype="range", min=64, max=8192, dtype_param=64),
        Field("tp", dtype="enum", dtype_param=[1, 2, 4, 8]),
        Field("pp", dtype="enum", dtype_param=[1, 2, 4, 8]),
    )
    space = Space(fields, ["tokens >= seqs", "tp * pp == 8", "seqs % 2 == 0 or tp == 1"])
    for _ in range(5):
        repaired = space.repair(rng.uniform(size=4), rng)
        assert repaired is not None
        assert space.legal(space.decode(repaired))


def test_repair_says_when_nothing_is_legal() -> None:
    pair = [Field("tp", dtype="enum", dtype_param=[1, 2, 4, 8]), Field("pp", dtype="enum", dtype_param=[1, 2, 4, 8])]
    rng = np.random.default_rng(0)
    assert Space(pair, ["tp * pp == 7"]).repair(rng.uniform(size=2), rng) is None


def test_a_legal_point_is_not_moved() -> None:
    space = Space([Field("n", dtype="int", min=1, max=100)], ["n >= 50"])
    point = np.array([0.9])
    assert np.array_equal(space.repair(point, np.random.default_rng(0)), point)


def test_constants_count_even_when_they_are_zero() -> None:
    space = Space(
        [
            Field("n", dtype="int", min=0, max=9, constant=0),
            Field("same", dtype="float", min=2.5, max=2.5),
            Field("k", min=1, max=3),
        ]
    )
    assert [d.name for d in space.dimensions] == ["k"]
    assert space.default().values == {"n": 0, "same": 2.5, "k": 2}
    assert space.size == 3


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (20, ""),
        (140, ""),
        (0.1, ""),
        (0.05, "neither a ratio (0.1 to 0.7) nor a number that one gives (20 to 140 of batch = 200)"),
        (190, "part: value 190 is neither a ratio"),
        (19, "part: value 19 is neither a ratio"),
    ],
)
def test_a_ratios_value_is_one_of_its_ratios_or_numbers(value: float, what: str) -> None:
    batch = Field("batch", min=10, max=1000, value=200)
    part = Field("part", dtype="ratio", min=0.1, max=0.7, dtype_param="batch", value=value)
    if not what:
        space = Space([batch, part])
        baseline = space.default()
        assert space.decode(space.encode(baseline)).values == baseline.values
        return
    with pytest.raises(ConfigValidationError) as caught:
        Space([batch, part])
    (mistake,) = caught.value.mistakes
    assert what in mistake


def test_baseline_takes_values_and_ratios_both_ways() -> None:
    batch = Field("batch", min=10, max=1000, value=200)
    as_ratio = Space([batch, Field("part", dtype="ratio", min=0.1, max=0.7, dtype_param="batch", value=0.5)])
    as_number = Space([batch, Field("part", dtype="ratio", min=0.1, max=0.7, dtype_param="batch", value=50)])
    assert as_ratio.default().values["part"] == 100
    assert as_number.default().values["part"] == 50


def test_env_is_read_when_the_setting_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    space = Space([Field("world", dtype="env", dtype_param="WORLD_SIZE"), Field("n", min=1, max=2)])
    assert space.default().values["world"] == "16"
    assert [d.name for d in space.dimensions] == ["n"]


def test_user_settings_are_checked_and_completed() -> None:
    space = Space(
        [
            Field("n", min=1, max=100, value=10),
            Field("twice", dtype="times", dtype_param={"target_name": "n", "product": 2}),
        ]
    )
    assert space.setting({"n": 50}).values == {"n": 50, "twice": 100}
    with pytest.raises(ConfigValidationError) as caught:
        space.setting({"n": 1000, "m": 1})
    assert len(caught.value.mistakes) == 2


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(ConfigValidationError) as caught:
        Space(
            [
                Field("a", dtype="integer"),
                Field("b", dtype="int", min=5, max=1),
                Field("c", dtype="ratio", min=0, max=1, dtype_param="zzz"),
                Field("d", dtype="range", min=0, max=10, dtype_param=0),
                Field("e", dtype="enum", dtype_param=[]),
                Field("e", dtype="bool"),
                Field("f", dtype="factories", dtype_param={"target_name": "b"}),
                Field("g", dtype="int", min=1, max=9, value=10),
            ],
            ["a >= nothing", "__import__('os')", "a +"],
        )
    assert len(caught.value.mistakes) >= 9


def test_circles_are_named() -> None:
    times = {"product": 2}
    with pytest.raises(ConfigValidationError, match="circle"):
        Space(
            [
                Field("x", dtype="times", dtype_param={"target_name": "y", **times}),
                Field("y", dtype="times", dtype_param={"target_name": "x", **times}),
            ]
        )


def test_indivisible_targets_are_a_mistake() -> None:
    with pytest.raises(ConfigValidationError, match="divides"):
        Space(
            [
                Field("tp", min=5, max=6),
                Field("dp", dtype="factories", dtype_param={"target_name": "tp", "product": 16}),
            ]
        )


def test_the_twelve_dtypes_are_the_documented_ones() -> None:
    assert len(DTYPES) == 12
    assert all(name in (Field.__doc__ or "") for name in DTYPES)


@pytest.mark.parametrize(
    ("priority", "kept"),
    [("a", "a"), (["a"], "a"), (["a", "b"], "a"), ("b", "b"), (["b", "a"], "b"), (("b", "a"), "b")],
)
def test_the_first_name_of_a_priority_keeps_its_value_longest(priority: object, kept: str) -> None:
    param = {"target_names": ["a", "b"], "product": 16, "priority_policy": "fixed", "priority": priority}
    fields = [Field(n, dtype="enum", dtype_param=[1, 2, 4, 8, 16]) for n in "ab"]
    space = Space([*fields, Field("c", dtype="ternary_factories", dtype_param=param)])
    wanted = space.decode([0.7, 0.7])  # 8 x 8 does not divide 16
    assert wanted.values[kept] == 8


@pytest.mark.parametrize("priority", [None, [], ["a", "x"], {"a": 1}, 3, "x", [["a"]]])
def test_a_priority_names_targets(priority: object) -> None:
    param = {"target_names": ["a", "b"], "product": 16, "priority_policy": "fixed", "priority": priority}
    made = Field("c", dtype="ternary_factories", dtype_param=param)
    (sentence,) = made.mistakes({"a", "b", "c"})
    assert sentence == "c: priority_policy 'fixed' needs priority = one of a, b, or a list of them"


# --- mistakes that stand for themselves --------------------------------------------------------------------------------

RANGES: list[dict[str, object]] = [
    {"min": 1, "max": 64},
    {"dtype": "float", "min": 0.5, "max": 0.9},
    {"dtype": "range", "min": 8, "max": 64, "dtype_param": 8},
    {"dtype": "bool"},
    {"dtype": "enum", "dtype_param": ["auto", 8]},
]


def said_of(*fields: Field) -> str:
    with pytest.raises(ConfigValidationError) as caught:
        Space([*fields, Field("k", min=1, max=3)])
    return "; ".join(caught.value.mistakes)


@pytest.mark.parametrize("key", ["value", "constant"])
@pytest.mark.parametrize("made", RANGES, ids=lambda made: str(made.get("dtype", "int")))
@given(
    number=st.one_of(
        st.integers(-1000, 1000), st.floats(-1000, 1000), st.booleans(), st.sampled_from(["abc", "8", "True"])
    )
)
@settings(max_examples=60, deadline=None)
def test_a_constant_is_judged_as_a_value_is(key: str, made: dict[str, object], number: object) -> None:
    other = "constant" if key == "value" else "value"
    sentences = []
    for name in (key, other):
        try:
            Space([Field("x", **{**made, name: number}), Field("k", min=1, max=3)])  # type: ignore[arg-type]
            sentences.append("")
        except ConfigValidationError as error:
            sentences.append("; ".join(error.mistakes).replace(name, "it"))
    assert sentences[0] == sentences[1]


@pytest.mark.parametrize("constant", ["abc", 8.5, 100, True, "False"])
def test_a_constant_alone_may_be_of_any_kind(constant: Any) -> None:
    space = Space([Field("x", constant=constant), Field("k", min=1, max=3)])
    assert space.default().values["x"] == constant


@pytest.mark.parametrize(
    ("number", "sentence"),
    [("8", "is text; write 8 without quotes"), (" 0.5 ", "is text; write 0.5 without quotes"), ("8k", "is not a number"),
     (8.5, "is not a whole number"), (True, "is not a number")],
)  # fmt: skip
def test_the_kind_of_a_number_is_named(number: Any, sentence: str) -> None:
    for key in ("value", "constant"):
        assert said_of(Field("x", min=1, max=64, **{key: number})) == f"x: {key} {number!r} {sentence}"


@given(st.integers(2, 5000), st.integers(2, 5000))
@settings(deadline=None)
def test_a_baseline_that_does_not_divide_names_the_nearest_divisors(product: int, baseline: int) -> None:
    for made in ({"value": baseline}, {"constant": baseline}, {"min": baseline, "max": baseline}):
        x = Field("x", **{"min": 1, "max": 5000, **made})  # type: ignore[arg-type]
        f = Field("f", dtype="factories", dtype_param={"target_name": "x", "product": product})
        if product % baseline == 0:
            values = Space([x, f, Field("k", min=1, max=3)]).default().values
            assert values["x"] * values["f"] == product
            continue
        near = [d for d in range(1, product + 1) if product % d == 0]
        shown = [str(d) for d in ([d for d in near if d < baseline][-1:] + [d for d in near if d > baseline][:1])]
        said = said_of(x, f)
        assert said.startswith(f"f: the baseline {baseline} of x does not divide its product {product}; the nearest ")
        assert said.endswith(f" {' and '.join(shown)}")


def test_a_pair_that_does_not_divide_is_named_and_the_middle_of_ranges_always_divides() -> None:
    pair = {"target_names": ["a", "b"], "product": 64}
    c = Field("c", dtype="ternary_factories", dtype_param=pair)
    said = said_of(Field("a", min=1, max=8, value=4), Field("b", min=1, max=8, value=3), c)
    assert (
        said
        == "c: the baseline 4 of a x 3 of b does not divide its product 64; the nearest numbers that do are 8 and 16"
    )
    values = Space([Field("a", min=1, max=7), Field("b", min=1, max=6), c]).default().values
    assert values["a"] * values["b"] * values["c"] == 64


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 300))
@settings(deadline=None)
def test_a_step_beyond_the_range_is_a_mistake(low: int, width: int, step: int) -> None:
    made = Field("x", dtype="range", min=low, max=low + width, dtype_param=step, value=low)
    if step <= width:
        assert Space([made]).size >= 2
    else:
        assert f"x: a step of {step} leaves only one value, {low}, " in said_of(made)


def test_each_wrong_field_is_named_beside_the_others() -> None:
    said = said_of(
        Field("a", min=1, max=8, value=9), Field("b", dtype="enum", dtype_param=[1], value=2), Field("c", min=2, max=1),
        Field("d", dtype="ratio", min=0, max=1, dtype_param="nobody"), Field("e", dtype="bool", constant=2),
    )  # fmt: skip
    assert [sentence[0] for sentence in said.split("; ")] == list("abcde")
