"""Measured steps, and which of them nothing can be learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import MOST_LISTED, one_line
from swarmtune.simulator.latency.features import (
    CONTEXT,
    DECODES,
    FEATURES,
    PREFILL_WORK,
    PREFILLS,
    TOKENS,
    Steps,
)
from swarmtune.simulator.latency.physics import columns_of, fit

Floats = NDArray[np.float64]
SHORTEST_S, LONGEST_S = 1e-5, 2.0  # of the median step of a run; beyond: another unit
SHORTEST_SURE_S, LONGEST_SURE_S = 1e-7, 600.0  # where the user says the unit
IDLE, IDLE_SPREADS = 20.0, 8.0  # times what such a step takes, and times the spread of the run's own steps
ENOUGH = 20  # rows of a run, to say what such a step takes


@dataclass(frozen=True, eq=False)
class Rows:
    """n measured steps. ``seconds``: from the start of a step to the start of the next; ``run``: index into ``runs``;
    ``counts``: how many steps a row stands for; ``places``: the number of each row in its file.
    """

    features: Steps
    seconds: Floats
    run: NDArray[np.int64]
    runs: tuple[str, ...]
    counts: Floats
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, chosen: NDArray[np.generic]) -> Rows:
        """These rows alone."""
        parts = {name: getattr(self, name)[chosen] for name in ("features", "seconds", "run", "counts", "places")}
        return replace(self, **parts)


def rows_of(features: Steps, seconds: Floats, run: str = "", first_place: int = 1) -> Rows:
    """The rows of one run."""
    count = len(seconds)
    places = np.arange(first_place, first_place + count)
    return Rows(features, seconds, np.zeros(count, np.int64), (run,), np.ones(count), places)


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows; runs of the same name stay apart."""
    runs: list[str] = []
    shifted = []
    for part in parts:
        shifted.append(part.run + len(runs))
        runs += part.runs
    arrays = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("features", "seconds", "counts", "places")}
    return Rows(run=np.concatenate(shifted), runs=tuple(runs), **arrays)


