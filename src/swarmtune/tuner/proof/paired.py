"""Confidence intervals of the gain of one setting over another, from paired measurements.

A round measures both settings on one group within one span of time, with the same requests, so effects of the group, of
the hour and of the requests cancel in the ratio of the two. Each round gives one log ratio, which holds all noise there is:
within the measurements, between service starts, between rounds. Student's t on these numbers is exact for log-normal noise,
also with few rounds, if their number was fixed beforehand (Student 1908, Biometrika 6:1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_LOG = 700.0  # exp of more is not a float


@dataclass(frozen=True)
class Difference:
    """Difference of two settings over ``rounds``: gain and 95 % interval in percent (positive = better; None = unknown).

    ``p`` is two-sided, 1 without data. ``noise_percent``: standard deviation of one round's gain, None below two rounds.
    """

    rounds: int
    gain_percent: float | None = None
    ci95_percent: tuple[float, float] | None = None
    p: float = 1.0
    noise_percent: float | None = None

    @property
    def worse(self) -> bool:
        """Is it worse with 95 % confidence?"""
        return self.ci95_percent is not None and self.ci95_percent[1] < 0


def difference(logs: Sequence[float]) -> Difference:
    """The difference from the log ratio of each round (positive = better)."""
    count = len(logs)
    if not count:
        return Difference(0)
    mean = sum(logs) / count
    if count == 1:
        return Difference(1, percent(mean))
    (low, high), p = paired_t(logs)
    return Difference(count, percent(mean), (percent(low), percent(high)), p, percent(deviation(logs)))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of one of at least two values."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired_t(logs: Sequence[float]) -> tuple[tuple[float, float], float]:
    """Student's 95 % interval of the mean of at least two values, and the two-sided p of a mean of zero."""
    from scipy.special import stdtr

    count = len(logs)
    mean = sum(logs) / count
    error = deviation(logs) / math.sqrt(count)
    if error == 0:
        return (mean, mean), float(mean == 0)
    half = student_t95(count - 1) * error
    return (mean - half, mean + half), float(2 * stdtr(count - 1, -abs(mean) / error))


def student_t95(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def rounds_for(gain_percent: float, noise_percent: float, most: int) -> int | None:
    """How many rounds find such a gain in four of five proofs, at this noise of a round; None: more than ``most``.

    The distance of the gain from zero must be Student's t of the interval and that of 80 %, times the standard error.
    """
    from scipy.special import stdtrit

    gain, noise = math.log1p(gain_percent / 100), math.log1p(max(noise_percent, 0.0) / 100)
    enough = (
        n for n in range(2, most + 1) if (student_t95(n - 1) + stdtrit(n - 1, 0.8)) * noise <= gain * math.sqrt(n)
    )
    return next(enough, None)


def percent(log_ratio: float) -> float:
    """A log ratio as a gain in percent."""
    return math.expm1(min(log_ratio, MOST_LOG)) * 100
