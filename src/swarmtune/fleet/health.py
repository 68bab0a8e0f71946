"""Who may be given work: breakers that open on trouble, pauses between tries, and looks at idle groups."""

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
TICK_S = 1e-3  # a clock that wakes us that much too early has woken us in time


class Breaker(StrEnum):
    """CLOSED lets all through, OPEN nothing, HALF_OPEN one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Keeps work away from what fails: opens after ``failures`` in a row, lets one probe through ``open_s`` seconds later.

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
        """What it lets through now."""
        if self._probe_at is None:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if self.wait_s <= TICK_S else Breaker.OPEN

    @property
    def wait_s(self) -> float:
        """Seconds until a probe is let through; 0 when one would be now."""
        return 0.0 if self._probe_at is None else max(0.0, self._probe_at - self._clock.monotonic())

    @property
    def allows(self) -> bool:
        """Would ``begin`` be right now?"""
        return self.state is Breaker.CLOSED or (self.state is Breaker.HALF_OPEN and not self._probing)

    def begin(self) -> None:
        """Work goes through; half open, it is the probe."""
        self._probing = self.state is Breaker.HALF_OPEN

    def end(self, ok: bool | None) -> None:
        """The work has ended well, badly, or (None) without telling anything about the group."""
        self._probing = False
        if ok:
            self._in_a_row, self._probe_at = 0, None
        elif ok is not None:
            self.failed()

    def failed(self) -> None:
        """A failure. Unless it is closed and has seen too few in a row, the time until a probe begins anew."""
        self._in_a_row += 1
        if self._probe_at is not None or self._in_a_row >= self._limit:
            self._probe_at = self._clock.monotonic() + self._open_s

    def answered(self) -> None:
        """It answers again: if it is open, the probe may come now. Failures of real work are not forgotten."""
        if self._probe_at is not None:
            self._probe_at = min(self._probe_at, self._clock.monotonic())


@dataclass(frozen=True)
class RetryPolicy:
    """How often something is tried, and how long each pause is: exponential, bounded, with jitter against crowds."""

    attempts: int = 3
    first_delay_s: float = 1.0
    factor: float = 2.0
    most_s: float = 60.0
    jitter: float = 0.1  # a share of the pause, up or down

    def delay_s(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after this attempt (1 = the first) has failed."""
        pause = min(self.most_s, self.first_delay_s * self.factor ** min(attempt - 1, 64))
        return min(self.most_s, pause * (1.0 + rng.uniform(-self.jitter, self.jitter)))


class Watched(Protocol[M_co]):
    """What a monitor needs of a pool."""

    def idle(self) -> Sequence[M_co]:
        """The members that nobody uses right now, those out of use included."""
        ...

    def checked(self, member: Any, ok: bool) -> None:
        """A look at an idle member has ended."""
        ...


class HealthMonitor(Generic[M]):
    """Looks at the idle members of a pool every ``every_s`` seconds, while its ``async with`` lasts.

    ``check`` says whether a member answers; an error, or no answer within ``every_s``, is a no. A member out of use that
    answers gets its probe at once; one that does not stays out of use. After a NotHeldError all is as it was.
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
        """Look at all idle members once, at the same time."""
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
