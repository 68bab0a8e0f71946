"""Where a search begins: evenly spread points."""

from __future__ import annotations

import numpy as np

from swarmtune.space.batch import Points


def evenly_spread(count: int, dimensions: int, seed: int) -> Points:
    """The R sequence with a random shift (Roberts 2018); shape (count, dimensions)."""
    root = 2.0
    for _ in range(30):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    steps = root ** -np.arange(1, dimensions + 1)
    shift = np.random.default_rng([seed, 7]).uniform(size=dimensions)
    return np.asarray((shift + np.outer(np.arange(1, count + 1), steps)) % 1.0)
