"""From belief to question: candidate settings, the acquisition function that ranks them, and the best of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from swarmtune.records import Setting
from swarmtune.search.base import Running
from swarmtune.search.gaussian import Array
from swarmtune.search.surrogate import Belief, log_expected_improvement
from swarmtune.space import Space
from swarmtune.space.batch import Points, snapped
from swarmtune.space.space import Point

ANYWHERE = 120  # uniformly random settings among the proposals
AROUND = 240  # settings close to the most promising measured ones
AS_IT_RUNS = 40  # settings that need no restart of the running service
CENTRES = 5  # most promising measured settings
REFINED, NEIGHBOURS, ROUNDS = 6, 16, 3  # best proposals that are refined, neighbours of each, and rounds of refinement
CERTAIN = 0.5  # probability of keeping all SLOs from which on a measured setting counts as the one to beat

Worth = Callable[[Points], Array]


def proposals(
    space: Space,
    belief: Belief,
    moves: Points,
    taken: set[bytes],
    rng: np.random.Generator,
    running: Running | None = None,
) -> Points:
    """Points of settings worth a measurement, best first: from the given moves, the neighbourhood of the best measured
    ones and the whole space, then refined around the best of these. ``taken``: cells to leave out. Where a service runs,
    settings that need no restart are added, and cost less.
    """
    worth = criterion(belief)
    if running is not None:
        worth = per_second(worth, space, running)
        moves = np.vstack([moves, as_it_runs(space, running, rng)])
    categories = np.array([d.kind == "category" for d in space.dimensions], dtype=bool)
    centres = belief.points[most_promising(belief)[:CENTRES]]
    around = perturbed(np.tile(centres, (AROUND // len(centres), 1)), categories, rng)
    anywhere = rng.uniform(size=(ANYWHERE, len(space.dimensions)))
    points = _new(space, np.vstack([moves, around, anywhere]), taken)
    values = worth(points)
    for _ in range(ROUNDS):
        best = points[np.argsort(-values, kind="stable")[:REFINED]]
        near = _new(space, perturbed(np.repeat(best, NEIGHBOURS, axis=0), categories, rng, 0.5), taken)
        points, values = np.vstack([points, near]), np.concatenate([values, worth(near)])
    return np.asarray(points[np.argsort(-values, kind="stable")])


def criterion(belief: Belief) -> Worth:
    """Expected improvement times the probability of keeping all SLOs (Gardner et al. 2014), as a logarithm; where no
    measured setting is likely to keep them, the probability alone.
    """
    prediction = belief.predict(belief.points)
    likely = prediction.log_feasible > np.log(CERTAIN)
    best = float(prediction.mean[likely].min()) if likely.any() else None

    def worth(points: Points) -> Array:
        if not len(points):
            return np.zeros(0)
        expected = belief.predict(points)
        if best is None:
            return expected.log_feasible
        return log_expected_improvement(expected.mean, expected.deviation, best) + expected.log_feasible

    return worth


def per_second(worth: Worth, space: Space, running: Running) -> Worth:
    """Worth divided by the time (expected improvement per second, Snoek et al. 2012): 1 with a start, less without."""
    point = _middle(space, running.setting)
    bound = [i for i, d in enumerate(space.dimensions) if d.name not in running.free]

    def worth_per_second(points: Points) -> Array:
        same = np.isclose(points[:, bound], point[bound], rtol=0.0, atol=1e-9).all(axis=1)
        return worth(points) - np.log(np.where(same, 1.0 - running.start_share, 1.0))

    return worth_per_second


def as_it_runs(space: Space, running: Running, rng: np.random.Generator) -> Points:
    """Points that need no restart: the running setting with random values of the free coordinates."""
    free = np.array([d.name in running.free for d in space.dimensions])
    points = np.tile(_middle(space, running.setting), (AS_IT_RUNS if free.any() else 0, 1))
    return np.where(free, rng.uniform(size=points.shape), points)


def most_promising(belief: Belief) -> NDArray[np.intp]:
    """Indices of the measured points, the most promising first."""
    prediction = belief.predict(belief.points)
    return np.argsort(prediction.mean - np.maximum(prediction.log_feasible, -20.0), kind="stable")


def perturbed(points: Points, categories: NDArray[np.bool_], rng: np.random.Generator, narrow: float = 1.0) -> Points:
    """A neighbour of each: one to a few coordinates moved by a step of random width, categories drawn anew."""
    m, d = points.shape
    if not m:
        return points
    chosen = rng.uniform(size=(m, d)) < rng.choice([1.0, 2.0, 4.0], size=(m, 1)) / d
    chosen[np.arange(m), rng.integers(d, size=m)] = True
    width = narrow * rng.choice([0.03, 0.1, 0.3], size=(m, 1))
    moved = np.abs(points + rng.normal(size=(m, d)) * width) % 2.0
    moved = np.where(moved > 1.0, 2.0 - moved, moved)
    return np.where(chosen, np.where(categories, rng.uniform(size=(m, d)), moved), points)


def cell(point: Point) -> bytes:
    """A key that is equal for all points of one setting, once they are in the middle of its share."""
    return np.round(point, 9).tobytes()


def _middle(space: Space, setting: Setting) -> Point:
    """The point in the middle of a setting's share, where the proposals lie."""
    return np.asarray(snapped(space, space.encode(setting)[None, :])[0][0])


def _new(space: Space, wishes: Points, taken: set[bytes]) -> Points:
    """The middles of the legal cells of these points, without taken cells and duplicates."""
    points, legal = snapped(space, wishes)
    cells = {cell(p): p for p in points[legal]}
    new = [p for key, p in cells.items() if key not in taken]
    return np.array(new).reshape(-1, wishes.shape[1])
