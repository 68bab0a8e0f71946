"""Several objectives at once: the non-dominated set, its hypervolume, and scalarisation. Pure.

A point is a row of losses, all minimised; an infinite loss is the worst.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
AUGMENTATION = 0.05  # of the sum, so that no point that is beaten looks as good as the one that beats it (Knowles 2006)


def non_dominated(points: Array) -> NDArray[np.bool_]:
    """Which of the points, shape (n, m), no other dominates: none is at least as good everywhere and better somewhere.

    Shape (n,). Of equal points all are kept.
    """
    at_least = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    better = (points[:, None, :] < points[None, :, :]).any(axis=2)
    beaten = np.asarray((at_least & better).any(axis=0), np.bool_)
    return ~beaten


def hypervolume(points: Array, reference: Array) -> float:
    """The volume between the points, shape (n, m), and the reference, shape (m,), that at least one of them dominates.

    Points that are not better than the reference everywhere add nothing. By slicing the last objective (HSO, While et al.
    2006), which is quick for two or three.
    """
    inside = points[(points < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    ends = np.append(inside[1:, -1], reference[-1])
    heights = ends - inside[:, -1]
    return float(sum(h * hypervolume(inside[: i + 1, :-1], reference[:-1]) for i, h in enumerate(heights) if h > 0))


def scaled(points: Array) -> Array:
    """Every objective from 0 (its best) to 1 (its worst finite loss); infinite ones are 1. Shape (n, m)."""
    finite = np.where(np.isfinite(points), points, np.nan)
    with np.errstate(all="ignore"):
        low = np.nanmin(np.where(np.isnan(finite).all(axis=0), 0.0, finite), axis=0)
        width = np.nanmax(np.where(np.isnan(finite).all(axis=0), 0.0, finite), axis=0) - low
        result: Array = np.nan_to_num((finite - low) / np.where(width > 0, width, 1.0), nan=1.0)
    return result


def chebyshev(points: Array, weights: Array) -> Array:
    """One loss for each point, shape (n,): the augmented Chebyshev norm of its scaled losses under these weights, (m,).

    Source: ParEGO (Knowles 2006, IEEE Transactions on Evolutionary Computation 10:50): max(w f) + 0.05 sum(w f). Every
    point of a Pareto set, convex or not, is the best under some weights; a linear sum finds only convex parts.
    """
    weighted = scaled(points) * weights
    norms: Array = weighted.max(axis=1) + AUGMENTATION * weighted.sum(axis=1)
    return norms


def random_weights(rng: np.random.Generator, count: int) -> Array:
    """Weights that sum to 1, all directions alike; shape (count,)."""
    return rng.dirichlet(np.ones(count))
