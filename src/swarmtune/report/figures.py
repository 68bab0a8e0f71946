"""The numbers of a report: means of re-measurements, the table of baseline and winner, spent budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swarmtune.records import AttemptResult, Trial, Value
from swarmtune.tuner.result import Result


@dataclass(frozen=True)
class Compared:
    """A row of the table: a name, the baseline's and the winner's value, and their difference, as texts."""

    name: str
    baseline: str
    winner: str
    difference: str = ""


def comparison(result: Result) -> list[Compared]:
    """Objective, SLOs and load of baseline and winner, then their parameters."""
    pair = (result.baseline, result.best)
    values = [mean_value(result.remeasured.get(t.number, ())) if t else None for t in pair]
    scored = [t.score.value if t and t.score else None for t in pair]
    shown = [v if v is not None else s for v, s in zip(values, scored, strict=True)]
    gain, interval = result.verdict.gain_percent, result.verdict.ci95_percent
    difference = "" if gain is None else f"{gain:+.1f} %"
    if interval is not None:
        difference += f" (95 % CI {interval[0]:+.1f} to {interval[1]:+.1f} %)"
    objective = result.plan.objective
    name = f"{type(objective).__name__.lower()} ({objective.unit})"
    rows = [Compared(name, _number(shown[0]), _number(shown[1]), difference)]
    metrics = (*objective.limits, "output_throughput", "success_rate")
    rows += [Compared(m, *(_number(shown_metric(result, t, m)) for t in pair)) for m in metrics]
    loads = [t.measurement.load if t and t.measurement else {} for t in pair]
    rows.append(Compared("load", *(" ".join(f"{k} {v:g}" for k, v in load.items()) or "-" for load in loads)))
    if result.best is not None and result.baseline is not None:
        for name, value in result.best.setting.values.items():
            before = result.baseline.setting.values[name]
            rows.append(Compared(name, str(before), str(value), "" if before == value else "changed"))
    return rows


def no_difference(result: Result) -> dict[str, list[Value]]:
    """Parameters in which the tied settings and the best differ: no effect of theirs was measurable."""
    several = [t.setting.values for t in (result.best, *result.tied) if t is not None]
    names = several[0] if several else ()
    values = {n: sorted({s[n] for s in several}, key=lambda v: (isinstance(v, str), v)) for n in names}
    return {name: found for name, found in values.items() if len(found) > 1}


def budget(result: Result) -> dict[str, Any]:
    """Limit (None: no limit) and spending of each budget; for the accelerators also that of the proof."""
    plan, spent = result.plan, result.spent
    return {
        "evaluations": {"limit": plan.evaluations, "spent": result.evaluations},
        "wall_seconds": {"limit": plan.timeout_s, "spent": round(spent.wall_s, 3)},
        "accelerator_seconds": {
            "limit": plan.accelerator_s,
            "spent": round(spent.accelerator_s, 3),
            "proof": round(spent.proof_accelerator_s, 3),
        },
    }


def mean_value(results: Sequence[AttemptResult]) -> float | None:
    """The mean of the known values."""
    values = [r.score.value for r in results if r.score is not None and r.score.value is not None]
    return sum(values) / len(values) if values else None


def shown_metric(result: Result, trial: Trial | None, metric: str) -> float | None:
    """A metric for the final table: of the re-measurements where there are any, else of the search."""
    if trial is None:
        return None
    measured = [r.measurement.metrics.get(metric) for r in result.remeasured.get(trial.number, ()) if r.measurement]
    values = [v for v in measured if v is not None]
    if values:
        return sum(values) / len(values)
    return None if trial.measurement is None else trial.measurement.metrics.get(metric)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
