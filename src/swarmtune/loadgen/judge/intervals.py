"""Confidence intervals: binomial order statistics, Student's t, and samples that depend on each other.

Effective sample size. Latencies of neighbouring requests, and of the tokens of one request, depend on each other. With the
samples in order of time, cut into B = 20 batches of equal length (Schmeiser 1982, Operations Research 30:556: 10 to 30),
weights w and batch means y_j (weight W_j of W):

    var(mean) = B / (B - 1) * sum_j (W_j / W)^2 (y_j - mean)^2
    tau = var(mean) * n / s^2
    n_eff = n / max(1, tau)

For a percentile the samples are the indicators [x <= quantile]. Since tau itself is estimated with B - 1 degrees of
freedom, n_eff of a percentile is multiplied by (z / t_{B-1})^2 (Korn & Graubard 1998, Survey Methodology 24:193), and the
interval is the binomial one of n_eff samples, taken at the same shares of all samples (Woodruff 1952, JASA 47:635).
Below 60 samples dependence cannot be estimated: they are taken as independent.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from swarmtune.loadgen.judge.latencies import Bools, Floats

BATCHES = 20
LEAST_FOR_BATCHES = 60


@lru_cache(maxsize=4096)
def student_t(confidence: float, degrees: int) -> float:
    """t with P(|T| <= t) = confidence."""
    from scipy.special import stdtrit  # takes longer to import than a worker to start

    return float(stdtrit(degrees, (1 + confidence) / 2))


@lru_cache(maxsize=4096)
def order_statistics(n: int, per_mille: int, confidence: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the two of ``n`` independent samples that enclose the quantile; None if n is too small.

    With K ~ Binomial(n, p): the greatest l with P(K <= l - 1) <= alpha / 2 and the least u with P(K >= u) <= alpha / 2
    (David & Nagaraja, Order Statistics, 7.1). Their probability of enclosing it is at least ``confidence``.
    """
    tail = (1 - confidence) / 2
    low, high = _binomial_quantile(tail, n, per_mille / 1000), _binomial_quantile(1 - tail, n, per_mille / 1000) + 1
    return (low, high) if low >= 1 and high <= n else None


def _binomial_quantile(q: float, n: int, p: float) -> int:
    """The least k with P(K <= k) >= q; scipy.stats would do the same, and takes longer to import than many a run."""
    from scipy.special import bdtr, bdtrik

    k = max(0, math.ceil(float(np.nan_to_num(bdtrik(q, n, p)))))
    return k - 1 if k > 0 and float(bdtr(k - 1, n, p)) >= q else k


def tau(values: Floats | Bools, weights: Floats | None, mean: float, variance: float, total: float) -> float:
    """How many dependent samples are worth one independent (>= 1), by batch means; values in order of time."""
    n = len(values)
    if n < LEAST_FOR_BATCHES or variance <= 0:
        return 1.0
    spread = 0.0
    for batch in range(BATCHES):
        part = slice(batch * n // BATCHES, (batch + 1) * n // BATCHES)
        chosen = values[part]
        if weights is None:
            weight = float(len(chosen))
            inside = float(np.count_nonzero(chosen)) if chosen.dtype == np.bool_ else float(chosen.sum())
        else:
            weight, inside = float(weights[part].sum()), float(np.dot(chosen, weights[part]))
        spread += (inside - mean * weight) ** 2
    return max(1.0, BATCHES / (BATCHES - 1) * spread / total / variance)


def mean_interval(n: int, n_eff: float, mean: float, variance: float, confidence: float) -> tuple[float, float] | None:
    """Student's interval of the mean from ``n`` samples worth ``n_eff``; None below two samples."""
    if n < 2:
        return None
    degrees = BATCHES - 1 if n >= LEAST_FOR_BATCHES else n - 1
    half = student_t(confidence, degrees) * math.sqrt(variance / max(1.0, n_eff))
    return mean - half, mean + half


def percentile_shares(n: int, inefficiency: float, per_mille: int, confidence: float) -> tuple[float, float] | None:
    """Shares of the ordered samples between which the percentile lies; None if there are too few samples."""
    worth = n / inefficiency
    if n >= LEAST_FOR_BATCHES:
        worth *= (NormalDist().inv_cdf((1 + confidence) / 2) / student_t(confidence, BATCHES - 1)) ** 2
    least = math.floor(worth)
    ranks = order_statistics(least, per_mille, confidence) if least >= 2 else None
    return None if ranks is None else (ranks[0] / least, ranks[1] / least)
