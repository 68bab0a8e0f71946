"""Pool of service groups. A group runs one job at a time; groups may join and leave; a failing group is held back by its
circuit breaker.
"""

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
    """Groups by state. ``healthy``: breaker closed, busy or not; ``open``: held back until a probe succeeds; ``busy``: have
    work; ``gone``: have left the pool.
    """

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
    """Named members, each with a breaker. Used from one event loop; only ``acquire`` and ``changed`` wait.

    The member that has been idle longest is handed out first. A cancelled wait takes no member.
    """

    def __init__(
        self,
        members: Iterable[M],
        clock: Clock,
        name_of: Callable[[M], str],
        failures: int = 5,
        open_s: float = 60.0,
    ) -> None:
        """``failures`` and ``open_s`` (seconds) configure each member's ``CircuitBreaker``."""
        self.clock = clock
        self.name_of = name_of
        self._breaker_options = (failures, open_s)
        self._slots: dict[str, _Slot[M]] = {}
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._gone = 0
        self.version = 0
        """Counts the changes of the pool; see ``changed``."""
        for member in members:
            self.join(member)

    # --- work ------------------------------------------------------------------------------------------------------

    def try_acquire(self, avoid: Collection[str] = (), *, strictly: bool = False) -> M | None:
        """A free member, which the caller must release; None if there is none now.

        A member named in ``avoid`` is taken only if every other one is held back by its breaker, because waiting for
        those might never end; ``strictly``: not even then.
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
        """This member, even if its breaker is open; the caller must release it. None if it is busy, leaving or gone."""
        slot = self._slots.get(name)
        if slot is None or slot.busy or slot.leaving:
            return None
        slot.busy = True
        return slot.member

    def holds(self, member: M) -> bool:
        """Is it still in the pool? A busy member that leaves is, until its work is done."""
        slot = self._slots.get(self.name_of(member))
        return slot is not None and slot.member is member

    async def acquire(self, avoid: Collection[str] = ()) -> M:
        """Wait until ``try_acquire`` returns a member; CommunicationError when no member is left to wait for."""
        while (member := self.try_acquire(avoid)) is None:
            if not self.names:
                raise CommunicationError("no service group is left; let one join")
            await self.changed(self.version)
        return member

    def release(self, member: M, ok: bool | None) -> None:
        """Give a member back. ``ok``: is its breaker to count a success or a failure? None: neither (cancelled work)."""
        name = self.name_of(member)
        slot = self._slots.pop(name)
        slot.busy = False
        slot.breaker.end(ok)
        if slot.leaving:
            self._gone += 1
        else:
            self._slots[name] = slot  # to the end of the queue
        self._notify()

    async def changed(self, since: int) -> None:
        """Return when ``version`` is not ``since`` any more, or when a probe has become possible."""
        if self.version != since:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        waits = [s.breaker.wait_s for s in self._slots.values() if s.breaker.state is Breaker.OPEN]
        alarm = asyncio.ensure_future(self.clock.sleep(min(waits))) if waits else None
        try:
            await asyncio.wait({waiter, alarm} if alarm else {waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.pop(waiter, None)
            if alarm is not None:
                alarm.cancel()

    def suspect(self, name: str) -> None:
        """Count a failure of a member at work that another member has done."""
        if name in self._slots:
            self._slots[name].breaker.failed()
            self._notify()

    # --- members ---------------------------------------------------------------------------------------------------

    def join(self, member: M) -> None:
        """Add a member; ConfigurationError if the name is taken."""
        name = self.name_of(member)
        if name in self._slots:
            raise ConfigurationError(f"group {name!r} already exists; let it leave first, or use another name")
        self._slots[name] = _Slot(member, CircuitBreaker(self.clock, *self._breaker_options))
        self._notify()

    def leave(self, name: str) -> M:
        """Give a member no more work; a busy one is gone when it is released. ConfigurationError if it is unknown."""
        if name not in self.names:
            raise ConfigurationError(f"unknown group {name!r}; the groups are: {', '.join(self.names) or 'none'}")
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
        """The names of the members that are not leaving."""
        return tuple(name for name, slot in self._slots.items() if not slot.leaving)

    @property
    def counts(self) -> PoolCounts:
        """Members by state."""
        closed = [slot.breaker.state is Breaker.CLOSED for slot in self._slots.values() if not slot.leaving]
        busy = sum(slot.busy for slot in self._slots.values())
        return PoolCounts(sum(closed), busy, len(closed) - sum(closed), self._gone)

    # --- health checks ---------------------------------------------------------------------------------------------

    def idle(self) -> list[M]:
        """The members without work, those with an open breaker included."""
        return [slot.member for slot in self._slots.values() if not slot.busy]

    def checked(self, member: M, ok: bool) -> None:
        """Record a health check; ignored for a member that has meanwhile got work or left."""
        slot = self._slots.get(self.name_of(member))
        if slot is None or slot.busy or slot.member is not member:
            return
        if ok:
            slot.breaker.answered()
        else:
            slot.breaker.failed()
        self._notify()

    def poke(self) -> None:
        """Let everything that waits for a change look again."""
        self._notify()

    def _notify(self) -> None:
        self.version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
