"""Arrival processes: their law, their seed, their ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from swarmtune.workload.arrivals import ArrivalProcess, Pattern

NS = 1e9
KS_ONE_PERCENT = 1.63  # critical value of sqrt(n) D at 1 % (Kolmogorov)
N = 50_000


def times(process: ArrivalProcess, count: int | None = None, duration_s: float | None = None, block: int = 65536):
    return np.concatenate([np.empty(0, np.int64), *process.blocks(count=count, duration_s=duration_s, block=block)])


def distance(sample: np.ndarray, law: Callable[[float], float]) -> float:
    """sqrt(n) times the Kolmogorov-Smirnov distance of the sample from a law."""
    ordered = np.sort(sample)
    theory = np.array([law(x) for x in ordered])
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return math.sqrt(len(ordered)) * max((steps[1:] - theory).max(), (theory - steps[:-1]).max())


def exponential(x: float) -> float:
    return 1 - math.exp(-x)


def erlang4(x: float) -> float:
    return 1 - math.exp(-4 * x) * sum((4 * x) ** i / math.factorial(i) for i in range(4))


def gamma_half(x: float) -> float:
    return math.erf(math.sqrt(x / 2))


@pytest.mark.parametrize(
    ("pattern", "smoothness", "law", "other"),
    [
        ("poisson", 1.0, exponential, erlang4),
        ("gamma", 1.0, exponential, gamma_half),
        ("gamma", 4.0, erlang4, exponential),
        ("gamma", 0.5, gamma_half, exponential),
    ],
)
def test_gaps_have_the_law_and_no_other(
    pattern: Pattern, smoothness: float, law: Callable[[float], float], other: Callable[[float], float]
) -> None:
    gaps = np.diff(times(ArrivalProcess(pattern, 2000, 5, smoothness), N)) / NS * 2000
    assert distance(gaps, law) < KS_ONE_PERCENT < 5 < distance(gaps, other)


def test_counts_vary_as_poisson_counts_do() -> None:
    counts = [len(times(ArrivalProcess("poisson", 100, seed), duration_s=1)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, abs=2)
    assert np.var(counts) == pytest.approx(100, rel=0.25)  # rescaled arrivals would have none


def test_constant_arrivals_do_not_drift() -> None:
    found = times(ArrivalProcess("constant", 3), 1_000_000)
    assert found[:4].tolist() == [0, 333_333_333, 666_666_667, 1_000_000_000]
    assert found[999_999] == 333_333_000_000_000


def test_a_burst_comes_at_once() -> None:
    assert times(ArrivalProcess("concurrency_burst", 1), 70_000, duration_s=1).tolist() == [0] * 70_000


@pytest.mark.parametrize("pattern", ["constant", "poisson", "gamma"])
@pytest.mark.parametrize("ramp_s", [0.0, 3.0])
def test_same_seed_same_bytes_for_any_block(pattern: Pattern, ramp_s: float) -> None:
    process = ArrivalProcess(pattern, 50, 9, 0.7, ramp_s)
    expected = times(process, 1000)
    assert expected.dtype == np.int64
    assert times(process, 1000, block=7).tobytes() == expected.tobytes()
    assert (np.diff(expected) >= 0).all()
    if pattern != "constant":
        assert times(ArrivalProcess(pattern, 50, 10, 0.7, ramp_s), 1000).tobytes() != expected.tobytes()


def test_a_duration_cuts_and_does_not_change() -> None:
    process = ArrivalProcess("poisson", 50, 9)
    long = times(process, 1000)
    for block in (7, 64, 65536):
        cut = times(process, duration_s=4, block=block)
        assert cut.tolist() == [t for t in long.tolist() if t < 4e9]
    assert times(process, 10, duration_s=4).tolist() == long[:10].tolist()
    assert times(process, 10_000_000, duration_s=4).tolist() == cut.tolist()
    assert len(times(process, 0)) == 0


def test_a_run_without_end_is_a_stream_of_blocks() -> None:
    blocks = list(islice(ArrivalProcess("poisson", 1000, 1).blocks(), 3))
    assert [len(block) for block in blocks] == [65536] * 3
    assert blocks[0][-1] < blocks[1][0]


def test_a_ramp_raises_the_rate_linearly_and_keeps_the_shape() -> None:
    found = times(ArrivalProcess("constant", 1000, ramp_s=4), duration_s=6) / NS
    for at in (1, 2, 3, 4):
        assert np.searchsorted(found, at) == pytest.approx(1000 * at * at / 8, abs=2)
    assert np.searchsorted(found, 5) - np.searchsorted(found, 4) == pytest.approx(1000, abs=2)
    random = times(ArrivalProcess("poisson", 5000, 3, ramp_s=4), 20_000) / NS
    area = np.where(random < 4, 5000 * random**2 / 8, 5000 * (random - 2))
    assert distance(np.diff(area), exponential) < KS_ONE_PERCENT  # back in its own time it is Poisson again
