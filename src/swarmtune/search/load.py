"""Load search: the best load of a setting, on one service start, with few load points and several SLOs at once.

Of each SLO the log ratio of metric and limit is fitted over log load: isotonic (latency does not fall with load; pool
adjacent violators, Barlow et al. 1972, by scipy), through the fitted points a monotone cubic (PCHIP, Fritsch and Butland
1984). The load sought is the smallest root of all SLOs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

THOROUGH_POINTS = 16  # doubling and halving over any sensible range of loads
CLIP = 1.0  # log ratios are clipped here: across a cliff interpolation becomes bisection, and an outlier is bounded
SURE_KEPT = -0.5  # a neighbour that breaks what was kept by so much is a cliff, or was an accident
NOISE = 0.05  # standard deviation of a log ratio that is expected, worth ...
NOISE_WORTH = 4  # ... so many observations
EDGE = 0.3  # of a bracket (log) at least is won by every point, however it comes out
FIRST_SLOPE = 0.5  # of a log ratio over the log load, below the knee
LEAST_SLOPE = 0.1
LEAST_SHARE = 0.5  # of a load: a margin that asks for less is not to be had by the load
FLAT = 0.1  # of the growth of the load: less growth of the value is none
GROWN = math.log(1.5)  # and it takes such a growth of the load to say so


@dataclass(frozen=True)
class LoadPoint:
    """One measured load (users or requests per second), with the violation of each SLO and the objective.

    ``violations`` are relative to the limits: <= 0 kept, 0.2 = 20 % over. ``value``: the objective, more is better; None if
    unknown. ``decided``: it was stopped early, because the outcome was certain, and is not repeated.
    """

    load: float
    violations: Mapping[str, float]
    value: float | None = None
    decided: bool = False

    @property
    def kept(self) -> bool:
        """Were all SLOs kept?"""
        return all(v <= 0 for v in self.violations.values())


@dataclass(frozen=True)
class Fit:
    """Loads in rising order, how often each was tried, and per SLO the fitted log ratios (shape: SLOs, loads).

    ``sigma``: noise of one measured log ratio per SLO, from repetitions and what the fit leaves, shrunk to ``NOISE``.
    """

    loads: Floats
    counts: NDArray[np.int64]
    margins: Floats
    sigma: Floats

    @property
    def worst(self) -> Floats:
        """The log ratio of the SLO that is nearest to breaking, or most broken, per load."""
        return np.asarray(self.margins.max(axis=0))

    @property
    def kept(self) -> int:
        """Index of the highest load that keeps all SLOs; -1 if there is none. Above it all are broken."""
        return int(np.count_nonzero(self.worst <= 0)) - 1

    def root(self) -> float:
        """The smallest load between the highest kept and the lowest broken one at which an SLO breaks."""
        from scipy.interpolate import PchipInterpolator  # takes a quarter of a second to import

        left, right = np.log(self.loads[self.kept : self.kept + 2])
        found = [
            float(root)
            for margins in self.margins
            if margins[self.kept + 1] > 0
            for root in PchipInterpolator(np.log(self.loads), margins).solve(0.0, extrapolate=False)
            if left <= root <= right
        ]
        return math.exp(min(found, default=(left + right) / 2))


def fit(tried: Sequence[LoadPoint]) -> Fit:
    """The monotone fit through at least one point."""
    from scipy.optimize import isotonic_regression

    names = sorted({name for point in tried for name in point.violations}) or [""]
    loads, where, counts = np.unique([p.load for p in tried], return_inverse=True, return_counts=True)
    raw = np.array([[_log_ratio(p.violations.get(name, -1.0)) for p in tried] for name in names])
    means = np.array([np.bincount(where, row) / counts for row in raw])
    margins = np.array([isotonic_regression(row, weights=counts).x for row in means])
    residuals = raw - margins[:, where]
    free = len(tried) - np.array([len(np.unique(row)) for row in margins])
    squares = NOISE_WORTH * NOISE**2 + (residuals**2).sum(axis=1)
    return Fit(loads, counts, margins, np.sqrt(squares / (NOISE_WORTH + free)))


def _log_ratio(violation: float) -> float:
    return math.log(min(math.exp(CLIP), max(math.exp(-CLIP), 1 + violation)))


@dataclass(frozen=True)
class LoadSearch:
    """Bracket the highest load that keeps the SLOs, then narrow it where they are expected to break.

    ``low`` and ``high`` bound the load, ``whole`` for concurrency, at most ``points`` measurements are taken, and it stops
    when the bracket is narrower than ``tolerance`` (relative). A load at which the decision is open within the noise is
    measured twice, if ``points`` allows. More load that brings no more value is not tried.
    """

    low: float
    high: float
    start: float
    points: int = 4
    tolerance: float = 0.15
    whole: bool = True

    def starting_at(self, load: float | None, thorough: bool = False) -> LoadSearch:
        """The same search from another first load: that of the best setting so far is the one to beat.

        ``thorough``: only the tolerance ends it.
        """
        points = THOROUGH_POINTS if thorough else self.points
        return replace(self, start=self.start if load is None else load, points=points)

    def identity(self) -> dict[str, Any]:
        """What makes two searches comparable, as plain data under public names. Studies keep it."""
        return {
            "low": self.low,
            "high": self.high,
            "start": self.start,
            "points": self.points,
            "tolerance": self.tolerance,
            "whole": self.whole,
        }

    def next(self, tried: Sequence[LoadPoint]) -> float | None:
        """The next load to try; None when the search has ended."""
        if len(tried) >= self.points:
            return None
        if not tried:
            return self._round(self.start)
        known = fit(tried)
        kept, loads = known.kept, known.loads
        if kept + 1 == len(loads):
            if loads[-1] >= self.high or _flat(known, tried):
                return self._again(known, tried)
            return self._between(loads[-1] * _step_up(known, self.tolerance), loads[-1], math.inf)
        if kept < 0:
            factor = math.exp(min(max(known.worst[0], math.log1p(self.tolerance)), math.log(2) * len(loads)))
            return self._again(known, tried) if loads[0] <= self.low else self._between(loads[0] / factor, 0, loads[0])
        if loads[kept + 1] / loads[kept] <= (1 + self.tolerance) * (1 + 1e-3):
            return self._again(known, tried)
        inside = self._between(self._inside(known), loads[kept], loads[kept + 1])
        return inside if loads[kept] < inside < loads[kept + 1] else self._again(known, tried)

    def _inside(self, known: Fit) -> float:
        """The expected root, kept away from the ends of the bracket so that either answer narrows it."""
        left, right = known.loads[known.kept], known.loads[known.kept + 1]
        step = 1 + self.tolerance
        if right / left <= step**2:
            return float(math.sqrt(left * right))
        low, high = left * max(step, (right / left) ** EDGE), right / max(step, (right / left) ** EDGE)
        return float(min(max(known.root(), low), high))

    def _again(self, known: Fit, tried: Sequence[LoadPoint]) -> float | None:
        """An end of the bracket that is worth a repetition: kept only within the noise, or broken unexpectedly."""
        decided = {p.load for p in tried if p.decided}
        kept, worst = known.kept, known.worst

        def may(index: int) -> bool:
            return 0 <= index < len(worst) and known.counts[index] == 1 and known.loads[index] not in decided

        if may(kept) and (known.margins[:, kept] > -known.sigma).any():
            return float(known.loads[kept])
        surprising = kept >= 0 and worst[kept] < SURE_KEPT
        if may(kept + 1) and (surprising or (kept < 0 and worst[0] < known.sigma.max())):
            return float(known.loads[kept + 1])
        return None

    def _between(self, load: float, above: float, below: float) -> float:
        """The load, rounded; strictly between the two others if whole numbers allow it."""
        return self._round(max(above + 1, min(below - 1, round(load))) if self.whole else load)

    def within(self, load: float) -> float:
        """The load as this search would measure it: within its bounds, and not above ``load`` where it is whole."""
        return self._round(math.floor(load + 1e-9) if self.whole else load)

    def _round(self, load: float) -> float:
        bounded = min(self.high, max(self.low, load))
        return float(max(1, round(bounded))) if self.whole else float(f"{bounded:.4g}")


def with_margin(search: LoadSearch, tried: Sequence[LoadPoint], load: float, margin: float) -> float:
    """The highest load, at most ``load``, at which the fit through the points keeps every SLO with this margin (0.1: at
    most 90 % of its limit). Where none down to ``LEAST_SHARE`` of it does, the SLO depends little on the load, and
    ``load`` stays.
    """
    known = fit(tried)
    aim, loads, worst = math.log1p(-margin), np.log(known.loads), known.worst
    below = worst[known.loads <= load * (1 + 1e-9)]
    if not len(below) or below[-1] <= aim:
        return load
    wanted = float(loads[0] - (below[0] - aim) / FIRST_SLOPE)  # none keeps it: on from the lowest
    if (kept := np.flatnonzero(below <= aim)).size:
        left, right = int(kept[-1]), int(kept[-1]) + 1  # between these two, straight in the logarithms
        share = (aim - worst[left]) / (worst[right] - worst[left])
        wanted = float(loads[left] + share * (loads[right] - loads[left]))
    found = search.within(math.exp(wanted))
    return found if LEAST_SHARE * load <= found < load else load


def _step_up(known: Fit, tolerance: float) -> float:
    """The factor by which to raise the load when all SLOs were kept: to where the first should break, at most 2.

    The log ratio is extrapolated from the last two loads. Latency rises ever faster with load, so this tends to overshoot,
    which closes the bracket.
    """
    last = known.margins[:, -1]
    most = math.log(2) * len(known.loads)
    if (last <= -CLIP).all():
        return math.exp(most)
    slope = np.full(len(last), FIRST_SLOPE)
    if len(known.loads) > 1:
        slope = (last - known.margins[:, -2]) / math.log(known.loads[-1] / known.loads[-2])
    wanted = float(np.min(-last / np.maximum(slope, LEAST_SLOPE)))
    return math.exp(min(max(wanted, math.log1p(tolerance)), most))


def _flat(known: Fit, tried: Sequence[LoadPoint]) -> bool:
    """Did the last increase of the load bring no more value?"""
    if len(known.loads) < 2:
        return False
    before, last = (
        [p.value for p in tried if p.load == load and p.value is not None and p.value > 0] for load in known.loads[-2:]
    )
    grown = math.log(known.loads[-1] / known.loads[-2])
    if not before or not last or grown < GROWN:
        return False
    return math.log((sum(last) / len(last)) / (sum(before) / len(before))) < FLAT * grown