class Refusals:
    """Rows that are left out: how many for each reason, and the first of them by place."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}
        self.listed: list[str] = []

    def __len__(self) -> int:
        return sum(self.reasons.values())

    @property
    def text(self) -> str:
        """How many for each reason."""
        return "; ".join(f"{count:,} for {reason}" for reason, count in self.reasons.items())

    def add(self, rows: Rows, refused: NDArray[np.bool_], reason: str, detail: Callable[[int], str]) -> None:
        """``detail``: what is wrong with the row of this index."""
        found = np.flatnonzero(refused)
        if found.size:
            self.reasons[reason] = self.reasons.get(reason, 0) + int(found.size)
        for index in found[: MOST_LISTED - len(self.listed)].tolist():
            run = one_line(rows.runs[rows.run[index]])
            self.listed.append(f"{run}{', ' if run else ''}row {rows.places[index]}: {reason}: {detail(index)}")

    def join(self, other: Refusals, source: str) -> None:
        """Add those of a source."""
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.listed += [f"{source}: {line}" for line in other.listed[: MOST_LISTED - len(self.listed)]]


def accepted(rows: Rows, floor_s: float = 0.0, *, unit_is_sure: bool = False) -> tuple[Rows, Refusals]:
    """The rows that can be steps, and those that are refused with the reason.

    ``floor_s``: no step is shorter, as all weights are read in it; 0: not known. ``unit_is_sure``: the user said it.
    """
    refusals = Refusals()
    for check in (_numbers, _columns):
        rows = _without(rows, refusals, check(rows))
    rows = _without(rows, refusals, _units(rows, unit_is_sure))
    rows = _without(rows, refusals, _below_floor(rows, floor_s))
    return _without(rows, refusals, _idle(rows)), refusals


Finding = tuple[NDArray[np.bool_], str, Callable[[int], str]]


def _without(rows: Rows, refusals: Refusals, findings: list[Finding]) -> Rows:
    kept = np.ones(len(rows), bool)
    for refused, reason, detail in findings:
        refusals.add(rows, refused & kept, reason, detail)
        kept &= ~refused
    return rows if kept.all() else rows.take(np.flatnonzero(kept))


def _numbers(rows: Rows) -> list[Finding]:
    features, seconds = rows.features, rows.seconds
    unusable = ~np.isfinite(features).all(axis=1) | ~np.isfinite(seconds)

    def shown(index: int) -> str:
        values = dict(zip((*FEATURES, "seconds"), (*features[index], seconds[index]), strict=True))
        return ", ".join(f"{name} is {value:g}" for name, value in values.items() if not 0 <= value < np.inf)

    return [
        (unusable, "no number", shown),
        ((features < 0).any(axis=1) | (seconds < 0), "below 0", shown),
        (seconds == 0, "no time", lambda _: "seconds is 0"),
    ]


def _columns(rows: Rows) -> list[Finding]:
    tokens, decodes = rows.features[:, TOKENS], rows.features[:, DECODES]
    context, prefills, work = (rows.features[:, i] for i in (CONTEXT, PREFILLS, PREFILL_WORK))
    swapped = "columns that contradict each other"
    return [
        (tokens < 1, "an empty step", lambda i: f"{tokens[i]:g} tokens"),
        (
            tokens < decodes + prefills,
            swapped,
            lambda i: f"{tokens[i]:g} tokens for {decodes[i]:g} decodes and {prefills[i]:g} pieces of prompts",
        ),
        (context < decodes, swapped, lambda i: f"a context of {context[i]:g} tokens for {decodes[i]:g} decodes"),
        (
            (work < prefills / 2) | ((work > 0) & (prefills == 0)),
            swapped,
            lambda i: f"prefill work of {work[i]:g} for {prefills[i]:g} pieces of prompts",
        ),
    ]


def _units(rows: Rows, sure: bool) -> list[Finding]:
    shortest, longest = (SHORTEST_SURE_S, LONGEST_SURE_S) if sure else (SHORTEST_S, LONGEST_S)
    medians = _per_run(rows, np.median)
    out = ~((medians >= shortest) & (medians <= longest))[rows.run]
    return [
        (
            out,
            "another unit",
            lambda i: (
                f"half of the steps of this run take {medians[rows.run[i]]:.3g} s or more; "
                "if that is right, say the unit (--unit)"
            ),
        )
    ]


def _below_floor(rows: Rows, floor_s: float) -> list[Finding]:
    below = rows.seconds < floor_s
    return [(below, "below the floor", lambda i: f"{rows.seconds[i]:.3g} s; reading the weights takes {floor_s:.3g} s")]


def _idle(rows: Rows) -> list[Finding]:
    """A step that took far longer than such steps of the same run: the engine waited, for work or for the machine."""
    bound = np.full(len(rows), np.inf)
    usual = np.ones(len(rows))
    for run in range(len(rows.runs)):
        chosen = np.flatnonzero(rows.run == run)
        if chosen.size < ENOUGH:
            continue
        features, seconds = rows.features[chosen], rows.seconds[chosen]
        none = np.empty(0)
        usual[chosen] = columns_of(features, none) @ fit(features, seconds, np.ones(chosen.size), none, "typical")
        for kind in (features[:, PREFILLS] > 0, features[:, PREFILLS] <= 0):
            if kind.any():
                logs = np.log(seconds[kind] / usual[chosen[kind]])
                spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
                bound[chosen[kind]] = max(IDLE, np.exp(np.median(logs) + IDLE_SPREADS * spread))
    idle = rows.seconds > usual * bound
    return [(idle, "an idle gap", lambda i: f"{rows.seconds[i]:.3g} s, where such a step takes {usual[i]:.3g} s")]


def _per_run(rows: Rows, measure: Callable[[Floats], np.floating]) -> Floats:
    values = [rows.seconds[rows.run == run] for run in range(len(rows.runs))]
    return np.array([measure(found) if found.size else np.nan for found in values])
