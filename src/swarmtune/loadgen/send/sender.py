"""Sends what timing.py says is due over the wire, and notes how each request ended. Nothing else happens here during a
run: no message per request leaves the process, and no answer is parsed before the run is over (but for conversations,
whose next turn needs the answer to the last).
"""

from __future__ import annotations

import heapq
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from swarmtune.loadgen.ask.target import Target
from swarmtune.loadgen.endpoints.base import ChatMessage, Endpoint, understood
from swarmtune.loadgen.records import Outcome, Progress, WorkerFacts
from swarmtune.loadgen.send.notes import FLIGHTS, IN_FLIGHT, Note
from swarmtune.loadgen.send.ownload import OwnLoad
from swarmtune.loadgen.send.timing import FOREVER, Ticket, Timing
from swarmtune.loadgen.wire.base import ERRORS, Happening, Kind, Wire
from swarmtune.loadgen.wire.framing import body_of
from swarmtune.workload.session import Session

NS = 1_000_000_000
OK = 200
BURST = 8  # requests sent before the sockets are looked at again: late sending is recorded, late reading loses stamps
OPENED = 64  # connections opened before that
AHEAD = 256  # payloads that are made ahead when there is time
IDLE_NS = 2_000_000  # so long must nothing be due for that
REFUSED_PAUSE_NS = 100_000_000
REFUSED_LIMIT = 20  # connections refused in a row after which the service counts as lost
MAX_PAUSE_NS = 60 * NS  # the longest Retry-After that is obeyed
ENDED_KEPT = 10_000  # ended requests that may wait in line for their time limit
MOST_TOKENS = 2**31 - 1  # that a note holds
TICK_NS = 200_000_000  # how often the observer is called


@dataclass(frozen=True)
class TimedPhase:
    """One phase of the run: its timing, when it stops sending, and how long answers are waited for after that.

    ``grace_ns`` None: until they have all come. With ``least_requests`` it goes on sending until so many have ended, or
    until ``latest_ns``.
    """

    timing: Timing
    until_ns: int = FOREVER
    grace_ns: int | None = None
    least_requests: int = 0
    latest_ns: int = FOREVER


@dataclass(slots=True, eq=False)
class _Flight:
    ticket: Ticket
    timing: Timing
    number: int
    payload: bytes
    connection: int = -1
    sent_ns: int = 0
    began_ns: int = 0
    connect_ns: int = 0
    retried: bool = False
    over: bool = False


@dataclass(slots=True)
class _Line:
    """A connection: the flight on it, and how many answers it has brought."""

    flight: _Flight | None = None
    served: int = 0
    ready: bool = False
    target: int = 0


@dataclass
class Observer:
    """Callbacks through which others follow and steer a sender. All are optional."""

    tick: Callable[[Progress], None] = lambda _: None
    readable: Callable[[], None] = lambda: None  # the watched descriptor can be read
    descriptor: int | None = None
    low: Callable[[], None] = lambda: None  # called while few credits are left


