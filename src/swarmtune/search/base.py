"""The contract of every search: ask and tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarmtune.records import Score, Setting
from swarmtune.space import Space


@dataclass(frozen=True)
class Earlier:
    """A result of an earlier study; ``weight`` is 1 where engine, model and hardware are the same, less where not."""

    setting: Setting
    score: Score
    weight: float = 1.0


@dataclass(frozen=True)
class Running:
    """The service that runs where the next setting is measured: one that differs only in ``free`` fields needs no restart.

    ``start_share``: the share of an evaluation that a start takes, 0 to 1.
    """

    setting: Setting
    free: frozenset[str]
    start_share: float


class Search(ABC):
    """Decides what to try next. Pure: it starts nothing, waits for nothing, and reads no clock.

    Its state is a function of the history: a new instance with the same space, seed and options that is told the same
    results in the same order proposes the same next setting. A study is resumed by replaying its history. A call of
    ``ask`` that raises records nothing.
    """

    uses_particles: ClassVar[bool] = False
    """Does it, or a search that it may choose, move a swarm of particles? Then n_particles must be at least 2."""

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        """``budget`` is how many evaluations are planned in all (a hint: strategies decay over it)."""
        self.space = space
        self.seed = seed
        self.budget = budget
        self.options = options

    @classmethod
    def notes(cls, space: Space, budget: int) -> list[str]:  # noqa: ARG003 - most leave nothing out
        """What this search will not do in this space with so many evaluations, a sentence each."""
        return []

    @property
    def outdated(self) -> bool:
        """Is what it was made of to be made anew, with the results so far? Then nothing more is asked of it."""
        return False

    @abstractmethod
    def ask(self, pending: Sequence[Setting]) -> Setting:
        """The next setting to measure, legal in the space, given the ``pending`` ones that are still being measured.

        By default it is neither known nor pending; a search may repeat a known setting on purpose. ``origin`` names the
        part that proposed it. PSOConvergenceError if no new legal setting is left.
        """

    @abstractmethod
    def tell(self, setting: Setting, score: Score) -> None:
        """Record a result: of a setting that was proposed, or of any other (baseline, user's own, replayed history)."""

    def learn(self, earlier: Sequence[Earlier]) -> None:  # noqa: B027 - most have no use for it
        """Take in results of earlier studies, before the first question. A search without a use for them ignores them."""

    def see(self, running: Running | None) -> None:  # noqa: B027 - most have no use for it
        """Take in the service that runs where the next setting will be measured; None: no service, or unknown cost."""
