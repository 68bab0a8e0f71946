"""The search that suits the space and the budget."""

from __future__ import annotations

from collections.abc import Sequence

from swarmtune.records import Score, Setting
from swarmtune.search.assisted import AssistedSwarm
from swarmtune.search.base import Earlier, Running, Search
from swarmtune.search.cmaes import CmaEsSearch
from swarmtune.search.grid import GridSearch
from swarmtune.search.optuna_adapter import TpeSearch
from swarmtune.space import Space

MODELLED = 500  # evaluations up to which Gaussian processes are worth their cubic cost


def suitable(space: Space, budget: int) -> type[Search]:
    """A grid when the budget measures every setting; the swarm with surrogates up to 500 evaluations; beyond, CMA-ES for
    numbers alone and TPE where there are categories.
    """
    if space.size <= budget:
        return GridSearch
    if budget <= MODELLED:
        return AssistedSwarm
    return TpeSearch if any(d.kind == "category" for d in space.dimensions) else CmaEsSearch


class AutoSearch(Search):
    """Asks and tells the suitable search."""

    uses_particles = True

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self.chosen = suitable(space, budget)(space, seed, budget, options)

    def ask(self, pending: Sequence[Setting]) -> Setting:
        return self.chosen.ask(pending)

    def tell(self, setting: Setting, score: Score) -> None:
        self.chosen.tell(setting, score)

    def learn(self, earlier: Sequence[Earlier]) -> None:
        self.chosen.learn(earlier)

    def see(self, running: Running | None) -> None:
        self.chosen.see(running)
