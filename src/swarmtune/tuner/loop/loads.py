"""Combines the measurements of one setting at several loads, those that were stopped early included. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from swarmtune.objective import Objective
from swarmtune.records import Measurement, Score
from swarmtune.search.load import LoadPoint
from swarmtune.tuner.planning.plan import Plan

LEAST_BROKEN = 0.01  # relative: a stopped measurement is never feasible


def score_of(objective: Objective, measurement: Measurement) -> Score:
    """The score of a measurement; one that was stopped early breaks the SLO it was stopped for, or ``cannot_win``.

    That violation is at least ``LEAST_BROKEN``; for ``cannot_win`` it is the distance to the value to beat, relative to
    that value. So the search learns a bound, and a stopped measurement never wins.
    """
    score, stop = objective.score(measurement), measurement.early_stop
    if stop is None or not stop.done:
        return score
    name, broken = stop.of, score.violations.get(stop.of, 0.0)
    if stop.rule == "cannot_win":
        name, broken = "cannot_win", 1 - (stop.most or 0.0) / stop.to_beat if stop.to_beat else 1.0
    return replace(score, violations={**score.violations, name: max(broken, LEAST_BROKEN)})


def load_point(plan: Plan, measurement: Measurement, score: Score) -> LoadPoint:
    """The measurement as a point of the load search. The success rate enters as the share of failures, relative to the
    allowed share; where none is allowed, no failure keeps it with all the margin there is.
    """
    violations, least = dict(score.violations), plan.objective.min_success_rate
    if "success_rate" in violations:
        failed = 1 - (1 - violations["success_rate"]) * least
        if least < 1:
            violations["success_rate"] = failed / (1 - least) - 1
        elif failed <= 0:
            violations["success_rate"] = -1.0
    value = score.value if plan.objective.direction == "maximize" else None
    return LoadPoint(plan.load_value(measurement), violations, value, measurement.stopped_early)


def best_point(plan: Plan, measured: Sequence[Measurement]) -> tuple[Measurement, Score]:
    """The best load's measurement and score; repetitions of a load are averaged first, so that luck does not win."""
    by_load: dict[float, list[Measurement]] = {}
    for measurement in measured:
        by_load.setdefault(plan.load_value(measurement), []).append(measurement)
    whole = [together(several) for several in by_load.values()]
    return min(((m, score_of(plan.objective, m)) for m in whole), key=lambda point: point[1].rank)


def together(several: Sequence[Measurement]) -> Measurement:
    """The mean of each metric that all measurements have, and all their blocks; if one completed no request, that one
    alone, because it has no latencies.
    """
    first = next((m for m in several if m.metrics.get("completed") == 0), several[0])
    if len(several) == 1 or first.metrics.get("completed") == 0:
        return first
    names = [name for name in first.metrics if all(name in m.metrics for m in several)]
    return replace(
        first,
        metrics={name: sum(m.metrics[name] for m in several) / len(several) for name in names},
        blocks={name: sum((m.blocks.get(name, ()) for m in several), ()) for name in first.blocks},
        early_stop=next((m.early_stop for m in several if m.stopped_early), None),
    )


@dataclass(frozen=True)
class Savings:
    """What early stopping saved or would have saved: measurements, seconds of measurement, and wrong decisions.

    ``wrong`` and ``seconds_saved`` are about the measurements that went on to their end (mode report).
    """

    measurements: int = 0
    stopped: int = 0
    decided: int = 0
    seconds: float = 0.0
    seconds_saved: float = 0.0
    wrong: int = 0

    @property
    def sentence(self) -> str:
        """A sentence for the report."""
        if self.stopped:
            return f"Early stopping ended {self.stopped} of {self.measurements} measurements."
        return (
            f"Early stopping would have ended {self.decided} of {self.measurements} measurements and saved "
            f"{self.seconds_saved:.0f} of {self.seconds:.0f} s; {self.wrong} of these decisions would have been wrong."
        )

    def to_json(self) -> Mapping[str, float]:
        """Plain data, with the saved share of the seconds."""
        share = self.seconds_saved / self.seconds if self.seconds else 0.0
        return {**vars(self), "share_saved": round(share, 4)}


def savings(objective: Objective, measured: Sequence[Measurement]) -> Savings:
    """What early stopping saved over all measurements of the search."""
    ended = [(m, m.early_stop) for m in measured if m.early_stop and not m.early_stop.done]
    return Savings(
        measurements=len(measured),
        stopped=sum(m.stopped_early for m in measured),
        decided=len(ended),
        seconds=sum(m.metrics.get("duration_s", 0.0) for m in measured),
        seconds_saved=sum(max(0.0, m.metrics.get("duration_s", 0.0) - stop.after_s) for m, stop in ended),
        wrong=sum(_wrong(objective, m) for m, _ in ended),
    )


def _wrong(objective: Objective, measurement: Measurement) -> bool:
    """Does the whole measurement contradict the early decision?"""
    stop, score = measurement.early_stop, objective.score(measurement)
    if stop is None:
        return False
    if stop.rule == "cannot_win":
        return stop.to_beat is not None and score.value is not None and score.value >= stop.to_beat
    return score.violations.get(stop.of, 1.0) <= 0
