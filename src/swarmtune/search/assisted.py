"""The default search: an asynchronous swarm whose moves are chosen by a model of objective, SLOs and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swarmtune.records import Score, Setting
from swarmtune.search.base import Earlier, Running
from swarmtune.search.history import rng_for, unseen
from swarmtune.search.incumbent import CAUTION, cost
from swarmtune.search.knowledge import Knowledge
from swarmtune.search.surrogate import Belief
from swarmtune.search.swarm import SwarmSearch
from swarmtune.space import Space
from swarmtune.space.batch import Points

AGAIN_FROM = 0.85  # share of the budget from which on known settings may be measured again
MOST_TIMES = 3  # measurements of one setting at most
WORTH_AGAIN = 0.01  # expected gain (1 % of the objective) from which on a repetition is worth an evaluation
MOVES = 80  # candidate moves of the particle, each with other random pulls


class AssistedSwarm(SwarmSearch):
    """At each question the particle's own moves, neighbours of the best settings and random ones are proposed, and the
    particle goes to the most promising one (research: surrogate-assisted swarms pre-screen their moves).
    """

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._knowledge = Knowledge(space)

    def learn(self, earlier: Sequence[Earlier]) -> None:
        self._knowledge.learn(earlier)

    def see(self, running: Running | None) -> None:
        self._knowledge.running = running

    def tell(self, setting: Setting, score: Score) -> None:
        super().tell(setting, score)
        self._knowledge.tell(setting, score)

    def ask(self, pending: Sequence[Setting]) -> Setting:
        if not self._knowledge.enough(max(4, len(self.space.dimensions) // 3)):
            return super().ask(pending)
        count = len(self._knowledge.rows) + len(pending)
        rng = rng_for(self.seed, count)
        belief = self._knowledge.believe(pending, rng)
        if self._knowledge.objectives == 1 and count >= AGAIN_FROM * self.budget:
            doubtful = self._doubtful(belief, pending)
            if doubtful is not None:
                return replace(doubtful, origin="again")
        number = self._next_particle(pending)
        origin = f"particle:{number}"
        proposal = self._knowledge.question(belief, self._moves_of(number, count, rng), pending, origin, rng)
        return proposal or replace(unseen(self.space, self._history, pending, rng), origin=origin)

    def _moves_of(self, number: int, count: int, rng: np.random.Generator) -> Points:
        """Points to which the particle may move; random ones if it has no result yet."""
        particle = self._particles[number]
        if not particle.path:
            return rng.uniform(size=(MOVES, len(self.space.dimensions)))
        return self._steps(number, particle, count, rng, MOVES)

    def _doubtful(self, belief: Belief, pending: Sequence[Setting]) -> Setting | None:
        """A known setting that may be better than the one to deploy, but may break an SLO: worth one more measurement."""
        rows = self._knowledge.rows
        expected = belief.predict(belief.points)
        gain = (cost(expected).min() - expected.mean - CAUTION * expected.deviation) * np.exp(expected.log_feasible)
        counts = Counter([s.key for s, _ in rows] + [s.key for s in pending] * MOST_TIMES)
        for i in np.argsort(-gain, kind="stable"):
            setting, score = rows[int(i)]
            if gain[i] < WORTH_AGAIN:
                return None
            if counts[setting.key] < MOST_TIMES and score.value is not None:
                return setting
        return None
