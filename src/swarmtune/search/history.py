"""The results known to a search, in the order of ``tell``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from swarmtune.errors import PSOConvergenceError
from swarmtune.records import Score, Setting
from swarmtune.space import Space

UNSEEN_TRIES = 500  # random draws before the rest of the space is called exhausted


class History:
    """Settings and their scores; a setting told twice (a repeat) keeps its latest score and its first place."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Setting, Score]] = {}

    def tell(self, setting: Setting, score: Score) -> None:
        """Record a result."""
        first = self._told.get(setting.key)
        self._told[setting.key] = (first[0] if first else setting, score)

    def __len__(self) -> int:
        return len(self._told)

    def __iter__(self) -> Iterator[tuple[Setting, Score]]:
        return iter(self._told.values())

    def score(self, setting: Setting) -> Score | None:
        """The known score of these values, whatever their origin."""
        row = self._told.get(setting.key)
        return row[1] if row else None

    def best(self) -> Setting | None:
        """The best setting by Deb's rules; None before the first result."""
        return min(self, key=lambda row: row[1].rank)[0] if self._told else None


def rng_for(seed: int, count: int) -> np.random.Generator:
    """The random generator of the question after ``count`` others: the same in a run and after a resumption."""
    return np.random.default_rng([seed, count])


def unseen(space: Space, history: History, pending: Sequence[Setting], rng: np.random.Generator) -> Setting:
    """A random legal setting that is neither known nor pending; PSOConvergenceError if none can be found."""
    taken = {p.key for p in pending}
    for _ in range(UNSEEN_TRIES):
        setting = space.decode(space.sample(rng))
        if setting.key not in taken and history.score(setting) is None and space.legal(setting):
            return setting
    raise PSOConvergenceError(
        f"No new legal setting was found in {UNSEEN_TRIES} tries: {len(history)} of at most {space.size:g} are known. "
        "Widen the ranges or loosen the constraints."
    )
