"""A load in virtual time: who sends what and when is decided by the load generator's own timing, as in a measurement."""

from __future__ import annotations

import heapq
import itertools
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigurationError
from swarmtune.loadgen.ask.source import Source
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import CHUNK, REQUEST, Outcome, Records, WorkerFacts
from swarmtune.loadgen.send.plan import Share, all_credits, measured, warm_up
from swarmtune.loadgen.send.sender import TimedPhase
from swarmtune.loadgen.send.timing import FOREVER, Ticket, Timing
from swarmtune.scheduling import Rules
from swarmtune.simulator.virtual.fleet import Fleet
from swarmtune.simulator.virtual.requests import Answers, Reason
from swarmtune.tuner.simulation.contents import Contents
from swarmtune.workload.session import Dataset

NS = 1_000_000_000
ZERO_NS = NS  # the replicas' second 0 on the clock of the records, where 0 means never
REFUSED = "the engine refuses it: prompt and answer are longer than a context or the KV cache"
TIMED_OUT = "timed out"
REFUSAL_NS = 1_000_000
COLUMNS = (  # of records.REQUEST, and the place in the fleet
    *("session", "turn", "phase", "outcome", "scheduled_ns", "ready_ns", "sent_ns", "end_ns", "asked_input_tokens"),
    *("input_tokens", "asked_output_tokens", "error", "place"),
)


@dataclass(frozen=True)
class FrontEnd:
    """HTTP, tokenizer and streaming: one queue before the engine, and a delay behind it. Seconds."""

    request_s: float = 0.0
    prompt_token_s: float = 0.0
    token_s: float = 0.0


@dataclass(slots=True)
class _Flight:
    ticket: Ticket
    timing: Timing
    sent_ns: int
    prompt: int
    output: int
    place: int  # in the order of the fleet; -1: the engine refused it
    outcome: Outcome = Outcome.INCOMPLETE
    end_ns: int = 0
    error: int = -1


