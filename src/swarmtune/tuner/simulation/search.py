"""The plan's own search, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from swarmtune.errors import PSOConvergenceError
from swarmtune.records import Setting
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation.predict import PredictedLoad, Predictor, best


@dataclass(frozen=True)
class Tried:
    """A setting, and the best of its predicted loads."""

    setting: Setting
    load: PredictedLoad


def searched(
    plan: Plan, predictor: Predictor, evaluations: int, progress: Callable[[int, Tried], None] | None = None
) -> list[Tried]:
    """The settings that were tried, the best first; the baseline and those of the user are among them.

    ``progress``: called with how many were tried, and the best so far.
    """
    found: list[Tried] = []
    for setting in _proposed(plan, evaluations, found):
        found.append(Tried(setting, best(predictor.loads(setting))))
        if progress is not None:
            progress(len(found), min(found, key=lambda one: one.load.score.rank))
    return sorted(found, key=lambda one: one.load.score.rank)


def _proposed(plan: Plan, evaluations: int, found: list[Tried]) -> Iterator[Setting]:
    """The baseline, the user's settings, and then what the search asks for after it was told of those before."""
    search, told = plan.new_search(), 0
    for number in range(evaluations):
        for one in found[told:]:
            search.tell(one.setting, one.load.score)
        told = len(found)
        given = (plan.baseline(), *plan.user_settings)
        try:
            yield given[number] if number < len(given) else search.ask([])
        except PSOConvergenceError:  # all settings are tried
            return
