"""The loop in virtual time: no barrier, exact budgets, retries that teach nothing, resume, interleaved proof."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmtune.clock import VirtualClock
from swarmtune.engines.simulated import SimulatedConfig, SimulatedEngine
from swarmtune.errors import BenchmarkExecutionError, CommunicationError, Culprit, PluginError, SimulatorStartError
from swarmtune.execution.config import ParallelConfig
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.fleet.job import RunResult, Stage
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.objective import Goodput
from swarmtune.records import Attempt, Event, Group, Measurement, Score, Setting, TrialState
from swarmtune.search.base import Running
from swarmtune.search.load import LoadSearch
from swarmtune.search.random import RandomSearch
from swarmtune.search.swarm import SwarmOptions
from swarmtune.space import Field, Space
from swarmtune.testing.memory_store import MemoryStore
from swarmtune.testing.search import MIXED, RULES, service
from swarmtune.testing.synthetic import SyntheticGroup
from swarmtune.tuner.loop import coordinator
from swarmtune.tuner.loop.attempts import Attempts
from swarmtune.tuner.loop.coordinator import Coordinator
from swarmtune.tuner.loop.evaluation import Bench, Measured
from swarmtune.tuner.loop.groups import dispatcher_of
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.again import Again

FIELDS = tuple(replace(f, value=f.value) for f in MIXED)


def plan(evaluations: int = 12, **changes: object) -> Plan:
    benchmark = SwarmtuneBenchmark(LoadgenOptions())
    made = Plan(
        engine=SimulatedEngine(SimulatedConfig()),
        benchmark=benchmark,
        space=Space(FIELDS, RULES),
        objective=Goodput(limits={"p95_ttft_ms": 500.0}),
        workload=benchmark.workload("m", 0, {}),
        load_search=LoadSearch(1, 64, 4),
        load_variable="concurrency",
        algorithm="swarm",
        swarm=SwarmOptions(),
        evaluations=evaluations,
        timeout_s=None,
        seed=1,
        confirm=3,
        groups=(Group("a"),),
        user_settings=(),
        start_timeout_s=60,
        evaluation_timeout_s=600,
        max_attempts=3,
        backup=False,
        output=Path("unused"),
        study=None,
    )
    return replace(made, **changes)


def fivefold(setting: Setting) -> float:
    """Evaluation times that differ fivefold, in seconds."""
    return 20.0 + 80.0 * (hash(setting.key) % 1000) / 1000


class Loop:
    """A coordinator with its parts."""

    def __init__(
        self,
        plan: Plan,
        groups: int = 1,
        store: MemoryStore | None = None,
        seconds: Callable[[Setting], float] = lambda _: 10.0,
        lose: Callable[[Attempt], bool] = lambda _: False,
    ) -> None:
        self.clock = VirtualClock()
        self.store = store or MemoryStore()
        self.events: list[Event] = []
        self.groups = [SyntheticGroup(f"g{i}", self.clock, service, seconds, lose) for i in range(groups)]
        self.build(plan)

    def build(self, plan: Plan) -> None:
        self.dispatcher = dispatcher_of(plan, self.groups, self.clock, self.events.append)
        bench = Bench(LocalExecutor(Path("unused"), self.clock), self.clock, Path("unused"))
        attempts = Attempts(plan, self.store, bench, self.events.append)
        self.coordinator = Coordinator(plan, attempts, self.dispatcher)
        self.again = Again(plan, attempts, self.dispatcher)

    @property
    def kinds(self) -> list[str]:
        return [e.kind for e in self.events]


async def test_exactly_the_budget_and_the_baseline_first() -> None:
    loop = Loop(plan(12))
    trials = await loop.coordinator.search()
    assert len(trials) == 12
    assert trials[0].setting.origin == "baseline"
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert len({t.setting.key for t in trials}) == 12


async def test_no_barrier_between_groups() -> None:
    """Four groups with times that differ fivefold are busy nearly all the time; with a barrier they could not be."""
    loop = Loop(plan(60), groups=4, seconds=fivefold)
    begun = loop.clock.monotonic()
    trials = await loop.coordinator.search()
    total = loop.clock.monotonic() - begun
    assert len({t.setting.key for t in trials}) == 60, "groups that are free at once must not get the same setting"
    busy = sum(end - start for g in loop.groups for start, end, _ in g.measured)
    assert busy / (4 * total) > 0.93
    for group in loop.groups:
        gaps = [b[0] - a[1] for a, b in zip(group.measured, group.measured[1:], strict=False)]
        assert max(gaps, default=0) < 1e-6


async def test_users_settings_come_right_after_the_baseline() -> None:
    space = Space(FIELDS, RULES)
    own = (space.setting({"seqs": 77}, "user:1"), space.setting({"seqs": 78}, "user:2"))
    loop = Loop(plan(5, user_settings=own))
    trials = await loop.coordinator.search()
    assert [t.setting.origin for t in trials[:3]] == ["baseline", "user:1", "user:2"]


async def test_a_setting_given_twice_is_measured_once() -> None:
    space = Space(FIELDS, RULES)
    twice = (space.setting({"seqs": 77}, "user:1"), space.setting({"seqs": 77}, "user:2"))
    trials = await Loop(plan(4, user_settings=twice)).coordinator.search()
    assert sum(t.setting.values["seqs"] == 77 for t in trials) == 1


async def test_the_time_budget_ends_the_search_but_not_a_measurement() -> None:
    loop = Loop(plan(100, timeout_s=95.0))
    trials = await loop.coordinator.search()
    assert len(trials) == 10
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    spent = Loop(plan(100, timeout_s=95.0))
    assert len(await spent.coordinator.search(spent_s=50.0)) == 5


async def test_a_lost_measurement_is_repeated_and_teaches_nothing() -> None:
    loop = Loop(plan(8), lose=lambda a: a.id in (2, 3))
    trials = await loop.coordinator.search()
    assert len(trials) == 8
    assert loop.kinds.count("trial_retried") == 2
    assert max(t.attempts for t in trials) >= 2
    told = Loop(plan(8))
    assert [t.setting.key for t in await told.coordinator.search()] == [t.setting.key for t in trials]


async def test_a_lost_trial_goes_to_another_group_first() -> None:
    loop = Loop(plan(8), groups=3, lose=lambda a: a.group == "g0" and a.trial_number in (0, 3))
    await loop.coordinator.search()
    tries = {n: [a.group for g in loop.groups for _, _, a in g.measured if a.trial_number == n] for n in range(8)}
    assert all(len({*groups}) == len(groups) for groups in tries.values())
    assert Counter(len(groups) for groups in tries.values())[2] >= 1


def parallel_plan(evaluations: int, **options: object) -> Plan:
    config = ParallelConfig.from_node_string("a:b:c", npus_per_node=0, **options)
    return plan(evaluations, parallel=config, max_attempts=config.retry_count + 1)


async def test_a_group_that_keeps_failing_is_out_of_use_and_comes_back() -> None:
    """Its breaker opens after three failures, a probe follows a minute later."""
    options = {"breaker_failures": 3, "breaker_recovery": 60.0, "retry_delay": 1.0, "retry_count": 5}
    ill_until = 1_000_150.0
    loop = Loop(parallel_plan(40, **options), groups=3)
    loop.groups[0]._lose = lambda _: loop.clock.monotonic() < ill_until
    trials = await loop.coordinator.search()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 40
    begun = [begun - 1_000_000.0 for begun, _, _ in loop.groups[0].measured]
    assert begun[:3] == [0.0, 10.0, 20.0]
    assert 89.0 <= begun[3] <= 91.0  # the probe, which fails, too
    assert 159.0 <= begun[4] <= 163.0
    assert begun[5] - begun[4] == pytest.approx(10.0)  # all is well again
    counts = [e.facts for e in loop.events if e.kind == "groups" and "healthy" in e.facts]
    assert {c["healthy"] for c in counts} == {2, 3}


class Sick(SyntheticGroup):
    """Every start fails after five seconds: a broken wheel, a missing library."""

    async def run(self, job: Any, report: Any) -> RunResult:
        began = self._clock.monotonic()
        await self._clock.sleep(5.0)
        self.measured.append((began, self._clock.monotonic(), job.attempt))
        return self.failed(
            SimulatorStartError("libfoo.so: no such file", details={"cause": "crashed"}), Stage.READY, 5.0
        )


async def test_no_failure_of_a_sick_group_is_a_result() -> None:
    """Sixty evaluations on three groups, one of them sick: all come from the good ones."""
    loop = Loop(parallel_plan(60), groups=3, seconds=lambda _: 120.0)
    loop.groups[1] = Sick("g1", loop.clock, service, lambda _: 5.0)
    loop.build(parallel_plan(60))
    trials = await loop.coordinator.search()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 60
    assert not [t.failure for t in trials if "libfoo" in (t.failure or "")]
    by_group = Counter(a.group for a, o in loop.store.attempts if o.score is not None)
    assert set(by_group) == {"g0", "g2"}
    blamed = {(a.group, o.facts["culprit"]) for a, o in loop.store.attempts if o.score is None}
    assert blamed == {("g1", "infrastructure")}
    assert [e.facts["healthy"] for e in loop.events if e.kind == "groups" and "healthy" in e.facts][-1] == 2


async def test_when_no_service_starts_anywhere_the_run_ends_after_a_few_and_stores_no_result() -> None:
    loop = Loop(parallel_plan(60), groups=3)
    loop.groups = [Sick(g.name, loop.clock, service, lambda _: 5.0) for g in loop.groups]
    loop.build(parallel_plan(60))
    with pytest.raises(SimulatorStartError, match=r"libfoo\.so") as caught:
        await loop.coordinator.search()
    assert caught.value.culprit is Culprit.USER
    assert len(loop.store.attempts) <= 6
    assert {t.state for t in loop.store.trials()} == {TrialState.RUNNING}


class Refusing(SyntheticGroup):
    """Serves, and refuses every request of the settings that ``refuses`` names by their number."""

    refuses: Any = staticmethod(lambda _: True)

    async def run(self, job: Any, report: Any) -> RunResult:
        await self._clock.sleep(10.0)
        if not self.refuses(job.attempt.trial_number):
            return await super().run(job, report)
        measurement = Measurement({"completed": 0.0, "answered": 9.0}, reasons=("HTTP 422: extra fields",))
        return RunResult(Measured(measurement, Score(0.0, 0.0, {"success_rate": 1.0})), seconds=10.0)


async def test_if_every_service_refuses_every_request_the_run_ends_after_three_settings() -> None:
    loop = Loop(plan(20))
    loop.groups = [Refusing("g0", loop.clock, service, lambda _: 10.0)]
    loop.build(plan(20))
    with pytest.raises(BenchmarkExecutionError, match="HTTP 422: extra fields") as caught:
        await loop.coordinator.search()
    assert caught.value.culprit is Culprit.USER
    assert len(loop.store.trials()) == 3


async def test_settings_that_refuse_everything_are_results_where_others_do_not() -> None:
    loop = Loop(plan(12))
    loop.groups = [Refusing("g0", loop.clock, service, lambda _: 10.0)]
    loop.groups[0].refuses = lambda number: number != 1
    loop.build(plan(12))
    trials = await loop.coordinator.search()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 12


async def test_groups_join_and_leave_while_the_search_runs() -> None:
    loop = Loop(parallel_plan(30), groups=2)
    newcomer = SyntheticGroup("late", loop.clock, service, lambda _: 10.0)

    async def change() -> None:
        await loop.clock.sleep(35.0)
        loop.dispatcher.pool.join(newcomer)
        loop.dispatcher.pool.leave("g0")

    _, trials = await asyncio.gather(change(), loop.coordinator.search())
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 30
    assert max(end for _, end, _ in loop.groups[0].measured) == 1_000_040.0  # what it had begun was finished
    assert min(begun for begun, _, _ in newcomer.measured) == 1_000_035.0


async def test_a_group_that_needs_its_user_is_left_out_and_the_others_go_on() -> None:
    loop = Loop(parallel_plan(8), groups=2)

    async def refuse(*_: object) -> RunResult:
        error = CommunicationError("g0 cannot be trusted: its host key has changed", culprit=Culprit.USER)
        return RunResult(error=error, stage=Stage.START)

    loop.groups[0].run = refuse  # type: ignore[method-assign]
    trials = await loop.coordinator.search()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 8
    assert any("left out: g0 cannot be trusted" in e.facts.get("message", "") for e in loop.events)
    alone = Loop(parallel_plan(8), groups=1)
    alone.groups[0].run = refuse  # type: ignore[method-assign]
    with pytest.raises(CommunicationError, match="cannot be trusted"):
        await alone.coordinator.search()


async def test_when_no_group_is_left_the_run_says_so() -> None:
    loop = Loop(parallel_plan(30), groups=1)

    async def leave() -> None:
        await loop.clock.sleep(15.0)
        loop.dispatcher.pool.leave("g0")

    with pytest.raises(CommunicationError, match="no group of nodes is left"):
        await asyncio.gather(leave(), loop.coordinator.search())


async def test_a_trial_that_cannot_be_measured_is_given_up_and_replaced() -> None:
    loop = Loop(plan(8), lose=lambda a: a.trial_number == 3)
    trials = await loop.coordinator.search()
    assert [t.state for t in trials].count(TrialState.FAILED) == 1
    assert [t.state for t in trials].count(TrialState.COMPLETE) == 8


async def test_when_nothing_can_be_measured_the_run_says_so() -> None:
    loop = Loop(plan(8), lose=lambda _: True)
    with pytest.raises(BenchmarkExecutionError, match="the node was lost"):
        await loop.coordinator.search()
    late = Loop(plan(20), lose=lambda a: a.trial_number > 4)
    with pytest.raises(BenchmarkExecutionError, match="2 setting"):
        await late.coordinator.search()


async def test_resume_measures_what_was_running_and_then_exactly_the_rest() -> None:
    whole = Loop(plan(14))
    expected = [t.setting.key for t in await whole.coordinator.search()]
    store = MemoryStore()
    first = Loop(plan(6), store=store)
    await first.coordinator.search()
    cut_off = store.open(store.trials()[-1].setting, "g0", "t")  # a trial whose tuner died
    second = Loop(plan(14), store=store)
    trials = await second.coordinator.search()
    assert len(trials) == 14
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert second.groups[0].measured[0][2].trial_number == cut_off.trial_number
    assert [t.setting.key for t in trials[:6]] == expected[:6]
    assert second.kinds[0] == "resumed"


async def test_a_small_space_ends_early() -> None:
    space = Space([Field("n", min=1, max=3, value=1)])
    loop = Loop(plan(10, space=space))
    with pytest.MonkeyPatch.context():
        loop.groups[0]._service = lambda s: service(Setting({**Space(FIELDS, RULES).default().values}))
        trials = await loop.coordinator.search()
    assert len(trials) == 3
    assert "exhausted" in loop.kinds


async def test_every_attempt_is_in_the_store_before_it_is_told() -> None:
    loop = Loop(plan(5))
    await loop.coordinator.search()
    assert all(outcome is not None for _, outcome in loop.store.attempts)
    assert loop.kinds.count("trial_finished") == 5


async def test_a_question_is_asked_with_what_runs_on_its_group_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(plan(10), groups=2)
    for group in loop.groups:
        group.start_s = 6.0
    monkeypatch.setattr(coordinator, "free_fields", lambda _: frozenset({"concurrency"}))
    loop.build(plan(10))
    seen: list[Running | None] = []
    monkeypatch.setattr(loop.coordinator._search, "see", seen.append)
    await loop.coordinator.search()
    assert seen[0] is None
    known = [running for running in seen if running is not None]
    last = {(g.group.name, attempt.setting.key) for g in loop.groups for _, _, attempt in g.measured}
    assert {running.setting.key for running in known} <= {key for _, key in last}
    assert {(running.free, running.start_share) for running in known} == {(frozenset({"concurrency"}), 0.6)}


async def test_a_search_that_asks_for_no_setting_of_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(plan(4))
    monkeypatch.setattr(loop.coordinator._search, "ask", lambda pending: Setting({"other": 1}))
    with pytest.raises(PluginError, match=r"ask\(\) returned an illegal setting: the fields .*other.* are not those"):
        await loop.coordinator.search()
    loop = Loop(plan(4))
    baseline = loop.coordinator._plan.baseline()
    broken = replace(baseline, values={**baseline.values, "tokens": 64, "seqs": 65})
    monkeypatch.setattr(loop.coordinator._search, "ask", lambda pending: broken)
    with pytest.raises(PluginError, match=r"ask\(\) returned an illegal setting: tokens >= seqs"):
        await loop.coordinator.search()


class Doubting(RandomSearch):
    """Asks to be made anew after every second result that it was not made with."""

    def __init__(self, *arguments: object, known: int) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.known, self.results = known, 0

    def tell(self, setting: Setting, score: Score) -> None:
        super().tell(setting, score)
        self.results += 1

    @property
    def outdated(self) -> bool:
        return self.results >= self.known + 2


@pytest.mark.parametrize("groups", [1, 3])
async def test_a_search_that_is_outdated_is_made_anew_while_nothing_is_measured(groups: int) -> None:
    made_plan = plan(10)
    loop, made = Loop(made_plan, groups), list[int]()

    async def foresee() -> Doubting:
        trials = loop.store.trials()
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        made.append(len(trials))
        return Doubting(made_plan.space, 1, 10, known=len(trials))

    assert len(await loop.coordinator.search(foresee=foresee)) == 10
    assert made[0] == 1, "after the baseline"
    assert all(later - earlier >= 2 for earlier, later in itertools.pairwise(made))
    assert len(made) > 2
