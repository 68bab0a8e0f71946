"""CMA-ES of the ``cmaes`` library on the unit cube, asynchronous and under SLOs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.space import Space

SIGMA = 0.3  # the first standard deviation, of the unit range
TRIES = 20  # draws that lead to known settings before a random new one is taken


class CmaEsSearch(Search):
    """Hansen's covariance matrix adaptation. It learns from every ``population`` results in their order, whatever their
    origin, by Deb's ranks alone, so that SLOs and failures need no weights. Categories are treated as positions.
    """

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._history = History()
        self._told: list[tuple[Setting, Score]] = []
        self._population = 4 + int(3 * np.log(max(2, len(space.dimensions))))

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
        self._told.append((setting, score))

    def ask(self, pending: Sequence[Setting]) -> Setting:
        count = len(self._told) + len(pending)
        rng = rng_for(self.seed, count)
        taken = {p.key for p in pending}
        evolution = self._evolved(int(rng.integers(2**31)))
        for _ in range(TRIES):
            point = self.space.repair(np.clip(evolution.ask()[: len(self.space.dimensions)], 0.0, 1.0), rng)
            setting = None if point is None else self.space.decode(point, "cmaes")
            if setting is not None and setting.key not in taken and self._history.score(setting) is None:
                return setting
        return replace(unseen(self.space, self._history, pending, rng), origin="cmaes:random")

    def _evolved(self, seed: int) -> Any:
        """The library's state after all full populations; one dimension is padded with a second one without effect."""
        from cmaes import CMA

        d = len(self.space.dimensions)
        start = self.space.encode(self._told[0][0]) if self._told else np.full(d, 0.5)
        bounds = np.tile([0.0, 1.0], (max(2, d), 1))
        padded = np.append(start, 0.5) if d == 1 else start  # the library has no covariance in one dimension
        made = CMA(mean=padded, sigma=SIGMA, bounds=bounds, seed=seed, population_size=self._population)
        for first in range(0, len(self._told) - self._population + 1, self._population):
            rows = self._told[first : first + self._population]
            ranked = sorted(range(len(rows)), key=lambda i: rows[i][1].rank)
            ranks = {i: float(rank) for rank, i in enumerate(ranked)}
            points = [self.space.encode(setting) for setting, _ in rows]
            made.tell([(np.append(p, 0.5) if d == 1 else p, ranks[i]) for i, p in enumerate(points)])
        return made
