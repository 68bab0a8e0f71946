"""Which setting is recommended: the best that keeps its promises when it is measured again, or the baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.tuner.test_coordinator import Loop, plan

from swarmtune.records import Score, Setting, TrialState
from swarmtune.testing.search import service
from swarmtune.tuner.run import Session, _winner
from swarmtune.tuner.store import MemoryStore, Outcome, confirmation_of


async def judged(
    again: Callable[[int, int], Score], evaluations: int = 6, confirm: int = 3
) -> tuple[Any, Loop, list[int]]:
    """Search on the made-up service, then measure again with ``again(rank, how often before)``; rank 0 is the baseline."""
    loop = Loop(plan(evaluations, confirm=confirm))
    trials = await loop.coordinator.search()
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    baseline = complete[0]
    ranked = sorted((t for t in complete if t.score.feasible), key=lambda t: t.score.rank)
    rank = {t.setting.key: i + 1 for i, t in enumerate(ranked)} | {baseline.setting.key: 0}
    seen: dict[int, int] = {}

    def measured(setting: Setting) -> Score:
        number = rank[setting.key]
        seen[number] = seen.get(number, 0) + 1
        return again(number, seen[number] - 1)

    before = len(loop.groups[0].measured)
    loop.groups[0]._service = measured
    session = Session(loop.coordinator, loop.store)
    winner = await _winner(loop.coordinator._plan, session, complete, baseline)
    order = [rank[a.setting.key] for _, _, a in loop.groups[0].measured[before:]]
    return winner, loop, order


def kept(value: float) -> Score:
    return Score(value, -value, {"latency": -0.1})


def broken(value: float) -> Score:
    return Score(value, -value, {"latency": 0.3})


async def test_a_better_setting_wins_after_interleaved_pairs() -> None:
    (best, verdict, _), _, order = await judged(lambda rank, n: kept(10 + 0.1 * n + (5 if rank else 0)))
    assert order == [0, 1, 1, 0, 0, 1]
    assert best.setting.origin != "baseline"
    assert verdict.significant


async def test_a_worse_setting_gives_way_to_the_baseline() -> None:
    (best, verdict, _), _, _ = await judged(lambda rank, n: kept(10 + 0.1 * n - (5 if rank else 0)))
    assert best.setting.origin == "baseline"
    assert not verdict.significant


async def test_a_winner_that_breaks_its_promises_gives_way_to_the_next_against_a_fresh_baseline() -> None:
    def again(rank: int, n: int) -> Score:
        return broken(30) if rank == 1 else kept(10 + 0.1 * n + (5 if rank else 0))

    (best, verdict, scores), _, order = await judged(again)
    assert order == [0, 1, 1, 0, 0, 1, 0, 2, 2, 0, 0, 2]
    assert verdict.significant
    assert [o.score.value for o in scores[best.number]] == pytest.approx([15.0, 15.1, 15.2])
    assert [o.score.value for o in scores[0]] == pytest.approx([10.3, 10.4, 10.5])


async def test_when_all_break_their_promises_nothing_is_recommended() -> None:
    (best, verdict, _), _, _ = await judged(lambda _rank, _n: broken(10))
    assert best is None
    assert not verdict.significant


async def test_without_proof_nothing_is_called_significant() -> None:
    (best, verdict, _), _, order = await judged(lambda _rank, _n: kept(10), confirm=0)
    assert order == []
    assert best is not None
    assert not verdict.significant


async def test_nothing_feasible() -> None:
    session = Session(None, MemoryStore())
    best, verdict, _ = await _winner(plan(), session, [], None)
    assert best is None
    assert "no setting" in verdict.reason


async def test_resume_of_the_proof_measures_only_what_is_missing() -> None:
    loop = Loop(plan(6, confirm=2))
    trials = await loop.coordinator.search()
    best = min((t for t in trials if t.score.feasible), key=lambda t: t.score.rank)
    for number in (0, best.number, best.number):
        attempt = loop.store.open(trials[number].setting, "g0", "t", number=number, kind=confirmation_of(best.number))
        loop.store.close(attempt, Outcome(service(trials[number].setting)))
    before = len(loop.groups[0].measured)
    await _winner(loop.coordinator._plan, Session(loop.coordinator, loop.store), trials, trials[0])
    assert [a.trial_number for _, _, a in loop.groups[0].measured[before:]] == [0]


async def test_the_baseline_gets_the_winners_load_if_it_does_better_there() -> None:
    """Otherwise a setting without any effect could win only because its load search went further."""
    loop = Loop(plan(6, confirm=2))
    trials = await loop.coordinator.search()
    best = min((t for t in trials if t.score.feasible), key=lambda t: t.score.rank)
    best = replace(best, measurement=replace(best.measurement, load={"concurrency": 8.0}))
    loads: list[tuple[int, float | None]] = []
    evaluate = loop.groups[0].evaluate

    async def spy(attempt: Any, report: Any, keep: Any, wanted: Any) -> Outcome:
        loads.append((attempt.trial_number, wanted.fixed))
        outcome = await evaluate(attempt, report, keep, wanted)
        better = Score(99.0, -99.0, {"latency": -0.1})
        return replace(outcome, score=better) if wanted.fixed == 8.0 else outcome

    loop.groups[0].evaluate = spy
    await _winner(loop.coordinator._plan, Session(loop.coordinator, loop.store), [trials[0], best], trials[0])
    assert loads[0] == (0, 8.0)
    assert loads[1:] == [(0, 8.0), (best.number, 8.0), (best.number, 8.0), (0, 8.0)]
