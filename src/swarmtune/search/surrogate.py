"""The surrogate model: predicts objective, SLOs and start failures of settings that were not measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarmtune.objective.pareto import chebyshev
from swarmtune.records import Score, Setting
from swarmtune.search.base import Earlier
from swarmtune.search.gaussian import Array, GaussianProcess, Hyperparameters, fit, squared_differences
from swarmtune.space import Space

START_FAILURE = "start_failure"  # the violation of a setting that cannot start
CANNOT_WIN = "cannot_win"  # the violation of a setting whose measurement was stopped because it stayed behind
DYNAMIC_RANGE = 1e-3  # values below this share of the best are all the same
NEAR = 0.02  # an SLO to which no setting came this close needs no model
BENT = 0.7  # how strongly large violations are compressed: the model must be precise at the limit
ALL_REFITS_UNTIL = 24  # results; beyond, length scales are fitted again at every 6 % more
DOUBT = 0.1  # variance (of standardised values) of an earlier result of weight 0.5

Indices = NDArray[np.intp]
Rows = Sequence[tuple[Setting, Score]]


@dataclass(frozen=True)
class Prediction:
    """Prediction for m settings: mean and standard deviation of the transformed loss (lower is better; a difference of
    0.1 is about 10 % of the value), and the logarithm of the probability that all SLOs are truly kept. Shapes (m,).
    """

    mean: Array
    deviation: Array
    log_feasible: Array

    def __getitem__(self, chosen: Indices) -> Prediction:
        return Prediction(self.mean[chosen], self.deviation[chosen], self.log_feasible[chosen])


@dataclass
class _Kept:
    """Hyperparameters of one quantity, and the number of results they were fitted on."""

    fitted_on: int = 0
    hyperparameters: Hyperparameters | None = None


class Surrogate:
    """Gaussian processes over all known results. Its belief is a function of the history: the same rows in the same order
    give the same belief in every process.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._categories = np.array([d.kind == "category" for d in space.dimensions], dtype=bool)
        self._kept: dict[str, _Kept] = {}
        self._points: dict[str, Array] = {}

    def point(self, setting: Setting) -> Array:
        """The coordinates of a setting."""
        if setting.key not in self._points:
            self._points[setting.key] = self.space.encode(setting)
        return self._points[setting.key]

    def believe(
        self,
        rows: Rows,
        pending: Sequence[Setting] = (),
        earlier: Sequence[Earlier] = (),
        weights: Array | None = None,
    ) -> Belief:
        """The belief after these results. Pending settings count as measured with their expected values (kriging believer,
        Ginsbourger et al. 2010), so that the search goes elsewhere. ``earlier`` results count by their weight. ``weights``
        combine several objectives into one loss.
        """
        table = Table.of(rows, earlier)
        points = np.array([self.point(s) for s in (*table.settings, *pending)])
        own = squared_differences(points, points, self._categories)
        belief = Belief(points[len(earlier) : len(table.settings)], points, self._categories)
        belief.loss = self._process("loss", own, table, lambda t: t.losses(None), table.losses(weights))
        for name in table.slos():
            values = table.violations(name)
            if np.nanmax(values) > -NEAR:
                of_table = functools.partial(Table.violations, name=name)
                belief.slos[name] = self._process(name, own, table, of_table, values)
        if not table.started.all():
            belief.failure = self._process(START_FAILURE, own, table, Table.failures, table.failures())
        return belief

    def _process(
        self, name: str, own: Array, table: Table, quantity: Callable[[Table], Array], values: Array
    ) -> Process | None:
        """A process of ``values``. Its hyperparameters are fitted on the ``quantity`` at the last milestone, so that a
        resumed study, which gets all results at once, has the same ones.
        """
        measured = np.flatnonzero(np.isfinite(values))
        if len(measured) < 2:
            return None
        kept = self._kept.setdefault(name, _Kept())
        start = kept.hyperparameters or Hyperparameters.usual(len(own))
        for step in milestones(len(values)):
            if step <= kept.fitted_on:
                continue
            then = quantity(table.first(step))
            rows = np.flatnonzero(np.isfinite(then))
            if len(rows) >= 2:
                start = fit(own[:, rows[:, None], rows], standardised(then[rows])[0], table.doubt[rows], start)
                kept.fitted_on, kept.hyperparameters = step, start
        pending = np.arange(len(values), own.shape[1])
        return Process(start, own, measured, values[measured], table.doubt[measured], pending)


