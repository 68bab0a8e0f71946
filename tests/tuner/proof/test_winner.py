"""Which setting is recommended, and what is measured to find out: rounds in virtual time, on one group and on several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.tuner.loop.test_coordinator import Loop, plan

from swarmtune.errors import BenchmarkExecutionError
from swarmtune.fleet.job import RunResult
from swarmtune.records import AttemptResult, EarlyStop, Measurement, Score, Setting, Trial, TrialState
from swarmtune.testing.memory_store import MemoryStore
from swarmtune.tuner.loop.evaluation import Measured, seed_of
from swarmtune.tuner.planning.plan import LEAST_ROUNDS, Plan
from swarmtune.tuner.proof.confirm import Observed, Proof, group_effects, judge
from swarmtune.tuner.proof.remeasure import Rounds, finalists_of, in_order, prove


def kept(value: float) -> Score:
    return Score(value, -value, {"latency": -0.1})


def broken(value: float) -> Score:
    return Score(value, -value, {"latency": 0.3})


Again = Callable[[int, int], Score]  # of whom (0: the baseline, 1: the search's favourite, ...), how often before


@dataclass
class Proven:
    """A proof, and who was measured for it in what order."""

    proof: Proof
    rounds: Rounds
    rank: dict[str, int]
    loop: Loop
    order: list[int]

    @property
    def remeasured(self) -> list[Any]:
        """What the terminal heard."""
        return [event.facts for event in self.loop.events if event.kind == "remeasured"]

    @property
    def best(self) -> int | None:
        """The recommended setting as a rank."""
        found = next((t for t in self.loop.store.trials() if t.number == self.proof.best), None)
        return None if found is None else self.rank[found.setting.key]


async def searched(evaluations: int = 6, groups: int = 1) -> MemoryStore:
    loop = Loop(plan(evaluations), groups=groups)
    await loop.coordinator.search()
    return loop.store


async def proven(again: Again, store: MemoryStore | None = None, groups: int = 1, **changes: Any) -> Proven:
    """Search on the made-up service (or go on with this store), then prove on one that answers with ``again``."""
    store = store or await searched(groups=groups)
    chosen: Plan = plan(6, **changes)
    loop = Loop(chosen, groups=groups, store=store)
    trials = store.trials()
    finalists = [t for t in finalists_of(chosen, trials) if t.number][: chosen.finalists]
    rank = {t.setting.key: i + 1 for i, t in enumerate(finalists)} | {trials[0].setting.key: 0}
    seen: Counter[int] = Counter()

    def measured(setting: Setting) -> Score:
        seen[rank[setting.key]] += 1
        return again(rank[setting.key], seen[rank[setting.key]] - 1)

    for group in loop.groups:
        group._service = measured
    proof, rounds = await prove(chosen, loop.again, store, trials)
    return Proven(proof, rounds, rank, loop, [rank[a.setting.key] for a in attempts_of(loop)])


def attempts_of(loop: Loop) -> list[Any]:
    """What its groups measured, by beginning."""
    return [a for _, _, a in sorted((m for g in loop.groups for m in g.measured), key=lambda m: m[0])]


async def test_all_qualify_once_then_the_best_and_the_baseline_alternate() -> None:
    found = await proven(lambda rank, n: kept(10 + rank + n / 10))
    assert found.order == [0, 1, 2, 3, 0, 3, 3, 0, 3, 0]
    assert found.best == 3
    baseline = next(t.number for t in found.loop.store.trials() if t.setting.origin == "baseline")
    assert [r[baseline].outcome.score.value for r in found.rounds[:3]] == [10.1, 10.2, 10.3]
    assert [(facts["stage"], facts["round"], facts["of"]) for facts in found.remeasured] == [
        *[("qualify", 1, 1)] * 4,
        *[("prove", n, 3) for n in (1, 1, 2, 2, 3, 3)],
    ]


async def test_a_better_setting_wins() -> None:
    found = await proven(lambda rank, n: kept(10 + 0.1 * n + (5 if rank else 0)), finalists=1)
    assert found.order == [0, 1, 0, 1, 1, 0, 1, 0]
    assert found.best == 1
    assert found.proof.verdict.significant
    assert found.proof.verdict.rounds == 3
    assert found.proof.groups == 1


async def test_a_worse_setting_gives_way_to_the_baseline() -> None:
    found = await proven(lambda rank, n: kept(10 + 0.01 * n - (5 if rank else 0)))
    assert found.best == 0
    assert not found.proof.verdict.significant
    assert len(found.order) == 4 + 2 * 3, "the number of rounds never depends on results"


async def test_a_favourite_that_breaks_its_slos_does_not_qualify() -> None:
    found = await proven(lambda rank, n: broken(30) if rank == 1 else kept(10 + 0.1 * n + 5 * (rank == 2)))
    assert found.best == 2
    assert Counter(found.order) == {0: 4, 1: 1, 2: 4, 3: 1}


async def test_a_finalist_that_breaks_its_slos_in_its_rounds_leaves_them_to_the_next() -> None:
    def again(rank: int, n: int) -> Score:
        if rank == 1:
            return broken(30) if n else kept(30)  # it qualifies as the best, and breaks its SLOs ever after
        return kept(10 + 0.1 * n + 5 * (rank == 2))

    found = await proven(again)
    numbers = {rank: trial.number for trial in found.loop.store.trials() if (rank := found.rank.get(trial.setting.key))}
    assert found.best == 2
    assert Counter(found.order) == {0: 1 + 3 + 3, 1: 1 + 3, 2: 1 + 3, 3: 1}
    assert found.proof.verdict.significant
    assert found.proof.verdict.rounds == 3, "the rounds of the rejected one are not part of the verdict"
    assert (found.proof.candidate, found.proof.rejected) == (numbers[2], (numbers[1],))
    assert {s.trial: s.keeps_slos for s in found.proof.finalists} == {
        numbers[1]: False,
        numbers[2]: True,
        numbers[3]: True,
    }
    assert numbers[1] not in found.proof.tied
    resumed = await proven(again, found.loop.store)
    assert (resumed.order, resumed.best, resumed.proof) == ([], 2, found.proof)


async def test_when_the_last_that_qualified_breaks_its_slos_nothing_is_recommended_but_the_baseline() -> None:
    found = await proven(lambda rank, n: broken(30) if rank and n else kept(20 if rank else 10))
    assert found.best == 0
    assert len(found.proof.rejected) == 2
    assert Counter(found.order) == {0: 1 + 3 * 3, 1: 4, 2: 4, 3: 4}
    assert "broke its SLOs when measured again" in found.proof.verdict.reason


async def test_both_sides_of_a_round_get_the_same_requests_and_each_round_fresh_ones_on_fresh_services() -> None:
    found = await proven(lambda rank, _n: kept(10 + rank))
    store, requests = found.loop.store, []
    for group in found.loop.groups:
        requests += [(job.attempt.kind, job.loads.requests, job.keeps_service) for job in group.jobs]
    assert len(requests) == len(found.order)
    assert all(kind == name and not keeps for kind, name, keeps in requests)
    kinds = Counter(kind for kind, _, _ in requests)
    assert sorted(kinds.values()) == [2, 2, 2, 4], "one name for a round, shared by all that it measures"
    seeds = {seed_of(1, kind, 0) for kind in kinds} | {seed_of(1, a.id, 0) for a, _ in store.attempts}
    assert len(seeds) == len(kinds) + len(store.attempts)


@pytest.mark.parametrize(("metric", "value", "repeats"), [
    ("contended_cpu_share", 0.3, 2), ("other_device_share", 0.3, 2), ("contended_cpu_share", 0.05, 0),
])  # fmt: skip
async def test_a_disturbed_round_is_repeated_as_a_whole_whatever_came_out(
    metric: str, value: float, repeats: int
) -> None:
    store = await searched()
    loop = Loop(plan(6, finalists=1), store=store)
    run, done = loop.groups[0].run, []

    async def beside_neighbours(job: Any, report: Any) -> RunResult[Measured]:
        result = await run(job, report)
        done.append(job.attempt.kind)
        noisy = job.attempt.kind.split(":")[2] == "1" and job.attempt.kind.startswith("prove")
        facts = {**result.result.measurement.metrics, **({metric: value} if noisy else {})}
        measured = replace(result.result, measurement=replace(result.result.measurement, metrics=facts))
        return replace(result, result=measured)

    loop.groups[0].run = beside_neighbours
    _, rounds = await prove(plan(6, finalists=1), loop.again, store, store.trials())
    second = [kind for kind in done if kind.startswith("prove") and kind.split(":")[2] == "1"]
    assert len(second) == 2 * (1 + repeats)
    assert len(set(second)) == 1 + repeats, "fresh requests in each repetition"
    assert len(done) == 2 + 2 * 3 + 2 * repeats
    assert len(rounds[1]) == 2
    again = Loop(plan(6, finalists=1), store=store)
    proof, _ = await prove(plan(6, finalists=1), again.again, store, store.trials())
    assert again.groups[0].measured == [], "a finished proof is read, repetitions included"
    assert proof.verdict.rounds == 3


async def test_the_number_of_rounds_follows_from_the_time_and_is_kept_on_resuming() -> None:
    store = await searched()
    found = await proven(lambda rank, _n: kept(10 + rank), store, confirm=None, proof_s=250.0)
    seconds = {a.trial_number: o.facts["seconds"] for a, o in store.attempts if a.kind.startswith("qualify")}
    pair = [0, found.proof.best]
    expected = int((250 - sum(seconds.values())) / sum(seconds[n] for n in pair))
    assert found.proof.verdict.rounds == expected > 3
    resumed = await proven(lambda rank, _n: kept(10 + rank), store, confirm=None, proof_s=1.0)
    assert (resumed.order, resumed.proof) == ([], found.proof)
    other = await proven(lambda rank, _n: kept(10 + rank), store, confirm=4)
    assert len(other.order) == 2 * 4, "another number is another proof: rounds added after a look prove nothing"
    short = await proven(lambda rank, _n: kept(10 + rank), confirm=None, proof_s=1.0)
    assert short.proof.verdict.rounds == LEAST_ROUNDS


async def test_the_load_of_the_proof_keeps_the_slos_with_a_margin() -> None:
    store = await searched()
    chosen = plan(6, confirm=1, finalists=1)
    best = next(t for t in finalists_of(chosen, store.trials()) if t.number)
    ttft = {4.0: 300.0, 8.0: 430.0, 12.0: 480.0, 16.0: 700.0}
    points = [
        Measurement({"p95_ttft_ms": ms, "success_rate": 1.0, "request_goodput": c}, {"concurrency": c})
        for c, ms in ttft.items()
    ]
    store._trials[best.number] = replace(best, measurement=points[2])
    attempt = next(a for a, _ in store.attempts if a.trial_number == best.number and a.kind == "trial")
    store.records = [r for r in store.records if r[1] is not attempt] + [(m, attempt) for m in points]
    loop = Loop(chosen, store=store)
    await prove(chosen, loop.again, store, store.trials())
    loads = {job.loads.fixed for job in loop.groups[0].jobs if job.attempt.trial_number == best.number}
    assert loads == {9.0}, "450 ms, 90 % of the limit, lie between 8 users (430) and 12 (480)"


async def test_when_all_break_their_promises_nothing_is_recommended() -> None:
    found = await proven(lambda _rank, _n: broken(10))
    assert found.best is None
    assert not found.proof.verdict.significant


async def test_without_proof_nothing_is_called_significant() -> None:
    found = await proven(lambda _rank, _n: kept(10), confirm=0)
    favourite = finalists_of(plan(6), found.loop.store.trials())[0]
    assert found.order == []
    assert found.proof.best == favourite.number
    assert not found.proof.verdict.significant


async def test_nothing_feasible() -> None:
    loop = Loop(plan())
    proof, rounds = await prove(plan(), loop.again, loop.store, [])
    assert (proof.best, rounds) == (None, [])
    assert "no setting" in proof.verdict.reason


async def test_a_baseline_that_cannot_start_is_not_started_again() -> None:
    store = await searched()
    first = store.trials()[0]
    store._trials[0] = replace(first, score=Score.failed(), measurement=None)
    found = await proven(lambda _rank, _n: kept(10), store)
    assert 0 not in found.order
    assert found.proof.verdict.significant
    assert found.proof.verdict.reason.startswith("the baseline breaks")


async def test_groups_work_side_by_side_on_rounds_of_their_own() -> None:
    found = await proven(lambda rank, n: kept(10 + 0.1 * (n % 2) + rank), groups=2, confirm=4)
    began = min(start for g in found.loop.groups for start, _, _ in g.measured)
    for number, measured in enumerate(found.rounds[:4]):
        assert {again.group for again in measured.values()} == {f"g{number % 2}"}
    assert found.proof.groups == 2
    busy = [sum(end - start for start, end, _ in g.measured) for g in found.loop.groups]
    qualifying = sum(end - start for g in found.loop.groups for start, end, a in g.measured if "qualify" in a.kind)
    assert busy[0] - qualifying == busy[1] > 0
    assert found.loop.clock.monotonic() - began == busy[0], "nobody waited"


@pytest.mark.parametrize("groups", [1, 2])
async def test_resume_after_a_crash_at_any_moment_measures_only_what_is_missing(groups: int) -> None:
    def again(rank: int, _n: int) -> Score:
        return kept(10 + rank)

    whole = await proven(again, groups=groups, confirm=4)
    for done in range(len(whole.order) + 1):
        store = await searched(groups=groups)
        ended = [(a, o) for a, o in whole.loop.store.attempts if a.kind != "trial"][:done]
        for attempt, outcome in ended:
            opened = store.open(attempt.setting, attempt.group, "t", number=attempt.trial_number, kind=attempt.kind)
            store.close(opened, outcome)
        resumed = await proven(again, store, groups=groups, confirm=4)
        assert len(resumed.order) == len(whole.order) - done
        assert resumed.proof == whole.proof


async def test_half_a_round_of_another_group_is_measured_again_as_a_whole() -> None:
    whole = await proven(lambda rank, _n: kept(10 + rank), confirm=2, finalists=1)
    store = await searched()
    first = next(a for a, _ in whole.loop.store.attempts if a.kind.startswith("prove"))
    opened = store.open(first.setting, "a group that is gone", "t", number=first.trial_number, kind=first.kind)
    store.close(opened, AttemptResult(kept(99)))
    resumed = await proven(lambda rank, _n: kept(10 + rank), store, confirm=2, finalists=1)
    assert len(resumed.order) == 6
    assert resumed.proof == whole.proof


async def test_more_evaluations_with_other_finalists_are_a_proof_of_their_own() -> None:
    first = await proven(lambda _rank, n: kept(10 + n), finalists=1)
    wider = await proven(lambda _rank, n: kept(10 + n), first.loop.store, finalists=2)
    assert Counter(wider.order) == {0: 1, 1: 1, 2: 1}, "all qualify anew; the rounds of the same pair are there"
    assert wider.proof.verdict == first.proof.verdict


async def test_a_group_that_is_lost_leaves_its_rounds_to_the_other() -> None:
    store = await searched(groups=2)
    loop = Loop(plan(6), groups=2, store=store, lose=lambda a: a.group == "g1")
    proof, rounds = await prove(plan(6), loop.again, store, store.trials())
    assert {again.group for measured in rounds for again in measured.values()} == {"g0"}
    assert (proof.groups, [len(r) for r in rounds]) == (1, [2, 2, 2, 2])


async def test_when_all_groups_are_lost_the_run_ends_with_the_reason() -> None:
    store = await searched(groups=2)
    loop = Loop(plan(6), groups=2, store=store, lose=lambda _: True)
    with pytest.raises(BenchmarkExecutionError, match="could not be measured again: the node was lost"):
        await prove(plan(6), loop.again, store, store.trials())


def test_the_speed_of_groups_is_told_apart_from_that_of_settings() -> None:
    speed, quality = {"a": 1.0, "b": 1.2}, {0: 10.0, 1: 12.0, 2: 9.0}
    groups = ["a", "b", "a", "b"]
    rounds = [{n: Observed(kept(q * speed[g])) for n, q in quality.items() if n < 2 or g == "a"} for g in groups]
    effects = group_effects(rounds, groups, "maximize")
    assert (1 + effects["b"] / 100) / (1 + effects["a"] / 100) == pytest.approx(1.2)
    assert group_effects(rounds, ["a"] * 4, "maximize") == {}
    assert judge({}, rounds, 0, 1, [1], "maximize", 2).verdict.gain_percent == pytest.approx(20.0)


async def test_a_finalist_that_cannot_be_measured_leaves_the_proof_to_the_others() -> None:
    store = await searched()
    favourite = next(t for t in finalists_of(plan(6), store.trials()) if t.number)
    lose_favourite = Loop(plan(6), store=store, lose=lambda a: a.trial_number == favourite.number)
    proof, rounds = await prove(plan(6), lose_favourite.again, store, store.trials())
    assert proof.best not in (None, favourite.number)
    assert favourite.number not in rounds[0]
    assert lose_favourite.kinds.count("finalist_lost") == 1


async def test_the_baseline_gets_the_winners_load_if_it_does_better_there_and_is_asked_once() -> None:
    """Otherwise a setting without any effect could win only because its load search went further."""
    store = await searched()
    chosen = plan(6, confirm=2, finalists=1)
    best = next(t for t in finalists_of(chosen, store.trials()) if t.number)
    store._trials[best.number] = replace(best, measurement=replace(best.measurement, load={"concurrency": 8.0}))
    own, theirs, best_ = (0, 4.0), (0, 8.0), (best.number, 8.0)
    for expected in ([own, best_, theirs, theirs, best_, best_, theirs], []):
        loop = Loop(chosen, store=store)
        loads: list[tuple[int, float | None]] = []
        run = loop.groups[0].run

        async def spy(job: Any, report: Any, run: Any = run, loads: Any = loads) -> RunResult[Measured]:
            loads.append((job.attempt.trial_number, job.loads.fixed))
            done = await run(job, report)
            slos = {"latency": -0.1, "success_rate": 1 - 1 / 0.99}  # not a single failure
            better = replace(done.result, score=Score(99.0, -99.0, slos))
            return replace(done, result=better) if job.loads.fixed == 8.0 else done

        loop.groups[0].run = spy
        await prove(chosen, loop.again, store, store.trials())
        assert loads == expected


async def at_other_load(store: MemoryStore, lose: Callable[[Any], bool], groups: int = 1) -> Loop:
    """A proof in which the search's favourite was scored at another load than the baseline."""
    chosen = plan(6, confirm=2, finalists=1)
    best = next(t for t in finalists_of(chosen, store.trials()) if t.number)
    store._trials[best.number] = replace(best, measurement=replace(best.measurement, load={"concurrency": 8.0}))
    loop = Loop(chosen, groups=groups, store=store, lose=lose)
    await prove(chosen, loop.again, store, store.trials())
    return loop