class Sender:
    """One use: ``run`` once; ``stop`` from a signal handler or a watch."""

    def __init__(
        self, wire: Wire, targets: Sequence[Target], endpoint: Endpoint, prefix: str, observer: Observer | None = None
    ) -> None:
        """``targets`` take the sessions by turns. ``prefix``: of the ids of its requests."""
        self.progress = Progress()
        self.stopped = False  # the end was asked for
        self.lost = False
        self.facts = WorkerFacts(str(os.getpid()), wire.name, kernel_stamps=True)
        self.spool_is_read = False  # flush the spool at each tick, for a reader that follows it
        self._wire = wire
        self._targets = targets
        self._endpoint = endpoint
        self._options = endpoint.options
        self._prefix = prefix
        self._observer = observer or Observer()
        self._lines: dict[int, _Line] = {}
        # A number may be used again for another connection: what lies idle is known by number and line.
        self._idle: list[list[tuple[int, _Line]]] = [[] for _ in targets]  # per target, last used last
        self._sticky: dict[int, tuple[int, _Line]] = {}  # by session
        self._flights: set[_Flight] = set()
        self._deadlines: deque[tuple[int, _Flight]] = deque()
        self._cancels: list[tuple[int, int, _Flight]] = []
        self._numbers = 0
        self._refused_in_a_row = 0
        self._hold_ns = 0  # no new connection before, after one was refused
        self._timeout_ns = round(self._options.request_timeout_seconds * NS)
        self._cycles: Counter[int] = Counter()
        self._finished_ns = 0
        self._enough_ns = 0  # when as many requests had ended as a phase waits for
        self._followed: dict[int, Callable[[], None]] = {}  # descriptor -> what to do when it can be read
        self._watched: dict[int, Callable[[], None]] = {}  # the same, by the wire's number
        self._load = OwnLoad()

    # --- the run ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End as soon as possible; requests under way become incomplete."""
        self.stopped = True

    def finish(self) -> None:
        """Send no more, and wait for the answers that are under way, as at the end of a duration."""
        self._finished_ns = self._finished_ns or time.monotonic_ns()

    def follow(self, descriptor: int, readable: Callable[[], None]) -> None:
        """Call ``readable`` whenever this descriptor can be read during the run."""
        self._followed[descriptor] = readable

    def connect(self, connections: int) -> None:
        """Open so many connections ahead of the run. CommunicationError if the service cannot be reached."""
        for target in self._targets:
            target.probe(min(30.0, self._options.request_timeout_seconds))
        if self._options.connection_reuse_strategy != "pooled":
            return
        for number in range(connections):
            self._open(number % len(self._targets))
            if len(self._lines) % OPENED == 0:
                self._handle(self._wire.wait(0))
        deadline = time.monotonic_ns() + self._timeout_ns
        while (
            any(not line.ready for line in self._lines.values()) and time.monotonic_ns() < deadline and not self.stopped
        ):
            self._handle(self._wire.wait(TICK_NS))

    def run(self, phases: Iterable[TimedPhase]) -> None:
        """All phases, one after the other. OSError if the spool cannot be written any more."""
        if self._observer.descriptor is not None:
            self._followed[self._observer.descriptor] = self._observer.readable
        for descriptor, call in self._followed.items():
            self._watched[self._wire.watch(descriptor)] = call
        try:
            for phase in phases:
                if not self.stopped:
                    self._run(phase)
        finally:
            for watched in self._watched:
                self._wire.drop(watched)
            self._give_up(time.monotonic_ns(), lambda _: True)
            self._observer.tick(self.progress)
            self._wire.flush()
            self._cycle_facts()

    def _run(self, phase: TimedPhase) -> None:
        timing, tick_ns = phase.timing, 0
        while not self.stopped:
            now, until_ns = time.monotonic_ns(), self._until(phase)
            sending = now < until_ns
            if now >= tick_ns:
                self._tick(phase)
                tick_ns = now + TICK_NS
            more = False
            if sending:
                now, more = self._send_due(timing, now)
            if timing.finished or self._over(phase, now):
                break
            wake = now if more else min(tick_ns, until_ns if sending else FOREVER, self._time_out(now))
            if sending and not more:
                wake = min(wake, max(timing.due_ns(now), self._hold_ns))
                if timing.source.left < AHEAD and not timing.source.complete:
                    self._observer.low()
            if not sending and phase.grace_ns is not None:
                wake = min(wake, until_ns + phase.grace_ns)
            if wake - now > IDLE_NS and sending and timing.source.prepared < AHEAD:
                timing.source.prepare(8)
            self._cycles[(time.monotonic_ns() - now).bit_length()] += 1
            self._handle(
                self._wire.wait(max(0, wake - time.monotonic_ns()), tell_answering=self._tells_answering(timing))
            )
        end = min(self._until(phase), time.monotonic_ns())
        for ticket in timing.unsent(end):
            self._note(
                _Flight(ticket, timing, 0, b""), Outcome.DROPPED, end, end, 0, 0, "no slot came free before the end"
            )
        if phase.grace_ns is not None or self.stopped:
            given_up = time.monotonic_ns()
            self._give_up(
                given_up, lambda flight: flight.timing is timing and (self.stopped or not _handed_over(phase))
            )

    def _tick(self, phase: TimedPhase) -> None:
        self.progress.in_flight = len(self._flights)
        self.progress.stage = "measuring" if phase.timing.shape.phase else "warming up"
        if phase.timing.shape.phase:
            self._load.look(self.facts)
        self._observer.tick(self.progress)
        if self.spool_is_read:
            self._wire.note(IN_FLIGHT, FLIGHTS.pack(time.monotonic_ns(), len(self._flights)))
            self._wire.flush()

    def _over(self, phase: TimedPhase, now: int) -> bool:
        if phase.timing.all_sent and _handed_over(phase):
            return True
        if now < self._until(phase):
            return False
        grace = FOREVER if phase.grace_ns is None else phase.grace_ns
        return not self._flights or now >= self._until(phase) + grace

    def _until(self, phase: TimedPhase) -> int:
        """When it stops sending."""
        until_ns = phase.until_ns
        if phase.least_requests:
            if not self._enough_ns and self.progress.ended >= phase.least_requests:
                self._enough_ns = time.monotonic_ns()
            until_ns = min(phase.latest_ns, max(until_ns, self._enough_ns or FOREVER))
        return min(until_ns, self._finished_ns or FOREVER)

    def _tells_answering(self, timing: Timing) -> bool:
        return timing.shape.prefill_concurrency is not None

    # --- sending ---------------------------------------------------------------------------------------------------

    def _send_due(self, timing: Timing, now: int) -> tuple[int, bool]:
        """Send what is due. Returns the time after that, ns, and whether more may be due."""
        for _ in range(BURST):
            if now < self._hold_ns or (ticket := timing.take(now)) is None:
                return now, False
            self._launch(ticket, timing, now)
            now = time.monotonic_ns()
        return now, True

    def _launch(self, ticket: Ticket, timing: Timing, now: int) -> None:
        self._numbers += 1
        payload = ticket.payload or self.payload(ticket.session, ticket.turn, ticket.history)
        ticket.payload = None
        flight = _Flight(ticket, timing, self._numbers, payload, began_ns=now)
        self._flights.add(flight)
        self._deadlines.append((now + self._timeout_ns, flight))
        if len(self._deadlines) > 2 * len(self._flights) + ENDED_KEPT:  # one slow answer must not keep all later ones
            self._deadlines = deque(entry for entry in self._deadlines if not entry[1].over)
        self.progress.sent += ticket.phase == 1
        connection = self._connection_for(ticket)
        if connection is not None:
            self._send(flight, connection)
        else:
            self._open(self._target_of(ticket.session), flight)

    def payload(self, session: Session, turn: int = 0, history: Sequence[ChatMessage] = ()) -> bytes:
        """The bytes of a request."""
        body = self._endpoint.body(session.turns[turn], history)
        return self._targets[self._target_of(session)].payload(f"{self._prefix}{session.index}-{turn}", body)

    def _target_of(self, session: Session) -> int:
        return session.index % len(self._targets)

    def _connection_for(self, ticket: Ticket) -> int | None:
        if self._options.connection_reuse_strategy == "sticky-user-sessions":
            kept = self._sticky.pop(ticket.session.index, None)
            return kept[0] if kept and self._lines.get(kept[0]) is kept[1] else None
        idle = self._idle[self._target_of(ticket.session)]
        while idle:
            connection, line = idle.pop()
            if self._lines.get(connection) is line and line.flight is None:
                return connection
        return None

    def _send(self, flight: _Flight, connection: int) -> None:
        flight.connection = connection
        self._lines[connection].flight = flight
        try:
            flight.sent_ns = self._wire.send(connection, flight.number, flight.payload, keep=flight.ticket.more)
        except OSError as error:
            self._failed(flight, error.errno or 0, time.monotonic_ns(), bool(self._lines[connection].served))
            return
        if flight.ticket.cancel_after_ns is not None:
            heapq.heappush(self._cancels, (flight.sent_ns + flight.ticket.cancel_after_ns, flight.number, flight))

    def _open(self, target: int, flight: _Flight | None = None) -> None:
        """Open a connection, for this flight or as a spare."""
        if flight:
            flight.began_ns = time.monotonic_ns()
        try:
            made, stamped = self._targets[target].connect()
        except OSError as error:
            if flight:
                self._refused(flight, error.strerror or str(error), time.monotonic_ns())
            return
        self.facts.kernel_stamps &= stamped
        connection = self._wire.add(made, self._targets[target].tls, self._targets[target].host)
        self._lines[connection] = _Line(flight, target=target)
        if flight:
            flight.connection = connection

    # --- what happened ---------------------------------------------------------------------------------------------

    def _handle(self, happenings: list[Happening]) -> None:
        for h in happenings:
            line = self._lines.get(h.connection)
            if h.kind == Kind.WATCHED:
                if readable := self._watched.get(h.connection):
                    readable()
            elif line is None or (h.exchange >= 0 and (line.flight is None or line.flight.number != h.exchange)):
                if h.kind == Kind.CLOSED:
                    self._drop(h.connection)  # it lay idle
            elif h.kind == Kind.CONNECTED:
                self._connected(h, line)
            elif h.kind == Kind.ENDED:
                self._ended(h, line)
            elif h.kind == Kind.CLOSED:
                self._closed(h, line)
            elif line.flight:
                line.flight.timing.answering(line.flight.ticket, h.ns)

    def _connected(self, h: Happening, line: _Line) -> None:
        line.ready = True
        self._refused_in_a_row = 0
        if line.flight is None:
            self._idle[line.target].append((h.connection, line))
            return
        line.flight.connect_ns = h.read_ns - line.flight.began_ns
        self._send(line.flight, h.connection)

    def _ended(self, h: Happening, line: _Line) -> None:
        flight, line.flight = line.flight, None
        line.served += 1
        if flight is None:
            return
        history, pause_ns = None, 0
        if h.status != OK or flight.ticket.more:
            history, pause_ns = self._understood(h, flight)
        succeeded = h.status == OK and (history is not None or not flight.ticket.more)
        self._note(flight, Outcome.COMPLETED, h.ns, h.read_ns, h.bytes, h.status, "")
        if not h.keep_alive or self._options.connection_reuse_strategy == "never":
            self._drop(h.connection)
        elif self._options.connection_reuse_strategy == "sticky-user-sessions":
            if succeeded and flight.ticket.more:
                self._sticky[flight.ticket.session.index] = (h.connection, line)
            else:
                self._drop(h.connection)
        else:
            self._idle[line.target].append((h.connection, line))
        flight.timing.ended(flight.ticket, h.ns, succeeded=succeeded, history=history, pause_ns=pause_ns)

    def _understood(self, h: Happening, flight: _Flight) -> tuple[list[ChatMessage] | None, int]:
        """The history for the next turn (None: it cannot go on), and the pause that the server asks for, ns."""
        status, headers, body = body_of(self._wire.kept(h.connection))
        if status != OK:
            return None, _retry_after_ns(headers.get(b"retry-after", b""))
        answer = understood(self._endpoint, [(0, body)], keep_text=True)
        if answer.error:
            return None, 0
        return self._endpoint.continued(flight.ticket.history, flight.ticket.request, answer.text), 0

    def _closed(self, h: Happening, line: _Line) -> None:
        flight = line.flight
        answered, reused, ready = h.bytes > 0, line.served > 0, line.ready
        line.flight = None
        reason = self._wire.kept(h.connection).decode(errors="replace") if not ready else ""
        self._drop(h.connection)
        if flight is None:
            return
        if not ready:
            self._refused(flight, reason or ERRORS.get(h.error) or os.strerror(h.error), h.read_ns)
        elif answered:
            self._end_broken(flight, h)
        else:
            self._failed(flight, h.error, h.read_ns, reused)

    def _failed(self, flight: _Flight, error: int, now: int, reused: bool) -> None:
        """No byte of an answer came. If the server closed an idle connection in the meantime, once more on a fresh one."""
        self._drop(flight.connection)
        if reused and not flight.retried:
            flight.retried = True
            self._open(self._target_of(flight.ticket.session), flight)
            return
        self._note(flight, Outcome.FAILED, now, now, 0, 0, ERRORS.get(error) or os.strerror(error))
        flight.timing.ended(flight.ticket, now, succeeded=False)

    def _end_broken(self, flight: _Flight, h: Happening) -> None:
        text = ERRORS.get(h.error) or f"the connection was closed during the answer: {os.strerror(h.error)}"
        self._note(flight, Outcome.FAILED, h.ns, h.read_ns, h.bytes, h.status, text)
        flight.timing.ended(flight.ticket, h.ns, succeeded=False)

    def _refused(self, flight: _Flight, reason: str, now: int) -> None:
        """No connection could be made."""
        self._note(flight, Outcome.FAILED, now, now, 0, 0, f"cannot connect: {reason}")
        flight.timing.ended(flight.ticket, now, succeeded=False)
        self._refused_in_a_row += 1
        self._hold_ns = now + REFUSED_PAUSE_NS
        if self._refused_in_a_row >= REFUSED_LIMIT:
            self.lost = self.stopped = True

    # --- giving up -------------------------------------------------------------------------------------------------

    def _time_out(self, now: int) -> int:
        """End requests that have waited too long or are to be cancelled; the time of the next such check, ns."""
        while self._deadlines and (self._deadlines[0][1].over or self._deadlines[0][0] <= now):
            _, flight = self._deadlines.popleft()
            if not flight.over:
                text = f"no complete answer within {self._options.request_timeout_seconds:g} s"
                self._abandon(flight, Outcome.FAILED, now, text)
        while self._cancels and (self._cancels[0][2].over or self._cancels[0][0] <= now):
            flight = heapq.heappop(self._cancels)[2]
            if not flight.over:
                self._abandon(flight, Outcome.CANCELLED, now, "cancelled on purpose")
        times = [FOREVER]
        times += [self._deadlines[0][0]] if self._deadlines else []
        times += [self._cancels[0][0]] if self._cancels else []
        return min(times)

    def _abandon(self, flight: _Flight, outcome: Outcome, now: int, text: str) -> None:
        self._drop(flight.connection)
        self._note(flight, outcome, now, now, 0, 0, text)
        flight.timing.ended(flight.ticket, now, succeeded=False)

    def _give_up(self, now: int, which: Callable[[_Flight], bool]) -> None:
        for flight in sorted((f for f in self._flights if which(f)), key=lambda f: f.number):
            self._abandon(flight, Outcome.INCOMPLETE, max(now, flight.sent_ns), "not answered before the end")

    def _drop(self, connection: int) -> None:
        if self._lines.pop(connection, None) is not None:
            self._wire.drop(connection)

    def _note(
        self, flight: _Flight, outcome: Outcome, ns: int, read_ns: int, received: int, status: int, error: str
    ) -> None:
        flight.over = True
        sent_bytes, flight.payload = len(flight.payload), b""
        self._flights.discard(flight)
        ticket, turn = flight.ticket, flight.ticket.request
        if ticket.phase == 1 and outcome is not Outcome.DROPPED:
            self.progress.ended += 1
            self.progress.failed += outcome is Outcome.FAILED or (status != OK and outcome is Outcome.COMPLETED)
        asked = -1 if turn.output_tokens is None else turn.output_tokens
        note = Note(
            ticket.session.index, ticket.turn, ticket.phase, outcome, ticket.scheduled_ns, ticket.ready_ns, flight.sent_ns,
            flight.connect_ns, ns, read_ns, received, sent_bytes,
            min(self._endpoint.most_tokens(turn), MOST_TOKENS), min(turn.input_tokens, MOST_TOKENS), min(asked, MOST_TOKENS),
            status, flight.retried, error,
        )  # fmt: skip
        self._wire.note(flight.number, note.pack())

    def _cycle_facts(self) -> None:
        total, seen = sum(self._cycles.values()), 0
        for bits in sorted(self._cycles):
            seen += self._cycles[bits]
            if seen < 0.99 * total:
                self.facts.cycle_p99_ms = 2**bits / 1e6
        self.facts.cycle_max_ms = 2 ** max(self._cycles, default=0) / 1e6


def _handed_over(phase: TimedPhase) -> bool:
    """May the next phase begin while answers of this one are still to come?"""
    return phase.grace_ns == 0 and phase.timing.shape.phase == 0


def _retry_after_ns(value: bytes) -> int:
    """Seconds of a Retry-After header; 0 without one that can be used. (A date is not obeyed.)"""
    try:
        seconds = float(value)
    except ValueError:
        return 0
    return min(MAX_PAUSE_NS, round(seconds * NS)) if math.isfinite(seconds) and seconds > 0 else 0
