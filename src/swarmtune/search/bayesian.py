"""Bayesian optimisation with Gaussian processes of our own: no torch, an ask in a tenth of a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swarmtune.objective.pareto import random_weights
from swarmtune.records import Score, Setting
from swarmtune.search.base import Earlier, Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.search.proposals import cell, proposals
from swarmtune.search.start import evenly_spread
from swarmtune.search.surrogate import Surrogate
from swarmtune.space import Space


class BayesianSearch(Search):
    """Expected improvement under promises, pending settings as the model expects them (see ``proposals``)."""

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._surrogate = Surrogate(space)
        self._history = History()
        self._rows: list[tuple[Setting, Score]] = []
        self._earlier: tuple[Earlier, ...] = ()

    def learn(self, earlier: Sequence[Earlier]) -> None:
        self._earlier = tuple(earlier)
        self._surrogate = Surrogate(self.space)  # what was believed before counts for nothing

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
        self._rows.append((setting, score))

    def ask(self, pending: Sequence[Setting]) -> Setting:
        asked = len(self._rows) + len(pending)
        rng = rng_for(self.seed, asked)
        d = len(self.space.dimensions)
        if not self._rows or len(self._rows) + len(self._earlier) < max(4, d // 2):
            wanted = self.space.repair(evenly_spread(asked + 1, d, self.seed)[-1], rng)
            points = np.empty((0, d)) if wanted is None else wanted[None, :]
        else:
            objectives = {name for _, score in self._rows for name in score.values}
            weights = random_weights(rng, len(objectives)) if len(objectives) > 1 else None
            belief = self._surrogate.believe(self._rows, pending, self._earlier, weights)
            taken = {cell(self._surrogate.point(s)) for s in pending} | {cell(p) for p in belief.points}
            points = proposals(self.space, belief, np.empty((0, d)), taken, rng)
        for point in points:
            setting = self.space.decode(point, "gp")
            known = self._history.score(setting) is not None or any(setting.key == p.key for p in pending)
            if not known and self.space.legal(setting):
                return setting
        return replace(unseen(self.space, self._history, pending, rng), origin="gp:random")
