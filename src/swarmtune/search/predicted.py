"""A search among settings whose results were predicted: it learns how far predictions are off, and asks for the settings
that are most worth a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import PSOConvergenceError
from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.gaussian import Array, GaussianProcess, Hyperparameters, fit, squared_differences
from swarmtune.search.surrogate import CANNOT_WIN, LossTransform, log_expected_improvement
from swarmtune.space import Space

LEAST_MEASURED = 6  # results before predictions and measurements are said to agree
WORTH = 0.01  # expected gain (1 % of the objective) below which no setting is worth a measurement
PRIOR_WEIGHT = 3.0  # as many results as the spread that is assumed of predictions counts for
FITTED_FROM = 10  # results from which on length scales are fitted
DISAGREE = 0.1  # mean deviation of measured from predicted values, as a logarithm, from which the model is to learn
LEAST_NEW = 2  # results before that is asked; then always as many again as the model has learned from
LENGTH = 0.3  # until then, of one dimension: what is measured says little of what is far away
LOG_NOISE = math.log(0.01)
LEAST_RATIO = 1e-6


@dataclass(frozen=True)
class Predicted:
    """A setting and the score that it is predicted to have. It is never a result."""

    setting: Setting
    score: Score


class PredictedSearch(Search):
    """The mean of its belief is the prediction; a Gaussian process learns the ratio of measured to predicted values, of the
    objective and of each SLO. It asks for the predicted setting with the highest expected improvement times the
    probability to keep the SLOs (Gardner et al. 2014).
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        budget: int,
        predicted: Sequence[Predicted],
        spread: float = 0.1,
        learned: Collection[str] = (),
    ) -> None:
        """``predicted``: with a value and one objective each; ``spread``: standard deviation of the logarithm of the ratio
        before anything is known of it; ``learned``: keys of the settings whose measurements the model knows already.
        """
        super().__init__(space, seed, budget)
        self._learned = frozenset(learned)
        self._predicted = {one.setting.key: one for one in predicted}
        self._spread = spread
        self._told: dict[str, tuple[Setting, Score]] = {}
        self._points: dict[str, Array] = {}
        self.categories = np.array([d.kind == "category" for d in space.dimensions], dtype=bool)

    def points(self, settings: Sequence[Setting]) -> Array:
        """Their coordinates, shape (n, d)."""
        for setting in settings:
            if setting.key not in self._points:
                self._points[setting.key] = self.space.encode(setting)
        found = [self._points[setting.key] for setting in settings]
        return np.array(found).reshape(-1, len(self.space.dimensions))

    def tell(self, setting: Setting, score: Score) -> None:
        self._told[setting.key] = (setting, score)

    @property
    def outdated(self) -> bool:
        """Do measurements disagree with their predictions, and are there enough of them for the model to learn from?"""
        off, new = list[float](), 0
        for key, (_, score) in self._told.items():
            if key in self._learned or key not in self._predicted or score.value is None:
                continue
            said, new = self._predicted[key].score, new + 1
            off += [log_ratio(score, name) - log_ratio(said, name) for name in said.violations if name != CANNOT_WIN]
            if said.value and score.value / said.value > 0:
                off.append(math.log(score.value / said.value))
        enough = new >= max(LEAST_NEW, len(self._learned))
        return enough and bool(off) and sum(map(abs, off)) / len(off) > DISAGREE

    def ask(self, pending: Sequence[Setting]) -> Setting:
        taken = {*self._told, *(setting.key for setting in pending)}
        candidates = [one for key, one in self._predicted.items() if key not in taken]
        if not candidates:
            raise PSOConvergenceError(f"all {len(self._predicted)} predicted settings are measured")
        worth, gain = self._worth(candidates, pending)
        chosen = int(np.argmax(worth))
        if gain is not None and len(self._told) >= LEAST_MEASURED and gain[chosen] < WORTH:
            raise PSOConvergenceError(
                f"predictions and measurements agree: of {len(candidates)} predicted settings none is expected to gain "
                f"{WORTH:.0%}"
            )
        return replace(candidates[chosen].setting, origin="predicted")

    def _worth(self, candidates: Sequence[Predicted], pending: Sequence[Setting]) -> tuple[Array, Array | None]:
        """Of each candidate: the worth as a logarithm, and the expected gain; None: no result keeps the SLOs so far."""
        known = [row for key, row in self._told.items() if key in self._predicted and row[1].value is not None]
        foreseen = [self._predicted[setting.key] for setting, _ in known]
        awaited = [self._predicted[s.key] for s in pending if s.key in self._predicted]
        scores = [*(one.score for one in self._predicted.values()), *(score for _, score in self._told.values())]
        transform = LossTransform.of([score.loss for score in scores if score.value is not None])
        places = _Places(self, [s for s, _ in known], [one.setting for one in awaited], [c.setting for c in candidates])

        def loss(score: Score) -> float:
            return transform(score.loss)

        log_feasible = self._started(candidates)
        for name in sorted({name for one in (*candidates, *foreseen) for name in one.score.violations} - {CANNOT_WIN}):
            ratios = [
                log_ratio(score, name) - log_ratio(one.score, name)
                for one, (_, score) in zip(foreseen, known, strict=True)
            ]
            shift, deviation = places.learned(np.array(ratios), self._spread)
            there = np.array([log_ratio(one.score, name) for one in candidates])
            log_feasible += _log_probability(-(there + shift) / deviation)
        ratios = [loss(score) - loss(one.score) for one, (_, score) in zip(foreseen, known, strict=True)]
        shift, deviation = places.learned(np.array(ratios), self._spread)
        mean = np.array([loss(one.score) for one in candidates]) + shift
        kept = [loss(score) for _, score in self._told.values() if score.value is not None and score.feasible]
        if not kept:
            return log_feasible - 0.01 * mean, None
        log_gain = log_expected_improvement(mean, deviation, min(kept)) + log_feasible
        return log_gain, np.exp(log_gain)

    def _started(self, candidates: Sequence[Predicted]) -> Array:
        """The logarithm of the probability that each candidate starts; what is not predicted is only learned."""
        told = list(self._told.values())
        failed = np.array([score.value is None for _, score in told], dtype=bool)
        if not failed.any():
            return np.zeros(len(candidates))
        places = _Places(self, [s for s, _ in told], [], [one.setting for one in candidates])
        mean, deviation = places.learned(np.where(failed, 1.0, -1.0), 1.0)
        return _log_probability(-mean / deviation)


