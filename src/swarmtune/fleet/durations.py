"""How long pieces of work took, and from that how long others may take: the longest first leaves no long one for the end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swarmtune.records import Setting
from swarmtune.space import Space

Array = NDArray[np.float64]
MEMORY = 256  # durations that an expectation rests on


class Durations:
    """Durations of the latest settings, and what they make others expect.

    The longest first keeps the time until all are done at no more than 4/3 of the shortest possible (Graham 1969).
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._points: list[Array] = []
        self._seconds: list[float] = []

    def add(self, setting: Setting, seconds: float) -> None:
        """This setting took that long."""
        self._points = [*self._points[-MEMORY + 1 :], self.space.encode(setting)]
        self._seconds = [*self._seconds[-MEMORY + 1 :], seconds]

    def expected_s(self, points: Array) -> Array:
        """Seconds, shape (m,), for points of shape (m, d) in the unit cube: the mean of those known, weighted by
        1 / distance² (Shepard 1968). 0 if none is.
        """
        if not self._points:
            return np.zeros(len(points))
        squares = np.sum((points[:, None, :] - np.array(self._points)[None, :, :]) ** 2, axis=2)
        weights = 1.0 / (squares + 1e-9)
        return np.asarray(weights @ np.array(self._seconds) / weights.sum(axis=1))
