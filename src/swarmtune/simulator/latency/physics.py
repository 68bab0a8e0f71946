"""The physical part: non-negative terms, fitted so that the error counts relative to the time of the step."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarmtune.simulator.latency.features import TOKENS, Steps

Floats = NDArray[np.float64]
ROUNDS = 15  # of re-weighting; the weights no longer move by then
NEAR = 0.02  # relative errors below this count as this
ENOUGH = 10  # rows on either side of a knot
MOST_KNOTS = 16
LEAST_CONSTANT = 0.01  # of the shortest step: no step takes no time


def knots_of(rows: Steps) -> Floats:
    """Powers of two at which the cost of a token may rise, with enough rows on both sides."""
    tokens = rows[:, TOKENS]
    powers = 2.0 ** np.arange(40)
    near = [power for power in powers if min((tokens < power).sum(), (tokens > power).sum()) >= ENOUGH]
    return np.array(near[-MOST_KNOTS:])


def columns_of(rows: Steps, knots: Floats) -> Floats:
    """The terms of each step: constant, features, hinges; shape (n, 6 + k)."""
    return np.column_stack([np.ones(len(rows)), rows, *(np.maximum(rows[:, TOKENS] - knot, 0.0) for knot in knots)])


def fit(rows: Steps, seconds: Floats, counts: Floats, knots: Floats, value: Literal["typical", "mean"]) -> Floats:
    """Seconds per term, none below 0; ``counts``: how many steps each row stands for.

    "typical" keeps the mean of the relative error small, and few long steps do not move it; "mean" keeps the sum right, with
    the error relative to the prediction (what a long step adds is not held down). A column that never differs gets no
    weight of its own, or shares one.
    """
    columns = columns_of(rows, knots)
    scale = columns.max(axis=0)
    absent = scale == 0
    scale[absent] = 1.0
    columns = columns / scale
    least = LEAST_CONSTANT * seconds.min()
    above = seconds - least
    weights = _least_squares(columns, above, np.sqrt(counts) / seconds)
    for _ in range(ROUNDS):
        predicted = columns @ weights + least
        if value == "mean":
            importance = 1 / predicted
        else:
            importance = 1 / np.sqrt(seconds * np.maximum(np.abs(seconds - predicted), NEAR * seconds))
        weights = _least_squares(columns, above, np.sqrt(counts) * importance)
    weights[0] += least
    weights[absent] = 0.0  # least squares say nothing of it, and rounding might
    return np.asarray(weights / scale)


def _least_squares(columns: Floats, seconds: Floats, importance: Floats) -> Floats:
    joint = np.column_stack([columns, seconds]) * importance[:, None]
    sizes, directions = np.linalg.eigh(joint.T @ joint)  # as small as the terms, whatever the number of rows
    square = np.sqrt(np.maximum(sizes, 0.0))[:, None] * directions.T
    from scipy.optimize import nnls  # only training needs it, every command reads this module

    found, _ = nnls(square[:, :-1], square[:, -1], maxiter=100 * columns.shape[1])
    return np.asarray(found)
