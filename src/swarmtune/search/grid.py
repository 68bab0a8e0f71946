"""A grid: every setting of a small space, a coarser grid of a large one, in an order that covers it from the start."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.space import Dimension, Space

MOST_LEVELS = 1000  # of one dimension
MOST_SETTINGS = 20_000  # of a grid


class GridSearch(Search):
    """All values of each dimension where the budget allows, else the same share of each; illegal ones are left out.

    When the grid is measured and the budget is not spent, random new settings follow.
    """

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._history = History()
        self._told = 0
        self._grid = self._ordered(levels(space.dimensions, min(max(budget, 1), MOST_SETTINGS)))

    @classmethod
    def notes(cls, space: Space, budget: int) -> list[str]:
        if space.size <= budget:
            return []
        counts = levels(space.dimensions, min(max(budget, 1), MOST_SETTINGS))
        tried = ", ".join(
            f"{d.name} {n} of {d.count or 'any number of'}" for d, n in zip(space.dimensions, counts, strict=True)
        )
        return [f"algorithm grid: {budget} evaluations do not try all {space.size:.3g} settings; values tried: {tried}"]

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
        self._told += 1

    def ask(self, pending: Sequence[Setting]) -> Setting:
        taken = {p.key for p in pending}
        for setting in self._grid:
            if setting.key not in taken and self._history.score(setting) is None:
                return setting
        rng = rng_for(self.seed, self._told + len(pending))
        return replace(unseen(self.space, self._history, pending, rng), origin="grid:random")

    def _ordered(self, counts: Sequence[int]) -> list[Setting]:
        axes = [(np.arange(n) + 0.5) / n for n in counts]
        by_key: dict[str, Setting] = {}
        for point in itertools.product(*axes):
            setting = self.space.decode(point, "grid")
            if self.space.legal(setting):
                by_key.setdefault(setting.key, setting)
        settings = list(by_key.values())
        return [settings[i] for i in rng_for(self.seed, 0).permutation(len(settings))]


def levels(dimensions: Sequence[Dimension], budget: int) -> list[int]:
    """The number of values of each dimension in a grid of at most ``budget`` settings: all, or as even as possible."""
    most = [min(d.count or MOST_LEVELS, MOST_LEVELS) for d in dimensions]
    counts = [1] * len(most)
    while True:
        growing = [i for i, n in enumerate(counts) if n < most[i]]
        growing = [i for i in growing if math.prod(counts) // counts[i] * (counts[i] + 1) <= budget]
        if not growing:
            return counts
        counts[min(growing, key=lambda i: (counts[i] / most[i], counts[i]))] += 1
