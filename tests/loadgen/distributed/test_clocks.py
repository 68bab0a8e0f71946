from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.distributed.clocks import SAME, ClockReading, ClockRelation, measure, reading

S = 1_000_000_000
waits = st.integers(0, 10_000_000)
offsets = st.integers(-(2**50), 2**50)


@given(st.integers(0, 2**50), offsets, waits, waits, waits)
def test_the_offset_is_wrong_by_at_most_half_the_round_trip(
    sent: int, offset: int, go: int, stay: int, back: int
) -> None:
    found = reading(sent, sent + go + offset, sent + go + stay + offset, sent + go + stay + back)
    assert found.rtt_ns == go + back
    assert abs(found.offset_ns - offset) <= found.rtt_ns / 2 + 1


class Faked:
    """A clock that advances by the delays of the way, and another one with an offset and a drift."""

    def __init__(self, start: int, offset: int, drift: float, delays: Callable[[int], tuple[int, int]]) -> None:
        self.now, self.start, self.offset, self.drift, self.delays = start, start, offset, drift, delays
        self.numbers = count()

    def theirs(self, now: int) -> int:
        return now + self.offset + round(self.drift * (now - self.start))

    def exchange(self) -> tuple[int, int]:
        go, back = self.delays(next(self.numbers))
        self.now += go
        there = self.theirs(self.now)
        self.now += back
        return there, there


def test_the_best_exchange_is_kept() -> None:
    faked = Faked(5 * S, 7 * S, 0.0, lambda i: (1000, 1000) if i == 9 else (5_000_000, 100_000))
    found = measure(faked.exchange, lambda: faked.now)
    assert (found.rtt_ns, found.offset_ns) == (2000, 7 * S)


@given(offsets, st.floats(-1e-4, 1e-4), st.integers(0, 100 * S))
def test_offset_and_drift_are_taken_out(offset: int, drift: float, at: int) -> None:
    faked = Faked(3 * S, offset, drift, lambda _: (50_000, 20_000))
    before = measure(faked.exchange, lambda: faked.now)
    faked.now += 100 * S
    after = measure(faked.exchange, lambda: faked.now)
    relation = ClockRelation(before, after)
    true = faked.start + at
    found = int(relation.ours(np.array([faked.theirs(true)]))[0])
    assert abs(found - true) <= relation.error_ms * 1e6 + 2000  # drift squared: 1e-8 of 100 s is 1 us
    assert abs(relation.theirs(true) - faked.theirs(true)) <= relation.error_ms * 1e6 + 2000
    assert relation.error_ms == 0.035


def test_without_a_second_measurement_the_offset_is_constant() -> None:
    relation = ClockRelation(ClockReading(10, 500, 4))
    assert relation.ours(np.array([1000, 10**15])).tolist() == [500, 10**15 - 500]
    assert relation.theirs(500) == 1000
    assert SAME.theirs(123) == 123
