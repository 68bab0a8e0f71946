"""The budget of a search and its spending: wall seconds and accelerator-seconds, over all runs of the study."""

from __future__ import annotations

from swarmtune.clock import Clock
from swarmtune.records import Group


class Budget:
    """Counts spending, from that of earlier runs on. Running attempts finish, so it may end slightly above a limit."""

    def __init__(
        self,
        clock: Clock,
        timeout_s: float | None = None,
        accelerator_s: float | None = None,
        spent: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Limits in seconds and accelerator-seconds (None: no limit); ``spent``: both for the earlier runs of the study."""
        self.timeout_s = timeout_s
        self.accelerator_limit_s = accelerator_s
        self._clock = clock
        self._wall_before, self._ended_s = spent
        self._started = clock.monotonic()
        self._running: dict[str, tuple[int, float]] = {}  # accelerators and start, by group

    def begin(self, group: Group) -> None:
        """An attempt begins on a group."""
        self._running[group.name] = (group.accelerators, self._clock.monotonic())

    def end(self, group: Group) -> None:
        """The attempt on a group has ended, however."""
        accelerators, begun = self._running.pop(group.name)
        self._ended_s += accelerators * (self._clock.monotonic() - begun)

    @property
    def wall_s(self) -> float:
        """Seconds spent."""
        return self._wall_before + self._clock.monotonic() - self._started

    @property
    def accelerator_s(self) -> float:
        """Accelerator-seconds spent, attempts that are running included."""
        now = self._clock.monotonic()
        return self._ended_s + sum(accelerators * (now - begun) for accelerators, begun in self._running.values())

    def exhausted(self) -> str | None:
        """The budget that is spent, as the beginning of a sentence; None while none is."""
        if self.timeout_s is not None and self.wall_s >= self.timeout_s:
            return f"the time of {self.timeout_s:g} s (timeout) is spent"
        if self.accelerator_limit_s is not None and self.accelerator_s >= self.accelerator_limit_s:
            return f"the {self.accelerator_limit_s:g} accelerator-seconds (accelerator_seconds) are spent"
        return None
