"""The time of a step as tables: what a simulator looks up, with + * and comparisons only, so that compiled code and Python
give the same bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigurationError
from swarmtune.simulator.latency.features import DECODES, FEATURES, TOKENS, Steps

COUNT = len(FEATURES)
FIRST_HINGE = COUNT + 1  # index of the first hinge's weight
MOST_KNOTS, MOST_CUTS = 64, 1024  # of all knots, and of one feature's cuts
MOST_SECONDS, MOST_FACTOR = 1e6, 1e4  # of one term, and of one factor

Pair = tuple[int, int, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class CostTables:
    """Seconds of a step: a sum of physical terms, times a factor from each table over a pair of features.

    ``weights`` (6 + k): seconds for a constant, each feature, and each hinge max(0, tokens - knot); ``knots`` (k).
    ``cuts``: for each feature its thresholds; the place of a value is the number of cuts <= value. The first and the last
    place are beyond what the tables know: a step with a feature there has no factors.
    ``pairs``: (i, j, factors) with i <= j, factors (len(cuts[i]) + 1, len(cuts[j]) + 1), or (len(cuts[i]) + 1, 1) for i = j.

    ConfigurationError if anything is not finite, not ascending, negative or of another shape.
    """

    weights: NDArray[np.float64]
    knots: NDArray[np.float64]
    cuts: tuple[NDArray[np.float64], ...]
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """ConfigurationError on the first thing that is wrong; what is right cannot be changed afterwards."""
        _require(_is_vector(self.knots) and self.knots.size <= MOST_KNOTS, f"knots: at most {MOST_KNOTS} numbers")
        _require(_ascends(self.knots), "knots: each must be above the one before")
        _require(
            _is_vector(self.weights) and self.weights.size == FIRST_HINGE + self.knots.size,
            f"weights: {FIRST_HINGE + self.knots.size} numbers are needed, one for each term",
        )
        _require(bool((self.weights >= 0).all()), "weights: none may be below 0")
        _require(bool((self.weights <= MOST_SECONDS).all()), f"weights: none may be above {MOST_SECONDS:g} s")
        _require(len(self.cuts) == COUNT, f"cuts: one list for each of the {COUNT} features")
        for name, cuts in zip(FEATURES, self.cuts, strict=True):
            _require(_is_vector(cuts) and cuts.size <= MOST_CUTS, f"cuts of {name}: at most {MOST_CUTS} numbers")
            _require(_ascends(cuts), f"cuts of {name}: each must be above the one before")
        for i, j, factors in self.pairs:
            _require(0 <= i <= j < COUNT, "pairs: the numbers of two features are needed, the smaller one first")
            shape = (self.cuts[i].size + 1, 1 if i == j else self.cuts[j].size + 1)
            name = f"factors of {FEATURES[i]} and {FEATURES[j]}"
            _require(_is_array(factors) and factors.shape == shape, f"{name}: a table of {shape[0]} x {shape[1]}")
            usual = (factors >= 1 / MOST_FACTOR) & (factors <= MOST_FACTOR)
            _require(bool(usual.all()), f"{name}: all must be above 0, from 1/{MOST_FACTOR:g} to {MOST_FACTOR:g}")
        _require(len({(i, j) for i, j, _ in self.pairs}) == len(self.pairs), "pairs: two tables of the same features")
        for array in (self.weights, self.knots, *self.cuts, *(factors for _, _, factors in self.pairs)):
            array.flags.writeable = False

    @cached_property
    def _plain(self) -> tuple[list[float], list[float], list[list[float]], list[tuple[int, int, list[list[float]]]]]:
        pairs = [(i, j, factors.tolist()) for i, j, factors in self.pairs]
        return self.weights.tolist(), self.knots.tolist(), [cuts.tolist() for cuts in self.cuts], pairs

    def seconds(self, row: Sequence[float]) -> float:
        """Time of one step with these five features."""
        weights, knots, cuts, pairs = self._plain
        total = weights[0]
        for index in range(COUNT):
            total += weights[index + 1] * row[index]
        for index, knot in enumerate(knots):
            above = row[TOKENS] - knot
            total += weights[FIRST_HINGE + index] * (above if above > 0 else 0.0)
        if not pairs:
            return total
        places = [bisect_right(cut, value) for cut, value in zip(cuts, row, strict=True)]
        if any(cut and place in (0, len(cut)) for cut, place in zip(cuts, places, strict=True)):
            return total
        for i, j, factors in pairs:
            total *= factors[places[i]][0 if i == j else places[j]]
        return total

    def seconds_of(self, rows: Steps) -> NDArray[np.float64]:
        """The same for (n, 5) features: n seconds, with the same bytes."""
        total = self.physics_of(rows)
        places = [np.searchsorted(cuts, rows[:, index], side="right") for index, cuts in enumerate(self.cuts)]
        inside = np.ones(len(rows), bool)
        for cuts, place in zip(self.cuts, places, strict=True):
            inside &= (cuts.size == 0) | ((place > 0) & (place < cuts.size))
        for i, j, factors in self.pairs:
            total *= np.where(inside, factors[places[i], 0 if i == j else places[j]], 1.0)
        return total

    def physics_of(self, rows: Steps) -> NDArray[np.float64]:
        """The sum alone, without any factor."""
        total = np.full(len(rows), self.weights[0])
        for index in range(COUNT):
            total += self.weights[index + 1] * rows[:, index]
        for index, knot in enumerate(self.knots):
            total += self.weights[FIRST_HINGE + index] * np.maximum(rows[:, TOKENS] - knot, 0.0)
        return total


def linear(
    base_s: float,
    per_prefill_token_s: float,
    per_decode_seq_s: float,
    per_context_token_s: float,
    knee_tokens: float,
    per_token_above_knee_s: float,
) -> CostTables:
    """A step time that is linear in its work, and steeper beyond a knee: the cost of the simulated engine.

    A context token counts where a request decodes; the simulated engine's own cost counts it for prompts, too.
    ConfigurationError if a decoded token is to cost less than one of a prompt, or a number is negative or not finite.
    """
    _require(per_decode_seq_s >= per_prefill_token_s, "a decoded token cannot cost less than a token of a prompt")
    weights = np.zeros(FIRST_HINGE + 1)
    weights[0], weights[-1] = base_s, per_token_above_knee_s
    weights[1 + TOKENS] = per_prefill_token_s
    weights[1 + DECODES] = per_decode_seq_s - per_prefill_token_s
    weights[2 + DECODES] = per_context_token_s
    return CostTables(weights, np.array([float(knee_tokens)]), tuple(np.empty(0) for _ in FEATURES))


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64 and bool(np.isfinite(value).all())


def _is_vector(value: NDArray[np.float64]) -> bool:
    return _is_array(value) and value.ndim == 1


def _ascends(values: NDArray[np.float64]) -> bool:
    return bool((np.diff(values) > 0).all())


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise ConfigurationError(f"The tables of step times are wrong: {text}.")
