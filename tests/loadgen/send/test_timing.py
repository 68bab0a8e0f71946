"""When which request is sent, in pure time: a worker that answers at once is played by the test."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.ask.source import Block, Source
from swarmtune.loadgen.send.timing import FOREVER, Shape, Ticket, Timing
from swarmtune.workload.session import Dataset, Session, Turn

MS = 1_000_000
START = 5_000 * MS


class Sessions(Dataset):
    """Sessions of a given number of turns."""

    def __init__(self, turns: int = 1, delay_ns: int = 0, interval_ns: int | None = None) -> None:
        self._turns = (Turn(("x",), 1), *[Turn(("y",), 1, delay_ns=delay_ns, interval_ns=interval_ns)] * (turns - 1))

    @property
    def size(self) -> None:
        return None

    def session(self, index: int) -> Session:
        return Session(index, self._turns)


@dataclass
class Played:
    """What was sent when, and how much of it at the same time."""

    sent: list[tuple[int, Ticket]] = field(default_factory=list)
    peak: int = 0
    peak_sessions: int = 0
    peak_prefilling: int = 0


def source(block: Block, dataset: Dataset | None = None) -> Source:
    made = Source(dataset or Sessions(), lambda _: b"payload", complete=True)
    made.grant(block)
    return made


def play(timing: Timing, service_ns: int, until_ns: int = FOREVER, first_ns: int = 0) -> Played:
    """A service that answers each request after ``service_ns`` (its first byte after ``first_ns``)."""
    played, now, running = Played(), START, list[tuple[int, int, int, Ticket]]()
    while now < until_ns:
        while ticket := timing.take(now):
            played.sent.append((now, ticket))
            if first_ns:
                heapq.heappush(running, (now + first_ns, 0, len(played.sent), ticket))
            heapq.heappush(running, (now + service_ns, 1, len(played.sent), ticket))
            played.peak = max(played.peak, timing.in_flight)
            played.peak_sessions = max(played.peak_sessions, timing.sessions)
            played.peak_prefilling = max(played.peak_prefilling, timing.prefilling)
        if timing.finished:
            break
        following = min([running[0][0]] if running else [FOREVER])
        now = min(following, max(now + 1, timing.due_ns(now)))
        while running and running[0][0] <= now:
            at, end, _, ticket = heapq.heappop(running)
            if end:
                timing.ended(ticket, at, succeeded=True)
            else:
                timing.answering(ticket, at)
    return played


@given(users=st.integers(1, 20), requests=st.integers(1, 100))
def test_a_closed_loop_keeps_its_users_busy_and_sends_each_request_once(users: int, requests: int) -> None:
    timing = Timing(Shape(concurrency=users), source(Block(0, requests)), START)
    played = play(timing, 10 * MS)
    assert [ticket.session.index for _, ticket in played.sent] == list(range(requests))
    assert played.peak == min(users, requests)
    assert all(ticket.ready_ns == ticket.scheduled_ns == at for at, ticket in played.sent)
    assert [at for at, _ in played.sent] == [START + 10 * MS * (i // users) for i in range(requests)]


def test_nothing_is_sent_before_the_start() -> None:
    timing = Timing(Shape(concurrency=1), source(Block(0, 1)), START)
    assert timing.take(START - 1) is None
    assert timing.due_ns(START - 1) == START
    assert timing.take(START) is not None


def test_a_late_worker_is_told_how_late() -> None:
    timing = Timing(Shape(concurrency=1), source(Block(0, 2)), START)
    first = timing.take(START)
    assert first
    timing.ended(first, START + 10 * MS, succeeded=True)
    second = timing.take(START + 17 * MS)
    assert second
    assert (second.scheduled_ns, second.ready_ns) == (START + 10 * MS, START + 10 * MS)


def arrivals(*at_ms: int) -> Iterator[int]:
    return iter(at * MS for at in at_ms)


def test_arrivals_are_sent_at_their_times_however_slow_the_service() -> None:
    timing = Timing(Shape(closed=False), source(Block(0, 4)), START, arrivals(0, 1, 1, 7))
    played = play(timing, 1000 * MS)
    assert [at - START for at, _ in played.sent] == [0, MS, MS, 7 * MS]
    assert all(ticket.ready_ns == ticket.scheduled_ns == at for at, ticket in played.sent)


def test_a_ceiling_holds_arrivals_back_and_that_is_not_our_lateness() -> None:
    timing = Timing(Shape(closed=False, concurrency=2), source(Block(0, 5)), START, arrivals(0, 1, 2, 3, 50))
    played = play(timing, 10 * MS)
    assert played.peak == 2
    assert [(at - START) // MS for at, _ in played.sent] == [0, 1, 10, 11, 50]
    assert [(ticket.scheduled_ns - START) // MS for _, ticket in played.sent] == [0, 1, 2, 3, 50]
    assert [(ticket.ready_ns - START) // MS for _, ticket in played.sent] == [0, 1, 10, 11, 50]


def test_what_never_got_a_slot_is_known_at_the_end() -> None:
    timing = Timing(Shape(closed=False, concurrency=1), source(Block(0, 9)), START, arrivals(*range(9)))
    play(timing, 1000 * MS, until_ns=START + 5 * MS)
    assert [ticket.session.index for ticket in timing.unsent(START + 5 * MS)] == [1, 2, 3, 4]


def test_the_prefill_ceiling_counts_requests_without_a_first_byte() -> None:
    timing = Timing(Shape(concurrency=8, prefill_concurrency=2), source(Block(0, 20)), START)
    played = play(timing, 50 * MS, first_ns=5 * MS)
    assert played.peak_prefilling == 2
    assert played.peak == 8
    assert all(ticket.ready_ns == at for at, ticket in played.sent)


def test_users_think_and_keep_their_slot() -> None:
    shape, data = Shape(concurrency=3), Sessions(turns=4, delay_ns=20 * MS)
    played = play(Timing(shape, source(Block(0, 6), data), START), 10 * MS)
    assert len(played.sent) == 24
    assert played.peak_sessions == 3
    by_session = {}
    for at, ticket in played.sent:
        by_session.setdefault(ticket.session.index, []).append(at - START)
    assert by_session[0] == [0, 30 * MS, 60 * MS, 90 * MS]
    assert by_session[3] == [100 * MS, 130 * MS, 160 * MS, 190 * MS]


def test_even_intervals_do_not_wait_for_the_answer_to_be_quick() -> None:
    data = Sessions(turns=3, interval_ns=100 * MS)
    played = play(Timing(Shape(closed=False), source(Block(0, 1), data), START, arrivals(0)), 30 * MS)
    assert [at - START for at, _ in played.sent] == [0, 100 * MS, 200 * MS]
    slow = play(Timing(Shape(closed=False), source(Block(0, 1), data), START, arrivals(0)), 130 * MS)
    assert [at - START for at, _ in slow.sent] == [0, 130 * MS, 260 * MS]
    assert [ticket.scheduled_ns - START for _, ticket in slow.sent] == [0, 100 * MS, 200 * MS]


def test_a_failed_turn_ends_its_session() -> None:
    timing = Timing(Shape(concurrency=1), source(Block(0, 1), Sessions(turns=3)), START)
    ticket = timing.take(START)
    assert ticket
    timing.ended(ticket, START + MS, succeeded=False)
    assert timing.finished


def test_the_last_session_can_be_cut() -> None:
    played = play(Timing(Shape(concurrency=2), source(Block(0, 3, last_turns=1), Sessions(turns=3)), START), MS)
    assert len(played.sent) == 7


def test_a_ramp_opens_one_slot_after_the_other() -> None:
    timing = Timing(Shape(concurrency=4, concurrency_ramp_ns=400 * MS), source(Block(0, 1000)), START)
    played = play(timing, 2000 * MS, until_ns=START + 600 * MS)
    assert [(at - START) // MS for at, _ in played.sent] == [0, 100, 200, 300]
    assert all(ticket.scheduled_ns == at for at, ticket in played.sent)


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    timing = Timing(Shape(concurrency=1), source(Block(0, 2)), START)
    ticket = timing.take(START)
    assert ticket
    timing.ended(ticket, START + MS, succeeded=False, pause_ns=50 * MS)
    assert timing.take(START + 50 * MS) is None
    assert timing.due_ns(START + MS) == START + 51 * MS
    assert timing.take(START + 51 * MS)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_seeded_share_is_marked_for_cancelling(share: float) -> None:
    def marked() -> list[bool]:
        shape = Shape(concurrency=1, cancel_share=share, cancel_delay_ns=7, seed=3)
        sent = play(Timing(shape, source(Block(0, 400)), START), MS).sent
        return [ticket.cancel_after_ns == 7 for _, ticket in sent]

    assert marked() == marked()
    assert sum(marked()) / 400 == pytest.approx(share, abs=0.08)


def test_credits_that_come_later_are_used() -> None:
    granted = Source(Sessions(), lambda _: b"", complete=False)
    timing = Timing(Shape(concurrency=1), granted, START)
    assert timing.take(START) is None
    assert not timing.finished
    granted.grant(Block(10, 1))
    granted.complete = True
    ticket = timing.take(START)
    assert ticket
    assert ticket.session.index == 10
    timing.ended(ticket, START, succeeded=True)
    assert timing.finished


def test_payloads_are_made_ahead() -> None:
    made = []
    ahead = Source(Sessions(), lambda session: made.append(session.index) or b"x", complete=True)
    ahead.grant(Block(1, 4, step=2))
    assert ahead.prepare(3) == 3
    assert (made, ahead.prepared, ahead.left) == ([1, 3, 5], 3, 4)
    assert [p.session.index for p in iter(ahead.next, None)] == [1, 3, 5, 7]
    assert ahead.exhausted


def test_a_block_of_nothing_is_nothing() -> None:
    empty = source(Block(1, 0, 2))
    assert empty.exhausted
    assert empty.prepare(10) == 0


class Replayed(Dataset):
    """Sessions with the think times or the intervals of a trace."""

    def __init__(self, gaps_ns: list[list[int]], *, intervals: bool) -> None:
        def turn(gap: int) -> Turn:
            return Turn(("y",), 1, interval_ns=gap) if intervals else Turn(("y",), 1, delay_ns=gap)

        self._sessions = [(Turn(("x",), 1), *map(turn, gaps)) for gaps in gaps_ns]

    @property
    def size(self) -> int:
        return len(self._sessions)

    def session(self, index: int) -> Session:
        return Session(index, self._sessions[index])


GAPS = st.lists(st.lists(st.integers(0, 200 * MS), max_size=4), min_size=1, max_size=6)


@given(gaps=GAPS, intervals=st.booleans(), service_ms=st.integers(1, 300), ceiling=st.none() | st.integers(1, 4))
def test_a_turn_that_waits_for_an_answer_or_for_a_slot_is_queued_and_not_late(
    gaps: list[list[int]], intervals: bool, service_ms: int, ceiling: int | None
) -> None:
    """Whatever the trace and however slow the service: ready is when it could be sent, scheduled when the trace had it."""
    data = Replayed(gaps, intervals=intervals)
    starts = arrivals(*[10 * number for number in range(len(gaps))])
    shape = Shape(closed=False, concurrency=ceiling)
    played = play(Timing(shape, source(Block(0, len(gaps)), data), START, starts), service_ms * MS)
    assert len(played.sent) == sum(1 + len(each) for each in gaps)
    assert all(ticket.scheduled_ns <= ticket.ready_ns == at for at, ticket in played.sent)
    for at, ticket in played.sent:
        if intervals:
            due = 10 * ticket.session.index * MS + sum(gaps[ticket.session.index][: ticket.turn])
            assert ticket.scheduled_ns == START + due <= at


@given(
    limits=st.tuples(st.integers(1, 9), st.none() | st.integers(1, 5)),
    ramps_ms=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    service_ms=st.integers(1, 300),
    closed=st.booleans(),
)
def test_what_waits_for_a_ramp_is_sent_when_it_rises_and_is_not_late(
    limits: tuple[int, int | None], ramps_ms: tuple[int, int], service_ms: int, closed: bool
) -> None:
    shape = Shape(
        closed=closed, concurrency=limits[0], prefill_concurrency=limits[1], concurrency_ramp_ns=ramps_ms[0] * MS,
        prefill_ramp_ns=ramps_ms[1] * MS,
    )  # fmt: skip
    times = None if closed else arrivals(*range(40))
    played = play(Timing(shape, source(Block(0, 40)), START, times), service_ms * MS)
    assert len(played.sent) == 40
    assert all(0 <= at - ticket.ready_ns <= MS for at, ticket in played.sent)
