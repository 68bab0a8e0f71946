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
from swarmtune.fleet.loop_thread import LoopThread

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

    def name_of(self, member: Any, /) -> str:
        """The name of a member."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The names of all members."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock of their breakers."""
        ...


@dataclass(frozen=True)
class HealthStatus:
    """What the last check of a member found; ``last_check`` in seconds since the epoch, None before the first one."""

    group_id: str
    is_healthy: bool = True
    last_check: float | None = None
    consecutive_failures: int = 0
    last_error: str | None = None

    @property
    def status_summary(self) -> str:
        """One line for people."""
        state = "healthy" if self.is_healthy else "unhealthy"
        return f"Group {self.group_id}: {state} (failures={self.consecutive_failures})"


class HealthMonitor(Generic[M]):
    """Checks the idle members of a pool every ``check_interval`` seconds, while its ``async with`` lasts or from ``start``
    to ``stop``.

    ``check`` says whether a member answers, by default its method ``answers``; an error, or no answer within
    ``check_interval``, counts as no. A member with an open breaker that answers gets its probe at once; one that does not
    stays held back. A NotHeldError changes nothing.
    """

    def __init__(
        self,
        pool: Watched[M],
        check_interval: float = 30.0,
        *,
        check: Callable[[M], Coroutine[Any, Any, bool]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self._check = check or _answers
        self._clock = clock or pool.clock
        self._every_s = check_interval
        self._status: dict[str, HealthStatus] = {}
        self._task: asyncio.Task[None] | None = None
        self._thread: LoopThread | None = None

    def start(self) -> None:
        """Begin, in the running event loop; without one in a thread of its own, and then nothing else may use the pool."""
        if self._task is not None:
            return
        try:
            self._task = asyncio.get_running_loop().create_task(self._run())
        except RuntimeError:
            self._thread = LoopThread()
            self._thread.run(self.__aenter__())

    def stop(self) -> None:
        """End. In an event loop a check that runs is cancelled as soon as the caller waits for something."""
        if self._thread is not None:
            try:
                self._thread.run(self.__aexit__())
            finally:
                self._thread.close()
                self._thread = None
        elif self._task is not None:
            self._task.cancel()
            self._task = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def get_all_status(self) -> list[HealthStatus]:
        """What the last check of each member found; a member that is at work counts as it did before."""
        return [self._status.get(name, HealthStatus(name)) for name in self._pool.names]

    async def look(self) -> None:
        """Check all idle members once, concurrently."""
        await asyncio.gather(*(self._look_at(member) for member in self._pool.idle()))

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._every_s)
            await self.look()

    async def _look_at(self, member: M) -> None:
        reason = None
        try:
            ok = await within(self._clock, self._every_s, self._check(member))
        except NotHeldError:
            return
        except Exception as error:  # noqa: BLE001 - whatever keeps a member from answering, it does not answer
            ok, reason = False, str(error) or type(error).__name__
        name = self._pool.name_of(member)
        failures = 0 if ok else self._status.get(name, HealthStatus(name)).consecutive_failures + 1
        self._status[name] = HealthStatus(name, ok, self._clock.wall(), failures, reason)
        self._pool.checked(member, ok)


async def _answers(member: Any) -> bool:
    """Does it, by its own account?"""
    return bool(await member.answers())
