"""From beliefs to a question: what may be asked, how much each is worth, and the best of it."""

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
AS_IT_RUNS = 40  # that need no restart of the running service
CENTRES = 5  # how many those are
REFINED, NEIGHBOURS, ROUNDS = 6, 16, 3  # the best proposals, their neighbours, and how often they are looked at
CERTAIN = 0.5  # probability of keeping all promises from which on a measured setting is one to beat

Worth = Callable[[Points], Array]


def proposals(
    space: Space,
    belief: Belief,
    moves: Points,
    taken: set[bytes],
    rng: np.random.Generator,
    running: Running | None = None,
) -> Points:
    """Points of settings worth a measurement, best first: from the moves given, the neighbourhood of the best measured
    ones and anywhere, and then from the neighbourhood of the best of these. ``taken`` are cells not to be asked.
    With a service running, settings that it can be measured with as it is are among them, and cost less.
    """
    worth = criterion(belief)
    if running is not None:
        worth = per_second(worth, space, running)
        moves = np.vstack([moves, as_it_runs(space, running, rng)])
    categories = np.array([d.kind == "category" for d in space.dimensions], dtype=bool)
    centres = belief.points[most_promising(belief)[:CENTRES]]
    around = perturbed(np.tile(centres, (AROUND // len(centres), 1)), categories, rng)
    anywhere = rng.uniform(size=(ANYWHERE, len(space.dimensions)))
    found = _new(space, np.vstack([moves, around, anywhere]), taken)
    values = worth(found)
    for _ in range(ROUNDS):
        best = found[np.argsort(-values, kind="stable")[:REFINED]]
        near = _new(space, perturbed(np.repeat(best, NEIGHBOURS, axis=0), categories, rng, 0.5), taken)
        found, values = np.vstack([found, near]), np.concatenate([values, worth(near)])
    return np.asarray(found[np.argsort(-values, kind="stable")])


def criterion(belief: Belief) -> Worth:
    """Expected improvement times the probability of keeping all promises (Gardner et al. 2014), as a logarithm; where no
    measured setting is likely to keep them, the probability alone.
    """
    known = belief.predict(belief.points)
    likely = known.log_feasible > np.log(CERTAIN)
    best = float(known.mean[likely].min()) if likely.any() else None

    def worth(points: Points) -> Array:
        if not len(points):
            return np.zeros(0)
        expected = belief.predict(points)
        if best is None:
            return expected.log_feasible
        return log_expected_improvement(expected.mean, expected.deviation, best) + expected.log_feasible

    return worth


def per_second(worth: Worth, space: Space, running: Running) -> Worth:
    """Worth by the time that it takes (Snoek et al. 2012, expected improvement per second): 1 with a start, less without."""
    point = _middle(space, running.setting)
    bound = [i for i, d in enumerate(space.dimensions) if d.name not in running.free]

    def worth_per_second(points: Points) -> Array:
        same = np.isclose(points[:, bound], point[bound], rtol=0.0, atol=1e-9).all(axis=1)
        return worth(points) - np.log(np.where(same, 1.0 - running.start_share, 1.0))

    return worth_per_second


def as_it_runs(space: Space, running: Running, rng: np.random.Generator) -> Points:
    """Points that need no restart: what runs, with the free coordinates drawn anew."""
    free = np.array([d.name in running.free for d in space.dimensions])
    points = np.tile(_middle(space, running.setting), (AS_IT_RUNS if free.any() else 0, 1))
    return np.where(free, rng.uniform(size=points.shape), points)


def most_promising(belief: Belief) -> NDArray[np.intp]:
    """Indices of the measured points, the most promising first."""
    known = belief.predict(belief.points)
    return np.argsort(known.mean - np.maximum(known.log_feasible, -20.0), kind="stable")


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
    """The same for all points of one setting, once they are in the middle of its share."""
    return np.round(point, 9).tobytes()


def _middle(space: Space, setting: Setting) -> Point:
    """The middle of its share, where the proposals lie."""
    return np.asarray(snapped(space, space.encode(setting)[None, :])[0][0])


def _new(space: Space, wishes: Points, taken: set[bytes]) -> Points:
    """The middles of the legal cells that the wishes lie in, without those taken or twice."""
    points, legal = snapped(space, wishes)
    cells = {cell(p): p for p in points[legal]}
    found = [p for key, p in cells.items() if key not in taken]
    return np.array(found).reshape(-1, wishes.shape[1])
