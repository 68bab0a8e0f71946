"""A group of nodes that only exists on a clock: for tests of the loop in virtual time."""

from __future__ import annotations

from collections.abc import Callable

from swarmtune.clock import Clock
from swarmtune.records import Attempt, AttemptResult, Group, Measurement, Score, Setting
from swarmtune.tuner.loop.evaluate import ANY_LOAD, Keep, Loads, Report


class SyntheticGroup:
    """Takes ``seconds(setting)`` of the clock and gives ``service(setting)``; the first tries may be lost."""

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
        self.stopped = 0
        self._clock = clock
        self._service = service
        self._seconds = seconds
        self._lose = lose

    async def evaluate(self, attempt: Attempt, report: Report, keep: Keep, loads: Loads = ANY_LOAD) -> AttemptResult:
        """One made-up measurement."""
        begun = self._clock.monotonic()
        report("starting", {})
        await self._clock.sleep(self._seconds(attempt.setting))
        self.measured.append((begun, self._clock.monotonic(), attempt))
        if self._lose(attempt):
            return AttemptResult(failure="the node was lost")
        score = self._service(attempt.setting)
        measurement = Measurement({"completed": 1.0}, {"concurrency": loads.fixed or 4.0})
        keep(measurement)
        return AttemptResult(score, measurement if score.value is not None else None)

    async def stop(self) -> None:
        """Nothing runs."""
        self.stopped += 1

    async def answers(self) -> bool:
        """It is always there."""
        return True
