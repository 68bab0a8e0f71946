"""The models behind the default search: right slopes, honest doubt, and the same beliefs after a crash."""

from __future__ import annotations

import math

import numpy as np
import pytest

from swarmtune.records import Score, Setting
from swarmtune.search import gaussian
from swarmtune.search.base import Earlier
from swarmtune.search.gaussian import GaussianProcess, Hyperparameters, squared_differences
from swarmtune.search.incumbent import deployable
from swarmtune.search.surrogate import LossTransform, Surrogate, bent, log_expected_improvement, milestones
from swarmtune.space import Field, Space

SPACE = Space([Field("x", dtype="float", min=0, max=1), Field("kind", dtype="enum", dtype_param=["a", "b"])])


def row(x: float, value: float, violation: float = -0.5, kind: str = "a") -> tuple[Setting, Score]:
    return SPACE.setting({"x": x, "kind": kind}), Score(value, -value, {"p95_ttft_ms": violation})


def test_the_slopes_of_the_likelihood_are_right() -> None:
    rng = np.random.default_rng(1)
    points, values = rng.uniform(size=(12, 3)), rng.normal(size=12)
    points[:, 2] = np.round(points[:, 2])
    differences = squared_differences(points, points, np.array([False, False, True]))
    doubt = rng.uniform(0, 0.2, 12)
    theta = np.array([-0.3, 0.2, 0.5, 0.1, -2.0])
    value, slope = gaussian._negative_log_likelihood(theta, differences, values, doubt)
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-5
        above = gaussian._negative_log_likelihood(theta + step, differences, values, doubt)[0]
        below = gaussian._negative_log_likelihood(theta - step, differences, values, doubt)[0]
        assert slope[i] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-6)
    assert math.isfinite(value)


def test_a_process_is_sure_where_it_has_seen_and_doubts_elsewhere() -> None:
    x = np.linspace(0, 0.5, 8)[:, None]
    own = squared_differences(x, x, np.array([False]))
    h = Hyperparameters(np.array([math.log(0.3)]), 0.0, math.log(1e-3))
    process = GaussianProcess(h, own, np.sin(6 * x[:, 0]), np.zeros(8))
    there = np.array([[0.21], [0.95]])
    mean, deviation = process.predict(squared_differences(x, there, np.array([False])))
    assert mean[0] == pytest.approx(math.sin(6 * 0.21), abs=0.05)
    assert deviation[0] < 0.1 < 0.6 < deviation[1]
    doubtful = GaussianProcess(h, own, np.sin(6 * x[:, 0]), np.full(8, 1.0))
    assert doubtful.predict(squared_differences(x, there, np.array([False])))[1][0] > 2 * deviation[0]


def test_expected_improvement_is_right_near_and_far() -> None:
    rng = np.random.default_rng(2)
    found = log_expected_improvement(np.array([0.3, 1.5]), np.array([0.5, 0.4]), 0.8)
    for mean, deviation, log_ei in zip([0.3, 1.5], [0.5, 0.4], found, strict=True):
        drawn = np.maximum(0, 0.8 - rng.normal(mean, deviation, 2_000_000)).mean()
        assert math.exp(log_ei) == pytest.approx(drawn, rel=0.02)
    far = log_expected_improvement(np.array([5.0, 10.0, 40.0, 1e6]), np.ones(4), 0.0)
    assert np.all(np.isfinite(far))
    assert np.all(np.diff(far) < 0)


def test_the_limit_stays_the_limit_and_far_away_is_compressed() -> None:
    assert bent(0.0) == 0
    assert bent(0.01) == pytest.approx(0.00995, rel=0.02)
    assert bent(1e9) < 3
    assert bent(-1.0) > -4
    assert LossTransform.of([-10.0, -5.0, 0.0])(0.0) == pytest.approx(-math.log(0.01))
    assert LossTransform.of([3.0, math.inf])(math.inf) == pytest.approx(math.log(3000.0))
    assert LossTransform.of([-1.0, 2.0])(math.inf) == LossTransform.of([-1.0, 2.0])(2.0)


def test_all_told_at_once_is_believed_as_one_by_one() -> None:
    """With goodputs of zero, whose logarithm is cut at a share of the best value known by then."""
    rng = np.random.default_rng(4)
    rows = [row(x, 0.0 if x < 0.3 else 1 + 50 * x, x - 0.8) for x in rng.uniform(size=40)]
    lived, resumed = Surrogate(SPACE), Surrogate(SPACE)
    for count in range(4, 41):
        told = lived.believe(rows[:count])
    again = resumed.believe(rows)
    points = rng.uniform(size=(20, 2))
    assert np.array_equal(told.predict(points).mean, again.predict(points).mean)
    assert np.array_equal(told.predict(points).log_feasible, again.predict(points).log_feasible)
    assert milestones(40)[:3] == [4, 6, 8]


def test_one_lucky_measurement_is_not_recommended() -> None:
    rng = np.random.default_rng(5)
    rows = [row(x, 100 + 40 * x + rng.normal(0, 1)) for x in np.linspace(0, 0.9, 16)]
    rows.append(row(0.31, 155.0))  # a lucky day of a mediocre setting
    best = deployable(SPACE, rows, 1)[0]
    assert best.values["x"] > 0.7


def test_who_may_break_a_promise_has_to_be_worth_it() -> None:
    rows = [
        row(x, 100 + 40 * x, 2 * (x - 0.6) + (0.01 if i % 2 else -0.01)) for i, x in enumerate(np.linspace(0, 1, 20))
    ]
    best = deployable(SPACE, rows, 3)
    assert 0.4 < float(best[0].values["x"]) < 0.6
    assert all(float(s.values["x"]) < 0.66 for s in best)


def test_nothing_that_fails_or_was_given_up_is_recommended() -> None:
    failing = [(SPACE.setting({"x": x}), Score.failed()) for x in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    assert deployable(SPACE, failing, 3) == []
    behind = [(SPACE.setting({"x": x}), Score(1.0, -1.0, {"cannot_win": 0.02})) for x in (0.7, 0.8)]
    kept = row(0.9, 0.5)
    assert deployable(SPACE, [*failing, *behind, kept], 3) == [kept[0]]


def test_earlier_results_count_by_their_weight() -> None:
    earlier = [Earlier(*row(x, 100 + 50 * x), weight=1.0) for x in np.linspace(0, 1, 9)]
    rows = [row(0.0, 100.0), row(0.1, 105.0)]
    there = np.array([[0.7, 0.25]])
    full = Surrogate(SPACE).believe(rows, (), earlier).predict(there)
    little = Surrogate(SPACE).believe(rows, (), [Earlier(e.setting, e.score, 0.1) for e in earlier]).predict(there)
    assert full.mean[0] == pytest.approx(-math.log(135), abs=0.03)
    assert full.deviation[0] < little.deviation[0]
    assert len(Surrogate(SPACE).believe(rows, (), earlier).points) == 2
