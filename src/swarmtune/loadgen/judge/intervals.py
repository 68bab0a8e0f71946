"""Confidence intervals, without scipy: binomial order statistics, Student's t, and samples that depend on each other.

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
EXACT_VARIANCE = 1000  # n p (1 - p) above which the binomial is taken as normal


@lru_cache(maxsize=4096)
def student_t(confidence: float, degrees: int) -> float:
    """t with P(|T| <= t) = confidence. The distribution is summed exactly (Abramowitz & Stegun 26.7.3, 26.7.4)."""
    if degrees > 200:  # Fisher's expansion (A&S 26.7.5), exact to 1e-5 there
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    low, high = 0.0, math.pi / 2  # theta = atan(t / sqrt(degrees))
    for _ in range(60):
        theta = (low + high) / 2
        low, high = (theta, high) if _t_probability(theta, degrees) < confidence else (low, theta)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _t_probability(theta: float, degrees: int) -> float:
    cos, odd = math.cos(theta), degrees % 2
    term, total = (cos, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cos * cos * k / (k + 1)
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total


@lru_cache(maxsize=4096)
def order_statistics(n: int, per_mille: int, confidence: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the two of ``n`` independent samples that enclose the quantile; None if n is too small.

    With K ~ Binomial(n, p): the greatest l with P(K <= l - 1) <= alpha / 2 and the least u with P(K >= u) <= alpha / 2
    (David & Nagaraja, Order Statistics, 7.1). Their probability of enclosing it is at least ``confidence``.
    """
    p, tail = per_mille / 1000, (1 - confidence) / 2
    mean, variance = n * p, n * p * (1 - p)
    if variance > EXACT_VARIANCE:
        reach = NormalDist().inv_cdf(1 - tail) * math.sqrt(variance)
        low, high = math.floor(mean - reach), math.ceil(mean + reach) + 1
    else:
        reach = 9 * math.sqrt(variance) + 20
        first, last = max(0, math.floor(mean - reach)), min(n, math.ceil(mean + reach))
        below, low, high = 0.0, 0, n + 1
        for k in range(first, last + 1):
            if 1 - below <= tail:  # P(K >= k)
                high = k
                break
            below += _binomial(n, k, p)
            if below <= tail:  # P(K <= k)
                low = k + 1
    return (low, high) if low >= 1 and high <= n else None


def _binomial(n: int, k: int, p: float) -> float:
    chosen = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(chosen + k * math.log(p) + (n - k) * math.log1p(-p))


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
