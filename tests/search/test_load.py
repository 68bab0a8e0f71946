"""The load search finds the highest load that keeps the promises, in few points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtune.search.load import LoadPoint, LoadSearch, fit, with_margin

Margins = Callable[[float], dict[str, float]]


def run(search: LoadSearch, violations: Margins) -> list[LoadPoint]:
    tried: list[LoadPoint] = []
    while (load := search.next(tried)) is not None:
        tried.append(LoadPoint(load, violations(load), load))
    return tried


def capacity(at: float) -> Margins:
    return lambda load: {"p95_ttft_ms": load / at - 1}


@settings(deadline=None)  # the first fit imports scipy
@given(st.floats(0.5, 300), st.integers(1, 64))
def test_brackets_the_capacity(at: float, start: int) -> None:
    tried = run(LoadSearch(low=1, high=256, start=start, points=40, tolerance=0.1), capacity(at))
    kept = max((p.load for p in tried if p.kept), default=None)
    if at < 1:
        assert kept is None
        assert min(p.load for p in tried) == 1
    else:
        assert kept is not None
        assert kept <= at
        assert kept == 256 or at < kept * 1.1 + 1 + 1e-9


@settings(deadline=None)  # the first fit imports scipy
@given(st.floats(0.5, 300), st.integers(1, 6))
def test_never_more_points_than_allowed_nor_one_thrice(at: float, points: int) -> None:
    tried = run(LoadSearch(low=1, high=256, start=8, points=points), capacity(at))
    assert len(tried) <= points
    loads = [p.load for p in tried]
    assert all(loads.count(load) <= 2 for load in loads)


@pytest.mark.parametrize("at", [0.3, 1.7, 12.0])
def test_rates_need_not_be_whole(at: float) -> None:
    tried = run(LoadSearch(low=0.05, high=20, start=1, points=20, tolerance=0.05, whole=False), capacity(at))
    assert max(p.load for p in tried if p.kept) == pytest.approx(at, rel=0.06)


def test_the_promise_that_breaks_first_decides() -> None:
    def two(load: float) -> dict[str, float]:
        return {"p95_ttft_ms": load / 30 - 1, "p95_tpot_ms": (load / 12) ** 3 - 1}

    tried = run(LoadSearch(low=1, high=256, start=8, points=12, tolerance=0.1), two)
    assert 12 / 1.1 - 1 <= max(p.load for p in tried if p.kept) <= 12


def test_one_bad_measurement_does_not_end_the_search_at_a_low_load() -> None:
    bad = [True]

    def hiccup(load: float) -> dict[str, float]:
        return {"p95_ttft_ms": 2.0 if load == 8 and bad and bad.pop() else (load / 100) ** 2 - 1}

    tried = run(LoadSearch(low=1, high=256, start=8, points=16), hiccup)
    assert not bad
    assert max(p.load for p in tried if p.kept) > 80


def test_a_fit_pools_what_cannot_be() -> None:
    points = [LoadPoint(x, {"a": v}) for x, v in ((2.0, -0.5), (4.0, 0.05), (8.0, -0.2), (16.0, 0.6))]
    found = fit(points)
    assert found.kept == 2
    assert (np.diff(found.margins) >= 0).all()
    assert 8 < found.root() < 16
    assert found.sigma[0] > fit(points[::3]).sigma[0]


def test_a_sure_answer_is_not_asked_for_again() -> None:
    search = LoadSearch(low=1, high=256, start=8, points=9, tolerance=0.15)
    cliff = [LoadPoint(8, {"a": -0.6}), LoadPoint(9, {"a": 3.0})]
    assert search.next(cliff) == 9
    assert search.next([cliff[0], LoadPoint(9, {"a": 3.0}, decided=True)]) is None


def test_more_load_without_more_value_is_not_tried() -> None:
    search = LoadSearch(low=1, high=256, start=8, points=16)
    flat: list[LoadPoint] = []
    while (load := search.next(flat)) is not None:
        flat.append(LoadPoint(load, {"a": -0.9}, min(load, 10.0)))
    assert max(p.load for p in flat) < 128
    assert max(p.value or 0 for p in flat) == 10


# --- against plain bisection ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bisection(LoadSearch):
    """Doubling until a promise breaks, then bisection on a log scale: what this search has to beat."""

    def next(self, tried: list[LoadPoint]) -> float | None:  # type: ignore[override]
        if len(tried) >= self.points or not tried:
            return None if tried else self._round(self.start)
        kept = max((p.load for p in tried if p.kept), default=None)
        broken = min((p.load for p in tried if not p.kept and (kept is None or p.load > kept)), default=None)
        if broken is None:
            candidate = (kept or 1) * 2
        elif kept is None:
            candidate = broken / 2
        else:
            candidate = math.sqrt(kept * broken)
            if broken / kept <= 1 + self.tolerance:
                return None
        candidate = self._round(candidate)
        return None if any(p.load == candidate for p in tried) else candidate


def service(rng: np.random.Generator) -> tuple[Margins, float]:
    """TTFT queues (M/M/1-like), TPOT rises with the batch, a third of them fall off a cliff; and the true capacity."""
    size = math.exp(rng.uniform(math.log(4), math.log(120)))
    idle, base = rng.uniform(0.05, 0.5), rng.uniform(0.2, 0.9)
    cliff = size * rng.uniform(0.5, 1.1) if rng.integers(3) == 0 else math.inf

    def violations(load: float) -> dict[str, float]:
        used = load / size / 1.1
        wait = 0.3 * used / (1 - used) if used < 0.98 else 14.7 + 50 * (used - 0.98)
        return {
            "ttft": idle * (1 + wait) - 1,
            "tpot": (base + (1 - base) * load / size) * (4 if load >= cliff else 1) - 1,
        }

    loads = np.geomspace(0.5, 400, 4000)
    return violations, float(max(x for x in loads if max(violations(x).values()) <= 0))


def trial(kind: type[LoadSearch], seed: int) -> tuple[float, int]:
    """Log error of the load found, and points used, with 5 % noise, from a start that an earlier setting left."""
    rng = np.random.default_rng(seed)
    truth, root = service(rng)
    start = root * math.exp(rng.normal(0, 0.3))

    def noisy(load: float) -> dict[str, float]:
        return {name: (1 + v) * math.exp(rng.normal(0, 0.05)) - 1 for name, v in truth(load).items()}

    tried = run(kind(low=1, high=256, start=start, points=5, tolerance=0.08, whole=False), noisy)
    return abs(math.log(max((p.load for p in tried if p.kept), default=1.0) / root)), len(tried)


def test_fewer_points_than_bisection_for_the_same_error() -> None:
    ours, plain = (np.array([trial(kind, seed) for seed in range(1000, 1100)]) for kind in (LoadSearch, Bisection))
    assert ours[:, 0].mean() < 1.1 * plain[:, 0].mean()
    assert ours[:, 1].mean() < plain[:, 1].mean() - 0.2


def points(*pairs: tuple[float, float]) -> list[LoadPoint]:
    return [LoadPoint(load, {"latency": violation}) for load, violation in pairs]


SEARCH = LoadSearch(1, 64, 4)


@pytest.mark.parametrize(("tried", "load", "expected"), [
    (points((4, -0.5), (8, -0.3), (16, 0.4)), 8, 8),  # far from the limit: as it was
    (points((8, -0.14), (12, -0.04), (16, 0.4)), 12, 9),  # between the two: straight in the logarithms
    (points((12, -0.02), (16, 0.3)), 12, 10),  # none below: by the usual slope, 0.5
    (points((12, -0.02)), 12, 10),  # one point
    (points((1, -0.03), (16, -0.02), (32, 0.1)), 16, 16),  # the load matters little to this SLO
    (points((2, 0.05)), 2, 1),
    (points((1, 0.0)), 1, 1),  # the least load there is
])  # fmt: skip
def test_the_load_with_a_margin(tried: list[LoadPoint], load: float, expected: float) -> None:
    assert with_margin(SEARCH, tried, load, 0.1) == expected


@given(
    st.lists(st.tuples(st.floats(1, 64), st.floats(-0.9, 3)), min_size=1, max_size=8),
    st.booleans(),
)
def test_a_margin_never_raises_the_load_and_stays_within_the_search(
    tried: list[tuple[float, float]], whole: bool
) -> None:
    search = replace(SEARCH, whole=whole)
    for load, _ in tried:
        found = with_margin(search, points(*tried), load, 0.1)
        assert found == load or load / 2 <= found < load
