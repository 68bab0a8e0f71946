"""A warm-up lasts until answers no longer become faster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.ask.source import Source
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Phase
from swarmtune.loadgen.send.plan import Share, warm_up
from swarmtune.loadgen.send.steady import MOST_BLOCKS, Steadiness
from swarmtune.loadgen.send.timing import FOREVER
from swarmtune.workload.session import Dataset, Session, Turn

MS = 1_000_000


class Sessions(Dataset):
    """Sessions of so many turns, one after the other."""

    def __init__(self, turns: int = 1) -> None:
        self._turns = (Turn(("x",), 1, 4),) * turns

    @property
    def size(self) -> None:
        return None

    def session(self, index: int) -> Session:
        return Session(index, self._turns)


def answers(durations_ms: Iterator[float], users: int = 8) -> int:
    """How many answers the warm-up takes."""
    steady = Steadiness(users)
    for number, duration in enumerate(durations_ms, 1):
        steady.answered(round(duration * MS), 10)
        if steady.reached:
            return number
    raise AssertionError("it never ends")


@pytest.mark.parametrize(("users", "block"), [(1, 8), (8, 8), (20, 20), (1000, 32)])
def test_a_service_that_is_warm_takes_two_blocks(users: int, block: int) -> None:
    assert answers(itertools.repeat(100.0), users) == 2 * block


def test_a_service_that_becomes_faster_is_waited_for() -> None:
    assert answers(itertools.chain([1000.0] * 8, [500.0] * 8, [200.0] * 8, itertools.repeat(190.0))) == 32


def test_one_slow_answer_is_no_slow_service() -> None:
    assert answers(itertools.chain([5000.0], itertools.repeat(100.0))) == 16


def test_a_service_that_slows_down_is_warm() -> None:
    assert answers(100.0 + number for number in itertools.count()) == 16


@given(st.lists(st.floats(0.001, 1e6), min_size=8 * MOST_BLOCKS, max_size=8 * MOST_BLOCKS), st.integers(1, 8))
def test_it_ends_whatever_comes(durations: list[float], users: int) -> None:
    assert 16 <= answers(iter(durations), users) <= 8 * MOST_BLOCKS


def test_answers_of_other_lengths_are_compared_by_token() -> None:
    steady = Steadiness(8)
    for tokens in (100, 10, 1, 30) * 4:
        steady.answered(tokens * MS, tokens)
    assert steady.reached


@pytest.mark.parametrize("turns", [1, 5])
@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_sent_once_it_is_steady(turns: int, workers: int) -> None:
    options = LoadgenOptions(concurrency=12, warmup_until_steady=True)
    source = Source(Sessions(turns), lambda _: b"x", complete=True)
    phase = warm_up(options, source, 0, Share(0, workers), 0)
    assert phase is not None
    timing, now, sent = phase.timing, 0, 0
    while not timing.finished:
        taken = []
        while ticket := timing.take(now):
            assert ticket.phase is Phase.WARMUP
            taken.append(ticket)
        assert taken, "it waits for nothing"
        sent += len(taken)
        now += 50 * MS
        for ticket in taken:
            timing.ended(ticket, now, succeeded=True)
    assert timing.all_sent
    assert timing.due_ns(now) == FOREVER
    users = 12 // workers
    assert sent <= 2 * max(8, users) + users


def test_failures_alone_make_no_service_warm_and_the_warm_up_ends_all_the_same() -> None:
    source = Source(Sessions(), lambda _: b"x", complete=True)
    phase = warm_up(LoadgenOptions(concurrency=2, warmup_until_steady=True), source, 0, Share(), 0)
    assert phase is not None
    sent = 0
    while ticket := phase.timing.take(sent * MS):
        sent += 1
        phase.timing.ended(ticket, sent * MS, succeeded=False)
    assert sent == 8 * MOST_BLOCKS
    assert phase.timing.finished


@pytest.mark.parametrize(
    ("given_options", "steady"),
    [
        ({}, True),
        ({"warmup_request_count": 8}, False),
        ({"warmup_request_count": 0}, False),
        ({"warmup_duration": 5.0}, False),
        ({"warmup_until_steady": False}, False),
        ({"warmup_until_steady": True, "warmup_duration": 5.0}, True),
    ],
)
def test_the_tuner_warms_services_up_unless_it_is_told_otherwise(
    given_options: dict[str, object], steady: bool
) -> None:
    benchmark = SwarmtuneBenchmark(LoadgenOptions.model_validate(given_options))
    workload = benchmark.workload("m", 0, {})
    (spec,) = benchmark.command(workload, "http://s").files
    assert f'"warmup_until_steady":{str(steady).lower()}' in spec.content.replace(" ", "")
    assert ("until the service is steady" in benchmark.described(workload)) is steady
