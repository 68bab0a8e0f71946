"""What came out of a study, as plain data: for ``--json``, the terminal and the study's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swarmtune.records import Trial, TrialState, Value, command_line
from swarmtune.study.store import Outcome
from swarmtune.tuner.loop.loads import Savings
from swarmtune.tuner.pareto import pareto_set
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.confirm import Proof, Standing, Verdict
from swarmtune.tuner.proof.paired import Difference
from swarmtune.tuner.warm_start.record import NOTHING, WarmStart

DEFAULT_PORT = 8000


@dataclass(frozen=True)
class KeptFile:
    """A file of the winner's: where its service reads it, and where its content is kept."""

    path: str
    kept: Path
    content: str


@dataclass(frozen=True)
class Spent:
    """What all runs of a study took: wall seconds of the search, accelerator-seconds of search and proof."""

    wall_s: float = 0.0
    accelerator_s: float = 0.0
    proof_accelerator_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """A finished run."""

    study: str
    plan: Plan
    trials: tuple[Trial, ...]
    baseline: Trial | None
    proof: Proof
    remeasured: Mapping[int, Sequence[Outcome]]
    wall_seconds: float
    savings: Savings | None = None  # of early stopping
    spent: Spent = Spent()
    warm_start: WarmStart = NOTHING

    @property
    def best(self) -> Trial | None:
        """The trial whose setting is recommended; None when no setting kept the promises."""
        return next((t for t in self.trials if t.number == self.proof.best), None)

    @property
    def verdict(self) -> Verdict:
        """How sure the gain is."""
        return self.proof.verdict

    @property
    def tied(self) -> list[Trial]:
        """The trials whose settings are statistically tied with the best."""
        return [t for t in self.trials if t.number in self.proof.tied]

    def no_difference(self) -> dict[str, list[Value]]:
        """Parameters in which the tied settings and the best differ, so that they could not be seen to matter."""
        several = [t.setting.values for t in (self.best, *self.tied) if t is not None]
        names = several[0] if several else ()
        values = {n: sorted({s[n] for s in several}, key=lambda v: (isinstance(v, str), v)) for n in names}
        return {name: found for name, found in values.items() if len(found) > 1}

    @property
    def evaluations(self) -> int:
        """Settings that have a result."""
        return sum(1 for t in self.trials if t.state is TrialState.COMPLETE)

    @property
    def failures(self) -> int:
        """Settings that could not be started or measured."""
        return sum(
            1 for t in self.trials if t.state is TrialState.FAILED or (t.score is not None and t.score.value is None)
        )

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints. Infinite numbers become null: JSON has none."""
        data: dict[str, Any] = {
            "study": self.study,
            "engine": self.plan.engine.name,
            "benchmark": self.plan.benchmark.name,
            "seed": self.plan.seed,
            "evaluations": self.evaluations,
            "failures": self.failures,
            "wall_seconds": round(self.wall_seconds, 3),
            "baseline": self._shown(self.baseline),
            "best": self._shown(self.best),
            "verdict": {
                "significant": self.verdict.significant,
                "gain_percent": self.verdict.gain_percent,
                "ci95_percent": self.verdict.ci95_percent and list(self.verdict.ci95_percent),
                "rounds": self.verdict.rounds,
                "groups": self.proof.groups,
                "group_effects_percent": dict(self.proof.group_effects_percent),
                "reason": self.verdict.reason,
            },
            "finalists": [self._standing(s) for s in self.proof.finalists],
            "tied": self.proof.tied,
            "no_difference": self.no_difference(),
            "pareto": pareto_set(self.plan.objective, self.trials),
            "budget": self.budget(),
            "warm_start": {
                "sources": [vars(s) for s in self.warm_start.sources],
                "notices": list(self.warm_start.notices),
                "measured_first": [t.number for t in self.trials if t.setting.origin.startswith("earlier:")],
            },
            "early_stop": dict(self.savings.to_json()) if self.savings else None,
        }
        if data["best"] is not None and self.best is not None:
            data["best"]["command"], *others = run_lines(self.plan, self.best)
            data["best"]["commands_of_other_ranks"] = others
            data["best"]["files"] = [{"copy": str(f.kept), "to": f.path} for f in self.files()]
        return _finite(data)  # type: ignore[no-any-return]

    def budget(self) -> dict[str, Any]:
        """Limit (None: none) and what was spent of each budget; of the accelerators also what the proof took."""
        plan, spent = self.plan, self.spent
        return {
            "evaluations": {"limit": plan.evaluations, "spent": self.evaluations},
            "wall_seconds": {"limit": plan.timeout_s, "spent": round(spent.wall_s, 3)},
            "accelerator_seconds": {
                "limit": plan.accelerator_s,
                "spent": round(spent.accelerator_s, 3),
                "proof": round(spent.proof_accelerator_s, 3),
            },
        }

    def files(self) -> list[KeptFile]:
        """The files that the best setting's command reads, and where a copy of each is kept in the study."""
        if self.best is None:
            return []
        group = self.plan.groups[0]
        command = self.plan.engine.command(self.best.setting, replace(group, port=group.port or DEFAULT_PORT))
        folder = Path(self.study) / "winner"
        return [KeptFile(f.path, folder / f"{i}-{Path(f.path).name}", f.content) for i, f in enumerate(command.files)]

    def again(self, trial: Trial, metric: str) -> float | None:
        """The mean of a metric over the re-measurements of a trial; None if there is none."""
        known = [o.measurement.metrics.get(metric) for o in self.remeasured.get(trial.number, ()) if o.measurement]
        values = [v for v in known if v is not None]
        return sum(values) / len(values) if values else None

    def shown_metric(self, trial: Trial | None, metric: str) -> float | None:
        """A metric for the final table: of the re-measurements where there are any, else of the search."""
        if trial is None:
            return None
        again = self.again(trial, metric)
        return again if again is not None or trial.measurement is None else trial.measurement.metrics.get(metric)

    def _standing(self, standing: Standing) -> dict[str, Any]:
        trial = next(t for t in self.trials if t.number == standing.trial)
        return {
            "trial": standing.trial,
            "setting": dict(trial.setting.values),
            "keeps_promises": standing.keeps_promises,
            "tied": standing.tied,
            "over_baseline": _difference(standing.over_baseline),
            "against_best": _difference(standing.against_best),
        }

    def _shown(self, trial: Trial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        again = [
            {
                "value": o.score.value if o.score else None,
                "keeps_promises": bool(o.score and o.score.feasible),
                "metrics": dict(o.measurement.metrics) if o.measurement else {},
                "load": dict(o.measurement.load) if o.measurement else {},
            }
            for o in self.remeasured.get(trial.number, ())
        ]
        return {
            "trial": trial.number,
            "setting": dict(trial.setting.values),
            "measurement": trial.measurement.to_json() if trial.measurement else None,
            "score": trial.score.to_json() if trial.score else None,
            "remeasured": again,
        }


def _difference(found: Difference) -> dict[str, Any]:
    interval = found.ci95_percent
    return {
        "gain_percent": found.gain_percent,
        "ci95_percent": interval and list(interval),
        "p": found.p,
        "rounds": found.rounds,
    }


def run_lines(plan: Plan, trial: Trial) -> list[str]:
    """The command lines that run the service with this trial's setting, one for each node, ready to paste."""
    group = plan.groups[0]
    commands = plan.engine.commands(trial.setting, replace(group, port=group.port or DEFAULT_PORT))
    return [command_line(command) for command in commands]


def mean_value(outcomes: Sequence[Outcome]) -> float | None:
    """The mean of the known values."""
    values = [o.score.value for o in outcomes if o.score is not None and o.score.value is not None]
    return sum(values) / len(values) if values else None


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_finite(v) for v in data]
    if isinstance(data, float):  # also numpy's, which orjson does not take
        return float(data) if math.isfinite(data) else None
    return data
