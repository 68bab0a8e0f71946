"""The highest rate that a service bears within its SLOs, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from swarmtune.errors import ConfigurationError
from swarmtune.records import Setting
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation.predict import PredictedLoad, Predictor, Service

SEEDS = 3  # arrivals and lengths that are drawn anew
LEAST_S = 60.0
NARROW = 0.01  # relative width of a bracket that is not halved any more
FACTOR = 2.0
LOWEST, HIGHEST = 1e-3, 1e5  # requests per second


@dataclass(frozen=True)
class Capacity:
    """``rates``: the highest requests per second within the SLOs, for each seed; ``best``: the load at the lowest one."""

    rates: tuple[float, ...]
    best: PredictedLoad

    @property
    def interval(self) -> tuple[float, float]:
        """From the worst seed to the best."""
        return min(self.rates), max(self.rates)


def capacity(
    plan: Plan, setting: Setting, service: Service, progress: Callable[[float], None] | None = None
) -> Capacity:
    """Bracket the rate, then halve the bracket; once for each seed. A load lasts as long as the plan says, else LEAST_S: a
    few requests are answered at any rate. ConfigurationError: no rate keeps the SLOs, or every rate does.
    """
    found: list[tuple[float, PredictedLoad]] = []
    for number in range(SEEDS):
        longer = replace(plan.workload, requests=None, duration_s=plan.workload.duration_s or LEAST_S)
        predictor = Predictor(replace(plan, seed=plan.seed + number, load_search=None, workload=longer), service)
        found.append(_highest(predictor, setting))
        if progress is not None:
            progress((number + 1) / SEEDS)
    return Capacity(tuple(rate for rate, _ in found), min(found, key=lambda one: one[0])[1])


def _highest(predictor: Predictor, setting: Setting) -> tuple[float, PredictedLoad]:
    def at(rate: float) -> PredictedLoad:
        return predictor.at(setting, replace(predictor.plan.workload.load, request_rate=rate, concurrency=None))

    rate, load = 1.0, at(1.0)
    kept = load if load.score.feasible else None
    up = kept is not None
    while LOWEST < rate < HIGHEST:
        after = rate * FACTOR if up else rate / FACTOR
        load = at(after)
        if load.score.feasible is not up:
            break
        rate, kept = after, load if up else None
    else:
        which = "every rate keeps" if up else "no rate keeps"
        raise ConfigurationError(
            f"There is no highest rate: {which} the SLOs, from {LOWEST:g} to {HIGHEST:g} requests/s."
        )
    low, high = (rate, after) if up else (after, rate)
    kept = kept if up and kept is not None else load
    while high / low > 1 + NARROW:
        middle = (low * high) ** 0.5
        load = at(middle)
        if load.score.feasible:
            low, kept = middle, load
        else:
            high = middle
    return low, kept
