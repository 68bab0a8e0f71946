"""Random numbers by name."""

from __future__ import annotations

import statistics

import pytest

from swarmtune.workload.draws import Distribution, Draws

GOLDEN = [272, 803, 884, 201, 214, 672, 166, 664, 298, 436]


def test_the_numbers_of_a_name_never_change() -> None:
    """A golden value: a change breaks every published digest."""
    draws = Draws("7:session:12")
    assert [draws.below(1000) for _ in range(10)] == GOLDEN
    assert [Draws("7:session:13").below(1000)] != GOLDEN[:1]


@pytest.mark.parametrize("distribution", ["normal", "lognormal", "uniform"])
def test_mean_and_deviation_are_those_asked_for(distribution: Distribution) -> None:
    draws = Draws("moments")
    sample = [draws.value(500, 80, distribution) for _ in range(20_000)]
    assert statistics.mean(sample) == pytest.approx(500, abs=2)
    assert statistics.stdev(sample) == pytest.approx(80, rel=0.03)
    assert draws.value(500, 0, distribution) == 500


def test_exponential_lengths_follow_the_mean() -> None:
    draws = Draws("e")
    sample = [draws.value(500, 0, "exponential") for _ in range(20_000)]
    assert statistics.mean(sample) == pytest.approx(500, rel=0.03)
    assert statistics.stdev(sample) == pytest.approx(500, rel=0.04)


def test_lengths_are_at_least_one() -> None:
    draws = Draws("short")
    lengths = [draws.length(1, 50) for _ in range(300)]
    assert min(lengths) == 1
    assert all(isinstance(length, int) for length in lengths)


def test_numbers_below_a_limit_are_even() -> None:
    draws = Draws("dice")
    rolls = [draws.below(6) for _ in range(12_000)]
    assert all(abs(rolls.count(face) - 2000) < 160 for face in range(6))
