"""What a search with a model has been told, what follows from it, and the question that promises most."""

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
        """What runs where the next question will be measured."""

    def learn(self, earlier: Sequence[Earlier]) -> None:
        """Take in what earlier studies found; what was believed before counts for nothing."""
        self._earlier = tuple(earlier)
        self._surrogate = Surrogate(self._space)

    def tell(self, setting: Setting, score: Score) -> None:
        """Take in a result."""
        self.rows.append((setting, score))

    def enough(self, results: int) -> bool:
        """Is there one result of this study, and with earlier ones at least so many?"""
        return bool(self.rows) and len(self.rows) + len(self._earlier) >= results

    @property
    def objectives(self) -> int:
        """How many are looked at: 1, or those of a Pareto set."""
        return max(1, len({name for _, score in self.rows for name in score.values}))

    def believe(self, pending: Sequence[Setting], rng: np.random.Generator) -> Belief:
        """The beliefs of now; several objectives are weighed anew at each question (ParEGO, Knowles 2006)."""
        weights = random_weights(rng, self.objectives) if self.objectives > 1 else None
        return self._surrogate.believe(self.rows, pending, self._earlier, weights)

    def question(
        self, belief: Belief, moves: Points, pending: Sequence[Setting], origin: str, rng: np.random.Generator
    ) -> Setting | None:
        """The new legal setting that is most worth a measurement; None if none of the proposals is new."""
        known = {s.key for s, _ in self.rows} | {s.key for s in pending}
        taken = {cell(self._surrogate.point(s)) for s in (*(s for s, _ in self.rows), *pending)}
        for point in proposals(self._space, belief, moves, taken, rng, self.running):
            setting = self._space.decode(point, origin)
            if setting.key not in known and self._space.legal(setting):
                return setting
        return None
