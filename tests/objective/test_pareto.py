"""Dominance, hypervolume and scalarisation, against definitions that are slow and plain."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.objective.pareto import chebyshev, hypervolume, non_dominated, random_weights, scaled

SIDE = 6  # losses are whole numbers below it, so that a volume is a number of unit cells


def clouds(most: int = 8) -> st.SearchStrategy[np.ndarray]:
    def of(width: int) -> st.SearchStrategy[np.ndarray]:
        row = st.lists(st.integers(0, SIDE - 1), min_size=width, max_size=width)
        return st.lists(row, min_size=1, max_size=most).map(lambda rows: np.array(rows, float))

    return st.integers(2, 3).flatmap(of)


def beats(a: np.ndarray, b: np.ndarray) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@given(clouds())
def test_a_point_is_kept_if_and_only_if_no_other_beats_it(points: np.ndarray) -> None:
    assert list(non_dominated(points)) == [not any(beats(other, p) for other in points) for p in points]


@given(clouds())
def test_the_volume_is_the_number_of_cells_that_a_point_dominates(points: np.ndarray) -> None:
    width = points.shape[1]
    cells = itertools.product(range(SIDE), repeat=width)
    counted = sum(any(all(p <= c) for p in points) for c in map(np.array, cells))
    assert hypervolume(points, np.full(width, float(SIDE))) == pytest.approx(counted)


def test_points_beyond_the_reference_add_nothing() -> None:
    points = np.array([[0.0, 5.0], [5.0, 0.0], [math.inf, -1.0], [1.0, 1.0]])
    assert hypervolume(points, np.array([2.0, 2.0])) == 1.0
    assert hypervolume(points[:2], np.array([2.0, 2.0])) == 0.0


@given(clouds(), st.integers(0, 1000))
def test_the_best_by_any_weights_is_not_dominated(points: np.ndarray, seed: int) -> None:
    weights = random_weights(np.random.default_rng(seed), points.shape[1])
    assert weights.sum() == pytest.approx(1.0)
    losses = chebyshev(points, weights)
    first = scaled(points)[int(np.argmin(losses))]
    assert not any(beats(other, first) and losses[i] > losses.min() + 1e-9 for i, other in enumerate(scaled(points)))
    for i, j in itertools.permutations(range(len(points)), 2):
        if beats(points[i], points[j]):
            assert losses[i] <= losses[j] + 1e-12


def test_a_dent_is_found_by_some_weights_where_a_sum_never_finds_it() -> None:
    points = np.array([[0.0, 1.0], [0.6, 0.6], [1.0, 0.0]])
    assert chebyshev(points, np.array([0.5, 0.5])).argmin() == 1
    assert all((points @ [w, 1 - w]).argmin() != 1 for w in np.linspace(0, 1, 21))
    assert chebyshev(points, np.array([0.9, 0.1])).argmin() == 0


def test_an_infinite_loss_is_the_worst_and_spoils_no_scale() -> None:
    points = np.array([[1.0, 5.0], [3.0, 5.0], [math.inf, 5.0]])
    assert scaled(points).tolist() == [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    assert np.isfinite(scaled(np.array([[math.inf, 1.0], [math.inf, 2.0]]))).all()
