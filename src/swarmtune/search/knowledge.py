"""Results known to a model-based search, the model fitted to them, and the next question that it proposes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swarmtune.objective.pareto import random_weights
from swarmtune.records import Score, Setting
from swarmtune.search.base import Earlier, Running
from swarmtune.search.proposals import cell, proposals
from swarmtune.search.surrogate import Belief, Surrogate
from swarmtune.space import Space
from swarmtune.space.batch import Points


class Knowledge:
    """Results in the order they were told, repeats included, and those of earlier studies."""

    def __init__(self, space: Space) -> None:
        self.rows: list[tuple[Setting, Score]] = []
        self._space = space
        self._surrogate = Surrogate(space)
        self._earlier: tuple[Earlier, ...] = ()
        self.running: Running | None = None
        """The service that runs where the next setting will be measured."""

    def learn(self, earlier: Sequence[Earlier]) -> None:
        """Take in results of earlier studies; the model is fitted anew."""
        self._earlier = tuple(earlier)
        self._surrogate = Surrogate(self._space)

    def tell(self, setting: Setting, score: Score) -> None:
        """Take in a result."""
        self.rows.append((setting, score))

    def enough(self, results: int) -> bool:
        """Is there a result of this study, and together with earlier ones at least ``results``?"""
        return bool(self.rows) and len(self.rows) + len(self._earlier) >= results

    @property
    def objectives(self) -> int:
        """The number of objectives: 1, or those of a Pareto set."""
        return max(1, len({name for _, score in self.rows for name in score.values}))

    def believe(self, pending: Sequence[Setting], rng: np.random.Generator) -> Belief:
        """The current belief; several objectives get new weights at each question (ParEGO, Knowles 2006)."""
        weights = random_weights(rng, self.objectives) if self.objectives > 1 else None
        return self._surrogate.believe(self.rows, pending, self._earlier, weights)

    def question(
        self, belief: Belief, moves: Points, pending: Sequence[Setting], origin: str, rng: np.random.Generator
    ) -> Setting | None:
        """The new legal setting that is most worth a measurement; None if none of the proposals is new."""
        keys = {s.key for s, _ in self.rows} | {s.key for s in pending}
        taken = {cell(self._surrogate.point(s)) for s in (*(s for s, _ in self.rows), *pending)}
        for point in proposals(self._space, belief, moves, taken, rng, self.running):
            setting = self._space.decode(point, origin)
            if setting.key not in keys and self._space.legal(setting):
                return setting
        return None
