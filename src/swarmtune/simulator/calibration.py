"""A few multipliers that make a model agree with a service that was seen: its first requests anchor all later predictions.

The log's own arrivals are replayed in virtual time, and the multipliers of the physical groups and the time of the front
end are moved until time to first token, time per token and whole latency agree, all three together. Each multiplier has a
prior at 1 with heavy tails (Cauchy): a model of the same service hardly moves, one that lacks a part (the communication
between ranks in kernel tables) moves as far as it must.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

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
PRIOR = 0.02  # scale of a multiplier's logarithm
FURTHEST = np.log(5.0)  # a multiplier beyond this is no calibration
FRONT_S, MOST_FRONT_S = 0.003, 1.0  # scale of the front end's time for a request, and its bound
LEAST = 10  # requests
# For slopes: of a logarithm, and seconds of the front end. Over smaller steps another batch makes the difference.
SHIFT, SHIFT_S = 0.02, 5e-4
LEAST_S = 1e-6


@dataclass(frozen=True)
class Calibrated:
    """``front_s``: of each request, before the engine. ``before``, ``after``: mean relative error of each measure, over the
    requests that were used.
    """

    model: LatencyModel
    multipliers: Mapping[str, float]
    front_s: float
    requests: int
    before: Mapping[str, float]
    after: Mapping[str, float]


def calibrated(model: LatencyModel, observed: Observed, rules: Rules, count: int = 60) -> Calibrated:
    """The model that agrees with the first ``count`` requests. ConfigurationError: too few of them, or what no calibration
    explains.
    """
    count = min(count, len(observed.sent))
    if count < LEAST:
        raise ConfigurationError(f"{count} requests are too few to calibrate a model; at least {LEAST} are needed.")
    window = observed.first(count)
    names = list(GROUPS)

    def predicted(point: Floats) -> dict[str, Floats]:
        scaled = model.scaled({name: float(np.exp(x)) for name, x in zip(names, point[:-1], strict=True)})
        return replayed(scaled.tables(mean=False), window, rules, front_s=float(point[-1]))

    def errors(found: Mapping[str, Floats]) -> dict[str, Floats]:
        real = {"ttft": window.ttft, "tpot": window.tpot, "e2e": window.e2e}
        logs = {}
        for name in MEASURES:
            known = np.flatnonzero(np.isfinite(real[name][:count]) & (real[name][:count] > LEAST_S))
            logs[name] = np.log(np.maximum(found[name][known], LEAST_S) / real[name][known])
        return logs

    def residuals(point: Floats) -> Floats:
        parts = [
            _soft(one / SPREADS[name]) / np.sqrt(max(1, one.size)) for name, one in errors(predicted(point)).items()
        ]
        prior = np.sign(point[:-1]) * np.sqrt(np.log1p((point[:-1] / PRIOR) ** 2))
        return np.concatenate([*parts, prior, [point[-1] / FRONT_S]])

    def slopes(point: Floats) -> Floats:
        here = residuals(point)
        steps = np.array([*[SHIFT if x < FURTHEST - SHIFT else -SHIFT for x in point[:-1]], SHIFT_S])
        moved = (residuals(point + step) for step in np.diag(steps))
        return np.column_stack([(there - here) / step for there, step in zip(moved, steps, strict=True)])

    bounds = ([-FURTHEST] * len(names) + [0.0], [FURTHEST] * len(names) + [MOST_FRONT_S])
    scale = [1.0] * len(names) + [FRONT_S]
    best = None
    for start in _starts(errors(predicted(np.zeros(len(names) + 1))), len(names)):
        found = least_squares(residuals, start, bounds=bounds, x_scale=scale, jac=slopes, max_nfev=30)
        best = found if best is None or found.cost < best.cost else best
    assert best is not None  # noqa: S101 - there are always starts
    point = best.x
    multipliers = {name: float(np.exp(x)) for name, x in zip(names, point[:-1], strict=True)}
    if max(abs(point[:-1])) > 0.98 * FURTHEST:
        raise ConfigurationError(
            "No calibration explains this log: a multiplier would be above 5 or below 1/5. The model is one of another "
            "service, or the log of another setting."
        )
    before, after = (
        {name: float(np.mean(np.expm1(one))) for name, one in errors(predicted(at)).items() if one.size}
        for at in (np.zeros_like(point), point)
    )
    return Calibrated(model.scaled(multipliers), multipliers, float(point[-1]), count, before, after)


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


def _soft(values: Floats) -> Floats:
    """Errors of single requests beyond a few spreads count less: other requests in a batch make them."""
    return np.asarray(np.sign(values) * np.sqrt(2 * (np.sqrt(1 + values**2) - 1)))


def _starts(logs: Mapping[str, Floats], groups: int) -> list[Floats]:
    """No change; and all groups moved by what the time per token is off, where that is much."""
    none = np.zeros(groups + 1)
    off = logs["tpot"] if logs["tpot"].size else logs["e2e"]
    shift = -float(np.median(off)) if off.size else 0.0
    if abs(shift) < 0.1:
        return [none]
    moved = np.concatenate([np.full(groups, np.clip(shift, -1.5, 1.5)), [0.0]])
    return [none, moved]
