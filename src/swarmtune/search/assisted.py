"""The default search: an asynchronous swarm whose moves are chosen by a model of objective, promises and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swarmtune.objective.pareto import random_weights
from swarmtune.records import Score, Setting
from swarmtune.search.base import Earlier
from swarmtune.search.history import rng_for, unseen
from swarmtune.search.incumbent import CAUTION, cost
from swarmtune.search.proposals import cell, proposals
from swarmtune.search.surrogate import Belief, Surrogate
from swarmtune.search.swarm import SwarmSearch
from swarmtune.space import Space

AGAIN_FROM = 0.85  # share of the budget from which on known settings may be measured again
MOST_TIMES = 3  # that a setting is measured
WORTH_AGAIN = 0.01  # expected gain (1 % of the objective) from which on that is worth an evaluation
MOVES = 80  # of the particle whose turn it is, with other random pulls each


class AssistedSwarm(SwarmSearch):
    """At each question the particle's own moves, neighbours of the best settings and random ones are proposed, and the
    one that promises most is where the particle goes (research: surrogate-assisted swarms pre-screen their moves).
    """

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._surrogate = Surrogate(space)
        self._rows: list[tuple[Setting, Score]] = []
        self._earlier: tuple[Earlier, ...] = ()

    def learn(self, earlier: Sequence[Earlier]) -> None:
        self._earlier = tuple(earlier)
        self._surrogate = Surrogate(self.space)  # what was believed before counts for nothing

    def tell(self, setting: Setting, score: Score) -> None:
        super().tell(setting, score)
        self._rows.append((setting, score))

    def ask(self, pending: Sequence[Setting]) -> Setting:
        if not self._rows or len(self._rows) + len(self._earlier) < self._start_results():
            return super().ask(pending)
        asked = len(self._rows) + len(pending)
        rng = rng_for(self.seed, asked)
        objectives = {name for _, score in self._rows for name in score.values}
        weights = random_weights(rng, len(objectives)) if len(objectives) > 1 else None
        belief = self._surrogate.believe(self._rows, pending, self._earlier, weights)
        if (
            weights is None
            and asked >= AGAIN_FROM * self.budget
            and (doubtful := self._doubtful(belief, pending)) is not None
        ):
            return doubtful
        number = self._next_particle(pending)
        particle = self._particles[number]
        moves = (
            self._steps(number, particle, asked, rng, MOVES)
            if particle.path
            else rng.uniform(size=(MOVES, len(self.space.dimensions)))
        )
        taken = {cell(self._surrogate.point(s)) for s in pending} | {cell(p) for p in belief.points}
        for point in proposals(self.space, belief, moves, taken, rng):
            setting = self.space.decode(point, f"particle:{number}")
            if self._is_new(setting, pending) and self.space.legal(setting):
                return setting
        return replace(unseen(self.space, self._history, pending, rng), origin=f"particle:{number}")

    def _doubtful(self, belief: Belief, pending: Sequence[Setting]) -> Setting | None:
        """A known setting that one more measurement may make the one to deploy: better than that, but not surely kept."""
        expected = belief.predict(belief.points)
        costs = cost(expected)
        gain = (costs.min() - expected.mean - CAUTION * expected.deviation) * np.exp(expected.log_feasible)
        counts = Counter([s.key for s, _ in self._rows] + [s.key for s in pending] * MOST_TIMES)
        for i in np.argsort(-gain, kind="stable"):
            setting, score = self._rows[i]
            if gain[i] < WORTH_AGAIN:
                return None
            if counts[setting.key] < MOST_TIMES and score.value is not None:
                again: Setting = replace(setting, origin="again")
                return again
        return None

    def _start_results(self) -> int:
        """Results before the model is asked."""
        return max(4, len(self.space.dimensions) // 3)
