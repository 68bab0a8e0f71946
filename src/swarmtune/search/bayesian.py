"""Bayesian optimisation with Gaussian processes of our own: no torch, an ask in a tenth of a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swarmtune.records import Score, Setting
from swarmtune.search.base import Earlier, Running, Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.search.knowledge import Knowledge
from swarmtune.search.start import evenly_spread
from swarmtune.space import Space

ORIGIN = "gp"


class BayesianSearch(Search):
    """Expected improvement under SLOs, pending settings as the model expects them (see ``proposals``)."""

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._history = History()
        self._knowledge = Knowledge(space)

    def learn(self, earlier: Sequence[Earlier]) -> None:
        self._knowledge.learn(earlier)

    def see(self, running: Running | None) -> None:
        self._knowledge.running = running

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
        self._knowledge.tell(setting, score)

    def ask(self, pending: Sequence[Setting]) -> Setting:
        count = len(self._knowledge.rows) + len(pending)
        rng = rng_for(self.seed, count)
        d = len(self.space.dimensions)
        if self._knowledge.enough(max(4, d // 2)):
            belief = self._knowledge.believe(pending, rng)
            proposal = self._knowledge.question(belief, np.empty((0, d)), pending, ORIGIN, rng)
        else:
            proposal = self._start(count, pending, rng)
        return proposal or replace(unseen(self.space, self._history, pending, rng), origin=f"{ORIGIN}:random")

    def _start(self, count: int, pending: Sequence[Setting], rng: np.random.Generator) -> Setting | None:
        point = self.space.repair(evenly_spread(count + 1, len(self.space.dimensions), self.seed)[-1], rng)
        setting = None if point is None else self.space.decode(point, ORIGIN)
        is_known = (
            setting is None or self._history.score(setting) is not None or setting.key in {p.key for p in pending}
        )
        return None if is_known else setting