class _Places:
    """Measured settings, those that are being measured, and candidates, as points of the space."""

    def __init__(
        self, search: PredictedSearch, known: Sequence[Setting], pending: Sequence[Setting], new: Sequence[Setting]
    ) -> None:
        self._count = len(known)
        own = search.points([*known, *pending])
        self._own = squared_differences(own, own, search.categories)
        self._cross = squared_differences(own, search.points(new), search.categories)
        self._new = len(new)

    def learned(self, values: Array, spread: float) -> tuple[Array, Array]:
        """Mean and standard deviation of the quantity at the new points, given its values at the known ones.

        Before there are values it is 0 with this ``spread``, which counts for PRIOR_WEIGHT values later on. Pending points
        count as measured with their expected values (kriging believer, Ginsbourger et al. 2010).
        """
        count = len(values)
        centre = float(values.sum()) / (count + 1)
        scale = math.sqrt((PRIOR_WEIGHT * spread**2 + float(((values - centre) ** 2).sum())) / (PRIOR_WEIGHT + count))
        if not self._own.shape[1]:
            return np.full(self._new, centre), np.full(self._new, scale)
        known = np.arange(self._count)
        y, nothing = (values - centre) / scale, np.zeros(self._own.shape[1])
        dimensions = len(self._own)
        h = Hyperparameters(np.full(dimensions, math.log(LENGTH * math.sqrt(dimensions))), 0.0, LOG_NOISE)
        between = self._own[:, known[:, None], known]
        if count >= FITTED_FROM:
            h = fit(between, y, nothing[:count], h)
        if count < self._own.shape[1]:
            awaited: NDArray[np.intp] = np.arange(count, self._own.shape[1])
            expected = np.zeros(len(awaited))
            if count:
                process = GaussianProcess(h, between, y, nothing[:count])
                expected, _ = process.predict(self._own[:, known[:, None], awaited])
            y = np.concatenate([y, expected])
        mean, deviation = GaussianProcess(h, self._own, y, nothing).predict(self._cross)
        return mean * scale + centre, deviation * scale


def log_ratio(score: Score, name: str) -> float:
    """The logarithm of a metric relative to its limit: above 0 the SLO is broken. A score that has no such SLO keeps it."""
    return math.log(max(LEAST_RATIO, 1.0 + score.violations.get(name, 0.0)))


def _log_probability(z: Array) -> Array:
    from scipy.special import log_ndtr

    return np.asarray(log_ndtr(z))
