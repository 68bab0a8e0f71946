"""What a column of samples says: mean, spread, percentiles, each with its sample size and its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from swarmtune.loadgen.judge.intervals import mean_interval, percentile_shares, tau
from swarmtune.loadgen.judge.latencies import Floats

PER_MILLE = (10, 50, 100, 250, 500, 750, 900, 950, 990, 999)
Interval = tuple[float, float] | None


def percentile_name(per_mille: int) -> str:
    """500 is "p50", 999 is "p99.9"."""
    return f"p{per_mille / 10:g}"


PERCENTILES = tuple(percentile_name(p) for p in PER_MILLE)


@dataclass(frozen=True)
class Statistics:
    """Statistics of ``n`` samples (token-weighted: tokens), in their own unit; ``n_eff`` of the mean: intervals.py.

    ``percentiles``: nearest rank, the order statistic ceil(p n), a value that really occurred; p99.9 is None while it
    would be the maximum. ``intervals``: of the mean ("mean") and of each percentile; None where n is too small.
    ``adjusted``: percentiles in which ``failed`` further requests count as +inf. ``std`` is the population's.
    """

    n: int
    n_eff: float
    mean: float
    std: float
    min: float
    max: float
    sum: float
    percentiles: dict[str, float | None]
    intervals: dict[str, Interval]
    failed: int = 0
    adjusted: dict[str, float] = field(default_factory=dict)

    def value(self, statistic: str) -> float | None:
        """By name: mean, std, min, max, sum, p50, ..."""
        return self.percentiles[statistic] if statistic in self.percentiles else float(getattr(self, statistic))


class _Ordered:
    """Samples by size; a rank counts weights."""

    def __init__(self, values: Floats, weights: Floats | None) -> None:
        self.total = float(len(values))
        self._cumulated: Floats | None = None
        if weights is None:
            self.values = np.sort(values)
        else:
            self.values, ordered_weights = _sorted_pairs(values, weights)
            self._cumulated = np.cumsum(ordered_weights)
            self.total = float(self._cumulated[-1])

    def at(self, rank: float) -> float:
        """The sample at this rank (from 1 to the total weight)."""
        if self._cumulated is None:
            place = math.ceil(rank - 1e-9) - 1
        else:
            place = int(np.searchsorted(self._cumulated, rank - 1e-9 * self.total))
        return float(self.values[min(max(place, 0), len(self.values) - 1)])


def _sorted_pairs(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Values in order, with their weights. Sorting keys is several times faster than argsort and two gathers.

    The bits of floats >= 0 order like integers. The number of the weight takes the place of the lowest bits of the
    mantissa (few weights differ, so that some 1e-13 of the value is lost).
    """
    kinds = np.unique(weights)
    if len(kinds) > 4096 or (values < 0).any():
        order = np.argsort(values)
        return values[order], weights[order]
    mask = (1 << (len(kinds) - 1).bit_length()) - 1
    keys = (values + 0.0).view(np.int64)  # + 0.0: a copy, and no -0.0
    keys &= ~mask
    keys |= np.searchsorted(kinds, weights)
    keys.sort()
    ordered_weights: Floats = kinds[keys & mask]
    keys &= ~mask
    return keys.view(np.float64), ordered_weights


def statistics(
    values: Floats, weights: Floats | None = None, *, failed: int = 0, confidence: float = 0.95
) -> Statistics | None:
    """Statistics of finite samples in order of time; None without any. ``weights`` >= 0: how many samples each one is."""
    if not len(values):
        return None
    ordered = _Ordered(values, weights)
    total = ordered.total
    n = round(total)
    mean = float(values.mean() if weights is None else np.dot(values, weights) / total)
    squares = (values - mean) ** 2
    variance = float(squares.mean() if weights is None else np.dot(squares, weights) / total)
    del squares
    unbiased = variance * total / (total - 1) if total > 1 else 0.0
    n_eff = total / tau(values, weights, mean, unbiased, total)
    percentiles: dict[str, float | None] = {}
    intervals: dict[str, Interval] = {"mean": mean_interval(n, n_eff, mean, unbiased, confidence)}
    for per_mille in PER_MILLE:
        name = percentile_name(per_mille)
        value = ordered.at(nearest_rank(per_mille, total))
        inside = values <= value
        share = per_mille / 1000
        inefficiency = tau(inside, weights, _share(inside, weights, total), share * (1 - share), total)
        shares = percentile_shares(n, inefficiency, per_mille, confidence)
        beyond = per_mille == 999 and nearest_rank(per_mille, total) > total - 1
        percentiles[name] = None if beyond else value
        intervals[name] = None if shares is None or beyond else (ordered.at(shares[0] * n), ordered.at(shares[1] * n))
    adjusted = {percentile_name(p): _adjusted(ordered, p, failed) for p in PER_MILLE}
    low, high = float(ordered.values[0]), float(ordered.values[-1])
    return Statistics(
        n, n_eff, mean, math.sqrt(variance), low, high, mean * total, percentiles, intervals, failed, adjusted
    )


def nearest_rank(per_mille: int, total: float) -> float:
    """ceil(p n), in whole numbers as far as n is one: 99.9 % of 1000 is 999, not 999.0000000000001."""
    return max(1, -(-per_mille * round(total) // 1000)) if total == round(total) else per_mille * total / 1000


def _share(inside: np.ndarray[tuple[int], np.dtype[np.bool_]], weights: Floats | None, total: float) -> float:
    return float(np.count_nonzero(inside) if weights is None else np.dot(inside, weights)) / total


def _adjusted(ordered: _Ordered, per_mille: int, failed: int) -> float:
    rank = nearest_rank(per_mille, ordered.total + failed)
    return ordered.at(rank) if rank <= ordered.total else math.inf
