"""The numbers of a report: means of re-measurements, the table of baseline and winner, spent budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swarmtune.records import Trial, Value
from swarmtune.tuner.proof.again import observed
from swarmtune.tuner.proof.paired import rounds_for
from swarmtune.tuner.result import Result

MOST_CONFIRM = 50  # rounds that the option takes


@dataclass(frozen=True)
class Compared:
    """A row of the table: a name, the baseline's and the winner's value, and their difference, as texts."""

    name: str
    baseline: str
    winner: str
    difference: str = ""


def comparison(result: Result) -> list[Compared]:
    """Objective, SLOs and load of the baseline and the best setting found, then their parameters, the changed ones first."""
    found = result.compared or result.best
    pair = (result.baseline, found)
    values = [compared_value(result, t) for t in pair]
    gain, interval = result.verdict.gain_percent, result.verdict.ci95_percent
    difference = "" if gain is None else f"{gain:+.1f} %"
    if interval is not None:
        difference += f" ({interval[0]:+.1f} to {interval[1]:+.1f})"
    objective = result.plan.objective
    name, numbers = f"{type(objective).__name__.lower()} ({objective.unit})", [_number(v) for v in values]
    rows = [Compared(name, numbers[0], numbers[1], difference)]
    for metric, limit in objective.limits.items():
        shown = (_judged(shown_metric(result, t, metric), limit, upper=True) for t in pair)
        rows.append(Compared(f"{metric} <= {limit:g}", *shown))
    least = objective.min_success_rate
    shown = (_judged(shown_metric(result, t, "success_rate"), least, upper=False) for t in pair)
    rows.append(Compared(f"success_rate >= {least:g}", *shown))
    rows.append(Compared("output_throughput", *(_number(shown_metric(result, t, "output_throughput")) for t in pair)))
    loads = [load_of(result, t) for t in pair]
    rows.append(Compared("load", *(" ".join(f"{k} {v:g}" for k, v in load.items()) or "-" for load in loads)))
    if found is not None and result.baseline is not None:
        before, after = result.baseline.setting.values, found.setting.values
        changed = {name: "changed" if before[name] != value else "" for name, value in after.items()}
        names = sorted(after, key=lambda name: not changed[name])  # stable: else in their order
        rows += [Compared(name, str(before[name]), str(after[name]), changed[name]) for name in names]
    return rows


def answer_changes(result: Result) -> list[str]:
    """The changed parameters of the best setting that may change what the model answers, as ``name before -> after``."""
    if result.best is None or result.baseline is None:
        return []
    before, names = result.baseline.setting.values, result.plan.engine.changes_answers
    return [
        f"{name} {before[name]} -> {value}"
        for name, value in result.best.setting.values.items()
        if value != before[name] and name.lower().lstrip("-").replace("-", "_") in names
    ]


def at_ceiling(result: Result) -> bool:
    """Did the load search of the recommended setting end at the highest load that it may try, with all SLOs kept?"""
    search, best = result.plan.load_search, result.best
    if search is None or best is None or best.measurement is None or best.score is None:
        return False
    return best.score.feasible and result.plan.load_value(best.measurement) >= search.high


def rounds_to_tell(result: Result, gain_percent: float) -> tuple[int | None, float | None]:
    """How many rounds would find such a gain in four of five proofs, at the noise of this one, and the seconds that they
    take; None: unknown, or more than may be asked for.
    """
    noise, round_s = result.verdict.noise_percent, result.proof.round_s
    rounds = None if noise is None else rounds_for(gain_percent, noise, MOST_CONFIRM)
    if rounds is None or round_s is None:
        return rounds, None
    return rounds, math.ceil(rounds / max(1, result.proof.groups)) * round_s


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


def compared_value(result: Result, trial: Trial | None) -> float | None:
    """The objective for the final table: the geometric mean over the rounds of the proof, whose ratio is the gain; without
    rounds that of the search.
    """
    if trial is None:
        return None
    values = [observed(result.plan, outcome).value for outcome in result.remeasured.get(trial.number, ())]
    known = [value for value in values if value is not None]
    if not known:
        return trial.score.value if trial.score else None
    if min(known) <= 0:
        return sum(known) / len(known)
    return math.exp(sum(map(math.log, known)) / len(known))


def load_of(result: Result, trial: Trial | None) -> Mapping[str, float]:
    """The load at which the proof measured a trial; without a proof that of the search."""
    if trial is None:
        return {}
    again = [r.measurement.load for r in result.remeasured.get(trial.number, ()) if r.measurement]
    return again[0] if again else (trial.measurement.load if trial.measurement else {})


def shown_metric(result: Result, trial: Trial | None, metric: str) -> float | None:
    """A metric for the final table: of the re-measurements where there are any, else of the search."""
    if trial is None:
        return None
    measured = [r.measurement.metrics.get(metric) for r in result.remeasured.get(trial.number, ()) if r.measurement]
    values = [v for v in measured if v is not None]
    if values:
        return sum(values) / len(values)
    return None if trial.measurement is None else trial.measurement.metrics.get(metric)


def _judged(value: float | None, limit: float, upper: bool) -> str:
    if value is None:
        return "-"
    return f"{_number(value)} {'kept' if (value <= limit if upper else value >= limit) else 'broken'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def predicted_and_measured(result: Result) -> list[tuple[int, float, float]]:
    """The trial, the predicted and the measured value of each setting that has both: the last prediction by a model that had
    not learned from this trial.
    """
    said = [
        (one.facts.get("trials", ()), {p.setting.key: p.score.value for p in one.predictions})
        for one in result.foresights
    ]
    pairs = []
    for trial in result.trials:
        before = [values.get(trial.setting.key) for known, values in said if trial.number not in known]
        was = next((value for value in reversed(before) if value), None)
        if was and trial.score is not None and trial.score.value is not None:
            pairs.append((trial.number, was, trial.score.value))
    return pairs
