"""Tables of step times: the same bytes for one row and for many, exactly the trees, never less time for more work."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.latency_cases import measured, seconds_of, steps

from swarmtune.errors import ConfigurationError
from swarmtune.simulator.latency.features import FEATURES, piece_work
from swarmtune.simulator.latency.residual import KINDS, PARAMETERS, Kind, boosted, compiled
from swarmtune.simulator.latency.tables import CostTables, linear
from swarmtune.simulator.latency.training import Fitted, fitted_to
from swarmtune.simulator.scheduling.scheduler import Step
from swarmtune.simulator.step_time import StepCost

POSITIVE = st.floats(1e-6, 1e3)


@st.composite
def cost_tables(draw: st.DrawFn) -> CostTables:
    """Any tables that are legal."""
    numbers = lambda least, most: sorted(draw(st.sets(st.floats(0, 1e6), min_size=least, max_size=most)))  # noqa: E731
    knots, cuts = numbers(0, 3), [numbers(0, 4) for _ in FEATURES]
    weights = draw(st.lists(st.floats(0, 1), min_size=6 + len(knots), max_size=6 + len(knots)))
    chosen = draw(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted).map(tuple), max_size=4))
    pairs = []
    for i, j in sorted(chosen):
        shape = (len(cuts[i]) + 1, 1 if i == j else len(cuts[j]) + 1)
        size = shape[0] * shape[1]
        values = draw(st.lists(st.floats(0.1, 10), min_size=size, max_size=size))
        pairs.append((i, j, np.array(values).reshape(shape)))
    return CostTables(np.array(weights), np.array(knots), tuple(np.array(c) for c in cuts), tuple(pairs))


@given(cost_tables(), st.lists(st.tuples(*[st.floats(0, 2e6)] * 5), min_size=1, max_size=20))
def test_one_row_and_many_have_the_same_bytes(tables: CostTables, rows: list[tuple[float, ...]]) -> None:
    at_once = tables.seconds_of(np.array(rows))
    assert np.array([tables.seconds(row) for row in rows]).tobytes() == at_once.tobytes()


@given(cost_tables(), st.data())
def test_a_value_on_a_cut_is_above_it(tables: CostTables, data: st.DataObject) -> None:
    row = np.array([[data.draw(st.sampled_from([*cuts.tolist(), 0.0])) for cuts in tables.cuts]])
    assert tables.seconds(tuple(row[0])) == tables.seconds_of(row)[0]


@pytest.mark.parametrize("value", ["typical", "mean"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(50, 600), kind=st.sampled_from(list(KINDS)))
def test_the_tables_are_the_trees(value: Any, seed: int, count: int, kind: Kind) -> None:
    import xgboost

    rows = steps(count, seed).astype(np.float32).astype(float)
    ratios = seconds_of(rows, seed, noise=0.3) / 0.01
    domain = np.array([rows.min(axis=0), rows.max(axis=0)])
    cuts, pairs = compiled(boosted(rows, ratios, np.ones(count), value, kind), domain)
    trees, more = KINDS[kind]
    tables = CostTables(np.array([1.0, 0, 0, 0, 0, 0]), np.empty(0), cuts, pairs)
    label = ratios if value == "mean" else -np.log(ratios)
    data = xgboost.DMatrix(rows, label=label, weight=np.ones(count))
    if value == "mean":
        booster = xgboost.train({**PARAMETERS, **more, "objective": "reg:gamma", "base_score": 1.0}, data, trees)
        wanted = np.log(booster.predict(data))
    else:
        from swarmtune.simulator.latency.residual import _relative_error

        parameters = {**PARAMETERS, **more, "base_score": 0.0, "disable_default_eval_metric": 1}
        wanted = xgboost.train(parameters, data, trees, obj=_relative_error).predict(data, output_margin=True)
    np.testing.assert_allclose(np.log(tables.seconds_of(rows)), wanted, atol=1e-5)
    thresholds = np.concatenate([c[1:-1] for c in cuts])
    assert (thresholds == thresholds.astype(np.float32)).all()


def test_a_tree_over_three_features_is_two_tables() -> None:
    tree = {
        "left_children": [1, 3, 5, -1, -1, -1, -1],
        "right_children": [2, 4, 6, -1, -1, -1, -1],
        "split_indices": [1, 0, 2, 0, 0, 0, 0],
        "split_conditions": [10.0, 100.0, 1000.0, 0.1, 0.2, 0.3, 0.4],
    }
    cuts, pairs = compiled([tree], np.array([[0.0] * 5, [5000.0] * 5]))
    tables = CostTables(np.array([1.0, 0, 0, 0, 0, 0]), np.empty(0), cuts, pairs)
    assert [(i, j) for i, j, _ in pairs] == [(0, 1), (1, 2)]
    for tokens, decodes, context, wanted in (
        (99, 9, 1000, 0.1),
        (100, 9, 1000, 0.2),
        (99, 10, 999, 0.3),
        (99, 10, 1000, 0.4),
    ):
        assert tables.seconds((tokens, decodes, context, 1.0, 1.0)) == pytest.approx(np.exp(wanted))


def test_a_tree_without_a_question_is_one_factor() -> None:
    tree = {"left_children": [-1], "right_children": [-1], "split_indices": [0], "split_conditions": [0.5]}
    cuts, pairs = compiled([tree], np.array([[1.0] * 5, [9.0] * 5]))
    tables = CostTables(np.array([2.0, 0, 0, 0, 0, 0]), np.empty(0), cuts, pairs)
    assert tables.seconds((5.0,) * 5) == pytest.approx(2 * np.exp(0.5))
    assert tables.seconds((0.5,) * 5) == tables.seconds((9.5,) * 5) == 2.0  # beyond the domain


@functools.cache
def monotone() -> Fitted:
    return fitted_to(measured(2000), [("typical", "monotone"), ("mean", "monotone")])


@given(st.integers(0, 4), st.floats(0, 1), st.integers(0, 500))
def test_more_work_never_takes_less_time_within_the_domain(feature: int, share: float, seed: int) -> None:
    fitted = monotone()
    rows = steps(40, seed)
    rows = rows[((rows >= fitted.domain[0]) & (rows <= fitted.domain[1])).all(axis=1)]
    more = rows.copy()
    more[:, feature] += share * (fitted.domain[1, feature] - more[:, feature])
    for tables in fitted.tables.values():
        assert (tables.seconds_of(more) >= tables.seconds_of(rows) * (1 - 1e-8)).all()
        assert (tables.seconds_of(rows) != tables.physics_of(rows)).any()


@given(st.integers(0, 4), st.integers(0, 500))
def test_beyond_the_domain_of_one_feature_there_is_physics_alone(feature: int, seed: int) -> None:
    fitted = monotone()
    rows = steps(20, seed)
    rows[:, feature] = 2 * fitted.domain[1, feature] + 1
    for tables in fitted.tables.values():
        assert tables.seconds_of(rows).tobytes() == tables.physics_of(rows).tobytes()
        assert [tables.seconds(row.tolist()) for row in rows] == tables.physics_of(rows).tolist()


@given(st.integers(0, 3000), st.integers(0, 300), st.integers(0, 10**6))
def test_the_linear_cost_is_that_of_the_simulated_engine(prompt: int, decodes: int, context: int) -> None:
    cost = StepCost()
    tables = linear(2.5e-3, 10e-6, 80e-6, 1e-7, 1024, 10e-6)
    step = Step(tokens=prompt + decodes, decodes=decodes, context=context)
    assert tables.seconds((prompt + decodes, decodes, context, 0, 0)) == pytest.approx(cost.seconds(step))


def test_a_cost_that_falls_with_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot cost less"):
        linear(1e-3, 2e-5, 1e-5, 0, 1024, 0)


def test_the_work_of_pieces_is_that_of_the_whole_prompt() -> None:
    pieces = [(512, 0), (512, 512), (100, 1024)]
    assert sum(piece_work(q, c) for q, c in pieces) == piece_work(1124, 0)


ONE = np.ones((2, 1))
NO_CUTS = tuple(np.empty(0) for _ in FEATURES)
CUT = (np.array([1.0]), *NO_CUTS[1:])


@pytest.mark.parametrize(
    ("weights", "knots", "cuts", "pairs", "told"),
    [
        ([1.0] * 5, [], NO_CUTS, (), "weights: 6"),
        ([1.0] * 5 + [-1.0], [], NO_CUTS, (), "none may be below 0"),
        ([1.0] * 5 + [np.nan], [], NO_CUTS, (), "weights"),
        ([1.0] * 8, [5.0, 5.0], NO_CUTS, (), "above the one before"),
        ([1.0] * 6, [], NO_CUTS[1:], (), "one list for each"),
        ([1.0] * 6, [], (np.array([2.0, 1.0]), *NO_CUTS[1:]), (), "cuts of tokens"),
        ([1.0] * 6, [], CUT, ((0, 0, np.ones((1, 1))),), "a table of 2 x 1"),
        ([1.0] * 6, [], CUT, ((1, 0, ONE),), "smaller one first"),
        ([1.0] * 6, [], CUT, ((0, 5, ONE),), "two features"),
        ([1.0] * 6, [], CUT, ((0, 0, ONE * 0),), "above 0"),
        ([1.0] * 6, [], CUT, ((0, 0, ONE), (0, 0, ONE)), "two tables"),
    ],
)
def test_tables_that_are_none(weights: list[float], knots: list[float], cuts: Any, pairs: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        CostTables(np.array(weights), np.array(knots), cuts, pairs)


def test_tables_that_are_right_cannot_be_changed() -> None:
    tables = CostTables(np.ones(6), np.empty(0), CUT, ((0, 0, ONE.copy()),))
    with pytest.raises(ValueError, match="read-only"):
        tables.weights[0] = 2
    assert tables.seconds((2, 0, 0, 0, 0)) == 3.0
