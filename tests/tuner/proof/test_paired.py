"""Intervals of paired rounds: exact on known numbers, and they cover as promised however the noise is made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from swarmtune.tuner.proof.paired import bootstrap, difference, hochberg, holm, paired_t, student_t95

BLOCKS = 10
GAIN = math.log(1.1)


def autocorrelated(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Blocks of one measurement: an AR(1) with correlation 0.6 between neighbours, around 0."""
    noise = rng.normal(0, scale, BLOCKS)
    for i in range(1, BLOCKS):
        noise[i] = 0.6 * noise[i - 1] + math.sqrt(1 - 0.6**2) * noise[i]
    return noise


def rounds(rng: np.random.Generator, count: int) -> tuple[list[float], list[tuple[list[float], list[float]]]]:
    """Two settings, the first better by GAIN, under a round effect of 20 %, starts that differ by 2 %, noisy blocks."""
    logs, blocks = [], []
    for _ in range(count):
        round_effect = rng.normal(0, 0.2)
        first, second = (
            np.exp(level + round_effect + rng.normal(0, 0.02) + autocorrelated(rng, 0.08)) for level in (GAIN, 0.0)
        )
        logs.append(math.log(first.mean() / second.mean()))
        blocks.append((first.tolist(), second.tolist()))
    return logs, blocks


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_interval_covers_the_truth(count: int) -> None:
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(300):
        low, high = difference(*rounds(rng, count)).ci95_percent
        covered += low <= 10 <= high
    assert covered / 300 >= 0.93


def test_the_bootstrap_of_three_rounds_alone_would_not() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        below, above = np.quantile(bootstrap(rounds(rng, 3)[0]), [0.025, 0.975])
        covered += below <= GAIN <= above
    assert covered / 300 < 0.85


def test_a_round_effect_is_no_noise_and_blocks_can_only_widen() -> None:
    rng = np.random.default_rng(1)
    logs, blocks = rounds(rng, 5)
    plain, whole = difference(logs), difference(logs, blocks)
    assert plain.ci95_percent[1] - plain.ci95_percent[0] < 25, "20 % between rounds would give 60"
    assert whole.ci95_percent[0] <= plain.ci95_percent[0]
    assert whole.ci95_percent[1] >= plain.ci95_percent[1]
    steady = [g + 1e-4 * i for i, g in enumerate([0.1, 0.1, 0.1])]
    noisy = [(np.exp(autocorrelated(rng, 0.5)).tolist(), np.exp(autocorrelated(rng, 0.5)).tolist())] * 3
    narrow, wide = difference(steady).ci95_percent, difference(steady, noisy).ci95_percent
    assert wide[1] - wide[0] > 10 * (narrow[1] - narrow[0]), "three rounds that agree by luck on noisy measurements"


def test_neighbouring_blocks_are_drawn_together() -> None:
    """The same blocks in slow waves say less than in quick alternation: their mean is less sure."""
    slow, quick = [1.0] * 5 + [2.0] * 5, [1.0, 2.0] * 5
    flat = [1.0] * BLOCKS
    waves, alternation = (bootstrap([0.0] * 3, [(b, flat)] * 3).std() for b in (slow, quick))
    assert waves > 0.05
    assert alternation < 1e-9


def test_as_scipy() -> None:
    logs = [0.1, 0.2, 0.15, 0.3]
    interval, p = paired_t(logs)
    known = stats.ttest_1samp(logs, 0)
    assert p == pytest.approx(known.pvalue)
    assert interval == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert student_t95(2) == pytest.approx(4.302653)


def test_what_little_can_tell() -> None:
    assert difference([]).gain_percent is None
    one = difference([math.log(1.2)])
    assert (one.gain_percent, one.ci95_percent, one.p) == (pytest.approx(20), None, 1.0)
    assert difference([0.0, 0.0]).p == 1.0
    same = difference([0.1, 0.1, 0.1])
    assert same.ci95_percent == pytest.approx((same.gain_percent, same.gain_percent))
    assert same.p < 0.01
    assert difference([600.0, -600.0]).ci95_percent[1] > 1e300, "no overflow"


def test_corrections_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([]) == hochberg([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_corrections_only_raise_and_hochberg_never_more_than_holm(ps: list[float]) -> None:
    for p, milder, stricter in zip(ps, hochberg(ps), holm(ps), strict=True):
        assert p <= milder <= stricter + 1e-12
        assert stricter <= 1
