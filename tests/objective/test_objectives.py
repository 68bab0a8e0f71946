"""The objectives' exact values, and that nothing missing is ever a bonus."""

from __future__ import annotations

import math

import pytest

from swarmtune.errors import FitnessCalculationError
from swarmtune.objective import Goodput, Throughput, Weighted, Weights, per_request_limits, slo_mistakes
from swarmtune.records import Measurement

METRICS = {
    "completed": 100,
    "success_rate": 0.98,
    "output_throughput": 2500.0,
    "request_goodput": 7.5,
    "mean_ttft_ms": 400.0,
    "p95_ttft_ms": 600.0,
    "mean_tpot_ms": 40.0,
    "p95_tpot_ms": 60.0,
}


def test_goodput_and_throughput_under_promises() -> None:
    m = Measurement(METRICS)
    score = Goodput(limits={"p95_ttft_ms": 500.0, "p95_tpot_ms": 80.0}, min_success_rate=0.95).score(m)
    assert (score.value, score.loss) == (7.5, -7.5)
    assert score.violations["p95_ttft_ms"] == pytest.approx(0.2)
    assert score.violations["p95_tpot_ms"] == pytest.approx(-0.25)
    assert not score.feasible
    assert score.total_violation == pytest.approx(0.2)
    assert Throughput(min_success_rate=0.9).score(m).feasible
    assert not Throughput(min_success_rate=0.99).score(m).feasible


def test_weighted_is_the_older_tuners_cost() -> None:
    """Computed by hand: .4*2 + .2*e^(3*(.8-1)) + .3*e^(3*(.8-1)) + .1*e^(5*(1/.98-1))."""
    expected = 0.8 + 0.5 * math.exp(-0.6) + 0.1 * math.exp(5 * (1 / 0.98 - 1))
    score = Weighted(min_success_rate=0.5).score(Measurement(METRICS))
    assert score.value == pytest.approx(expected)
    assert score.loss == score.value


def test_weights_and_penalties_are_configurable() -> None:
    weights = Weights(
        generate_speed=1.0, time_to_first_token=0, time_per_output_token=0.5, success_rate=0, tpot_penalty=0
    )
    assert Weighted(weights=weights).value(Measurement(METRICS)) == pytest.approx(2.0 + 0.5)


@pytest.mark.parametrize("missing", ["output_throughput", "success_rate", "mean_ttft_ms", "mean_tpot_ms"])
def test_a_missing_metric_is_an_error(missing: str) -> None:
    metrics = {k: v for k, v in METRICS.items() if k != missing}
    with pytest.raises(FitnessCalculationError, match=missing):
        Weighted().score(Measurement(metrics))


def test_a_missing_promised_metric_is_an_error() -> None:
    with pytest.raises(FitnessCalculationError, match="p99_ttft_ms"):
        Goodput(limits={"p99_ttft_ms": 500.0}).score(Measurement(METRICS))


def test_hopeless_runs_cost_infinity() -> None:
    assert Weighted().value(Measurement(METRICS | {"output_throughput": 0.0})) == math.inf
    assert Weighted().value(Measurement(METRICS | {"mean_ttft_ms": 1e9})) == math.inf


def test_nothing_completed_breaks_every_promise() -> None:
    m = Measurement({"completed": 0, "success_rate": 0.0, "request_goodput": 0.0})
    score = Goodput(limits={"p95_ttft_ms": 500.0}).score(m)
    assert score.violations == {"success_rate": 1.0, "p95_ttft_ms": 1.0}


def test_per_request_limits_take_the_tightest() -> None:
    limits = {"p95_ttft_ms": 500.0, "p99_ttft_ms": 900.0, "mean_tpot_ms": 50.0, "p99_itl_ms": 80.0}
    assert per_request_limits(limits) == {"ttft_ms": 500.0, "tpot_ms": 50.0}


def test_bad_promises_are_named() -> None:
    assert len(slo_mistakes({"p95_ttft_ms": 500, "p42_ttft_ms": 1, "ttft": 3, "p99_e2el_ms": 0})) == 3
