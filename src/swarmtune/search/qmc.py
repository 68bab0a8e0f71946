"""Evenly spread settings: scrambled Sobol points, without regard to results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.space import Space

TRIES = 16  # points (a power of two, as Sobol wants) that lead to known settings before a random new one is taken


class QmcSearch(Search):
    """Quasi Monte Carlo (Sobol 1967, scrambled by Owen's method); illegal points are repaired."""

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._history = History()
        self._told = 0

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
        self._told += 1

    def ask(self, pending: Sequence[Setting]) -> Setting:
        from scipy.stats.qmc import Sobol

        count = self._told + len(pending)
        rng = rng_for(self.seed, count)
        taken = {p.key for p in pending}
        points = Sobol(len(self.space.dimensions), rng=self.seed)
        if count:
            points.fast_forward(count)
        for point in points.random(TRIES):
            repaired = self.space.repair(point, rng)
            setting = None if repaired is None else self.space.decode(repaired, "qmc")
            if setting is not None and setting.key not in taken and self._history.score(setting) is None:
                return setting
        return replace(unseen(self.space, self._history, pending, rng), origin="qmc:random")
