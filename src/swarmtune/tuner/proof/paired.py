"""Confidence intervals of the gain of one setting over another, from paired measurements.

A round measures both settings on one group within one span of time, so effects of the group and of the hour cancel in
the ratio of the two. Two intervals of the mean log ratio over rounds are computed, and the wider one counts:

- Student's t on the log ratios of the rounds (log-normal noise). Exact with few rounds, but ignores noise inside them.
- A hierarchical block bootstrap: rounds are drawn with replacement, and inside each drawn round stretches of consecutive
  blocks of each measurement (circular block bootstrap: Politis & Romano 1992), so that autocorrelation is kept. Alone it
  covers too little with few rounds (Cameron, Gelbach & Miller 2008, Review of Economics and Statistics 90:414).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000
STRETCH = 2  # consecutive blocks drawn together: about the cube root of 10 blocks (Hall, Horowitz & Jing 1995)
MOST_LOG = 700.0  # exp of more is not a float

Blocks = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Difference:
    """Difference of two settings over ``rounds``: gain and 95 % interval in percent (positive = better; None = unknown).

    ``p`` is two-sided, 1 without data.
    """

    rounds: int
    gain_percent: float | None = None
    ci95_percent: tuple[float, float] | None = None
    p: float = 1.0

    @property
    def worse(self) -> bool:
        """Is it worse with 95 % confidence?"""
        return self.ci95_percent is not None and self.ci95_percent[1] < 0


def difference(logs: Sequence[float], blocks: Sequence[Blocks] = ()) -> Difference:
    """The difference from the log ratio of each round (positive = better) and, where known, both measurements' blocks."""
    count = len(logs)
    if not count:
        return Difference(0)
    mean = sum(logs) / count
    if count == 1:
        return Difference(1, percent(mean))
    (low, high), p = paired_t(logs)
    drawn = bootstrap(logs, blocks)
    below, above = np.quantile(drawn, [0.025, 0.975])
    tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p = max(p, min(1.0, 2 * (tail + 1) / (REPLICATES + 1)))
    return Difference(count, percent(mean), (percent(min(low, float(below))), percent(max(high, float(above)))), p)


def paired_t(logs: Sequence[float]) -> tuple[tuple[float, float], float]:
    """Student's 95 % interval of the mean of at least two values, and the two-sided p of a mean of zero."""
    from scipy.special import stdtr

    count = len(logs)
    mean = sum(logs) / count
    error = math.sqrt(sum((g - mean) ** 2 for g in logs) / (count - 1) / count)
    if error == 0:
        return (mean, mean), float(mean == 0)
    half = student_t95(count - 1) * error
    return (mean - half, mean + half), float(2 * stdtr(count - 1, -abs(mean) / error))


def student_t95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def bootstrap(logs: Sequence[float], blocks: Sequence[Blocks] = ()) -> NDArray[np.float64]:
    """Means of resampled rounds, each with resampled blocks inside; shape (REPLICATES,). The same for the same input."""
    rng = np.random.default_rng(0)
    rounds = rng.integers(len(logs), size=(REPLICATES, len(logs)))
    drawn = np.asarray(logs, np.float64)[rounds]
    for number, (first, second) in enumerate(blocks):
        chosen = rounds == number
        count = int(np.count_nonzero(chosen))
        drawn[chosen] += _block_noise(first, count, rng) - _block_noise(second, count, rng)
    means: NDArray[np.float64] = drawn.mean(axis=1)
    return means


def _block_noise(values: Sequence[float], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Relative deviations of a measurement's mean (to first order those of its logarithm) when its blocks are redrawn."""
    blocks = np.asarray(values, np.float64)
    if len(blocks) <= STRETCH or blocks.mean() <= 0:
        return np.zeros(count)
    circle = np.append(blocks, blocks[: STRETCH - 1])
    means = np.convolve(circle, np.full(STRETCH, 1 / STRETCH), "valid") / blocks.mean() - 1
    noise: NDArray[np.float64] = means[rng.integers(len(means), size=(count, len(blocks) // STRETCH))].mean(axis=1)
    return noise


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979, Scandinavian Journal of Statistics 6:65): valid however the tests depend."""
    adjusted, most = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        most = adjusted[i] = max(most, min(1.0, (len(ps) - rank) * ps[i]))
    return adjusted


def hochberg(ps: Sequence[float]) -> list[float]:
    """Adjusted p values (Hochberg 1988, Biometrika 75:800): for tests that share a control, and so agree."""
    adjusted, least = [0.0] * len(ps), 1.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__, reverse=True)):
        least = adjusted[i] = min(least, (rank + 1) * ps[i])
    return adjusted


def percent(log_ratio: float) -> float:
    """A log ratio as a gain in percent."""
    return math.expm1(min(log_ratio, MOST_LOG)) * 100
