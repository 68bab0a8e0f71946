"""From measured steps to a model: fitted, validated on runs that were held out, and its intervals from what it missed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigurationError
from swarmtune.simulator.latency.features import CONTEXT, PREFILL_WORK, PREFILLS, TOKENS, Steps
from swarmtune.simulator.latency.model import FURTHEST, Bars, Errors, Identity, LatencyModel, Report
from swarmtune.simulator.latency.physics import fit, knots_of
from swarmtune.simulator.latency.residual import KINDS, Kind, boosted, compiled
from swarmtune.simulator.latency.rows import Rows
from swarmtune.simulator.latency.sampling import sample_of, together
from swarmtune.simulator.latency.tables import CostTables

Floats = NDArray[np.float64]
Value = Literal["typical", "mean"]
Part = Literal["physics"] | Kind
VALUES: tuple[Value, ...] = ("typical", "mean")
PARTS: tuple[Part, ...] = ("physics", *KINDS)
BETTER = 0.95  # of the error of a more careful kind is to be left, for a less careful one to be used
LEAST_ROWS, MOST_ROWS = 20, 100_000  # of more, a sample is learned from
LEAST_FOR_RESIDUAL = 100
FOLDS = 5
LEAST_SHARE = 0.05  # of the rows that the runs beside the largest have, to hold out runs
COVERED = 0.9
FEW = 300  # steps, to look for times that fall with more work
CLASS, MOST_CLASSES = 100, 4  # rows for one class of an interval, and classes
TICK_DIGITS, TICK_ROWS = 7, 20  # of seconds, and rows for each value that there is
WIDER = 1.5  # the interval beyond the domain against the widest within, in logarithms
UNKNOWN = 0.4  # the same at least, where no step was held out there: 1.5 times as much or as little

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Fitted:
    """Both values of a step, by physics alone and with each kind of residual, and the domain that they were fitted on."""

    tables: dict[tuple[Value, Part], CostTables]
    domain: Floats


@dataclass
class HeldOut:
    """Predictions of each row by a fit that did not see it. Shape (n) each."""

    seconds: dict[tuple[Value, Part], Floats]
    within: NDArray[np.bool_]
    fold: NDArray[np.int64]


def train(
    rows: Rows,
    identity: Identity,
    *,
    earlier: LatencyModel | None = None,
    progress: Progress = lambda _stage, _share: None,
    notes: tuple[str, ...] = (),
) -> LatencyModel:
    """A model of these steps; with ``earlier``, of its steps as well. ``notes``: for the report.

    ConfigurationError: too few rows, or those of another engine, model or layout. MissingExtraError without XGBoost.
    """
    if len(rows) < LEAST_ROWS:
        raise ConfigurationError(f"{len(rows)} steps are too few to learn from; at least {LEAST_ROWS} are needed.")
    own = identity
    if earlier is not None:
        identity = _same(earlier, identity)
        rows = together(earlier.sample, rows)
    rows = sample_of(rows, MOST_ROWS)
    fold, validation = folds_of(rows)
    held_out = _held_out(rows, fold, progress)
    chosen = {value: _chosen(rows, held_out, value) for value in VALUES}
    progress("fitting all steps", FOLDS / (FOLDS + 1))
    fitted = fitted_to(rows, list(chosen.items()))
    domain = fitted.domain
    if earlier is not None:
        domain = np.array([np.minimum(domain[0], earlier.domain[0]), np.maximum(domain[1], earlier.domain[1])])
    tables = {value: fitted.tables[value, chosen[value]] for value in VALUES}
    found = {value: held_out.seconds[value, chosen[value]] for value in VALUES}
    bars = bars_of(rows, found["typical"], held_out.within)
    coverage, half_width = _coverage(rows, found["typical"], held_out)
    report = Report(
        validation=validation,
        physics=errors_of(rows, {value: held_out.seconds[value, "physics"] for value in VALUES}),
        both=errors_of(rows, found),
        residual={value: part for value, part in chosen.items() if part != "physics"},
        coverage=coverage,
        half_width=half_width,
        falls=falls_of(tables["mean"], rows.features, domain),
        notes=notes,
    )
    counted = msgspec.structs.replace(
        identity,
        rows=own.rows + (earlier.identity.rows if earlier else 0),
        runs=own.runs + (earlier.identity.runs if earlier else 0),
    )
    return LatencyModel(tables["typical"], tables["mean"], domain, bars, counted, report, sample_of(rows))


def _same(earlier: LatencyModel, identity: Identity) -> Identity:
    """The facts of both together; ConfigurationError if they contradict each other."""
    if earlier.is_rough:
        told = "The model to update is one of data sheets, and keeps no steps: train a new one, without --update."
        raise ConfigurationError(told)
    if earlier.multipliers:
        raise ConfigurationError("The model to update was calibrated; update the model that it was made of.")
    if contradictions := earlier.identity.against(identity):
        raise ConfigurationError(
            f"The model to update was trained on other steps: {'; '.join(contradictions)}. Train a model of its own."
        )
    known = {name: getattr(identity, name) or getattr(earlier.identity, name) for name in identity.__struct_fields__}
    return Identity(**known)


def folds_of(rows: Rows) -> tuple[NDArray[np.int64], str]:
    """The fold of each row, and how they were divided: whole runs, never neighbouring steps; of one run, blocks."""
    size = np.bincount(rows.run, minlength=len(rows.runs))
    if len(rows) - size.max() >= LEAST_SHARE * len(rows) and len(rows) - size.max() >= LEAST_ROWS:
        fold_of_run = np.zeros(len(size), np.int64)
        filled = np.zeros(min(FOLDS, int((size > 0).sum())), np.int64)
        for run in np.argsort(-size, kind="stable"):
            fold_of_run[run] = filled.argmin()
            filled[fold_of_run[run]] += size[run]
        return fold_of_run[rows.run], f"{(size > 0).sum()} runs, each held out once, in {filled.size} folds"
    blocks = np.minimum(np.arange(len(rows)) * FOLDS // len(rows), FOLDS - 1)
    return blocks, f"one run only: {FOLDS} blocks of steps in a row, each held out once; another run may differ by more"


def fitted_to(rows: Rows, wanted: Collection[tuple[Value, Part]]) -> Fitted:
    """The wanted values and parts, of these rows."""
    features, seconds, counts = rows.features, rows.seconds, rows.counts
    domain = np.array([features.min(axis=0), features.max(axis=0)])
    knots = knots_of(features)
    none = tuple(np.empty(0) for _ in domain[0])
    plain = {value: CostTables(fit(features, seconds, counts, knots, value), knots, none) for value in VALUES}
    found: dict[tuple[Value, Part], CostTables] = {}
    for value, part in wanted:
        table = plain[value]
        if part != "physics" and len(rows) >= LEAST_FOR_RESIDUAL:
            trees = boosted(features, seconds / table.physics_of(features), counts, value, part)
            table = CostTables(table.weights, knots, *compiled(trees, domain))
        found[value, part] = table if value == "typical" else _summed(table, rows)
    return Fitted(found, domain)


def _summed(tables: CostTables, rows: Rows) -> CostTables:
    """Smearing: the tables with one factor, so that the predictions of these rows sum to what was measured."""
    factor = (rows.counts @ rows.seconds) / (rows.counts @ tables.seconds_of(rows.features))
    return CostTables(tables.weights * factor, tables.knots, tables.cuts, tables.pairs)


def _held_out(rows: Rows, fold: NDArray[np.int64], progress: Progress) -> HeldOut:
    wanted = [(value, part) for value in VALUES for part in PARTS]
    found = HeldOut({key: np.empty(len(rows)) for key in wanted}, np.zeros(len(rows), bool), fold)
    count = int(fold.max()) + 1
    for number in range(count):
        progress(f"held out: fold {number + 1} of {count}", number / (count + 1))
        here = np.flatnonzero(fold == number)
        fitted = fitted_to(rows.take(np.flatnonzero(fold != number)), wanted)
        features = rows.features[here]
        found.within[here] = ((features >= fitted.domain[0]) & (features <= fitted.domain[1])).all(axis=1)
        for key, tables in fitted.tables.items():
            found.seconds[key][here] = tables.seconds_of(features)
    return found


def _chosen(rows: Rows, found: HeldOut, value: Value) -> Part:
    """The part that is used for this value: a less careful one only where it made held-out predictions clearly better."""
    measure = _relative if value == "typical" else _deviance
    error = {part: measure(rows, found.seconds[value, part]) for part in PARTS}
    best: Part = "physics"
    for part in PARTS[1:]:
        if error[part] < error[best] * BETTER:
            best = part
    return best


def _relative(rows: Rows, predicted: Floats) -> float:
    return float(np.average(np.abs(predicted / rows.seconds - 1), weights=rows.counts))


def _deviance(rows: Rows, predicted: Floats) -> float:
    ratio = rows.seconds / predicted
    return float(np.average(ratio - np.log(ratio) - 1, weights=rows.counts))


def errors_of(rows: Rows, found: dict[Value, Floats]) -> Errors:
    """The errors of predictions of these rows."""
    seconds, counts, typical, mean = rows.seconds, rows.counts, found["typical"], found["mean"]
    off = np.abs(typical - seconds)
    squared = float(np.average((mean - seconds) ** 2, weights=counts))
    variance = float(np.average((seconds - np.average(seconds, weights=counts)) ** 2, weights=counts))
    share = off / seconds
    return Errors(
        mae_s=float(np.average(off, weights=counts)),
        mape=float(np.average(share, weights=counts)),
        rmse_s=squared**0.5,
        r2=1 - squared / variance if variance > 0 else 0.0,
        bias=float((counts @ mean) / (counts @ seconds) - 1),
        p90=quantile(share, counts, 0.9),
        p99=quantile(share, counts, 0.99),
    )


def quantile(values: Floats, counts: Floats, level: float) -> float:
    """The smallest value that is not below this share of the weighted values."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order])
    place = int(np.searchsorted(reached, level * reached[-1] * (1 - 1e-12)))
    return float(values[order[min(place, len(values) - 1)]])


