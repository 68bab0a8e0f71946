"""Intervals of paired rounds: exact on known numbers, and they cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from swarmtune.tuner.proof.paired import difference, paired_t, rounds_for, student_t95


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_interval_covers_the_truth(count: int) -> None:
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(1000):
        low, high = difference(rng.normal(math.log(1.1), 0.04, count).tolist()).ci95_percent
        covered += low <= 10 <= high
    assert 0.93 <= covered / 1000 <= 0.97


def test_as_scipy() -> None:
    logs = [0.1, 0.2, 0.15, 0.3]
    interval, p = paired_t(logs)
    known = stats.ttest_1samp(logs, 0)
    assert p == pytest.approx(known.pvalue)
    assert interval == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert student_t95(2) == pytest.approx(4.302653)
    assert difference(logs).noise_percent == pytest.approx(100 * math.expm1(np.std(logs, ddof=1)))


def test_what_little_can_tell() -> None:
    assert difference([]).gain_percent is None
    one = difference([math.log(1.2)])
    assert (one.gain_percent, one.ci95_percent, one.p, one.noise_percent) == (pytest.approx(20), None, 1.0, None)
    assert difference([0.0, 0.0]).p == 1.0
    same = difference([0.1, 0.1, 0.1])
    assert same.ci95_percent == pytest.approx((same.gain_percent, same.gain_percent))
    assert same.p < 0.01
    assert difference([600.0, -600.0]).ci95_percent[1] > 1e300, "no overflow"


@pytest.mark.parametrize("noise", [3.0, 8.0, 15.0])
def test_so_many_rounds_find_such_a_gain_in_four_of_five_proofs(noise: float) -> None:
    rounds = rounds_for(10, noise, 100)
    assert rounds is not None
    rng = np.random.default_rng(7)

    def share_found(count: int) -> float:
        logs = rng.normal(math.log(1.1), math.log1p(noise / 100), (2000, count))
        return float(np.mean([paired_t(row.tolist())[0][0] > 0 for row in logs]))

    assert 0.74 <= share_found(rounds) <= 0.93
    assert rounds == 2 or share_found(rounds - 1) < 0.82


def test_no_noise_takes_two_rounds_and_much_takes_more_than_may_be_asked_for() -> None:
    assert rounds_for(10, 0.0, 50) == 2
    assert rounds_for(10, 60.0, 50) is None
