"""Gaussian process regression on mixed spaces: Matern 5/2 with a length scale per dimension, fitted by MAP."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROOT5 = math.sqrt(5.0)
JITTER = 1e-8
LEAST_NOISE = 1e-4  # variance, of standardised values
FIT_STEPS = 30  # of L-BFGS; the posterior is not sharper than that
LATER_FIT_STEPS = 8  # with more than MANY values: they cost more, and the last fit was near
MANY = 100
# Priors on the logarithms of length scales, signal and noise variance (of standardised values): mean, standard deviation.
LENGTH_PRIOR = (0.0, 1.0)  # the mean is that of one dimension; sqrt(d) is added (Hvarfner et al. 2024)
SIGNAL_PRIOR = (0.0, 0.7)
NOISE_PRIOR = (-4.6, 1.5)


@dataclass(frozen=True)
class Hyperparameters:
    """Logarithms of the length scales (one per dimension), of the signal variance, and of the noise variance."""

    log_lengths: Array
    log_signal: float
    log_noise: float

    @classmethod
    def usual(cls, dimensions: int) -> Hyperparameters:
        """Where fitting starts: the middle of the priors."""
        return cls(np.full(dimensions, _length_mean(dimensions)), SIGNAL_PRIOR[0], NOISE_PRIOR[0])

    def vector(self) -> Array:
        """All of them in one array."""
        return np.concatenate([self.log_lengths, [self.log_signal, self.log_noise]])

    @classmethod
    def of(cls, vector: Array) -> Hyperparameters:
        """Inverse of ``vector``."""
        return cls(vector[:-2], float(vector[-2]), float(vector[-1]))


def squared_differences(a: Array, b: Array, categories: NDArray[np.bool_]) -> Array:
    """Per dimension the squared difference of all pairs, 0 or 1 for categories; shape (dimensions, len(a), len(b))."""
    difference = np.ascontiguousarray(a.T)[:, :, None] - np.ascontiguousarray(b.T)[:, None, :]
    difference *= difference
    difference[categories] = difference[categories] > 1e-12
    return np.asarray(difference)


def fit(differences: Array, values: Array, doubt: Array, start: Hyperparameters) -> Hyperparameters:
    """Hyperparameters of the highest posterior density (L-BFGS on the marginal likelihood, Rasmussen and Williams 5.4).

    ``differences``: of the points with themselves, shape (d, n, n); ``values``: standardised, shape (n,); ``doubt``: the
    variance that each value has beside the noise, shape (n,).
    """
    from scipy.optimize import minimize

    d = len(differences)
    centre = np.concatenate([np.full(d, _length_mean(d)), [SIGNAL_PRIOR[0], NOISE_PRIOR[0]]])
    width = np.concatenate([np.full(d, LENGTH_PRIOR[1]), [SIGNAL_PRIOR[1], NOISE_PRIOR[1]]])
    low = np.concatenate([np.full(d, math.log(0.03)), [math.log(0.05), math.log(LEAST_NOISE)]])
    high = np.concatenate([np.full(d, math.log(50.0)), [math.log(20.0), math.log(1.0)]])

    def negative_log_posterior(theta: Array) -> tuple[float, Array]:
        value, slope = _negative_log_likelihood(theta, differences, values, doubt)
        off = (theta - centre) / width
        return value + 0.5 * float(off @ off), slope + off / width

    start_at = np.clip(start.vector(), low, high)
    bounds = list(zip(low, high, strict=True))
    steps = {"maxiter": FIT_STEPS if len(values) <= MANY else LATER_FIT_STEPS}
    optimum = minimize(negative_log_posterior, start_at, jac=True, method="L-BFGS-B", bounds=bounds, options=steps)
    return Hyperparameters.of(np.asarray(optimum.x if np.all(np.isfinite(optimum.x)) else start_at))


class GaussianProcess:
    """The posterior of a latent function, given noisy values at points."""

    def __init__(self, hyperparameters: Hyperparameters, differences: Array, values: Array, doubt: Array) -> None:
        """``differences``: of the points with themselves, shape (d, n, n); ``values`` and ``doubt`` as in ``fit``."""
        from scipy.linalg import cho_factor, cho_solve

        self._h = hyperparameters
        covariance = _covariance(hyperparameters, _distance(hyperparameters, differences))[0]
        covariance[np.diag_indices_from(covariance)] += math.exp(hyperparameters.log_noise) + doubt + JITTER
        self._factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        self._weights = cho_solve(self._factor, values, check_finite=False)

    def predict(self, differences: Array, rows: NDArray[np.intp] | slice = slice(None)) -> tuple[Array, Array]:
        """Mean and standard deviation of the latent function; ``differences``: points x new points, (d, n, m), of which
        ``rows`` are those of this process.
        """
        from scipy.linalg import solve_triangular

        cross = _covariance(self._h, _distance(self._h, differences)[rows])[0]
        mean = self._weights @ cross
        half = solve_triangular(self._factor[0], cross, lower=True, check_finite=False)
        variance = math.exp(self._h.log_signal) - np.einsum("ij,ij->j", half, half)
        return mean, np.sqrt(np.maximum(variance, 1e-10))


def _length_mean(dimensions: int) -> float:
    return LENGTH_PRIOR[0] + 0.5 * math.log(dimensions)


def _distance(h: Hyperparameters, differences: Array) -> Array:
    d = len(differences)
    squared = np.exp(-2.0 * h.log_lengths) @ differences.reshape(d, -1)
    return np.sqrt(np.maximum(squared, 1e-18)).reshape(differences.shape[1:])


def _covariance(h: Hyperparameters, distance: Array) -> tuple[Array, Array]:
    """Matern 5/2, and exp(-sqrt5 r)."""
    decay = np.exp(-_ROOT5 * distance)
    return math.exp(h.log_signal) * (1.0 + _ROOT5 * distance + 5.0 / 3.0 * distance * distance) * decay, decay


def _negative_log_likelihood(theta: Array, differences: Array, values: Array, doubt: Array) -> tuple[float, Array]:
    from scipy.linalg import cho_factor, cho_solve, lapack

    h = Hyperparameters.of(theta)
    n = len(values)
    distance = _distance(h, differences)
    covariance, decay = _covariance(h, distance)
    signal = covariance.copy()
    noise = math.exp(h.log_noise)
    covariance[np.diag_indices(n)] += noise + doubt + JITTER
    try:
        factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    weights = cho_solve(factor, values, check_finite=False)
    value = 0.5 * float(values @ weights) + float(np.log(np.diag(factor[0])).sum())
    inverse, _ = lapack.dpotri(factor[0], lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    sensitivity = inverse - np.outer(weights, weights)  # 2 dNLL/dK
    # dK/dlog(length_d) = s^2 5/3 (1 + sqrt5 r) exp(-sqrt5 r) D_d / length_d^2
    radial = sensitivity * (math.exp(h.log_signal) * 5.0 / 3.0 * (1.0 + _ROOT5 * distance) * decay)
    by_length = 0.5 * np.exp(-2.0 * h.log_lengths) * (differences.reshape(len(differences), -1) @ radial.ravel())
    by_signal = 0.5 * float(np.sum(sensitivity * signal))
    by_noise = 0.5 * noise * float(np.trace(sensitivity))
    return value, np.concatenate([by_length, [by_signal, by_noise]])
