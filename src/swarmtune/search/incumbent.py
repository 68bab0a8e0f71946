"""The incumbent: the measured settings that a user should deploy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swarmtune.records import Score, Setting
from swarmtune.search.gaussian import Array
from swarmtune.search.surrogate import CANNOT_WIN, Prediction, Surrogate
from swarmtune.space import Space

MODELLED = 5  # results from which on the model is asked
LIKELY = 0.5  # probability of keeping every SLO that a setting must have
BREAKING_COSTS = 10.0  # what a broken SLO costs, times its probability; 0.1 is 10 % of the objective
CAUTION = 0.3  # standard deviations that the expected objective is lowered by
BROKEN = 0.1  # relative: a setting that was measured to break an SLO by more on average is out


def deployable(space: Space, rows: Sequence[tuple[Setting, Score]], count: int) -> list[Setting]:
    """At most ``count`` different settings, best first, by what all results together say of each (posterior mean).

    One lucky measurement does not make a winner, because neighbours count, too. A setting that may break an SLO must be
    correspondingly better than one that surely does not: see ``cost``.
    """
    rows = [(setting, replace(score, values={})) for setting, score in rows]  # the first objective ranks
    seen: dict[str, list[Score]] = {}
    for setting, score in rows:
        seen.setdefault(setting.key, []).append(score)
    if len(rows) < MODELLED:
        kept = [(s, score) for s, score in rows if all(x.feasible for x in seen[s.key])]
        return _first([s for s, _ in sorted(kept, key=lambda row: row[1].rank)], count)
    belief = Surrogate(space).believe(rows)
    expected = belief.predict(belief.points)
    costs = cost(expected)
    fit = [
        (setting, float(costs[i]))
        for i, (setting, _) in enumerate(rows)
        if expected.log_feasible[i] >= math.log(LIKELY) and _mean_violation(seen[setting.key]) <= BROKEN
    ]
    return _first([s for s, _ in sorted(fit, key=lambda row: row[1])], count)


def cost(expected: Prediction) -> Array:
    """What deploying each setting is expected to cost: its transformed loss, and the chance that it breaks an SLO."""
    return expected.mean + CAUTION * expected.deviation - BREAKING_COSTS * np.expm1(expected.log_feasible)


def _mean_violation(scores: Sequence[Score]) -> float:
    """The worst SLO, of the mean over the measurements of one setting; inf if it could not start or was given up."""
    if any(s.value is None or CANNOT_WIN in s.violations for s in scores):
        return math.inf
    names = {name for s in scores for name in s.violations}
    return max((sum(s.violations.get(n, 0.0) for s in scores) / len(scores) for n in names), default=0.0)


def _first(ranked: Sequence[Setting], count: int) -> list[Setting]:
    return list({setting.key: setting for setting in ranked}.values())[:count]
