"""Which fields of a setting move a prediction, and which it leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import StrEnum

import numpy as np

from swarmtune.engines.placement import LOAD_FIELDS
from swarmtune.errors import ConfigurationError
from swarmtune.records import Setting
from swarmtune.space import Space
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation.predict import Service, rules_of

PLACES = 9  # of a field's range that are looked at,
AROUND = 3  # with the other fields at the baseline, and at so many other settings


class Effect(StrEnum):
    """What another value of a field does to a prediction."""

    MOVES = "moves the prediction"
    MODEL = "needs a model for each value"
    NONE = "not modelled"


def effects(plan: Plan, service: Service) -> dict[str, Effect]:
    """For each field that is searched. It is found by trying values: does the scheduler, the cost of a step or the load
    change? ConfigurationError as of ``rules_of``.
    """
    return {one.name: _effect(plan, service, number) for number, one in enumerate(plan.space.dimensions)}


def told(found: Mapping[str, Effect]) -> str:
    """The fields by what they do."""
    parts = {effect: [name for name, what in found.items() if what is effect] for effect in Effect}
    return "; ".join(f"{effect}: {', '.join(names)}" for effect, names in parts.items() if names)


def _effect(plan: Plan, service: Service, number: int) -> Effect:
    name, engine, found = plan.space.dimensions[number].name, plan.engine, Effect.NONE
    if name.lower() in LOAD_FIELDS:
        return Effect.MOVES
    for one, another in _pairs(plan.space, number):
        declares = service.cost is None and engine.declared_cost(one) != engine.declared_cost(another)
        if declares or rules_of(plan, one, service) != rules_of(plan, another, service):
            return Effect.MOVES
        if engine.of_step_times(one) != engine.of_step_times(another):
            found = Effect.MODEL
    return found


def _pairs(space: Space, number: int) -> Iterator[tuple[Setting, Setting]]:
    """Settings that differ in this dimension alone, and in what follows from it."""
    rng = np.random.default_rng(1)
    bases = [space.encode(space.default()), *(space.sample(rng) for _ in range(AROUND))]
    for base in bases:
        first: Setting | None = None
        for unit in np.linspace(0.0, 1.0, PLACES):
            point = base.copy()
            point[number] = unit
            setting = space.decode(point)
            if first is None:
                first = setting
            elif setting.values != first.values:
                yield first, setting


def narrowed(plan: Plan, found: dict[str, Effect]) -> Plan:
    """The plan with only those fields searched that move a prediction; the others stay at their baseline.

    ConfigurationError if none is left.
    """
    stay = {name for name, effect in found.items() if effect is not Effect.MOVES}
    if stay == set(found):
        told = (
            f"{', '.join(sorted(stay))}: no field that is searched moves a prediction, so there is nothing to search."
        )
        raise ConfigurationError(f"{told} docs/simulation.md says which fields do.")
    values = plan.space.default().values
    fields = [
        # alone, a constant may lie outside of a range
        replace(f, dtype="int", dtype_param=None, min=None, max=None, constant=values[f.name]) if f.name in stay else f
        for f in plan.space.fields
    ]
    return replace(plan, space=Space(fields, [c.text for c in plan.space.constraints])) if stay else plan
