"""An executor that only exists on a clock: commands whose life is a function of what they were started with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from swarmtune.clock import Clock
from swarmtune.errors import SwarmTuneError
from swarmtune.execution.executors.base import Executor, Handle
from swarmtune.records import Command

NEVER = float("inf")


@dataclass(frozen=True)
class Life:
    """What a command does: it ends with ``code`` after ``seconds`` unless it is stopped, having printed ``log``."""

    seconds: float = NEVER
    code: int = 0
    log: str = ""
    refused: SwarmTuneError | None = None  # it cannot even be started


@dataclass
class VirtualHandle(Handle):
    """A command that was started; ``stopped_at`` is when it was stopped, on the clock."""

    command: Command
    life: Life
    clock: Clock
    started_at: float
    stopped_at: float | None = None

    async def poll(self) -> int | None:
        """See Handle."""
        if self.clock.monotonic() >= self.started_at + self.life.seconds:
            return self.life.code
        return None if self.stopped_at is None else -15

    async def logs(self, lines: int = 50) -> str:
        """See Handle."""
        return "\n".join(self.life.log.splitlines()[-lines:])

    async def stop(self, grace_s: float = 5.0) -> None:
        """See Handle."""
        if self.stopped_at is None:
            self.stopped_at = self.clock.monotonic()


@dataclass
class VirtualExecutor(Executor):
    """Each command gets the life that ``life`` says; ``started`` has all of them, in order."""

    clock: Clock
    life: Callable[[Command], Life] = lambda _: Life()
    start_s: float = 0.0
    started: list[VirtualHandle] = field(default_factory=list)

    async def start(self, command: Command) -> Handle:
        """See Executor."""
        await self.clock.sleep(self.start_s)
        life = self.life(command)
        if life.refused is not None:
            raise life.refused
        handle = VirtualHandle(command, life, self.clock, self.clock.monotonic())
        self.started.append(handle)
        return handle

    async def put(self, local: Path, remote: str) -> None:
        """Nothing is copied."""

    async def get(self, remote: str, local: Path) -> None:
        """Nothing is copied."""

    async def close(self) -> None:
        """See Executor."""
        for handle in self.started:
            await handle.stop()

    @property
    def running(self) -> list[VirtualHandle]:
        """The commands that neither ended nor were stopped."""
        now = self.clock.monotonic()
        return [h for h in self.started if h.stopped_at is None and now < h.started_at + h.life.seconds]
