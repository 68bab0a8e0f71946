"""When which request is sent: closed loops, rates, schedules, users with think time, ramps and ceilings. Pure: no clock,
no socket; the sender says what time it is and what has happened.

All times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from swarmtune.loadgen.ask.source import Prepared, Source
from swarmtune.loadgen.endpoints.base import ChatMessage
from swarmtune.loadgen.records import Phase, WorkerFacts
from swarmtune.loadgen.send.steady import Steadiness
from swarmtune.workload.session import Session, Turn

FOREVER = 2**62
SOON_NS = 250_000  # steps of a ramp that are closer are taken together


@dataclass(frozen=True)
class Shape:
    """The load of one phase, this worker's part of it.

    ``concurrency``: in a closed loop, sessions at a time (a user keeps the slot while it thinks); otherwise a ceiling of
    requests in flight, None: no ceiling.
    """

    phase: Phase = Phase.MEASURED
    closed: bool = True
    concurrency: int | None = None
    prefill_concurrency: int | None = None
    concurrency_ramp_ns: int = 0
    prefill_ramp_ns: int = 0
    cancel_share: float = 0.0
    cancel_delay_ns: int = 0
    seed: int = 0


@dataclass(slots=True)
class Ticket:
    """Permission to send one request now. ``scheduled_ns``, ``ready_ns``: see records.REQUEST."""

    session: Session
    turn: int
    turns: int
    scheduled_ns: int
    ready_ns: int
    phase: Phase
    payload: bytes | None  # made ahead, for a first turn
    cancel_after_ns: int | None = None
    history: list[ChatMessage] = field(default_factory=list)
    prefilling: bool = True

    @property
    def request(self) -> Turn:
        """The turn to send."""
        return self.session.turns[self.turn]

    @property
    def input_tokens(self) -> int:
        """Of this turn and those before it, without the answers to them; a whole body holds its conversation itself."""
        if not self.turn:
            return self.request.input_tokens
        first = 0 if self.request.payload is None else self.turn
        return sum(turn.input_tokens for turn in self.session.turns[first : self.turn + 1])

    @property
    def more(self) -> bool:
        """Will the session go on after this turn?"""
        return self.turn + 1 < self.turns


class Timing:
    """One phase. ``arrivals``: ascending times after the start at which sessions begin; None in a closed loop."""

    def __init__(
        self,
        shape: Shape,
        source: Source,
        started_ns: int,
        arrivals: Iterator[int] | None = None,
        before: Timing | None = None,
        steady: Steadiness | None = None,
    ) -> None:
        """``before``: a phase that handed over while its last answers were under way; they keep their slots. ``steady``:
        with the answer that makes the service steady, no more is sent."""
        self.shape = shape
        self.source = source
        self.started_ns = started_ns
        self.in_flight = 0  # requests
        self.sessions = 0  # that have begun and not ended
        self.prefilling = 0
        self._pauses: list[int] = []  # that the service asked for, ns
        self._before = before
        self._steady = steady
        self._arrivals = arrivals
        self._next_arrival = next(arrivals, None) if arrivals else None
        self._thinking: list[tuple[int, int, Ticket | None]] = []  # None: a slot that comes free after a pause
        self._waiting: deque[Ticket] = deque()  # due, and no slot free
        self._freed: deque[int] = deque()  # when slots came free, oldest first
        self.free_since = started_ns  # when the last ceiling gave way
        self._blocked = False  # what is due has waited for a ceiling
        self._order = itertools.count()
        self._ramps = (
            (shape.concurrency, shape.concurrency_ramp_ns),
            (shape.prefill_concurrency, shape.prefill_ramp_ns),
        )

    # --- called by the sender ---------------------------------------------------------------------------------------

    def take(self, now_ns: int) -> Ticket | None:
        """The request to send now, if there is one."""
        if now_ns < self.started_ns or self._warm:
            return None
        self._collect_due(now_ns)
        if self._full(now_ns):
            self._blocked = True
            return None
        if self._waiting:
            ticket = self._waiting.popleft()
        elif self.shape.closed and self.sessions < self._ceiling(now_ns):
            prepared = self.source.next()
            if prepared is None:
                return None
            at = self._freed.popleft() if self._freed else self._opened_ns(now_ns)
            ticket = self._first(prepared, at)
        else:
            self._blocked = False
            return None
        if self._blocked:
            ticket.ready_ns = max(ticket.ready_ns, self._gave_way_ns(now_ns))
        self.sessions += ticket.turn == 0
        self.in_flight += 1
        self.prefilling += 1
        return ticket

    def due_ns(self, now_ns: int) -> int:
        """When to ask again, at the latest, unless an answer comes before."""
        if now_ns < self.started_ns:
            return self.started_ns
        if self._warm:
            return FOREVER
        times = [FOREVER]
        if self._thinking:
            times.append(self._thinking[0][0])
        if self._next_arrival is not None:
            times.append(self.started_ns + self._next_arrival)
        for limit, ramp in self._ramps:
            if limit and now_ns < self.started_ns + ramp:
                risen = int(_risen(limit, ramp, now_ns - self.started_ns))
                times.append(max(now_ns + SOON_NS, self._risen_over_ns(limit, ramp, risen)))
        return min(times)

    def answering(self, ticket: Ticket, ns: int) -> None:
        """The first part of its answer came at ``ns``."""
        if ticket.prefilling and self.shape.prefill_concurrency is not None:
            self.free_since = ns
        self.prefilling -= ticket.prefilling
        ticket.prefilling = False

    def ended(
        self, ticket: Ticket, ns: int, *, succeeded: bool, history: list[ChatMessage] | None = None, pause_ns: int = 0
    ) -> None:
        """Its answer ended, or it failed, at ``ns``. A session whose turn failed goes no further.

        ``pause_ns``: the server asked to wait this long before the next request (429, Retry-After).
        """
        self.answering(ticket, ns)
        self.in_flight -= 1
        self.free_since = ns
        if self._steady is not None and succeeded:
            self._steady.answered(ns - ticket.ready_ns, ticket.request.output_tokens)
        if self._warm:
            self._thinking.clear()
            self._waiting.clear()
            return
        if ticket.more and succeeded:
            following = ticket.session.turns[ticket.turn + 1]
            due = ns + following.delay_ns
            if following.interval_ns is not None:
                due = ticket.scheduled_ns + following.interval_ns
            further = Ticket(ticket.session, ticket.turn + 1, ticket.turns, due, max(due, ns), ticket.phase, None)
            further.history = history or []
            further.cancel_after_ns = self._cancel_after(further)
            heapq.heappush(self._thinking, (max(due, ns), next(self._order), further))
            return
        if pause_ns and self.shape.closed:
            self._pauses.append(pause_ns)
            heapq.heappush(self._thinking, (ns + pause_ns, next(self._order), None))
        else:
            self._free_slot(ns)

    @property
    def finished(self) -> bool:
        """Everything was sent, and no session will go on."""
        if self.in_flight:
            return False
        nothing_due = not self._waiting and all(ticket is None for _, _, ticket in self._thinking)  # None: only a pause
        none_to_come = self._warm or (self.source.exhausted and (self.shape.closed or self._next_arrival is None))
        return nothing_due and none_to_come

    @property
    def all_sent(self) -> bool:
        """No new session will begin."""
        if self._warm or self.shape.closed:
            return self._warm or self.source.exhausted
        return self._next_arrival is None and not self._waiting

    def unsent(self, until_ns: int) -> list[Ticket]:
        """What was due before ``until_ns`` and was not sent, because no slot came free."""
        self._collect_due(until_ns)
        left = [ticket for ticket in self._waiting if ticket.scheduled_ns < until_ns]
        self._waiting.clear()
        return left

    def tell_pauses(self, facts: WorkerFacts, until_ns: int) -> None:
        """How often and how long users waited because the service asked for it, until then; not of a warm-up."""
        if self.shape.phase is Phase.MEASURED and self._pauses:
            rest_ns = sum(max(0, due_ns - until_ns) for due_ns, _, ticket in self._thinking if ticket is None)
            facts.pauses += len(self._pauses)
            facts.paused_s += (sum(self._pauses) - rest_ns) / 1e9
            facts.longest_pause_s = max(facts.longest_pause_s, max(self._pauses) / 1e9)

    @property
    def _warm(self) -> bool:
        return self._steady is not None and self._steady.reached

    # --- inside -----------------------------------------------------------------------------------------------------

    def _collect_due(self, now_ns: int) -> None:
        while self._thinking and self._thinking[0][0] <= now_ns:
            due_ns, _, ticket = heapq.heappop(self._thinking)
            if ticket is None:
                self._free_slot(due_ns)
            else:
                self._waiting.append(ticket)
        while self._next_arrival is not None and self.started_ns + self._next_arrival <= now_ns:
            prepared = self.source.next()
            if prepared is None:
                self._next_arrival = None if self.source.exhausted else self._next_arrival
                return
            self._waiting.append(self._first(prepared, self.started_ns + self._next_arrival))
            self._next_arrival = next(self._arrivals, None) if self._arrivals else None
        if self.source.exhausted:
            self._next_arrival = None

    def _risen_over_ns(self, limit: int | None, ramp_ns: int, count: int) -> int:
        """When a ceiling on its way up rose above ``count``."""
        if not limit or not ramp_ns:
            return self.started_ns
        return self.started_ns + min(ramp_ns, -(-ramp_ns * count // limit))

    def _gave_way_ns(self, now_ns: int) -> int:
        """When the ceilings gave way to what has waited for them: an answer ended (or began), or a ramp rose."""
        freed_ns = max(self.free_since, self._before.free_since if self._before else 0)
        counts = (0 if self.shape.closed else self.in_flight, self.prefilling)
        risen_ns = [self._risen_over_ns(*ramp, count) for ramp, count in zip(self._ramps, counts, strict=True)]
        return min(now_ns, max(freed_ns, *risen_ns))

    def _full(self, now_ns: int) -> bool:
        since = now_ns - self.started_ns
        if self.prefilling >= _risen(self.shape.prefill_concurrency, self.shape.prefill_ramp_ns, since):
            return True
        return not self.shape.closed and self.in_flight >= self._ceiling(now_ns)

    def _ceiling(self, now_ns: int) -> float:
        handed_over = self._before.in_flight if self._before else 0
        return _risen(self.shape.concurrency, self.shape.concurrency_ramp_ns, now_ns - self.started_ns) - handed_over

    def _free_slot(self, ns: int) -> None:
        self.sessions -= 1
        if self.shape.closed:
            self._freed.append(ns)

    def _opened_ns(self, now_ns: int) -> int:
        """When the ramp opened the slot that is taken for the first time; without a ramp, users come as they can be sent."""
        if not self.shape.concurrency or not self.shape.concurrency_ramp_ns:
            return now_ns
        return self.started_ns + self.shape.concurrency_ramp_ns * self.sessions // self.shape.concurrency

    def _first(self, prepared: Prepared, at_ns: int) -> Ticket:
        ticket = Ticket(prepared.session, 0, prepared.turns, at_ns, at_ns, self.shape.phase, prepared.payload)
        ticket.cancel_after_ns = self._cancel_after(ticket)
        return ticket

    def _cancel_after(self, ticket: Ticket) -> int | None:
        if not self.shape.cancel_share:
            return None
        drawn = random.Random(f"{self.shape.seed}:cancel:{ticket.session.index}:{ticket.turn}").random()
        return self.shape.cancel_delay_ns if drawn < self.shape.cancel_share else None


def _risen(limit: int | None, ramp_ns: int, since_ns: int) -> float:
    """A ceiling on its way up: from 1 to ``limit`` over the ramp."""
    if limit is None:
        return float("inf")
    if since_ns >= ramp_ns:
        return limit
    return max(1, 1 + limit * since_ns // ramp_ns)
