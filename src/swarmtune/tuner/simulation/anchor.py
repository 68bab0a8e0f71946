"""What measured settings say of a model: the multipliers that make its predictions agree with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigurationError
from swarmtune.records import Measurement, Setting
from swarmtune.simulator.calibration import Fitted, fitted
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation.predict import Predictor, Service

METRICS = {  # of a measurement, by what a calibration calls it: times of prompts, of tokens, and of whole answers
    "ttft": ("p50_ttft_ms", "mean_ttft_ms"),
    "tpot": ("mean_tpot_ms", "p95_tpot_ms"),
    "e2e": ("mean_e2el_ms",),
}
MOST_LOADS = 3  # of the first setting; of each other one the load that counts
MOST_SETTINGS = 8  # the last ones beside the first
MOST_TRIALS, MOST_TRIALS_ROUGH = 40, 100  # each predicts all these loads
LEAST_MS = 1e-3
LEAST_SPREAD, MOST_SPREAD = 0.05, 0.5  # of the logarithm of measured over predicted values


@dataclass(frozen=True)
class Known:
    """A measured setting: its trial, and what was measured at each of its loads; the last of them counts."""

    trial: int
    setting: Setting
    loads: Sequence[Measurement]


@dataclass(frozen=True)
class Anchor:
    """The service whose predictions agree with what was measured, how much they still differ, and the trials that told."""

    service: Service
    spread: float
    fit: Fitted | None = None
    trials: tuple[int, ...] = ()


def anchored(
    plan: Plan,
    service: Service,
    measured: Sequence[Known],
    progress: Callable[[], None] = lambda: None,
    *,
    rough: bool = False,
) -> Anchor:
    """From the whole measurements of these settings, the baseline first: up to MOST_LOADS of its loads, one of each other.
    ``progress`` is called before each prediction, and may raise; ``rough``: the model is one of data sheets. Where no
    calibration explains all of them, the first one alone is believed.

    ConfigurationError if no multipliers between 1/5 and 5 explain the first one, or none can be predicted.
    """
    points = _points(plan, measured)
    if not points:
        return Anchor(service, MOST_SPREAD)
    real = [_logarithms(measurement) for _, measurement in points]

    def logs(multipliers: Mapping[str, float], front_s: float) -> dict[str, NDArray[np.float64]]:
        moved = replace(service, multipliers=multipliers, front=replace(service.front, request_s=front_s))
        predictor = Predictor(plan, moved, data=memory)
        off: dict[str, list[float]] = {name: [] for name in METRICS}
        for (setting, measurement), known in zip(points, real, strict=True):
            progress()
            load = plan.at(plan.load_value(measurement)) if plan.load_search else plan.load_of(setting)
            found = _logarithms(predictor.at(setting, load).measurement)
            for name, metrics in METRICS.items():
                off[name] += [
                    found[metric] - known[metric] for metric in metrics if metric in known and metric in found
                ]
        return {name: np.array(values) for name, values in off.items()}

    memory = Predictor(plan, service).data
    fit = fitted(logs, MOST_TRIALS_ROUGH if rough else MOST_TRIALS, rough=rough)
    if not fit.multipliers and len(measured) > 1:
        alone = anchored(plan, service, measured[:1], progress, rough=rough)
        return replace(alone, trials=tuple(one.trial for one in measured))
    if not fit.multipliers:
        raise ConfigurationError(
            "No calibration explains the measurement of the baseline: a multiplier would be above 5 or below 1/5. The model "
            "is one of another service, device or layout; train one on steps of this service."
        )
    left = np.concatenate(list(logs(fit.multipliers, fit.front_s).values()))
    spread = min(MOST_SPREAD, max(LEAST_SPREAD, float(np.sqrt(np.mean(left**2)))))
    front = replace(service.front, request_s=fit.front_s)
    trials = tuple(one.trial for one in measured)
    return Anchor(replace(service, multipliers=fit.multipliers, front=front), spread, fit, trials)


def _points(plan: Plan, measured: Sequence[Known]) -> list[tuple[Setting, Measurement]]:
    """Whole measurements: of the first setting at the lowest, the middle and the highest load, the last one where a load
    was repeated; of the others at the load that counts.
    """
    found = list[tuple[Setting, Measurement]]()
    for one in measured[:1]:
        whole = {plan.load_value(m): m for m in one.loads if _whole(m)}
        loads = sorted(whole)
        if len(loads) > MOST_LOADS:
            loads = [loads[0], loads[len(loads) // 2], loads[-1]]
        found += [(one.setting, whole[load]) for load in loads]
    for one in measured[1:][-MOST_SETTINGS:]:
        found += [(one.setting, m) for m in one.loads[-1:] if _whole(m)]
    return found


def _whole(measurement: Measurement) -> bool:
    return not measurement.stopped_early and measurement.valid and bool(_logarithms(measurement))


def _logarithms(measurement: Measurement) -> dict[str, float]:
    known = {metric: measurement.metrics.get(metric) for metrics in METRICS.values() for metric in metrics}
    return {metric: math.log(value) for metric, value in known.items() if value is not None and value > LEAST_MS}