async def test_the_other_load_is_tried_on_the_group_of_the_qualifying_round() -> None:
    """Else the faster of two groups would decide."""
    store = await searched(groups=2)
    loop = await at_other_load(store, lambda a: a.group == "g0" and a.kind.startswith("qualify"), groups=2)
    groups = {a.kind.split(":")[0]: a.group for a in attempts_of(loop)}
    assert (groups["qualify"], groups["fair-load"]) == ("g1", "g1")


async def test_a_proof_that_has_begun_keeps_its_load() -> None:
    store = await searched()
    await at_other_load(store, lambda a: a.kind.startswith("fair-load"))
    assert not [a for a, o in store.attempts if a.kind.startswith("fair-load") and o.score]
    again = await at_other_load(store, lambda _: False)
    assert attempts_of(again) == []


def measured(number: int, setting: Setting, origin: str, load: float) -> Trial:
    loaded = Measurement({}, {"concurrency": load})
    return Trial(number, replace(setting, origin=origin), TrialState.COMPLETE, kept(10), loaded)


def test_a_setting_that_was_measured_several_times_is_one_finalist_at_its_median_load() -> None:
    space = plan().space
    one, other = space.setting({"seqs": 20}, "particle:1"), space.setting({"seqs": 30}, "particle:2")
    trials = [
        measured(1, one, "particle:1", 4.0),
        measured(2, other, "particle:2", 4.0),
        measured(3, one, "again:1", 16.0),
        measured(4, one, "again:1", 8.0),
    ]
    found = finalists_of(plan(), trials)
    assert Counter(t.setting.key for t in found) == {one.key: 1, other.key: 1}
    assert 4 in [t.number for t in found]


