"""The particles of one call of ``ParticleDispatcher``, as a source of work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from swarmtune.errors import Culprit, SwarmTuneError
from swarmtune.execution.config import ParallelConfig
from swarmtune.fleet.blame import Blame
from swarmtune.fleet.dispatch import Work
from swarmtune.fleet.durations import Durations
from swarmtune.fleet.job import RunResult
from swarmtune.fleet.particle_values import ParticleResult, ParticleResults
from swarmtune.fleet.pool import PoolCounts
from swarmtune.fleet.progress import Progress
from swarmtune.fleet.script_job import ScriptJob
from swarmtune.records import Group, Setting
from swarmtune.space import Space


class Owner(Protocol):
    """What a batch needs from its dispatcher."""

    space: Space
    durations: Durations
    config: ParallelConfig

    @property
    def counts(self) -> PoolCounts: ...

    def job(self, tried: str, setting: Setting, group: str) -> ScriptJob: ...

    def emit(self, kind: str, facts: Mapping[str, Any]) -> None: ...


@dataclass(eq=False)
class Particle:
    """A particle of a batch, and its latest attempt."""

    number: int
    name: str
    setting: Setting
    job: ScriptJob | None = None


class Batch:
    """The particles of one call, as a source of work."""

    def __init__(self, batch: int, settings: Sequence[Setting], owner: Owner) -> None:
        self._owner = owner
        self._todo = [Particle(i, f"{batch:03d}-{i:05d}", setting) for i, setting in enumerate(settings)]
        self.results = ParticleResults(ParticleResult(math.inf, s.values, None, 0.0, 0) for s in settings)
        self._ended = [False] * len(settings)
        self._progress = Progress(len(settings))

    @property
    def costs(self) -> bool:
        """Has at least one particle a cost?"""
        return any(math.isfinite(result.cost) for result in self.results)

    @property
    def has_results(self) -> bool:
        """Has any particle of this call a cost?"""
        return self.costs

    @property
    def more(self) -> bool:
        return bool(self._todo)

    def take(self, group: str) -> Work[Particle] | None:
        del group  # every group may measure every particle
        works: list[Work[Particle]] = [Work(particle) for particle in self._todo]
        if not works:
            return None
        return Work(self._todo.pop(int(np.argmax(self.expected_s(works)))))

    def expected_s(self, waiting: Sequence[Work[Particle]]) -> Sequence[float]:
        points = np.array([self._owner.space.encode(work.item.setting) for work in waiting])
        expected: list[float] = self._owner.durations.expected_s(points).tolist()
        return expected

    def begin(self, work: Work[Particle], group: Group) -> ScriptJob:
        particle, owner, attempt = work.item, self._owner, work.attempts + 1
        particle.job = owner.job(f"{particle.name}-{attempt}", particle.setting, group.name)
        owner.emit("particle_started", {"particle": particle.name, "group": group.name, "attempt": attempt})
        return particle.job

    async def end(self, work: Work[Particle], group: Group, run: RunResult[float], fault: Blame | None) -> bool:
        particle, owner = work.item, self._owner
        cost = math.inf if run.result is None else run.result
        failure = None if run.error is None else run.error.message
        values = particle.setting.values
        result = ParticleResult(cost, values, group.name, run.seconds + run.waited_s, work.attempts, failure)
        self.results[particle.number] = result
        if run.error is None:
            owner.durations.add(particle.setting, run.seconds)
        assert particle.job is not None  # noqa: S101 - it has begun
        clean = run.trouble is None and (fault is None or fault.culprit is Culprit.SETTING)
        kept = await particle.job.keep({**_facts(result), "values": dict(values)}, remote=clean)
        for trouble in (run.trouble.message if run.trouble else None, kept):
            if trouble is not None:
                owner.emit("group_trouble", {"particle": particle.name, "group": group.name, "message": trouble})
        given_up = fault is not None and work.tries > owner.config.retry_count
        if fault is None or fault.culprit is Culprit.SETTING or given_up:
            self._finish(particle, result)
            return False
        owner.emit("particle_retried", {"particle": particle.name, **_facts(result)})
        return True

    def end_all(self, error: SwarmTuneError) -> None:
        """The run has ended early: each particle without a result fails, for the reason of its last attempt or this one."""
        for number, (ended, result) in enumerate(zip(self._ended, self.results, strict=True)):
            if not ended:
                self.results[number] = replace(result, failure=result.failure or error.message)

    def _finish(self, particle: Particle, result: ParticleResult) -> None:
        self._ended[particle.number] = True
        self._progress.add(result.seconds, result.failure is not None)
        facts = {**_facts(result), **self._progress.facts(self._owner.counts)}
        self._owner.emit("particle_finished", {"particle": particle.name, **facts})


def _facts(result: ParticleResult) -> dict[str, Any]:
    return {
        "cost": result.cost if math.isfinite(result.cost) else None,
        "failure": result.failure,
        "group": result.group,
        "seconds": round(result.seconds, 3),
        "attempts": result.attempts,
    }
