"""A few multipliers that make a model agree with a service that was seen: its first requests anchor all later predictions.

The log's own arrivals are replayed in virtual time, and the multipliers of the physical groups and the time of the front
end are moved until time to first token, time per token and whole latency agree, all three together. Each multiplier has a
prior at 1 with heavy tails (Cauchy): a model of the same service hardly moves, one that lacks a part (the communication
between ranks in kernel tables) moves as far as it must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigurationError
from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.model import GROUPS, LatencyModel
from swarmtune.simulator.latency.observed import Observed
from swarmtune.simulator.latency.tables import CostTables
from swarmtune.simulator.virtual.replicas import make_replica
from swarmtune.simulator.virtual.requests import Requests

Floats = NDArray[np.float64]
MEASURES = ("ttft", "tpot", "e2e")
# Relative: what differs between two stretches of a run on the same machine, noise of the measures (2 % of TPOT, 6 % of TTFT)
# and drift of its speed together.
SPREADS = {"ttft": 0.08, "tpot": 0.04, "e2e": 0.04}
# Scales of the multipliers' logarithms. Kernels take what they take; what tables of them lack is the host's time, for each
# step and for each request of it. ``all``: a machine that is slower or faster as a whole.
PRIORS = {"weights": 0.1, "tokens": 0.02, "attention": 0.02, "kv": 0.02, "requests": 0.1, "all": 0.03}
ROUGH = 0.3  # of every multiplier, where the model is one of data sheets
MOST_MULTIPLIER = 5.0  # beyond it, and below its inverse, it is no calibration
FURTHEST = np.log(MOST_MULTIPLIER)
FRONT_S, MOST_FRONT_S = 0.005, 1.0  # scale of the front end's time for a request, and its bound
LEAST = 10  # requests
MOST_TRIALS = 400
LEAST_S = 1e-6


@dataclass(frozen=True)
class Fitted:
    """``front_s``: of each request, before the engine. ``before``, ``after``: mean relative error of each measure, over what
    was used.
    """

    multipliers: Mapping[str, float]
    front_s: float
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True)
class Calibrated:
    """The model that agrees with the first ``requests`` of a log, and how it was moved."""

    model: LatencyModel
    fit: Fitted
    requests: int


Logs = Callable[[Mapping[str, float], float], Mapping[str, Floats]]
"""Of multipliers and the front end's time: the logarithm of predicted over measured values, by measure (MEASURES)."""


def calibrated(model: LatencyModel, observed: Observed, rules: Rules, count: int = 60) -> Calibrated:
    """The model that agrees with the first ``count`` requests. ConfigurationError: too few of them, or what no calibration
    explains.
    """
    count = min(count, len(observed.sent))
    if count < LEAST:
        raise ConfigurationError(f"{count} requests are too few to calibrate a model; at least {LEAST} are needed.")
    window = observed.first(count)
    if too_long := int((window.prompt + window.output > rules.longest).sum()):
        raise ConfigurationError(
            f"{too_long} requests of the log are longer than the {rules.longest:,} tokens of a context or of the KV cache: "
            "--kv-blocks or the setting is not that of the service which answered them."
        )

    def logs(multipliers: Mapping[str, float], front_s: float) -> dict[str, Floats]:
        found = replayed(model.scaled(multipliers).tables(), window, rules, front_s=front_s)
        real = {"ttft": window.ttft, "tpot": window.tpot, "e2e": window.e2e}
        off = {}
        for name in MEASURES:
            known = np.flatnonzero(np.isfinite(real[name][:count]) & (real[name][:count] > LEAST_S))
            off[name] = np.log(np.maximum(found[name][known], LEAST_S) / real[name][known])
        return off

    fit = fitted(logs, rough=model.is_rough)
    if not fit.multipliers:
        raise ConfigurationError(
            "No calibration explains this log: a multiplier would be above 5 or below 1/5. The model is one of another "
            "service, or the log of another setting."
        )
    return Calibrated(model.scaled(fit.multipliers), fit, count)


