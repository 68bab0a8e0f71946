"""The plan's own search, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from swarmtune.errors import PSOConvergenceError
from swarmtune.records import Setting
from swarmtune.search.history import History, unseen
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation.predict import PredictedLoad, Predictor, best


@dataclass(frozen=True)
class Tried:
    """A setting, and the best of its predicted loads."""

    setting: Setting
    load: PredictedLoad


def searched(
    plan: Plan,
    predictor: Predictor,
    evaluations: int,
    progress: Callable[[int, Tried], None] | None = None,
    *,
    anywhere: int = 0,
    kept: Callable[[Tried], None] | None = None,
) -> list[Tried]:
    """The settings that were tried, the best first; the baseline and those of the user are among them.

    ``progress``: called with how many were tried, and the best so far; ``anywhere``: so many are drawn from the whole space
    before the search begins; ``kept``: called with each, while it has the rows of its steps.
    """
    found: list[Tried] = []
    for setting in _proposed(plan, evaluations, found, anywhere):
        tried = Tried(setting, best(predictor.loads(setting)))
        if kept is not None:
            kept(tried)
        found.append(replace(tried, load=replace(tried.load, rows=())))
        if progress is not None:
            progress(len(found), min(found, key=lambda one: one.load.score.rank))
    return sorted(found, key=lambda one: one.load.score.rank)


def _proposed(plan: Plan, evaluations: int, found: list[Tried], anywhere: int) -> Iterator[Setting]:
    """The baseline, the user's settings, and then what the search asks for after it was told of those before."""
    search, told, history = replace(plan, evaluations=evaluations).new_search(), 0, History()
    anywhere = 0 if plan.space.size <= evaluations else anywhere
    rng = np.random.default_rng([plan.seed, len("anywhere")])
    for number in range(evaluations):
        for one in found[told:]:
            search.tell(one.setting, one.load.score)
            history.tell(one.setting, one.load.score)
        told = len(found)
        given = (plan.baseline(), *plan.user_settings)
        try:
            if number < len(given):
                yield given[number]
            elif number < len(given) + anywhere:
                yield unseen(plan.space, history, [], rng)
            else:
                yield search.ask([])
        except PSOConvergenceError:  # all settings are tried
            return
