"""What several loads of a setting come to, and what early stopping does to a score."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.tuner.loop.test_coordinator import plan

from swarmtune.objective import Goodput
from swarmtune.records import EarlyStop, Measurement, from_plain, to_plain
from swarmtune.search.load import with_margin
from swarmtune.tuner.loop.loads import best_point, load_point, savings, score_of, together

OBJECTIVE = Goodput(limits={"p95_ttft_ms": 500.0})


def measured(goodput: float, ttft: float = 400.0, load: float = 8.0, stop: EarlyStop | None = None) -> Measurement:
    metrics = {"request_goodput": goodput, "p95_ttft_ms": ttft, "success_rate": 1.0, "duration_s": 30.0}
    return Measurement(metrics, {"concurrency": load}, early_stop=stop)


def stop(rule: str = "promise_broken", done: bool = True, most: float | None = None) -> EarlyStop:
    of = "request_goodput" if rule == "cannot_win" else "p95_ttft_ms"
    return EarlyStop(rule, of, 10.0, done, most, 20.0 if most else None)  # type: ignore[arg-type]


@pytest.mark.parametrize("early", [stop(), stop("over_saturated"), stop("cannot_win", most=15.0)])
def test_a_stopped_measurement_is_never_feasible(early: EarlyStop) -> None:
    score = score_of(OBJECTIVE, measured(99.0, stop=early))
    assert not score.feasible
    assert score.rank > score_of(OBJECTIVE, measured(0.1)).rank
    assert from_plain(to_plain(measured(99.0, stop=early)), Measurement).early_stop == early


def test_how_far_it_stays_behind_is_told() -> None:
    assert score_of(OBJECTIVE, measured(14.0, stop=stop("cannot_win", most=15.0))).violations["cannot_win"] == 0.25


def test_a_reported_stop_changes_no_score() -> None:
    assert score_of(OBJECTIVE, measured(9.0, stop=stop(done=False))) == score_of(OBJECTIVE, measured(9.0))


def test_the_best_load_is_not_the_highest_and_luck_is_averaged() -> None:
    made = plan(objective=OBJECTIVE)
    points = [measured(10.0, load=8), measured(9.0, load=16), measured(12.0, load=4), measured(6.0, load=4)]
    best, score = best_point(made, points)
    assert (best.load["concurrency"], score.value) == (8.0, 10.0)


def test_repetitions_are_put_together() -> None:
    both = together([measured(10.0, 300.0), measured(12.0, 500.0)])
    assert both.metrics["request_goodput"] == 11.0
    assert both.metrics["p95_ttft_ms"] == 400.0


def test_a_repetition_in_which_nothing_completed_is_what_counts() -> None:
    nothing = Measurement({"request_goodput": 0.0, "success_rate": 0.0, "completed": 0}, {"concurrency": 8})
    _, score = best_point(plan(objective=OBJECTIVE), [measured(10.0), nothing])
    assert (score.value, score.violations) == (0.0, {"success_rate": 1.0, "p95_ttft_ms": 1.0})


def test_failures_enter_the_load_search_relative_to_what_is_allowed() -> None:
    made = plan(objective=OBJECTIVE)
    measurement = Measurement({"request_goodput": 1.0, "p95_ttft_ms": 1.0, "success_rate": 0.98}, {"concurrency": 8})
    point = load_point(made, measurement, OBJECTIVE.score(measurement))
    assert point.violations["success_rate"] == pytest.approx(1.0)
    assert not point.kept


def test_where_no_failure_is_allowed_none_is_no_reason_for_a_lower_load() -> None:
    strict = Goodput(limits={"p95_ttft_ms": 500.0}, min_success_rate=1.0)
    made = plan(objective=strict)
    points = [load_point(made, m, strict.score(m)) for m in (measured(5.0, 250.0, 6.0), measured(9.0, 300.0, 8.0))]
    assert points[0].violations["success_rate"] == -1.0
    assert with_margin(made.load_search, points, 8.0, 0.1) == 8.0
    lost = replace(measured(5.0), metrics={**measured(5.0).metrics, "success_rate": 0.999})
    assert not load_point(made, lost, strict.score(lost)).kept


def test_savings_count_seconds_and_wrong_decisions() -> None:
    found = savings(
        OBJECTIVE,
        [
            measured(9.0),
            measured(9.0, ttft=900.0, stop=stop(done=False)),
            measured(9.0, ttft=100.0, stop=stop(done=False)),  # the whole run kept it
            measured(21.0, stop=stop("cannot_win", False, 15.0)),  # the whole run won
            measured(9.0, ttft=900.0, stop=stop()),
        ],
    )
    assert (found.measurements, found.stopped, found.decided, found.wrong) == (5, 1, 3, 2)
    assert found.seconds_saved == 60.0
    assert found.to_json()["share_saved"] == pytest.approx(60 / 150)
