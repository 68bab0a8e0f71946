"""Circuit breakers, retry back-off, and health checks of idle groups."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, Self, TypeVar

from swarmtune.clock import Clock, within
from swarmtune.execution.executors.base import NotHeldError

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
TICK_S = 1e-3  # tolerance for a clock that wakes a task slightly too early


class Breaker(StrEnum):
    """State of a circuit breaker. CLOSED lets all work through, OPEN none, HALF_OPEN one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Circuit breaker: opens after ``failures`` in a row, and lets one probe through ``open_s`` seconds later.

    The pattern and its names are those of Nygard, Release It! (2007).
    """

    def __init__(self, clock: Clock, failures: int = 5, open_s: float = 60.0) -> None:
        self._clock = clock
        self._limit = failures
        self._open_s = open_s
        self._in_a_row = 0
        self._probe_at: float | None = None  # None: closed
        self._probing = False

    @property
    def state(self) -> Breaker:
        """The current state."""
        if self._probe_at is None:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if self.wait_s <= TICK_S else Breaker.OPEN

    @property
    def wait_s(self) -> float:
        """Seconds until a probe is let through; 0 if one may start now."""
        return 0.0 if self._probe_at is None else max(0.0, self._probe_at - self._clock.monotonic())

    @property
    def allows(self) -> bool:
        """May ``begin`` be called now?"""
        return self.state is Breaker.CLOSED or (self.state is Breaker.HALF_OPEN and not self._probing)

    def begin(self) -> None:
        """Let work through; when half open, that work is the probe."""
        self._probing = self.state is Breaker.HALF_OPEN

    def end(self, ok: bool | None) -> None:
        """Record the end of work: success, failure, or (None) nothing that says anything about the group."""
        self._probing = False
        if ok:
            self._in_a_row, self._probe_at = 0, None
        elif ok is not None:
            self.failed()

    def failed(self) -> None:
        """Record a failure. If that opens the breaker, or it was not closed, the time until a probe starts again."""
        self._in_a_row += 1
        if self._probe_at is not None or self._in_a_row >= self._limit:
            self._probe_at = self._clock.monotonic() + self._open_s

    def answered(self) -> None:
        """Record a passed health check: an open breaker allows its probe now. Failures of work still count."""
        if self._probe_at is not None:
            self._probe_at = min(self._probe_at, self._clock.monotonic())


@dataclass(frozen=True)
class RetryPolicy:
    """Retry limit and back-off: exponential and bounded, with jitter so that retries do not coincide."""

    attempts: int = 3
    first_delay_s: float = 1.0
    factor: float = 2.0
    most_s: float = 60.0
    jitter: float = 0.1  # relative, up or down

    def delay_s(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after this attempt (1 = the first) has failed."""
        pause = min(self.most_s, self.first_delay_s * self.factor ** min(attempt - 1, 64))
        return min(self.most_s, pause * (1.0 + rng.uniform(-self.jitter, self.jitter)))


class Watched(Protocol[M_co]):
    """What a monitor needs from a pool."""

    def idle(self) -> Sequence[M_co]:
        """The members without work, those with an open breaker included."""
        ...

    def checked(self, member: Any, ok: bool) -> None:
        """Record the result of a health check of an idle member."""
        ...


class HealthMonitor(Generic[M]):
    """Checks the idle members of a pool every ``every_s`` seconds, while its ``async with`` lasts.

    ``check`` says whether a member answers; an error, or no answer within ``every_s``, counts as no. A member with an
    open breaker that answers gets its probe at once; one that does not stays held back. A NotHeldError changes nothing.
    """

    def __init__(
        self, pool: Watched[M], check: Callable[[M], Coroutine[Any, Any, bool]], clock: Clock, every_s: float = 30.0
    ) -> None:
        self._pool = pool
        self._check = check
        self._clock = clock
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Check all idle members once, concurrently."""
        await asyncio.gather(*(self._look_at(member) for member in self._pool.idle()))

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._every_s)
            await self.look()

    async def _look_at(self, member: M) -> None:
        try:
            ok = await within(self._clock, self._every_s, self._check(member))
        except NotHeldError:
            return
        except Exception:  # noqa: BLE001 - whatever keeps a member from answering, it does not answer
            ok = False
        self._pool.checked(member, ok)