def test_a_measurement_that_was_stopped_early_makes_no_finalist() -> None:
    space = plan().space
    trials = [
        replace(
            measured(number, space.setting({"seqs": 4 + 4 * number}), "", 8.0),
            score=Score(10.0 + number, -10.0 - number, {"latency": -0.3}),
        )
        for number in range(9)
    ]
    stop = EarlyStop("cannot_win", "request_goodput", 9.0, True, 17.0, 18.1)
    assert [t.number for t in finalists_of(plan(), trials)] == [8, 7, 6, 5]
    trials[8] = replace(trials[8], measurement=Measurement({}, {"concurrency": 8.0}, early_stop=stop))
    assert [t.number for t in finalists_of(plan(), trials)] == [7, 6, 5, 4]


def test_of_several_objectives_the_first_chooses_the_finalists() -> None:
    space = plan().space
    trials = [
        replace(
            measured(number, space.setting({"seqs": 4 + 4 * number}), "", 8.0),
            score=replace(kept(10.0 + number), values={"goodput": -10.0 - number, "p95_ttft_ms": 1.3**number}),
        )
        for number in range(9)
    ]
    assert [t.number for t in finalists_of(plan(), trials)] == [8, 7, 6, 5]


def test_drift_hits_all_alike() -> None:
    """Over two rounds everyone stands in the middle on average, and everyone comes first sometimes."""
    trials = [measured(n, plan().space.default(), "x", 1.0) for n in range(3)]
    orders = [[t.number for t in in_order(trials, n)] for n in range(6)]
    for number in (0, 2, 4):
        places = [orders[number].index(t) + orders[number + 1].index(t) for t in range(3)]
        assert places == [2, 2, 2]
    assert {order[0] for order in orders} == {0, 1, 2}