class Table:
    """Results as arrays, those of earlier studies first; NaN where a quantity has no value."""

    def __init__(self, settings: Sequence[Setting], scores: Sequence[Score], doubt: Array) -> None:
        """``doubt``: the variance of each value beside the noise, as a share of all variance."""
        self.settings, self.doubt, self._scores = settings, doubt, scores
        self.started = np.array([s.value is not None for s in scores], dtype=bool)

    @classmethod
    def of(cls, rows: Rows, earlier: Sequence[Earlier]) -> Table:
        """The table of this study's results and those of earlier studies."""
        settings = [*(e.setting for e in earlier), *(s for s, _ in rows)]
        scores = [*(e.score for e in earlier), *(score for _, score in rows)]
        doubt = [DOUBT * (1.0 - e.weight) / max(e.weight, 0.01) for e in earlier]
        return cls(settings, scores, np.array([*doubt, *(0.0 for _ in rows)]))

    def first(self, count: int) -> Table:
        """The table after the first ``count`` results."""
        return Table(self.settings[:count], self._scores[:count], self.doubt[:count])

    def failures(self) -> Array:
        """1 where a setting could not start, -1 where it did."""
        return np.where(self.started, -1.0, 1.0)

    def slos(self) -> list[str]:
        """Names of the SLOs of all settings that started."""
        names = {name for s, ok in zip(self._scores, self.started, strict=True) if ok for name in s.violations}
        return sorted(names - {CANNOT_WIN})

    def violations(self, name: str) -> Array:
        """The compressed violations of one SLO."""
        pairs = zip(self._scores, self.started, strict=True)
        return np.array([bent(s.violations[name]) if ok and name in s.violations else math.nan for s, ok in pairs])

    def losses(self, weights: Array | None) -> Array:
        """The transformed losses; of several objectives their augmented Chebyshev norm (None: equal weights)."""
        started = [s for s, ok in zip(self._scores, self.started, strict=True) if ok]
        losses = np.full(len(self._scores), math.nan)
        names = sorted({name for s in started for name in s.values})
        if len(names) > 1:
            several = np.array([[s.values.get(name, math.inf) for name in names] for s in started])
            even = np.full(len(names), 1.0 / len(names))
            losses[self.started] = chebyshev(several, even if weights is None else weights)
        elif started:
            transform = LossTransform.of([s.loss for s in started])
            losses[self.started] = [transform(s.loss) for s in started]
        return losses


def milestones(count: int) -> list[int]:
    """The numbers of results, up to ``count``, at which hyperparameters are fitted again."""
    steps, step = [], 4
    while step <= count:
        steps.append(step)
        step = step + 2 if step < ALL_REFITS_UNTIL else math.ceil(step * 1.06)
    return steps


@dataclass(frozen=True)
class LossTransform:
    """Losses on a scale where differences are relative: the logarithm where all have one sign, else standardised."""

    kind: str
    scale: float
    worst: float = math.inf

    @classmethod
    def of(cls, losses: Sequence[float]) -> LossTransform:
        """The transform for these losses (of settings that started)."""
        finite = np.array([x for x in losses if math.isfinite(x)] or [0.0])
        if finite.max() <= 0 and finite.min() < 0:
            return cls("gain", float(-finite.min()))
        if finite.min() > 0:
            return cls("cost", float(finite.min()))
        return cls("linear", float(finite.std()) or 1.0, float(finite.max()))

    def __call__(self, loss: float) -> float:
        if self.kind == "gain":
            return -math.log(max(-loss, DYNAMIC_RANGE * self.scale))
        if self.kind == "cost":
            return math.log(min(loss, self.scale / DYNAMIC_RANGE))
        return min(loss, self.worst) / self.scale


