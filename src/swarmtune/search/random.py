"""Uniformly random legal settings: the control that every other search must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.space import Space


class RandomSearch(Search):
    """Draws without regard to results, and never the same setting twice."""

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._history = History()

    def ask(self, pending: Sequence[Setting]) -> Setting:
        count = len(self._history) + len(pending)
        setting = unseen(self.space, self._history, pending, rng_for(self.seed, count))
        return replace(setting, origin="random")

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
