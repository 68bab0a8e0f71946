"""Goodput and throughput per accelerator, watt and dollar; several objectives in one score."""

from __future__ import annotations

import math

import pytest

from swarmtune.errors import FitnessCalculationError
from swarmtune.objective import Goodput, Latency, Per, Throughput
from swarmtune.records import Measurement, Score, from_plain, to_plain

METRICS = {"success_rate": 1.0, "output_throughput": 1200.0, "request_goodput": 6.0, "p95_ttft_ms": 80.0}


def measured(**more: float) -> Measurement:
    return Measurement({**METRICS, **more})


def test_half_the_accelerators_are_worth_twice_as_much() -> None:
    per = Throughput(per=Per("accelerator"))
    assert per.unit == "tok/s/accelerator"
    assert per.value(measured(accelerators=4)) == 300
    assert per.value(measured(accelerators=2)) == 600


def test_per_watt_is_per_joule() -> None:
    per = Goodput(per=Per("watt"))
    assert (per.unit, per.value(measured(power_watts=300))) == ("req/J", 0.02)


def test_per_dollar_of_accelerators_or_of_the_group() -> None:
    """1200 tok/s are 4.32 million in an hour."""
    of_one = Throughput(per=Per("dollar", 3.0))
    assert (of_one.unit, of_one.value(measured(accelerators=2))) == ("tok/$", 4.32e6 / 6)
    of_all = Throughput(per=Per("dollar", 12.0, of_group=True))
    assert of_all.value(measured()) == pytest.approx(4.32e6 / 12)


@pytest.mark.parametrize(("what", "name"), [("accelerator", "accelerators"), ("watt", "power_watts")])
def test_what_was_not_measured_is_an_error_and_no_bonus(what: str, name: str) -> None:
    with pytest.raises(FitnessCalculationError, match=name):
        Throughput(per=Per(what)).score(measured())  # type: ignore[arg-type]
    with pytest.raises(FitnessCalculationError, match="above 0"):
        Throughput(per=Per(what)).score(measured(**{name: 0.0}))  # type: ignore[arg-type]


def test_a_score_holds_the_losses_of_several_objectives() -> None:
    several = {"throughput": Throughput(), "p95_ttft_ms": Latency(name="p95_ttft_ms")}
    score = Throughput(several=several).score(measured())
    assert (score.value, score.loss) == (1200.0, -1200.0)
    assert score.values == {"throughput": -1200.0, "p95_ttft_ms": 80.0}
    assert from_plain(to_plain(score), Score) == score


def test_without_a_completed_request_a_latency_is_infinite_and_a_missing_one_is_an_error() -> None:
    assert Latency(name="p99_e2el_ms").value(measured(completed=0)) == math.inf
    with pytest.raises(FitnessCalculationError, match="p99_e2el_ms"):
        Latency(name="p99_e2el_ms").value(measured(completed=1))
