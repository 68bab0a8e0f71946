"""The result as one JSON object: what ``--json`` prints, and what ``report.json`` in the study's folder holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from swarmtune.records import Trial, to_plain
from swarmtune.redaction import ours
from swarmtune.report.commands import keep_files, kept_files, live_lines, run_lines
from swarmtune.report.figures import (
    answer_changes,
    at_ceiling,
    budget,
    no_difference,
    predicted_and_measured,
    rounds_to_tell,
)
from swarmtune.report.pareto import pareto_set
from swarmtune.study.place import write_private
from swarmtune.tuner.proof.confirm import Standing
from swarmtune.tuner.proof.paired import Difference
from swarmtune.tuner.result import Result

REPORT_FILE = "report.json"


def write_report(result: Result) -> dict[str, Any]:
    """Write ``report.json`` and the winner's files into the study's folder; returns the content of the report.

    ConfigPathError if a file cannot be written; each file is written whole or not at all.
    """
    report = document(result)
    keep_files(result)
    write_private(Path(result.study) / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    return report


def document(result: Result) -> dict[str, Any]:
    """The object. Infinite numbers become null: JSON has none."""
    verdict, proof, warm = result.verdict, result.proof, result.warm_start
    data: dict[str, Any] = {
        "study": result.study,
        "engine": result.plan.engine.name,
        "benchmark": result.plan.benchmark.name,
        "seed": result.plan.seed,
        "evaluations": result.evaluations,
        "failures": result.failures,
        "wall_seconds": round(result.wall_seconds, 3),
        "baseline": _measured(result, result.baseline),
        "best": _measured(result, result.best),
        "verdict": {
            "significant": verdict.significant,
            "gain_percent": verdict.gain_percent,
            "ci95_percent": verdict.ci95_percent,
            "rounds": verdict.rounds,
            "groups": proof.groups,
            "group_effects_percent": dict(proof.group_effects_percent),
            "reason": verdict.reason,
            "noise_percent": verdict.noise_percent,
            "rounds_for_a_gain_of_10_percent": rounds_to_tell(result, 10.0)[0],
            "proof_failure": result.proof_failure,
        },
        "finalists": [_standing(result, s) for s in proof.finalists],
        "tied": proof.tied,
        "rejected": list(proof.rejected),
        "may_change_answers": answer_changes(result),
        "load_search_ended_at_its_ceiling": at_ceiling(result),
        "no_difference": no_difference(result),
        "pareto": pareto_set(result.plan.objective, result.trials),
        "budget": budget(result),
        "warm_start": {
            "sources": [vars(s) for s in warm.sources],
            "notices": list(warm.notices),
            "measured_first": [t.number for t in result.trials if t.setting.origin.startswith("earlier:")],
        },
        "simulation": _foresight(result),
        "early_stop": dict(result.savings.to_json()) if result.savings else None,
    }
    if data["best"] is not None and result.best is not None:
        data["best"]["command"], *others = run_lines(result.plan, result.best)
        data["best"]["commands_of_other_ranks"] = others
        data["best"]["commands_while_it_runs"] = live_lines(result.plan, result.best.setting)
        data["best"]["files"] = [{"copy": str(f.kept), "to": f.path} for f in kept_files(result)]
    return ours.hide_in(_finite(data))  # type: ignore[no-any-return]


def _foresight(result: Result) -> dict[str, Any] | None:
    """What was predicted; the predictions themselves are in the study's database."""
    if not result.foresights:
        return None
    facts = result.foresights[-1].facts
    told = ("predictions", "model", "multipliers", "front_s", "spread", "effects", "anchored")
    pairs = predicted_and_measured(result)
    return {
        **{name: facts[name] for name in told},  # type: ignore[literal-required]
        "times_predicted": len(result.foresights),
        "learned_from_trials": list(facts.get("trials", ())),
        "measured": [{"trial": trial, "predicted": was, "measured": value} for trial, was, value in pairs],
    }


def _standing(result: Result, standing: Standing) -> dict[str, Any]:
    trial = next(t for t in result.trials if t.number == standing.trial)
    return {
        "trial": standing.trial,
        "setting": dict(trial.setting.values),
        "keeps_promises": standing.keeps_slos,
        "tied": standing.tied,
        "over_baseline": _difference(standing.over_baseline),
        "against_best": _difference(standing.against_best),
    }


def _measured(result: Result, trial: Trial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    again = [
        {
            "value": r.score.value if r.score else None,
            "keeps_promises": bool(r.score and r.score.feasible),
            "metrics": dict(r.measurement.metrics) if r.measurement else {},
            "load": dict(r.measurement.load) if r.measurement else {},
        }
        for r in result.remeasured.get(trial.number, ())
    ]
    return {
        "trial": trial.number,
        "setting": dict(trial.setting.values),
        "measurement": to_plain(trial.measurement),
        "score": to_plain(trial.score),
        "remeasured": again,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "gain_percent": difference.gain_percent,
        "ci95_percent": difference.ci95_percent,
        "p": difference.p,
        "rounds": difference.rounds,
    }


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(v) for v in data]
    if isinstance(data, float):  # also numpy's, which orjson does not take
        return float(data) if math.isfinite(data) else None
    return data