def bars_of(rows: Rows, typical: Floats, within: NDArray[np.bool_]) -> Bars:
    """The interval, from the errors of held-out predictions (conformal), by kind and class of step."""
    hidden = tick_of(rows.seconds) / 2
    errors = np.log((rows.seconds[:, None] + np.array([-hidden, hidden])) / typical[:, None])
    inside = within if within.sum() >= LEAST_ROWS else np.ones(len(rows), bool)
    pooled = _limits(errors[inside], rows.counts[inside])
    edges, factors = [], []
    for kind in (rows.features[:, PREFILLS] <= 0, rows.features[:, PREFILLS] > 0):
        chosen = np.flatnonzero(inside & kind)
        if chosen.size < LEAST_ROWS:
            edges.append(np.empty(0))
            factors.append(np.exp([pooled]))
            continue
        classes = max(1, min(MOST_CLASSES, chosen.size // CLASS))
        bounds = np.unique(np.quantile(typical[chosen], np.arange(1, classes) / classes))
        place = np.searchsorted(bounds, typical[chosen], side="right")
        limits = [
            _limits(errors[chosen[place == p]], rows.counts[chosen[place == p]], pooled) for p in range(bounds.size + 1)
        ]
        edges.append(bounds)
        factors.append(np.exp(limits))
    every = np.log(np.concatenate(factors))
    outside = [min(0.0, every[:, 0].min()) * WIDER, max(0.0, every[:, 1].max()) * WIDER]
    low, high = _limits(errors[~within], rows.counts[~within], otherwise=(-UNKNOWN, UNKNOWN))
    outside = [min(low, outside[0]), max(high, outside[1])]
    bounded = [np.clip(limits, 1 / FURTHEST, FURTHEST) for limits in (*factors, np.exp(outside))]
    return Bars((edges[0], edges[1]), (bounded[0], bounded[1]), (float(bounded[2][0]), float(bounded[2][1])))


def tick_of(seconds: Floats) -> float:
    """The resolution of the clock, where it is so coarse that most steps have the time of many others; else 0."""
    values = np.unique(np.round(seconds, TICK_DIGITS))
    return float(np.diff(values).min()) if 1 < values.size <= len(seconds) / TICK_ROWS else 0.0


def _limits(errors: Floats, counts: Floats, otherwise: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    """The limits below and above which 5 % of the errors to come will be, for as many as these. Shape of ``errors``: (n, 2),
    each with what the clock hides taken away and added.
    """
    if len(errors) < LEAST_ROWS:
        return otherwise
    level = min(1.0, (1 + COVERED) / 2 * (len(errors) + 1) / len(errors))
    return -quantile(-errors[:, 0], counts, level), quantile(errors[:, 1], counts, level)


def _coverage(rows: Rows, typical: Floats, found: HeldOut) -> tuple[float | None, float | None]:
    """The share of the rows of each fold that is within the intervals of the other folds, and the median half-width."""
    covered, half, counts = [], [], []
    for here, others in _turns(found.fold):
        if others.size < LEAST_ROWS:
            continue
        bars = bars_of(rows.take(others), typical[others], found.within[others])
        factors = bars.of(rows.features[here], typical[here], found.within[here])
        ratio = rows.seconds[here] / typical[here]
        covered.append((factors[:, 0] <= ratio) & (ratio <= factors[:, 1]))
        half.append((factors[:, 1] - factors[:, 0]) / 2)
        counts.append(rows.counts[here])
    if not covered:
        return None, None
    weights = np.concatenate(counts)
    return float(np.average(np.concatenate(covered), weights=weights)), quantile(np.concatenate(half), weights, 0.5)


def falls_of(tables: CostTables, rows: Steps, domain: Floats) -> float:
    """The largest share by which the time of steps like these falls with up to twice the tokens, context or prefill work,
    within the domain; 0 where the residual is monotone.
    """
    some = rows[:: max(1, len(rows) // FEW)]
    worst = 0.0
    for index in (TOKENS, CONTEXT, PREFILL_WORK):
        inside = tables.cuts[index][1:-1] if len(tables.cuts[index]) else np.empty(0)
        high = np.zeros(len(some))
        for value in (*inside.tolist(), float(domain[1, index])):
            near = (some[:, index] > 0) & (value >= some[:, index]) & (value <= 2 * some[:, index])
            for at in (np.nextafter(value, -np.inf), value):
                moved = some.copy()
                moved[:, index] = at
                time = np.where(near, tables.seconds_of(moved), high)
                high = np.maximum(high, time)
                worst = max(worst, float((1 - time[high > 0] / high[high > 0]).max(initial=0.0)))
    return worst


def _turns(fold: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for number in range(int(fold.max()) + 1):
        yield np.flatnonzero(fold == number), np.flatnonzero(fold != number)