def bent(violation: float) -> float:
    """A relative violation on a scale that is fine at the limit and coarse far from it; the limit is 0 on both."""
    ratio = math.log(max(1e-6, 1.0 + violation))
    return math.copysign(math.log1p(abs(ratio) / BENT) * BENT, ratio)


def standardised(values: Array) -> tuple[Array, float, float]:
    """Values with mean 0 and standard deviation 1, and the original mean and standard deviation."""
    centre, scale = float(values.mean()), max(float(values.std()), 1e-9)
    return (values - centre) / scale, centre, scale


class Process:
    """A Gaussian process on values in their own unit, over some of the rows of a table of points."""

    def __init__(
        self, h: Hyperparameters, own: Array, known: Indices, values: Array, doubt: Array, pending: Indices
    ) -> None:
        """``own``: squared differences of all points, (d, n, n); ``known``: the rows that have ``values``."""
        self._rows = known
        y, self._centre, self._scale = standardised(values)
        self._process = GaussianProcess(h, own[:, known[:, None], known], y, doubt)
        self.noise = math.exp(0.5 * h.log_noise) * self._scale  # standard deviation of one measurement
        if len(pending):
            expected, _ = self._process.predict(own[:, known[:, None], pending])
            self._rows = np.concatenate([known, pending])
            both = own[:, self._rows[:, None], self._rows]
            doubts = np.concatenate([doubt, np.zeros(len(pending))])
            self._process = GaussianProcess(h, both, np.concatenate([y, expected]), doubts)

    def predict(self, differences: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the latent value; ``differences``: of all points with m new ones, (d, n, m)."""
        mean, deviation = self._process.predict(differences, self._rows)
        return mean * self._scale + self._centre, deviation * self._scale


class Belief:
    """The fitted models after the results known so far."""

    def __init__(self, points: Array, with_pending: Array, categories: NDArray[np.bool_]) -> None:
        """``points``: the measured ones, shape (n, d)."""
        self.points = points
        self.loss: Process | None = None
        self.slos: dict[str, Process | None] = {}
        self.failure: Process | None = None
        self._all, self._categories = with_pending, categories

    def predict(self, points: Array) -> Prediction:
        """The prediction at these points, shape (m, d)."""
        from scipy.special import log_ndtr

        m = len(points)
        differences = squared_differences(self._all, points, self._categories)
        mean, deviation = self.loss.predict(differences) if self.loss else (np.zeros(m), np.ones(m))
        log_feasible = np.zeros(m)
        for process in (*self.slos.values(), self.failure):
            if process is not None:
                centre, spread = process.predict(differences)
                log_feasible += log_ndtr(-centre / spread)
        return Prediction(mean, deviation, log_feasible)


def log_expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Logarithm of E[max(0, best - y)], y normal; stable far below the best (Ament et al. 2023)."""
    from scipy.special import log_ndtr, ndtr

    z = (best - mean) / deviation
    near = z > -1.0
    out = np.empty_like(z)
    log_pdf = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
    out[near] = np.log(np.exp(log_pdf[near]) + z[near] * ndtr(z[near]))
    far, log_pdf = z[~near], log_pdf[~near]
    # phi(z) + z Phi(z) = phi(z) (1 + z Phi(z)/phi(z)); the ratio tends to -1 from above
    ratio = np.minimum(-1e-12, far * np.exp(log_ndtr(far) - log_pdf))
    out[~near] = log_pdf + np.log(np.maximum(1e-300, np.where(far > -1e3, 1.0 + ratio, 1.0 / far**2)))
    return out + np.log(deviation)
