"""Who is free: members are handed out one piece of work at a time, come and go, and are left alone while they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, ConfigurationError
from swarmtune.fleet.health import Breaker, CircuitBreaker

M = TypeVar("M")


@dataclass(frozen=True)
class PoolCounts:
    """``healthy``: get work (busy or not); ``busy``: have some; ``open``: out of use until a probe ends well; ``gone``."""

    healthy: int
    busy: int
    open: int
    gone: int


@dataclass
class _Slot(Generic[M]):
    member: M
    breaker: CircuitBreaker
    busy: bool = False
    leaving: bool = False


class ServiceGroupPool(Generic[M]):
    """Named members, each with a breaker. For one event loop; only ``acquire`` and ``changed`` wait.

    The member that has been idle longest is handed out first.
    """

    def __init__(
        self,
        members: Iterable[M],
        clock: Clock,
        name_of: Callable[[M], str],
        failures: int = 5,
        open_s: float = 60.0,
    ) -> None:
        """``failures`` and ``open_s`` (seconds) are those of each member's ``CircuitBreaker``."""
        self._clock = clock
        self._name_of = name_of
        self._breaker_options = (failures, open_s)
        self._slots: dict[str, _Slot[M]] = {}
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._gone = 0
        self.version = 0
        """Counts what has happened; see ``changed``."""
        for member in members:
            self.join(member)

    # --- work ------------------------------------------------------------------------------------------------------

    def try_acquire(self, avoid: Collection[str] = (), *, strictly: bool = False) -> M | None:
        """A free member, which must be released; None if there is none now.

        One named in ``avoid`` is taken only if no other is in use, so that nothing waits for what may never come;
        ``strictly``: not even then.
        """
        staying = {name: slot for name, slot in self._slots.items() if not slot.leaving}
        ready = [name for name, slot in staying.items() if not slot.busy and slot.breaker.allows]
        chosen = next((name for name in ready if name not in avoid), None)
        if chosen is None:
            others = (slot for name, slot in staying.items() if name not in avoid)
            if strictly or not ready or any(slot.breaker.state is not Breaker.OPEN for slot in others):
                return None
            chosen = ready[0]
        slot = self._slots[chosen]
        slot.busy = True
        slot.breaker.begin()
        return slot.member

    def take(self, name: str) -> M | None:
        """This very member, whatever its breaker says; it must be released. None if it is busy, leaving or gone."""
        slot = self._slots.get(name)
        if slot is None or slot.busy or slot.leaving:
            return None
        slot.busy = True
        return slot.member

    def holds(self, member: M) -> bool:
        """Is it there, be it only until its work is done?"""
        slot = self._slots.get(self._name_of(member))
        return slot is not None and slot.member is member

    async def acquire(self, avoid: Collection[str] = ()) -> M:
        """``try_acquire`` as soon as it gives one; CommunicationError when no member is left to wait for."""
        while (member := self.try_acquire(avoid)) is None:
            if not self.names:
                raise CommunicationError("no service group is left; let one join")
            await self.changed(self.version)
        return member

    def release(self, member: M, ok: bool | None) -> None:
        """The work has ended: did the member do its part? None: nothing was learned about it (it was cancelled)."""
        name = self._name_of(member)
        slot = self._slots.pop(name)
        slot.busy = False
        slot.breaker.end(ok)
        if slot.leaving:
            self._gone += 1
        else:
            self._slots[name] = slot  # to the end of the row
        self._notify()

    async def changed(self, since: int) -> None:
        """Return when ``version`` is not ``since`` any more, or when a probe has become possible."""
        if self.version != since:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        waits = [s.breaker.wait_s for s in self._slots.values() if s.breaker.state is Breaker.OPEN]
        alarm = asyncio.ensure_future(self._clock.sleep(min(waits))) if waits else None
        try:
            await asyncio.wait({waiter, alarm} if alarm else {waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.pop(waiter, None)
            if alarm is not None:
                alarm.cancel()

    def suspect(self, name: str) -> None:
        """The member failed at work that another one did: its breaker hears of it."""
        if name in self._slots:
            self._slots[name].breaker.failed()
            self._notify()

    # --- who is there ----------------------------------------------------------------------------------------------

    def join(self, member: M) -> None:
        """A new member; ConfigurationError if the name is taken."""
        name = self._name_of(member)
        if name in self._slots:
            raise ConfigurationError(
                f"there is a group {name!r} already; let it leave first, or name this one otherwise"
            )
        self._slots[name] = _Slot(member, CircuitBreaker(self._clock, *self._breaker_options))
        self._notify()

    def leave(self, name: str) -> M:
        """It gets no more work; a busy one is gone when it is released. ConfigurationError if there is none."""
        if name not in self.names:
            raise ConfigurationError(f"there is no group {name!r}; there are {', '.join(self.names) or 'none'}")
        member = self._slots[name].member
        if self._slots[name].busy:
            self._slots[name].leaving = True
        else:
            del self._slots[name]
            self._gone += 1
        self._notify()
        return member

    @property
    def names(self) -> tuple[str, ...]:
        """The members that stay."""
        return tuple(name for name, slot in self._slots.items() if not slot.leaving)

    @property
    def counts(self) -> PoolCounts:
        """For progress."""
        closed = [slot.breaker.state is Breaker.CLOSED for slot in self._slots.values() if not slot.leaving]
        busy = sum(slot.busy for slot in self._slots.values())
        return PoolCounts(sum(closed), busy, len(closed) - sum(closed), self._gone)

    # --- what a monitor sees ---------------------------------------------------------------------------------------

    def idle(self) -> list[M]:
        """The members without work, those out of use included."""
        return [slot.member for slot in self._slots.values() if not slot.busy]

    def checked(self, member: M, ok: bool) -> None:
        """A monitor has looked at it; what has meanwhile got work or gone is judged by that."""
        slot = self._slots.get(self._name_of(member))
        if slot is None or slot.busy or slot.member is not member:
            return
        if ok:
            slot.breaker.answered()
        else:
            slot.breaker.failed()
        self._notify()

    def _notify(self) -> None:
        self.version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
