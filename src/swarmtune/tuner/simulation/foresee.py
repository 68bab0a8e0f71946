"""What a run with a model does once the baseline is measured: it anchors the model, and predicts settings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from swarmtune.errors import ConfigurationError
from swarmtune.records import PredictedFacts, Prediction, Score
from swarmtune.simulator.latency.features import FEATURES
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.planning.simulation import Simulation
from swarmtune.tuner.simulation.anchor import Anchor, Known, anchored
from swarmtune.tuner.simulation.fields import Effect, effects, narrowed
from swarmtune.tuner.simulation.predict import PredictedLoad, Predictor, Service, refuse_of_another
from swarmtune.tuner.simulation.search import Tried, searched
from swarmtune.tuner.simulation.virtual_load import FrontEnd

SIDE = 1.645  # standard deviations from the middle of a 90 % interval to its ends
ANYWHERE = 0.25  # share of the predicted settings that are drawn from the whole space


@dataclass(frozen=True)
class Foresight:
    """Predictions, the baseline and the user's settings among them, and what they were made of."""

    predictions: tuple[Prediction, ...]
    facts: PredictedFacts


def service_of(simulation: Simulation) -> Service:
    """The service before anything was measured."""
    cost = None if simulation.model is None else simulation.model.tables()
    return Service(cost, FrontEnd(request_s=simulation.front_s), blocks=simulation.kv_blocks, rows=cost is not None)


def request_of(plan: Plan, simulation: Simulation) -> str:
    """A hash of all that predictions depend on beside the study and what it has measured."""
    return _hash(simulation.fingerprint, simulation.predictions, simulation.kv_blocks, simulation.front_s, plan.seed)


def effects_of(plan: Plan, simulation: Simulation) -> dict[str, Effect]:
    """What each field that is searched does to a prediction; ConfigurationError as of ``effects``."""
    return effects(plan, service_of(simulation))


def refuse_unpredictable(plan: Plan, simulation: Simulation) -> None:
    """ConfigurationError if nothing can be predicted of this plan, or nothing that is searched moves a prediction."""
    if plan.objective.several:
        raise ConfigurationError("simulate: one objective is predicted, no Pareto set; leave out objective.pareto.")
    if simulation.model is not None:
        refuse_of_another(simulation.model, plan)
    service = service_of(simulation)
    narrowed(plan, effects(plan, service))
    Predictor(plan, service).refuse()


def foreseen(
    plan: Plan,
    simulation: Simulation,
    measured: Sequence[Known],
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Foresight:
    """Predict as many settings as the simulation asks for. ``measured``: what the model learns from, the baseline first;
    without any, it is used as it is. ``progress`` is called with how many settings of how many are done, often; it may
    raise.

    ConfigurationError as of ``anchored`` and ``refuse_unpredictable``.
    """
    service, count = service_of(simulation), simulation.predictions
    found = effects(plan, service)
    fields = narrowed(plan, found)
    rough = simulation.model is not None and simulation.model.is_rough
    anchor = anchored(plan, service, measured, lambda: progress(0, count), rough=rough)
    within: dict[str, float] = {}

    def kept(tried: Tried) -> None:
        if simulation.model is not None:
            within[tried.setting.key] = _within(simulation, tried.load)

    tried = searched(
        fields,
        Predictor(fields, anchor.service),
        count,
        lambda done, _: progress(done, count),
        anywhere=round(ANYWHERE * count),
        kept=kept,
    )
    made = tuple(_prediction(one, anchor, within.get(one.setting.key)) for one in tried)
    facts: PredictedFacts = {
        "predictions": len(made),
        "request": request_of(plan, simulation),
        "model": _hash(
            simulation.fingerprint, dict(anchor.service.multipliers), anchor.service.front.request_s, anchor.trials
        ),
        "multipliers": dict(anchor.service.multipliers),
        "front_s": anchor.service.front.request_s,
        "spread": anchor.spread,
        "effects": {name: str(effect) for name, effect in found.items()},
        "anchored": anchor.fit is not None,
        "trials": list(anchor.trials),
    }
    return Foresight(made, facts)


def _prediction(tried: Tried, anchor: Anchor, within: float | None) -> Prediction:
    value = tried.load.score.value
    off = math.exp(SIDE * anchor.spread)
    low, high = (None, None) if value is None else sorted((value / off, value * off))
    return Prediction(tried.setting, _bare(tried.load.score), dict(tried.load.measurement.load), low, high, within)


def _bare(score: Score) -> Score:
    return Score(score.value, score.loss, dict(score.violations))


def _within(simulation: Simulation, load: PredictedLoad) -> float:
    """The share of the steps that lie inside of what the model was trained on."""
    model = simulation.model
    counts = [len(rows) for rows in load.rows]
    if model is None or not sum(counts):
        return 1.0
    inside = [model.within(np.stack([rows[name].astype(float) for name in FEATURES], axis=1)) for rows in load.rows]
    return float(np.concatenate(inside).mean())


def _hash(*parts: object) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
