"""What physics leaves over: boosted trees on the ratio of measured to physical time, as tables over pairs of features.

A tree of depth 2 asks for one feature, then for one more on either side, so a sum of trees is a sum of tables over pairs of
features, exactly. XGBoost is needed to train, not to predict.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from swarmtune.errors import MissingExtraError
from swarmtune.simulator.latency.features import FEATURES, Steps
from swarmtune.simulator.latency.tables import Pair

Floats = NDArray[np.float64]
SOFT = 0.05  # relative errors well below this count squared
FURTHEST = 5.0  # logarithms of ratios beyond this are cut in the gradient
LARGEST = 9.0  # logarithm of a factor
DIGITS = 9  # of a factor; the trees themselves are float32
PARAMETERS = {
    "tree_method": "hist",
    "max_bin": 64,
    "max_depth": 2,
    "min_child_weight": 20,
    "lambda": 1,
    "nthread": 1,  # the sums of several threads differ in their last bits from run to run
    "verbosity": 0,
}
Kind = Literal["monotone", "free", "fine"]
KINDS: dict[Kind, tuple[int, dict[str, Any]]] = {  # trees and parameters, the most careful first
    "monotone": (60, {"eta": 0.1, "monotone_constraints": "(1,1,1,1,1)"}),  # more work never takes less time
    "free": (60, {"eta": 0.1}),
    "fine": (200, {"eta": 0.2}),
}


def boosted(
    rows: Steps, ratios: Floats, counts: Floats, value: Literal["typical", "mean"], kind: Kind
) -> list[dict[str, Any]]:
    """Trees whose sum is the logarithm of the typical or the mean ratio; ``counts``: how many steps each row stands for.

    MissingExtraError without XGBoost.
    """
    try:
        xgboost = importlib.import_module("xgboost")
    except ImportError as error:
        raise MissingExtraError("swarmtune train", "simulate") from error
    trees, parameters = KINDS[kind][0], {**PARAMETERS, **KINDS[kind][1]}
    if value == "mean":
        data = xgboost.DMatrix(rows, label=ratios, weight=counts, nthread=1)
        booster = xgboost.train({**parameters, "objective": "reg:gamma", "base_score": 1.0}, data, trees)
    else:
        data = xgboost.DMatrix(rows, label=-np.log(ratios), weight=counts, nthread=1)
        parameters |= {"base_score": 0.0, "disable_default_eval_metric": 1}
        booster = xgboost.train(parameters, data, trees, obj=_relative_error)
    model = orjson.loads(bytes(booster.save_raw("json")))
    return list(model["learner"]["gradient_booster"]["model"]["trees"])


def _relative_error(predicted: Floats, data: Any) -> tuple[Floats, Floats]:
    """Gradient and curvature of the absolute relative error, made smooth at 0."""
    ratio = np.exp(np.clip(predicted + data.get_label(), -FURTHEST, FURTHEST))
    error = np.sqrt((ratio - 1) ** 2 + SOFT**2)
    counts = data.get_weight()
    return counts * (ratio - 1) * ratio / error, counts * np.maximum(ratio / error, 1e-3)


def compiled(trees: list[dict[str, Any]], domain: Floats) -> tuple[tuple[Floats, ...], tuple[Pair, ...]]:
    """The cuts of each feature, and the factors of each pair of features, of these trees. ``domain``: (2, 5), the smallest
    and largest value of each feature: beyond it, all factors of that feature are 1.
    """
    thresholds: list[set[float]] = [set() for _ in FEATURES]
    for tree in trees:
        for node, left in enumerate(tree["left_children"]):
            if left >= 0:
                thresholds[tree["split_indices"][node]].add(float(np.float32(tree["split_conditions"][node])))
    lowest, highest = domain
    cuts = tuple(
        np.array([low, *sorted(t for t in found if low < t <= high), np.nextafter(high, np.inf)])
        for found, low, high in zip(thresholds, lowest, highest, strict=True)
    )
    logarithms: dict[tuple[int, int], Floats] = {}
    for tree in trees:
        _add(tree, cuts, logarithms)
    return cuts, tuple((i, j, _factors(i, j, table)) for (i, j), table in sorted(logarithms.items()))


def _add(tree: dict[str, Any], cuts: tuple[Floats, ...], logarithms: dict[tuple[int, int], Floats]) -> None:
    """Add a tree to the tables of its pairs: each side of its root is a table of the root's feature and the one below."""
    left, right, feature = tree["left_children"], tree["right_children"], tree["split_indices"]
    leaf = [float(np.float32(value)) for value in tree["split_conditions"]]  # of a leaf: its value
    root = feature[0]
    sides: list[tuple[Floats, int]] = [(np.ones(cuts[root].size + 1), 0)]
    if left[0] >= 0:
        goes_right = _right(cuts[root], leaf[0])
        sides = [(1 - goes_right, left[0]), (goes_right, right[0])]
    for here, node in sides:
        below = feature[node] if left[node] >= 0 else root
        i, j = min(root, below), max(root, below)
        if left[node] >= 0:
            goes_right = _right(cuts[below], leaf[node])
            values = leaf[left[node]] + (leaf[right[node]] - leaf[left[node]]) * goes_right
        else:
            values = np.full(cuts[below].size + 1, leaf[node])
        table = (here * values)[:, None] if i == j else np.outer(here, values)
        logarithms[i, j] = logarithms.get((i, j), 0.0) + (table if i == root else table.T)


def _right(cuts: Floats, threshold: float) -> Floats:
    """1 for the places whose values are not below the threshold, else 0."""
    return (np.concatenate([[-np.inf], cuts]) >= threshold).astype(float)


def _factors(i: int, j: int, table: Floats) -> Floats:
    factors = np.array(
        [float(f"{value:.{DIGITS}g}") for value in np.exp(np.clip(table, -LARGEST, LARGEST)).ravel()]
    ).reshape(table.shape)
    factors[[0, -1], :] = 1.0
    if i != j:
        factors[:, [0, -1]] = 1.0
    return factors
