"""Sends what timing.py says is due over the wire, and notes how each request ended. Nothing else happens here during a
run: no message per request leaves the process, and no answer is parsed before the run is over (but for conversations,
whose next turn needs the answer to the last).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from swarmtune.loadgen.ask.target import Target
from swarmtune.loadgen.endpoints.base import ChatMessage, Endpoint, linked_bytes, understood
from swarmtune.loadgen.endpoints.packed import PackedError, unpacked
from swarmtune.loadgen.records import Outcome, Progress, WorkerFacts
from swarmtune.loadgen.send.flight import Flight, Limits, Reason, answer_limit, retry_after_ns
from swarmtune.loadgen.send.notes import FLIGHTS, IN_FLIGHT, Note
from swarmtune.loadgen.send.ownload import OwnLoad
from swarmtune.loadgen.send.timing import FOREVER, Ticket, Timing
from swarmtune.loadgen.wire.base import CERTIFICATE_WANTED, ERRORS, TLS_FAILED, TOO_LONG, Happening, Kind, Wire
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
ENDLESS_LIMIT = 8  # answers longer than they can be, in a row, after which no more are asked for
MOST_TOKENS = 2**31 - 1  # that a note holds
HEADERS_TOO_LARGE = "the headers of the answer are too large: longer than 64 KB"
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


@dataclass(slots=True)
class _Line:
    """A connection: the flight on it, and how many answers it has brought."""

    flight: Flight | None = None
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
        self._ends = [False] * len(targets)  # a separate end of an HTTP answer, after its last event, has been seen
        self._unended = [False] * len(targets)  # such an end was waited for, and did not come
        self._sticky: dict[int, tuple[int, _Line]] = {}  # by session
        self._flights: set[Flight] = set()
        self._numbers = 0
        self._refused_in_a_row = self._endless_in_a_row = 0
        self._hold_ns = 0  # no new connection before, after one was refused
        self._timeout_ns = round(self._options.request_timeout_seconds * NS)
        self._limits = Limits(self._timeout_ns)
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
        timing, source, tick_ns = phase.timing, phase.timing.source, 0
        tells = timing.shape.prefill_concurrency is not None
        while not self.stopped:
            now, until_ns = time.monotonic_ns(), self._until(phase)
            sending = now < until_ns
            if now >= tick_ns:
                self._tick(phase)
                tick_ns = now + TICK_NS
            more = False
            if self._limits.next_ns <= now:
                self._time_out(now)  # before sending: it frees slots
            if sending:
                now, more = self._send_due(timing, now)
            if timing.finished or self._over(phase, until_ns, now):
                break
            wake = now if more else min(tick_ns, until_ns if sending else FOREVER, self._limits.next_ns)
            if sending and not more:
                wake = min(wake, self._hold_ns if now < self._hold_ns else timing.due_ns(now))
                if not source.complete and source.left < AHEAD:
                    self._observer.low()
            if not sending and phase.grace_ns is not None:
                wake = min(wake, until_ns + phase.grace_ns)
            if wake - now > IDLE_NS and sending and source.prepared < AHEAD:
                source.prepare(8)
            self._cycles[(time.monotonic_ns() - now).bit_length()] += 1
            self._handle(self._wire.wait(max(0, wake - time.monotonic_ns()), tell_answering=tells))
        end, text = min(self._until(phase), time.monotonic_ns()), "no slot came free before the end"
        for ticket in timing.unsent(end):
            self._note(Flight(ticket, timing, 0, b""), Outcome.DROPPED, end, end, 0, 0, text)
        timing.tell_pauses(self.facts, end)
        if phase.grace_ns is not None or self.stopped:
            over = self.stopped or not _handed_over(phase)
            self._give_up(time.monotonic_ns(), lambda flight: flight.timing is timing and over)

    def _tick(self, phase: TimedPhase) -> None:
        self.progress.in_flight = len(self._flights)
        self.progress.stage = "measuring" if phase.timing.shape.phase else "warming up"
        if phase.timing.shape.phase:
            self._load.look(self.facts)
        self._observer.tick(self.progress)
        if self.spool_is_read:
            self._wire.note(IN_FLIGHT, FLIGHTS.pack(time.monotonic_ns(), len(self._flights)))
            self._wire.flush()

    def _over(self, phase: TimedPhase, until_ns: int, now: int) -> bool:
        if _handed_over(phase) and phase.timing.all_sent:
            return True
        if now < until_ns:
            return False
        grace = FOREVER if phase.grace_ns is None else phase.grace_ns
        return not self._flights or now >= until_ns + grace

    def _until(self, phase: TimedPhase) -> int:
        """When it stops sending."""
        until_ns = phase.until_ns
        if phase.least_requests:
            if not self._enough_ns and self.progress.ended >= phase.least_requests:
                self._enough_ns = time.monotonic_ns()
            until_ns = min(phase.latest_ns, max(until_ns, self._enough_ns or FOREVER))
        return min(until_ns, self._finished_ns or FOREVER)

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
        ticket.ready_ns = max(ticket.ready_ns, self._hold_ns)  # a pause after a refused connection is no lateness
        payload = ticket.payload or self.payload(ticket.session, ticket.turn, ticket.history)
        ticket.payload = None
        flight = Flight(ticket, timing, self._numbers, payload, began_ns=now)
        self._flights.add(flight)
        self._limits.begin(flight, now, len(self._flights))
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

    def _send(self, flight: Flight, connection: int) -> None:
        flight.connection = connection
        self._lines[connection].flight = flight
        try:
            turn, more = flight.ticket.request, flight.ticket.more
            flight.most_tokens = self._endpoint.most_tokens(turn)
            limit = answer_limit(flight.most_tokens, len(turn.texts))
            flight.sent_ns = self._wire.send(connection, flight.number, flight.payload, keep=more, limit=limit)
        except OSError as error:
            reason = error.strerror or str(error)
            self._failed(flight, reason, time.monotonic_ns(), bool(self._lines[connection].served))
            return
        if flight.ticket.cancel_after_ns is not None:
            self._limits.cancel(flight, flight.sent_ns + flight.ticket.cancel_after_ns)

    def _open(self, target: int, flight: Flight | None = None) -> None:
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
                self._ends[line.target] |= line.flight is not None and line.flight.streamed is not None
                self._ended(h, line)
            elif h.kind == Kind.STREAMED:
                self._streamed(h, line)
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

    def _streamed(self, h: Happening, line: _Line) -> None:
        """The last event has come. The HTTP answer ends at once, or never: some services forget that. Then the stream's end
        is the answer's, and the connection is not used again."""
        if line.flight is None:
            return
        line.flight.streamed = h
        if self._unended[line.target] and not self._ends[line.target]:
            self._ended(h._replace(keep_alive=0), line)
        else:
            self._limits.linger(line.flight, time.monotonic_ns())

    def _ended(self, h: Happening, line: _Line, freed_ns: int = 0) -> None:
        """``freed_ns``: when the slot came free, if not with the last byte."""
        flight, line.flight = line.flight, None
        line.served += 1
        self._targets[line.target].answered = True
        if flight is None:
            return
        self.facts.open_ends += flight.ticket.phase == 1 and h.kind == Kind.STREAMED
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
        ns = freed_ns or h.ns
        flight.timing.ended(flight.ticket, ns, succeeded=succeeded, history=history, pause_ns=pause_ns)

    def _understood(self, h: Happening, flight: Flight) -> tuple[list[ChatMessage] | None, int]:
        """The history for the next turn (None: it cannot go on), and the pause that the server asks for, ns."""
        status, headers, body = body_of(self._wire.kept(h.connection))
        if status != OK:
            return None, retry_after_ns(headers.get(b"retry-after", b""))
        with contextlib.suppress(PackedError):
            answer = understood(self._endpoint, unpacked([(0, body)], headers), keep_text=True)
            if not answer.error:
                return self._endpoint.continued(flight.ticket.history, flight.ticket.request, answer.text), 0
        return None, 0

    def _closed(self, h: Happening, line: _Line) -> None:
        flight = line.flight
        answered, reused, ready = h.bytes > 0, line.served > 0, line.ready
        line.flight = None
        tls = h.error in (TLS_FAILED, CERTIFICATE_WANTED)
        reason = self._wire.kept(h.connection).decode(errors="replace") if tls else ""
        wrong = self._targets[line.target].wrong_scheme() if flight and ready and not h.status else ""
        if h.error == TOO_LONG and not h.status:
            reason = HEADERS_TOO_LARGE
        reason = wrong or reason or ERRORS.get(h.error) or os.strerror(h.error)
        self._drop(h.connection)
        if wrong or h.error == CERTIFICATE_WANTED:
            self._lose(reason)
        if flight is None:
            return
        if not ready:
            self._refused(flight, reason, h.read_ns)
        elif answered:
            self._end_broken(flight, h, reason)
        else:
            self._failed(flight, reason, h.read_ns, reused)

    def _failed(self, flight: Flight, reason: str, now: int, reused: bool) -> None:
        """No byte of an answer came. If the server closed an idle connection in the meantime, once more on a fresh one."""
        self._drop(flight.connection)
        if reused and not flight.retried:
            flight.retried = True
            self._open(self._target_of(flight.ticket.session), flight)
            return
        self._note(flight, Outcome.FAILED, now, now, 0, 0, reason)
        flight.timing.ended(flight.ticket, now, succeeded=False)

    def _end_broken(self, flight: Flight, h: Happening, reason: str) -> None:
        if h.error not in ERRORS:
            reason = f"the connection was closed during the answer: {reason}"
        self._note(flight, Outcome.FAILED, h.ns, h.read_ns, h.bytes, h.status, reason)
        self._endless_in_a_row = self._endless_in_a_row + 1 if h.error == TOO_LONG else 0
        if self._endless_in_a_row == ENDLESS_LIMIT:
            self.facts.notes.append(f"{ENDLESS_LIMIT} answers in a row did not end: no more requests were sent")
            self.finish()
        flight.timing.ended(flight.ticket, h.ns, succeeded=False)

    def _refused(self, flight: Flight, reason: str, now: int) -> None:
        """No connection could be made."""
        self._note(flight, Outcome.FAILED, now, now, 0, 0, f"cannot connect: {reason}")
        flight.timing.ended(flight.ticket, now, succeeded=False)
        self._refused_in_a_row += 1
        self._hold_ns = now + REFUSED_PAUSE_NS
        if self._refused_in_a_row >= REFUSED_LIMIT:
            self._lose("")

    def _lose(self, reason: str) -> None:
        """The service cannot be used: end the run."""
        if reason and reason not in self.facts.notes:
            self.facts.notes.append(reason)
        self.lost = self.stopped = True

    # --- giving up -------------------------------------------------------------------------------------------------

    def _time_out(self, now: int) -> None:
        """End what has been waited for long enough, and what is to be cancelled."""
        for flight, reason in self._limits.expired(now):
            if reason is Reason.CANCELLED:
                self._abandon(flight, Outcome.CANCELLED, now, "cancelled on purpose")
            elif flight.streamed is not None:
                line = self._lines[flight.connection]
                self._unended[line.target] = True
                self._ended(flight.streamed._replace(keep_alive=0), line, now)
            else:
                late = f"no complete answer within {self._options.request_timeout_seconds:g} s"
                self._abandon(flight, Outcome.FAILED, now, late)

    def _abandon(self, flight: Flight, outcome: Outcome, now: int, text: str) -> None:
        self._drop(flight.connection)
        self._note(flight, outcome, now, now, 0, 0, text)
        flight.timing.ended(flight.ticket, now, succeeded=False)

    def _give_up(self, now: int, which: Callable[[Flight], bool]) -> None:
        for flight in sorted((f for f in self._flights if which(f)), key=lambda f: f.number):
            self._abandon(flight, Outcome.INCOMPLETE, max(now, flight.sent_ns), "not answered before the end")

    def _drop(self, connection: int) -> None:
        if self._lines.pop(connection, None) is not None:
            self._wire.drop(connection)

    def _note(
        self, flight: Flight, outcome: Outcome, ns: int, read_ns: int, received: int, status: int, error: str
    ) -> None:
        flight.over = True
        sent_bytes, flight.payload = len(flight.payload) + linked_bytes(flight.payload), b""
        self._flights.discard(flight)
        ticket, turn = flight.ticket, flight.ticket.request
        if ticket.phase == 1 and outcome is not Outcome.DROPPED:
            self.progress.ended += 1
            self.progress.failed += outcome is Outcome.FAILED or (status != OK and outcome is Outcome.COMPLETED)
        asked = -1 if turn.output_tokens is None else turn.output_tokens
        note = Note(
            ticket.session.index, ticket.turn, ticket.phase, outcome, ticket.scheduled_ns, ticket.ready_ns, flight.sent_ns,
            flight.connect_ns, ns, read_ns, received, sent_bytes,
            min(flight.most_tokens, MOST_TOKENS), self._endpoint.expected_results(turn),
            min(ticket.input_tokens, MOST_TOKENS), min(asked, MOST_TOKENS), status, flight.retried, error,
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
