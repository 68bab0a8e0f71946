"""Re-measures finished trials, each on a given group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from swarmtune.errors import BenchmarkExecutionError, CommunicationError
from swarmtune.fleet.blame import Blame
from swarmtune.fleet.dispatch import Dispatcher, Work
from swarmtune.fleet.job import RunResult
from swarmtune.records import AttemptResult, Group, Score, Trial
from swarmtune.tuner.loop.attempts import Attempts
from swarmtune.tuner.loop.evaluation import Evaluation, Loads, Measured
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.confirm import Observed


class Again:
    """Re-measures trials on the groups of the search, and records them in its study."""

    def __init__(self, plan: Plan, attempts: Attempts, dispatcher: Dispatcher[Any, Measured]) -> None:
        self._plan, self._attempts, self._dispatcher = plan, attempts, dispatcher

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups that measure."""
        return self._dispatcher.pool.names

    def load_of(self, trial: Trial) -> float | None:
        """The load at which a trial was scored; None without load search."""
        return self._plan.load_value(trial.measurement) if self._plan.load_search and trial.measurement else None

    def emit(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Record an event of the proof in the study, and tell it."""
        self._attempts.emit(kind, facts)

    async def measure(
        self, trial: Trial, name: str, kind: str, load: float | None, facts: Mapping[str, Any]
    ) -> AttemptResult:
        """Measure a finished trial at this load on the group of this name; ``facts`` are emitted with the result.

        Attempts of one kind get the same requests, each on a fresh service.

        BenchmarkExecutionError if that group cannot measure it; every attempt is recorded. A cancelled call stops the
        service.
        """
        failure: str | None = f"the group {name} has left"
        source = _OneTrial(self._attempts, trial, kind, load)
        work: Work[Trial] = Work(trial)
        for _ in range(self._plan.max_attempts):
            if name not in self.group_names:
                break
            try:
                outcome = await self._on(name, work, source)
            except CommunicationError as error:
                failure = error.message
                break
            if outcome.score is not None:
                value = observed(self._plan, outcome).value
                self._attempts.emit("remeasured", {"trial": trial.number, "value": value, **facts})
                return outcome
            failure = outcome.failure
        self._attempts.emit("finalist_lost", {"trial": trial.number, "group": name, "failure": failure})
        raise BenchmarkExecutionError(f"Trial {trial.number} could not be measured again: {failure}")

    async def _on(self, name: str, work: Work[Trial], source: _OneTrial) -> AttemptResult:
        await self._dispatcher.run_on(name, work, source)
        return source.outcome


class _OneTrial:
    """One trial as the source of work for the dispatcher; every attempt at it is recorded."""

    def __init__(self, attempts: Attempts, trial: Trial, kind: str, load: float | None) -> None:
        self._attempts, self._trial, self._kind, self._load = attempts, trial, kind, load
        self._evaluation: Evaluation | None = None
        self.outcome = AttemptResult()

    @property
    def has_results(self) -> bool:
        return True

    @property
    def more(self) -> bool:
        return False

    def take(self, group: str) -> Work[Trial] | None:  # noqa: ARG002 - see Source
        return None

    def expected_s(self, waiting: Sequence[Work[Trial]]) -> Sequence[float]:
        return [0.0] * len(waiting)

    def begin(self, work: Work[Trial], group: Group) -> Evaluation:  # noqa: ARG002 - see Source
        loads, number = Loads(fixed=self._load, requests=self._kind), self._trial.number
        self._evaluation = self._attempts.begin(self._trial.setting, group, loads, number=number, kind=self._kind)
        return self._evaluation

    async def end(self, work: Work[Trial], group: Group, run: RunResult[Measured], fault: Blame | None) -> bool:  # noqa: ARG002 - see Source
        assert self._evaluation is not None  # noqa: S101 - it has begun
        self.outcome = self._attempts.outcome(self._evaluation, run, fault)
        if not run.served and self._trial.measurement is not None:  # it has started before: this is the group's fault
            self.outcome = replace(self.outcome, score=None)
        self._attempts.close(self._evaluation, group, self.outcome)
        return False


def observed(plan: Plan, outcome: AttemptResult) -> Observed:
    """The score, and how much faster the service was while its load was on than over the whole run."""
    score, metric = outcome.score or Score.failed(), plan.objective.metric
    blocks = outcome.measurement.blocks.get(metric, ()) if outcome.measurement else ()
    whole = outcome.measurement.metrics.get(metric, 0.0) if outcome.measurement else 0.0
    loaded = sum(blocks) / len(blocks) if blocks else 0.0
    return Observed(score, loaded / whole if whole > 0 and loaded > 0 else 1.0)
