"""What came out of a study, as plain data: for ``--json``, the terminal and the study's folder."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swarmtune.records import Command, Trial, TrialState
from swarmtune.tuner.confirm import Verdict
from swarmtune.tuner.plan import Plan
from swarmtune.tuner.store import Outcome

DEFAULT_PORT = 8000


@dataclass(frozen=True)
class KeptFile:
    """A file of the winner's: where its service reads it, and where its content is kept."""

    path: str
    kept: Path
    content: str


@dataclass(frozen=True)
class Result:
    """A finished run. ``best`` is None when no setting kept the promises."""

    study: str
    plan: Plan
    trials: tuple[Trial, ...]
    baseline: Trial | None
    best: Trial | None
    verdict: Verdict
    remeasured: Mapping[int, Sequence[Outcome]]
    wall_seconds: float

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
        interval = self.verdict.ci95_percent
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
                "ci95_percent": list(interval) if interval else None,
                "pairs": self.verdict.pairs,
                "reason": self.verdict.reason,
            },
        }
        if data["best"] is not None and self.best is not None:
            data["best"]["command"] = run_line(self.plan, self.best)
            data["best"]["files"] = [{"copy": str(f.kept), "to": f.path} for f in self.files()]
        return _finite(data)  # type: ignore[no-any-return]

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


def run_line(plan: Plan, trial: Trial) -> str:
    """The command line that runs the service with this trial's setting, ready to paste."""
    group = plan.groups[0]
    command = plan.engine.command(trial.setting, replace(group, port=group.port or DEFAULT_PORT))
    return command_line(command)


def command_line(command: Command) -> str:
    """A command as a shell would take it, secrets of environment and flags hidden."""
    hidden = set(command.secret_values)
    variables = [f"{k}={'***' if k in command.secrets else shlex.quote(v)}" for k, v in sorted(command.env.items())]
    return " ".join([*variables, *(_shown(argument, hidden) for argument in command.argv)])


def _shown(argument: str, hidden: set[str]) -> str:
    name, equals, value = argument.partition("=")
    if argument in hidden:
        return "***"
    return f"{name}=***" if equals and value in hidden else shlex.quote(argument)


def mean_value(outcomes: Sequence[Outcome]) -> float | None:
    """The mean of the known values."""
    values = [o.score.value for o in outcomes if o.score is not None and o.score.value is not None]
    return sum(values) / len(values) if values else None


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
