"""A group of nodes that only exists on a clock: for tests of the loop in virtual time."""

from __future__ import annotations

from collections.abc import Callable

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, SimulatorStartError, SwarmTuneError
from swarmtune.fleet.job import Job, Report, RunResult, Stage
from swarmtune.records import Attempt, Group, Measurement, Score, Setting
from swarmtune.tuner.loop.evaluation import Evaluation, Measured


class SyntheticGroup:
    """Takes ``seconds(setting)`` of the clock and gives ``service(setting)``; some attempts may be lost.

    Of the time a start takes ``start_s``, where it is given.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        service: Callable[[Setting], Score],
        seconds: Callable[[Setting], float],
        lose: Callable[[Attempt], bool] = lambda _: False,
    ) -> None:
        self.group = Group(name)
        self.measured: list[tuple[float, float, Attempt]] = []
        self.jobs: list[Evaluation] = []
        self.stopped = 0
        self.start_s = 0.0
        self._clock = clock
        self._service = service
        self._seconds = seconds
        self._lose = lose

    @property
    def name(self) -> str:
        """The name of the group."""
        return self.group.name

    async def run(self, job: Job[Measured], report: Report) -> RunResult[Measured]:
        """One made-up measurement."""
        assert isinstance(job, Evaluation)
        began, attempt = self._clock.monotonic(), job.attempt
        self.jobs.append(job)
        report("starting", {})
        await self._clock.sleep(self._seconds(attempt.setting))
        seconds = self._clock.monotonic() - began
        self.measured.append((began, self._clock.monotonic(), attempt))
        if self._lose(attempt):
            return self.failed(CommunicationError("the node was lost"), Stage.USE, seconds)
        score = self._service(attempt.setting)
        if score.value is None:
            return self.failed(SimulatorStartError("it ran out of memory"), Stage.USE, seconds)
        measurement = Measurement({"completed": 1.0}, {"concurrency": job.loads.fixed or 4.0})
        job.keep(measurement)
        return RunResult(Measured(measurement, score), start_s=self.start_s, seconds=seconds)

    def failed(self, error: SwarmTuneError, stage: Stage, seconds: float = 0.0) -> RunResult[Measured]:
        """A run without a result; its nodes still answer."""
        return RunResult(error=error, stage=stage, nodes_answer=True, seconds=seconds)

    async def stop(self) -> None:
        """Nothing runs."""
        self.stopped += 1

    async def answers(self) -> bool:
        """It is always there."""
        return True
