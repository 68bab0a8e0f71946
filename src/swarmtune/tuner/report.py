"""What came out of a study, as plain data: for ``--json``, the terminal and the study's folder."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarmtune.records import Command, Score, Trial, TrialState, looks_secret
from swarmtune.tuner.confirm import Verdict
from swarmtune.tuner.plan import Plan

DEFAULT_PORT = 8000


@dataclass(frozen=True)
class Result:
    """A finished run. ``best`` is None when no setting kept the promises."""

    study: str
    plan: Plan
    trials: tuple[Trial, ...]
    baseline: Trial | None
    best: Trial | None
    verdict: Verdict
    remeasured: Mapping[int, Sequence[Score]]
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
        return _finite(data)  # type: ignore[no-any-return]

    def _shown(self, trial: Trial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        again = [s.value for s in self.remeasured.get(trial.number, ())]
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
    hidden = command.secrets
    variables = [f"{k}={'***' if k in hidden else shlex.quote(v)}" for k, v in sorted(command.env.items())]
    return " ".join([*variables, shlex.join(_without_secrets(command.argv))])


def _without_secrets(argv: Sequence[str]) -> list[str]:
    """``--api-key X`` and ``--api-key=X`` with the value hidden."""
    shown: list[str] = []
    for i, argument in enumerate(argv):
        name, equals, _ = argument.partition("=")
        flag_before = i > 0 and argv[i - 1].startswith("-") and "=" not in argv[i - 1]
        if equals and name.startswith("-") and looks_secret(name):
            shown.append(f"{name}=***")
        elif flag_before and looks_secret(argv[i - 1]) and not argument.startswith("--"):
            shown.append("***")
        else:
            shown.append(argument)
    return shown


def mean_value(scores: Sequence[Score]) -> float | None:
    """The mean of the known values."""
    values = [s.value for s in scores if s.value is not None]
    return sum(values) / len(values) if values else None


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