@dataclass
class VirtualLoad:
    """``run`` once. ``fleet``: fresh replicas that tell first tokens; ``seed``: of the load."""

    options: LoadgenOptions
    dataset: Dataset
    seed: int
    fleet: Fleet
    rules: Rules
    contents: Contents
    front: FrontEnd = field(default_factory=FrontEnd)
    progress: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self._now = ZERO_NS
        self._open = deque[_Flight]()  # in the order in which they were sent; some of them have ended
        self._by_place: dict[int, _Flight] = {}  # those that have not
        self._placed = self._flying = 0
        self._rows = {name: array("q") for name in COLUMNS}
        self._events: list[tuple[int, int, str, _Flight]] = []
        self._order = itertools.count()
        self._free_s = 0.0  # when the front end is free
        self._ended = 0
        self._enough_ns = 0
        self._answers: dict[int, int] = {}  # tokens of the answers so far, by session
        self._after_ns = round(self.front.token_s * NS)
        self._timeout_ns = round(self.options.request_timeout_seconds * NS)
        self._dropped: list[Ticket] = []
        self._facts = WorkerFacts("virtual", "virtual", kernel_stamps=True)

    def run(self) -> Records:
        """All phases. ConfigurationError if requests wait for ever: for memory that no end of another gives back."""
        source = Source(self.dataset, lambda _: b"", complete=True)
        source.grant(all_credits(self.options, self.dataset))
        warming = Source(self.dataset, lambda _: b"", complete=True)
        first = warm_up(self.options, warming, self.seed, Share(), self._now)
        if first:
            self._phase(first)
        started = self._now
        before = first.timing if first else None
        phase = measured(self.options, self.dataset, source, self.seed, Share(), started, before)
        self._ended = self._enough_ns = 0
        self._phase(phase)
        return self._records(started)

    # --- time: as ``loadgen.send.sender.Sender`` ---------------------------------------------------------------------

    def _phase(self, phase: TimedPhase) -> None:
        timing = phase.timing
        while True:
            until = self._until(phase)
            sending = self._now < until
            while sending and (ticket := timing.take(self._now)) is not None:
                self._launch(ticket, timing)
            if timing.finished or self._over(phase, until):
                break
            wake = min(until, timing.due_ns(self._now)) if sending else FOREVER
            if not sending and phase.grace_ns is not None:
                wake = until + phase.grace_ns
            self._advance(wake)
        end = min(self._until(phase), self._now)
        self._dropped += timing.unsent(end)
        timing.tell_pauses(self._facts, end)
        if phase.grace_ns is not None and not self._handed_over(phase):
            for flight in self._open:
                if flight.timing is timing and not flight.end_ns:
                    self._give_up(flight, Outcome.INCOMPLETE)

    def _until(self, phase: TimedPhase) -> int:
        until = phase.until_ns
        if phase.least_requests:
            if not self._enough_ns and self._ended >= phase.least_requests:
                self._enough_ns = self._now
            until = min(phase.latest_ns, max(until, self._enough_ns or FOREVER))
        return until

    def _handed_over(self, phase: TimedPhase) -> bool:
        return phase.grace_ns == 0 and not phase.timing.shape.phase

    def _over(self, phase: TimedPhase, until: int) -> bool:
        if self._handed_over(phase) and phase.timing.all_sent:
            return True
        if self._now < until:
            return False
        grace = FOREVER if phase.grace_ns is None else phase.grace_ns
        return not self._flying or self._now >= until + grace

    def _advance(self, wake: int) -> None:
        """To ``wake`` or to what a client sees before, whichever comes first."""
        while self._open and self._open[0].end_ns:
            self._open.popleft()
        if self._open:
            wake = min(wake, self._open[0].sent_ns + self._timeout_ns)
        while True:
            limit = min(wake, self._events[0][0]) if self._events else wake
            at = float("inf") if limit >= FOREVER else (limit - ZERO_NS) / NS
            reason = self.fleet.run(at, stop=True)
            for number in self.fleet.ended():
                self._seen(number)
            if reason is not Reason.ENDED:
                break
        if reason is Reason.STALLED or limit >= FOREVER:
            if not self.fleet.in_engine:
                raise ConfigurationError("The simulation makes no progress: no request is due. The rate is too low.")
            told = f"{self.fleet.in_engine} requests are in the engine, and none can go on"
            raise ConfigurationError(f"The simulation makes no progress: {told}. Give it more KV blocks.")
        self._now = max(self._now, limit)
        while self._events and self._events[0][0] <= self._now:
            ns, _, kind, flight = heapq.heappop(self._events)
            if not flight.end_ns:
                self._happened(ns, kind, flight)
        for flight in self._open:
            if flight.sent_ns + self._timeout_ns > self._now:
                break
            if not flight.end_ns:
                self._happened(self._now, "timed out", flight)

    def _seen(self, number: int) -> None:
        """A client will see this: the first token of a request, or its end."""
        flight = self._by_place[number if number >= 0 else -1 - number]
        ns = ZERO_NS + round(self.fleet.seen_at(number) * NS) + self._after_ns
        self._event(ns, "ended" if number >= 0 else "answering", flight)

    def _event(self, ns: int, kind: str, flight: _Flight) -> None:
        heapq.heappush(self._events, (ns, next(self._order), kind, flight))

    def _happened(self, ns: int, kind: str, flight: _Flight) -> None:
        if kind == "answering":
            flight.timing.answering(flight.ticket, ns)
        elif kind == "ended":
            self._end(flight, Outcome.COMPLETED, ns)
            if flight.ticket.more:
                session = flight.ticket.session.index
                self._answers[session] = self._answers.get(session, 0) + flight.output
            flight.timing.ended(flight.ticket, ns, succeeded=True)
        else:
            self._give_up(flight, Outcome.CANCELLED if kind == "cancelled" else Outcome.FAILED, kind)
            flight.timing.ended(flight.ticket, ns, succeeded=False)

    def _give_up(self, flight: _Flight, outcome: Outcome, kind: str = "") -> None:
        if flight.place >= 0:
            self.fleet.remove(flight.place)
        flight.error = {"refused": 0, "timed out": 1}.get(kind, -1)
        self._end(flight, outcome, self._now)

    def _end(self, flight: _Flight, outcome: Outcome, ns: int) -> None:
        flight.outcome, flight.end_ns = outcome, ns
        self._by_place.pop(flight.place, None)
        self._flying -= 1
        self._note(flight)
        if flight.ticket.phase:
            self._ended += 1
            if self.progress:
                self.progress(self._ended)

    def _note(self, flight: _Flight) -> None:
        """The row of a request."""
        ticket, rows = flight.ticket, self._rows
        asked = -1 if ticket.request.output_tokens is None else flight.output
        values = (
            *(ticket.session.index, ticket.turn, int(ticket.phase), int(flight.outcome), ticket.scheduled_ns),
            *(ticket.ready_ns, flight.sent_ns, flight.end_ns, ticket.input_tokens, flight.prompt, asked, flight.error),
            flight.place,
        )
        for column, value in zip(rows.values(), values, strict=True):
            column.append(value)

    # --- sending -----------------------------------------------------------------------------------------------------

    def _launch(self, ticket: Ticket, timing: Timing) -> None:
        turn, session = ticket.request, ticket.session.index
        before = self._answers.get(session, 0) if ticket.turn and turn.payload is None else 0
        prompt = max(1, ticket.input_tokens + before)
        output = max(1, round(self.options.osl) if turn.output_tokens is None else turn.output_tokens)
        flight = _Flight(ticket, timing, self._now, prompt, output, -1)
        self._open.append(flight)
        self._flying += 1
        if prompt + output > self.rules.longest:
            self._event(self._now + REFUSAL_NS, "refused", flight)
            return
        begin = max(self._free_s, (self._now - ZERO_NS) / NS)
        self._free_s = begin + self.front.request_s + self.front.prompt_token_s * prompt
        flight.place = self._placed
        self._placed += 1
        self._by_place[flight.place] = flight
        self.fleet.add_one(self._free_s, prompt, output, self.contents.of(ticket, prompt, output))
        if ticket.cancel_after_ns is not None:
            self._event(self._now + ticket.cancel_after_ns, "cancelled", flight)

    # --- records -----------------------------------------------------------------------------------------------------

    def _records(self, started: int) -> Records:
        answers = [replica.answers() for replica in self.fleet.replicas]
        for flight in self._open:
            if not flight.end_ns:
                flight.end_ns = self._now
                self._note(flight)
        columns = {name: np.array(column, np.int64) for name, column in self._rows.items()}
        count = len(columns["place"])
        rows = np.zeros(count + len(self._dropped), REQUEST)
        sent, places = rows[:count], columns.pop("place")
        for name, values in columns.items():
            sent[name] = values
        sent["end_read_ns"] = sent["end_ns"]
        sent["status"] = np.where(sent["error"] == 0, 400, 200)
        chunks = self._answered(sent, places, answers)
        for row, ticket in zip(rows[count:], self._dropped, strict=True):
            row["session"], row["turn"], row["phase"] = ticket.session.index, ticket.turn, int(ticket.phase)
            row["outcome"], row["scheduled_ns"], row["ready_ns"] = Outcome.DROPPED, ticket.scheduled_ns, ticket.ready_ns
            row["end_ns"] = row["end_read_ns"] = self._now
            row["asked_input_tokens"] = row["input_tokens"] = ticket.input_tokens
            row["asked_output_tokens"] = -1 if ticket.request.output_tokens is None else ticket.request.output_tokens
            row["error"] = 2
        for name in ("first_answer", "reasoning_tokens"):
            rows[name][rows["chunks"] == 0] = -1
        rows["reasoning_tokens"], rows["server_counted"], rows["choices"] = -1, True, 1
        order = np.argsort(rows["scheduled_ns"], kind="stable")
        errors = [REFUSED, TIMED_OUT, "no slot came free before the end"]
        return Records(rows[order], chunks, errors, [self._facts], started, self._now, 0)

    def _answered(self, sent: NDArray[np.void], places: NDArray[np.int64], answers: list[Answers]) -> NDArray[np.void]:
        """The stamps of all answers as chunks of one token, and what rows say of them."""
        replica, inside = self.fleet.where(places)
        chunks: list[NDArray[np.void]] = []
        first = 0
        sent["cached_tokens"] = -1
        for number, told in enumerate(answers):
            here = np.flatnonzero(replica == number)
            numbers = inside[here]
            ends = sent["end_ns"][here]
            counts = told.generated[numbers]
            owner = np.repeat(np.arange(len(told.generated)), told.generated)
            taken = np.arange(len(owner)) - np.repeat(np.cumsum(told.generated) - told.generated, told.generated)
            stamps = told.stamps[told.starts[owner] + taken] + (ZERO_NS + self._after_ns)
            limit = np.full(len(told.generated), np.iinfo(np.int64).max)
            limit[numbers] = ends
            seen = stamps <= limit[owner]  # a token that came out later was not received any more
            counts = np.bincount(owner[seen], minlength=len(told.generated))[numbers]
            begins = np.cumsum(np.bincount(owner[seen], minlength=len(told.generated)))
            made = np.zeros(int(seen.sum()), CHUNK)
            made["ns"], made["lag_ns"], made["tokens"] = stamps[seen], -1, 1.0
            rows = sent[here]
            rows["first_chunk"] = first + begins[numbers] - counts
            rows["chunks"] = rows["output_tokens"] = counts
            had = counts > 0
            at = np.where(had, begins[numbers] - counts, 0)
            rows["first_byte_ns"] = np.where(had, made["ns"][at] if len(made) else 0, 0)
            rows["last_ns"] = np.where(had, made["ns"][np.maximum(begins[numbers] - 1, 0)] if len(made) else 0, 0)
            rows["cached_tokens"] = told.cached[numbers]
            sent[here] = rows
            first += len(made)
            chunks.append(made)
        return np.concatenate(chunks) if chunks else np.zeros(0, CHUNK)