def fitted(logs: Logs, most_trials: int = MOST_TRIALS, *, rough: bool = False) -> Fitted:
    """The multipliers and the front end's time that make these logarithms least; without multipliers if none does. ``logs``
    is called about twice ``most_trials`` times, or four times where predictions are far off. ``rough``: the terms are those
    of data sheets, each of which may be off by itself.
    """
    scales = np.array([ROUGH if rough else PRIORS[name] for name in (*GROUPS, "all")])
    sizes = np.array([*scales, FRONT_S])

    def multipliers_at(point: Floats) -> dict[str, float]:
        return {name: float(np.exp(x + point[-2])) for name, x in zip(GROUPS, point, strict=False)}

    def errors(point: Floats) -> Mapping[str, Floats]:
        return logs(multipliers_at(point), float(point[-1]))

    def cost(point: Floats) -> float:
        data = sum(np.mean(_soft(one / SPREADS[name])) for name, one in errors(point).items() if one.size)
        return float(data + np.log1p((point / sizes) ** 2).sum())

    starts = _starts(errors(np.zeros(len(sizes))), len(scales))
    point = min((_least(cost, start, sizes, most_trials) for start in starts), key=cost)
    before, after = (
        {name: float(np.mean(np.expm1(one))) for name, one in errors(at).items() if one.size}
        for at in (np.zeros_like(point), point)
    )
    multipliers = multipliers_at(point)
    usual = 1 / MOST_MULTIPLIER < min(multipliers.values()) <= max(multipliers.values()) < MOST_MULTIPLIER
    return Fitted(multipliers if usual else {}, float(point[-1]), before, after)


def replayed(tables: CostTables, observed: Observed, rules: Rules, *, front_s: float = 0.0) -> dict[str, Floats]:
    """The measures of these requests, sent when they were sent, in seconds; ``front_s``: before the engine. Requests that
    the engine would refuse have NaN.
    """
    taken = observed.prompt + observed.output <= rules.longest
    begin = observed.sent[:1].sum()
    sent = observed.sent[taken] - begin
    arrival = np.maximum.accumulate(sent + front_s)
    replica = make_replica(rules, tables)
    replica.add(Requests.of(arrival, observed.prompt[taken], observed.output[taken]))
    replica.run()
    answers = replica.answers()
    first = answers.stamps[answers.starts] / 1e9 - sent
    last = answers.stamps[answers.starts + observed.output[taken] - 1] / 1e9 - sent
    found = {name: np.full(len(observed.sent), np.nan) for name in MEASURES}
    found["ttft"][taken], found["e2e"][taken] = first, last
    output = observed.output[taken]
    found["tpot"][taken] = np.where(output > 1, (last - first) / np.maximum(1, output - 1), np.nan)
    return found


def _least(cost: Callable[[Floats], float], start: Floats, sizes: Floats, most_trials: int) -> Floats:
    """Where the cost is least near ``start``: by simplexes, since a small change of a step may change a batch, so that
    slopes say nothing. A second, smaller one begins where the first one ended.
    """
    from scipy.optimize import minimize

    bounds = [*((-FURTHEST, FURTHEST) for _ in sizes[:-1]), (0.0, MOST_FRONT_S)]
    for size in (1.0, 0.5):
        corners = np.vstack([start, start + np.diag(size * sizes)])
        settings = {"initial_simplex": corners, "maxfev": most_trials, "xatol": 1e-3, "fatol": 1e-3, "adaptive": True}
        start = np.asarray(minimize(cost, start, method="Nelder-Mead", bounds=bounds, options=settings).x)
    return start


def _soft(values: Floats) -> Floats:
    """Squares of small values; of large ones twice themselves: other requests in a batch make them."""
    return np.asarray(2 * (np.sqrt(1 + values**2) - 1))


def _starts(logs: Mapping[str, Floats], count: int) -> list[Floats]:
    """No change; and everything moved by what the time per token is off, where that is much."""
    none = np.zeros(count + 1)
    off = logs["tpot"] if logs["tpot"].size else logs["e2e"]
    shift = -float(np.median(off)) if off.size else 0.0
    if abs(shift) < 0.1:
        return [none]
    moved = none.copy()
    moved[-2] = np.clip(shift, -1.5, 1.5)
    return [none, moved]
