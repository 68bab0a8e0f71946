"""The Pareto set of a study, the settings that no other dominates, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from swarmtune.objective import Objective
from swarmtune.objective.pareto import hypervolume, non_dominated, scaled
from swarmtune.records import Trial


def pareto_set(objective: Objective, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """The non-dominated of the trials that keep their SLOs, in the order of the first objective; None with only one.

    ``hypervolume`` is the share of the box between the best and the worst value of each objective, over those trials,
    that the set dominates: 0 to 1. Values are those of the search, each measured once.
    """
    names = list(objective.several)
    if not names:
        return None
    kept = [t for t in trials if t.score is not None and t.score.feasible and t.score.values]
    losses = np.array([[t.score.values[n] for n in names] for t in kept if t.score]).reshape(len(kept), len(names))
    best = non_dominated(losses)
    chosen = sorted((i for i in range(len(kept)) if best[i]), key=lambda i: tuple(losses[i]))
    return {
        "objectives": [{"name": n, "direction": o.direction, "unit": o.unit} for n, o in objective.several.items()],
        "hypervolume": hypervolume(scaled(losses), np.ones(len(names))) if kept else 0.0,
        "of": len(kept),
        "set": [
            {
                "trial": kept[i].number,
                "values": {n: o.as_loss(float(losses[i][j])) for j, (n, o) in enumerate(objective.several.items())},
                "setting": dict(kept[i].setting.values),
            }
            for i in chosen
        ],
    }
