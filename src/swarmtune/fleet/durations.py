"""Expected durations of work, from those of finished work near it: needed to start the longest first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swarmtune.records import Setting
from swarmtune.space import Space

Array = NDArray[np.float64]
MEMORY = 256  # durations that an expectation is computed from


class Durations:
    """Durations of the latest settings, and predictions for others.

    Longest first keeps the time until all work is done within 4/3 of the shortest possible (Graham 1969).
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._points: list[Array] = []
        self._seconds: list[float] = []

    def add(self, setting: Setting, seconds: float) -> None:
        """Record the duration of a setting."""
        self._points = [*self._points[-MEMORY + 1 :], self.space.encode(setting)]
        self._seconds = [*self._seconds[-MEMORY + 1 :], seconds]

    def expected_s(self, points: Array) -> Array:
        """Seconds, shape (m,), for points of shape (m, d) in the unit cube: the mean of known durations, weighted by
        1 / distance² (Shepard 1968). 0 if none is known.
        """
        if not self._points:
            return np.zeros(len(points))
        squares = np.sum((points[:, None, :] - np.array(self._points)[None, :, :]) ** 2, axis=2)
        weights = 1.0 / (squares + 1e-9)
        return np.asarray(weights @ np.array(self._seconds) / weights.sum(axis=1))
