"""The model of step times: tables, an interval, the domain it was trained on, and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigurationError, one_line
from swarmtune.simulator.latency.features import CONTEXT, DECODES, FEATURES, PREFILL_WORK, PREFILLS, TOKENS, Steps
from swarmtune.simulator.latency.rows import Rows
from swarmtune.simulator.latency.tables import FIRST_HINGE, MOST_KNOTS, CostTables

Floats = NDArray[np.float64]
FURTHEST = 1000.0  # a multiplier, and a bound of an interval
MOST_PRODUCT = FURTHEST**2  # of multipliers, after several calibrations
GROUPS = {  # what a calibration scales -> indices of weights; all hinges belong to the tokens
    "weights": (0,),
    "tokens": (1 + TOKENS,),
    "attention": (1 + PREFILL_WORK,),
    "kv": (1 + CONTEXT,),
    "requests": (1 + DECODES, 1 + PREFILLS),
}


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the steps were measured on; empty or 0: not known."""

    engine: str
    version: str = ""
    model: str = ""
    tp: Count = 0
    pp: Count = 0
    dp: Count = 0
    device: str = ""
    kv_dtype: str = ""
    rows: Count = 0
    runs: Count = 0
    date: str = ""

    def against(self, other: Identity) -> list[str]:
        """The facts, known on both sides, that differ: a step of one says nothing about a step of the other."""
        names = ("engine", "version", "model", "tp", "pp", "dp", "device", "kv_dtype")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} {mine} and {theirs}" for name, mine, theirs in pairs if mine and theirs and mine != theirs]


class Errors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far predictions of held-out steps were off. Shares: of the measured time. MAE, MAPE, P90 and P99 are those of the
    typical time; RMSE, R² and the bias of the sum are those of the mean.
    """

    mae_s: float
    mape: float
    rmse_s: float
    r2: float
    bias: float
    p90: float
    p99: float


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the validation found. ``coverage``: share of held-out steps in the nominal 90 % interval; None: not measured."""

    validation: str
    physics: Errors
    both: Errors
    residual: dict[str, str]
    coverage: float | None = None
    half_width: float | None = None
    falls: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Bars:
    """The nominal 90 % interval as factors on the typical time.

    Steps without and with a piece of a prompt have bars of their own, in classes of typical time: ``edges`` are the bounds
    between classes (seconds), ``factors`` has a row (low, high) for each. ``outside``: beyond the domain.
    """

    edges: tuple[Floats, Floats]
    factors: tuple[Floats, Floats]
    outside: tuple[float, float]

    def __post_init__(self) -> None:
        for edges, factors in zip(self.edges, self.factors, strict=True):
            whole = factors.shape == (edges.size + 1, 2) and bool(
                np.isfinite(edges).all() and (np.diff(edges) > 0).all()
            )
            if not whole or not all(_is_interval(*limits) for limits in factors.tolist()):
                raise ConfigurationError(
                    "The intervals of the model are wrong: ascending classes, each with two limits."
                )
        if not _is_interval(*self.outside):
            raise ConfigurationError("The interval beyond the domain is wrong: two limits, the lower one first.")

    def of(self, rows: Steps, typical: Floats, within: NDArray[np.bool_]) -> Floats:
        """(n, 2): low and high factor of each step."""
        found = np.empty((len(rows), 2))
        for kind, chosen in enumerate((rows[:, PREFILLS] <= 0, rows[:, PREFILLS] > 0)):
            found[chosen] = self.factors[kind][np.searchsorted(self.edges[kind], typical[chosen], side="right")]
        found[~within] = self.outside
        return found


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts how long a step takes.

    ``typical`` and ``mean``: the time that half of such steps take, and that which sums to the time of many; throughput and
    makespan follow the mean. ``domain``: (2, 5), smallest and largest value of each feature in training; where a feature is
    beyond it, there are no factors (physics is alone) and the bars are wider. ``sample``: rows kept for updates.
    ``multipliers``: by what a calibration scaled each group of terms.
    """

    typical: CostTables
    mean: CostTables
    domain: Floats
    bars: Bars
    identity: Identity
    report: Report
    sample: Rows
    multipliers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = self.domain.shape == (2, len(FEATURES)) and bool((self.domain[0] <= self.domain[1]).all())
        if not ordered or not np.isfinite(self.domain).all():
            raise ConfigurationError(
                "The domain of the model is wrong: a smallest and a largest value of each feature."
            )
        if wrong := [name for name, by in self.multipliers.items() if name not in GROUPS or not 0 < by <= MOST_PRODUCT]:
            raise ConfigurationError(
                f"The multipliers of the model are wrong: {', '.join(map(one_line, sorted(wrong)))}."
            )

    @property
    def is_rough(self) -> bool:
        """Is it one of data sheets, of which nothing was measured?"""
        return not len(self.sample)

    def tables(self, *, mean: bool = True) -> CostTables:
        """What a simulator looks up: the mean time of a step, or the typical one."""
        return self.mean if mean else self.typical

    def within(self, rows: Steps) -> NDArray[np.bool_]:
        """Whether all features of each step are within the domain."""
        return np.asarray(((rows >= self.domain[0]) & (rows <= self.domain[1])).all(axis=1))

    def predict(self, rows: Steps) -> tuple[Floats, Floats, Floats, Floats]:
        """Typical, mean, low and high seconds of each step; 90 % of the steps are to lie between low and high."""
        typical = self.typical.seconds_of(rows)
        low, high = (typical[:, None] * self.bars.of(rows, typical, self.within(rows))).T
        return typical, self.mean.seconds_of(rows), low, high

    def scaled(self, multipliers: Mapping[str, float]) -> LatencyModel:
        """The model with groups of its terms multiplied, as a calibration does it.

        ConfigurationError: no such group, or no number from 1/1000 to 1000.
        """
        typical, mean = (scaled(tables, multipliers) for tables in (self.typical, self.mean))
        product = {group: self.multipliers.get(group, 1.0) * multipliers.get(group, 1.0) for group in GROUPS}
        return replace(self, typical=typical, mean=mean, multipliers=product)


def scaled(tables: CostTables, multipliers: Mapping[str, float]) -> CostTables:
    """The tables with groups of their terms multiplied; errors as of ``LatencyModel.scaled``."""
    _check(multipliers)
    scales = np.ones(FIRST_HINGE + MOST_KNOTS)
    for name, by in multipliers.items():
        scales[list(GROUPS[name])] = by
    scales[FIRST_HINGE:] = multipliers.get("tokens", 1.0)
    return replace(tables, weights=tables.weights * scales[: tables.weights.size])


def _is_interval(low: float, high: float) -> bool:
    return 1 / FURTHEST <= low <= high <= FURTHEST


def _check(multipliers: Mapping[str, float]) -> None:
    """ConfigurationError: no such group, or no usual number above 0."""
    if unknown := sorted(set(multipliers) - set(GROUPS)):
        raise ConfigurationError(
            f"{', '.join(map(one_line, unknown))}: no such group of terms; there are {', '.join(GROUPS)}."
        )
    if wrong := [name for name, by in multipliers.items() if not 1 / FURTHEST <= by <= FURTHEST]:
        raise ConfigurationError(f"{', '.join(wrong)}: a multiplier must be a number above 0, from 1/1000 to 1000.")
