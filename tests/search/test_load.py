"""The load search finds the highest load that keeps the promises, in few points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.search.load import LoadPoint, LoadSearch


def run(search: LoadSearch, capacity: float) -> list[LoadPoint]:
    tried: list[LoadPoint] = []
    while (load := search.next(tried)) is not None:
        tried.append(LoadPoint(load, load / capacity - 1))
    return tried


@given(st.floats(0.5, 300), st.integers(1, 64))
def test_brackets_the_capacity(capacity: float, start: int) -> None:
    tried = run(LoadSearch(low=1, high=256, start=start, points=30, tolerance=0.1), capacity)
    kept = max((p.load for p in tried if p.kept), default=None)
    if capacity < 1:
        assert kept is None
        assert min(p.load for p in tried) == 1
    else:
        assert kept is not None
        assert kept <= capacity
        assert kept == 256 or capacity < kept * 1.1 + 1 + 1e-9


@given(st.floats(0.5, 300), st.integers(1, 6))
def test_never_more_points_than_allowed_nor_one_twice(capacity: float, points: int) -> None:
    tried = run(LoadSearch(low=1, high=256, start=8, points=points), capacity)
    assert len(tried) <= points
    assert len({p.load for p in tried}) == len(tried)


@pytest.mark.parametrize("capacity", [0.3, 1.7, 12.0])
def test_rates_need_not_be_whole(capacity: float) -> None:
    tried = run(LoadSearch(low=0.05, high=20, start=1, points=20, tolerance=0.05, whole=False), capacity)
    assert max(p.load for p in tried if p.kept) == pytest.approx(capacity, rel=0.06)
