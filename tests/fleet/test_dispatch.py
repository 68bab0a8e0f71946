"""Work for groups in virtual time: no barrier, sick groups, second opinions, ends that say who must act."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from swarmtune.clock import VirtualClock
from swarmtune.errors import (
    BenchmarkExecutionError,
    CommunicationError,
    Culprit,
    SimulatorHealthCheckError,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.fleet.blame import Blame
from swarmtune.fleet.dispatch import Dispatcher, Work
from swarmtune.fleet.durations import MEMORY, Durations
from swarmtune.fleet.health import RetryPolicy
from swarmtune.fleet.job import Job, Report, RunResult, Service, Stage
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.records import Command, Event, Group, Node
from swarmtune.space import Field, Space

Behaviour = Callable[[str, int], tuple[float, SwarmTuneError | None, Stage]]
SPACE = Space([Field("ms", min=0, max=100)])


def serves(seconds: float) -> Behaviour:
    return lambda _group, _item: (seconds, None, Stage.USE)


def crashes(seconds: float = 5.0, text: str = "missing library", cause: str = "crashed") -> Behaviour:
    return lambda *_: (seconds, SimulatorStartError(text, details={"cause": cause}), Stage.READY)


def unreachable(seconds: float = 0.1) -> Behaviour:
    return lambda *_: (seconds, CommunicationError("connection refused"), Stage.START)


class Numbered(Job[int]):
    """A piece of work that is only a number."""

    def __init__(self, item: int) -> None:
        self.item = item

    def commands(self, group: Group) -> tuple[Command, ...]:
        return ()

    async def ready(self, service: Service) -> bool:
        return True

    def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
        raise NotImplementedError

    async def use(self, service: Service) -> int:
        raise NotImplementedError


class Member:
    """A group that behaves as it is told, on a clock."""

    def __init__(self, name: str, clock: VirtualClock, behaviour: Behaviour) -> None:
        self.group = Group(name)
        self.clock = clock
        self.behaviour = behaviour
        self.ran: list[tuple[float, int]] = []

    @property
    def name(self) -> str:
        return self.group.name

    async def run(self, job: Job[int], report: Report) -> RunResult[int]:
        assert isinstance(job, Numbered)
        self.ran.append((self.clock.monotonic() - 1_000_000.0, job.item))
        seconds, error, stage = self.behaviour(self.name, job.item)
        await self.clock.sleep(seconds)
        if error is None:
            return RunResult(job.item, seconds=seconds)
        died = isinstance(error, SimulatorHealthCheckError)
        return RunResult(error=error, stage=stage, died=died, nodes_answer=True, seconds=seconds)

    async def stop(self) -> None:
        pass

    async def answers(self) -> bool:
        return True


class Numbers:
    """So many numbers as a source, and how each ended."""

    def __init__(self, count: int, most_tries: int = 3, expected: Callable[[int], float] = lambda _: 0.0) -> None:
        self.todo = list(range(count))
        self.expected = expected
        self.most_tries = most_tries
        self.resumed = False
        self.results: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self.given_up: dict[int, str] = {}
        self.attempts: Counter[int] = Counter()

    @property
    def has_results(self) -> bool:
        return self.resumed or bool(self.results)

    @property
    def more(self) -> bool:
        return bool(self.todo)

    def take(self, group: str) -> Work[int] | None:
        return Work(self.todo.pop(0)) if self.todo else None

    def expected_s(self, waiting: Sequence[Work[int]]) -> Sequence[float]:
        return [self.expected(work.item) for work in waiting]

    def begin(self, work: Work[int], group: Group) -> Numbered:
        self.attempts[work.item] += 1
        return Numbered(work.item)

    async def end(self, work: Work[int], group: Group, run: RunResult[int], fault: Blame | None) -> bool:
        assert work.item not in {**self.results, **self.failed, **self.given_up}, "nothing ends twice"
        if fault is None:
            self.results[work.item] = group.name
        elif fault.culprit is Culprit.SETTING:
            self.failed[work.item] = group.name
        elif work.tries >= self.most_tries:
            self.given_up[work.item] = group.name
        else:
            return True
        return False


class Fleet:
    """Groups by name and behaviour, with a dispatcher."""

    def __init__(self, **behaviours: Behaviour) -> None:
        self.clock = VirtualClock()
        self.members = {name: Member(name, self.clock, how) for name, how in behaviours.items()}
        self.events: list[Event] = []
        pool: ServiceGroupPool[Any] = ServiceGroupPool(
            self.members.values(), self.clock, lambda m: m.name, failures=5, open_s=60.0
        )
        self.dispatcher: Dispatcher[int, int] = Dispatcher(
            pool, self.clock, RetryPolicy(3, 1.0, jitter=0.0), self.events.append
        )

    async def run(self, source: Numbers) -> Numbers:
        await self.dispatcher.run(source)
        return source

    @property
    def seconds(self) -> float:
        return self.clock.monotonic() - 1_000_000.0


async def test_a_group_that_fails_every_start_at_once_costs_no_result() -> None:
    """Two good groups of 120 s and one that fails in 5 s: all 60 come from the good ones."""
    fleet = Fleet(good=serves(120.0), well=serves(120.0), sick=crashes(5.0))
    done = await fleet.run(Numbers(60))
    assert Counter(done.results.values()) == {"good": 30, "well": 30}
    assert (done.failed, done.given_up) == ({}, {})
    counts = [e.facts for e in fleet.events if "healthy" in e.facts]
    assert counts[-1]["healthy"] == 2
    assert fleet.seconds <= 31 * 120.0


async def test_a_group_that_falls_sick_later_costs_two_results_at_most() -> None:
    """A disk fills up, a driver breaks: the group has served before, so that its first failures are believed."""
    sick: Behaviour = lambda name, item: (5.0, None, Stage.USE) if item < 4 else crashes()(name, item)  # noqa: E731
    fleet = Fleet(good=serves(60.0), well=serves(60.0), sick=sick)
    done = await fleet.run(Numbers(60))
    assert len(done.results) >= 58
    assert len(done.failed) <= 2
    assert done.given_up == {}


async def test_bad_work_fails_though_its_groups_are_well() -> None:
    """Every third piece cannot start anywhere: exactly those fail, and no group is out of use."""
    bad: Behaviour = lambda name, item: crashes()(name, item) if item % 3 == 1 else (20.0, None, Stage.USE)  # noqa: E731
    fleet = Fleet(a=bad, b=bad, c=bad)
    done = await fleet.run(Numbers(30))
    assert sorted(done.failed) == [n for n in range(30) if n % 3 == 1]
    assert len(done.results) == 20
    assert {e.facts["healthy"] for e in fleet.events if "healthy" in e.facts} == {3}


async def test_a_run_of_bad_work_is_told_from_a_sick_group() -> None:
    """A region of the space that cannot start: it is tried twice, and the groups stay in use."""
    bad: Behaviour = lambda name, item: crashes()(name, item) if 4 <= item < 16 else (20.0, None, Stage.USE)  # noqa: E731
    fleet = Fleet(a=bad, b=bad)
    done = await fleet.run(Numbers(30))
    assert sorted(done.failed) == list(range(4, 16))
    assert max(done.attempts.values()) <= 2
    assert {e.facts["healthy"] for e in fleet.events if "healthy" in e.facts} == {2}


async def test_one_group_alone_is_believed_when_it_has_served() -> None:
    bad: Behaviour = lambda name, item: crashes()(name, item) if item > 2 else (20.0, None, Stage.USE)  # noqa: E731
    done = await Fleet(only=bad).run(Numbers(10))
    assert sorted(done.failed) == list(range(3, 10))


async def test_a_baseline_that_cannot_start_is_told_from_a_sick_machine() -> None:
    """The first piece fails before anything has served: it is tried again once something has, and then believed."""
    first: Behaviour = lambda name, item: crashes()(name, item) if item == 0 else (20.0, None, Stage.USE)  # noqa: E731
    done = await Fleet(only=first).run(Numbers(5))
    assert (list(done.failed), len(done.results), done.attempts[0]) == ([0], 4, 2)


async def test_if_nothing_starts_anywhere_the_run_ends_after_the_first_few() -> None:
    fleet = Fleet(a=crashes(text="exit code 127: libfoo.so: no such file"), b=crashes(), c=crashes())
    source = Numbers(60)
    with pytest.raises(SimulatorStartError) as caught:
        await fleet.run(source)
    assert caught.value.culprit is Culprit.USER
    assert "libfoo.so" in caught.value.message
    assert "b, c: missing library" in caught.value.message
    assert sum(source.attempts.values()) <= 6
    assert (source.results, source.failed, source.given_up) == ({}, {}, {})


async def test_memory_gets_more_patience_than_other_causes() -> None:
    """A space that is mostly too large: the sixth setting fits."""
    large: Behaviour = lambda name, item: (  # noqa: E731
        crashes(cause="out_of_memory")(name, item) if item < 5 else (20.0, None, Stage.USE)
    )
    done = await Fleet(only=large).run(Numbers(10))
    assert (sorted(done.failed), len(done.results)) == (list(range(5)), 5)
    with pytest.raises(SimulatorStartError):
        await Fleet(only=crashes(cause="out_of_memory")).run(Numbers(60))


async def test_a_few_pieces_that_all_fail_end_the_run_too() -> None:
    with pytest.raises(SimulatorStartError, match="No service has become ready on any group"):
        await Fleet(only=crashes()).run(Numbers(1))


async def test_the_last_piece_of_a_resumed_study_may_fail() -> None:
    """Nothing has served in this run, but in an earlier one: the run must end, whatever the last piece does."""
    source = Numbers(1)
    source.resumed = True
    done = await Fleet(a=crashes(), b=crashes()).run(source)
    assert (list(done.failed), done.attempts[0] <= 3) == ([0], True)


async def test_what_failed_in_an_earlier_run_is_tried_again() -> None:
    fleet = Fleet(only=crashes())
    with pytest.raises(SimulatorStartError):
        await fleet.run(Numbers(5))
    assert fleet.dispatcher.pool.counts.busy == 0
    fleet.members["only"].behaviour = serves(5.0)
    await fleet.clock.sleep(120.0)
    assert len((await fleet.run(Numbers(5))).results) == 5


async def test_work_does_not_go_round_for_ever_when_the_only_good_group_is_dead() -> None:
    """One group has served and is gone, the other answers and never serves: the work is given up by its source."""
    fleet = Fleet(good=serves(10.0), bad=crashes(1.0))

    async def storm() -> None:
        await fleet.clock.sleep(15.0)
        fleet.members["good"].behaviour = unreachable()
        while True:  # health checks: the dead one does not answer, the bad one does
            await fleet.clock.sleep(30.0)
            for name, ok in (("good", False), ("bad", True)):
                fleet.dispatcher.pool.checked(fleet.members[name], ok)

    source, storming = Numbers(4), asyncio.create_task(storm())
    await fleet.run(source)
    storming.cancel()
    assert len(source.results) + len(source.given_up) + len(source.failed) == 4
    assert source.given_up


async def test_a_group_that_left_does_not_keep_the_others_from_being_hopeless() -> None:
    fleet = Fleet(gone=serves(10.0), sick=crashes())

    async def change() -> None:
        await fleet.clock.sleep(12.0)
        fleet.dispatcher.leave("gone", "asked to")

    source = Numbers(60)
    with pytest.raises(SimulatorStartError, match="missing library"):
        await asyncio.gather(change(), fleet.run(source))
    assert source.attempts.total() < 20


async def test_a_lost_start_is_no_first_opinion() -> None:
    """A node dies as a piece starts: when it then fails to start elsewhere, that is its first failure."""
    lost = SimulatorStartError("the port is taken", culprit=Culprit.INFRASTRUCTURE)

    def how(name: str, item: int) -> tuple[float, SwarmTuneError | None, Stage]:
        if item == 2:
            return (5.0, lost, Stage.READY) if name == "a" else crashes()(name, item)
        return 10.0, None, Stage.USE

    fleet = Fleet(a=how, b=how)
    done = await fleet.run(Numbers(6))
    assert set(done.results) | set(done.failed) == set(range(6))
    works = [failure.work for failures in fleet.dispatcher._history._failures.values() for failure in failures]
    assert len(works) <= 2


async def test_groups_that_take_long_are_waited_for_though_another_fails_at_once() -> None:
    done = await Fleet(slow=serves(3600.0), sick=crashes(1.0)).run(Numbers(4))
    assert set(done.results.values()) == {"slow"}


async def test_if_no_group_can_be_reached_the_run_ends_within_a_minute() -> None:
    for count in (1, 3):
        fleet = Fleet(**{f"g{i}": unreachable() for i in range(count)})
        with pytest.raises((CommunicationError, AssertionError)) as caught:
            await fleet.run(Numbers(60, most_tries=100))
        assert isinstance(caught.value, CommunicationError)
        assert caught.value.culprit is Culprit.USER
        assert "No group of nodes can be reached" in caught.value.message
        assert 45.0 <= fleet.seconds <= 60.0


async def test_a_group_that_boots_while_others_cannot_be_reached_is_used() -> None:
    fleet = Fleet(a=unreachable(), b=unreachable())

    async def boot() -> None:
        await fleet.clock.sleep(20.0)
        fleet.members["b"].behaviour = serves(10.0)
        fleet.dispatcher.pool.checked(fleet.members["b"], ok=True)  # a health check has seen it

    source = Numbers(5, most_tries=100)
    await asyncio.gather(boot(), fleet.run(source))
    assert set(source.results.values()) == {"b"}


async def test_when_all_groups_are_lost_in_the_middle_they_are_waited_for() -> None:
    fleet = Fleet(a=serves(10.0), b=serves(10.0))

    async def storm() -> None:
        await fleet.clock.sleep(25.0)
        for member in fleet.members.values():
            member.behaviour = lambda *_: (0.1, CommunicationError("no route"), Stage.START)
        await fleet.clock.sleep(600.0)
        for member in fleet.members.values():
            member.behaviour = serves(10.0)

    source = Numbers(10, most_tries=100)
    await asyncio.gather(storm(), fleet.run(source))
    assert len(source.results) == 10


async def test_losses_count_and_go_to_another_group_first() -> None:
    lossy: Behaviour = lambda *_: (10.0, BenchmarkExecutionError("lost"), Stage.USE)  # noqa: E731
    fleet = Fleet(lossy=lossy, solid=serves(10.0))
    done = await fleet.run(Numbers(12))
    assert done.results == dict.fromkeys(range(12), "solid")
    assert max(done.attempts.values()) == 2


async def test_a_crash_of_several_ranks_is_believed_when_it_comes_again() -> None:
    """One lost rank ends the others: the first crash may be a machine's, the second is the setting's."""
    crashed = SimulatorHealthCheckError("it crashed", details={"cause": "crashed"})
    large = SimulatorHealthCheckError("it ran out of memory", details={"cause": "out_of_memory"})
    how: Behaviour = lambda _g, item: (10.0, {2: crashed, 5: large}.get(item), Stage.USE)  # noqa: E731
    fleet = Fleet(a=how, b=how)
    for member in fleet.members.values():
        member.group = Group(member.name, (Node("h1"), Node("h2")))
    done = await fleet.run(Numbers(8))
    assert (sorted(done.failed), done.attempts[2], done.attempts[5]) == ([2, 5], 2, 1)


async def test_what_is_lost_everywhere_is_given_up_by_its_source() -> None:
    lost: Behaviour = lambda _g, item: (10.0, BenchmarkExecutionError("lost") if item == 3 else None, Stage.USE)  # noqa: E731
    done = await Fleet(a=lost, b=lost).run(Numbers(8))
    assert (list(done.given_up), len(done.results), done.attempts[3]) == ([3], 7, 3)


async def test_a_group_that_needs_its_user_leaves_and_the_last_one_raises() -> None:
    def refuses(name: str, _item: int) -> tuple[float, SwarmTuneError, Stage]:
        return 1.0, CommunicationError(f"{name}: host key has changed", culprit=Culprit.USER), Stage.START

    gone: list[str] = []
    fleet = Fleet(a=refuses, b=serves(10.0))
    fleet.dispatcher._gone = lambda member: gone.append(member.name)
    done = await fleet.run(Numbers(5))
    assert set(done.results.values()) == {"b"}
    assert done.attempts.total() == 6
    assert gone == ["a"]
    assert any("a is left out: a: host key has changed" in str(e.facts.get("message")) for e in fleet.events)
    with pytest.raises(CommunicationError, match="host key has changed"):
        await Fleet(a=refuses, b=refuses).run(Numbers(5))


async def test_a_bug_of_ours_ends_the_run() -> None:
    fleet = Fleet(a=lambda *_: (1.0, SwarmTuneError("we are wrong"), Stage.USE), b=serves(5.0))
    with pytest.raises(SwarmTuneError, match="we are wrong"):
        await fleet.run(Numbers(5))


async def test_a_source_that_raises_leaves_no_group_busy() -> None:
    class Broken(Numbers):
        def take(self, group: str) -> Work[int] | None:
            if len(self.todo) < 3:
                raise BenchmarkExecutionError("the disk is full")
            return super().take(group)

    fleet = Fleet(a=serves(10.0), b=serves(10.0), c=serves(10.0))
    with pytest.raises(BenchmarkExecutionError, match="disk is full"):
        await fleet.run(Broken(4))
    assert fleet.dispatcher.pool.counts.busy == 0


async def test_a_cancelled_run_ends_its_attempts() -> None:
    fleet = Fleet(a=serves(1e6), b=serves(1e6))
    task = asyncio.create_task(fleet.run(Numbers(5)))
    await fleet.clock.sleep(10.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fleet.dispatcher.pool.counts.busy == 0


def test_expected_is_near_what_the_nearest_took() -> None:
    durations = Durations(SPACE)
    points = np.array([SPACE.encode(SPACE.setting({"ms": ms})) for ms in (0, 49, 100)])
    assert durations.expected_s(points).tolist() == [0.0, 0.0, 0.0]
    durations.add(SPACE.setting({"ms": 0}), 10.0)
    durations.add(SPACE.setting({"ms": 100}), 50.0)
    low, middle, high = durations.expected_s(points)
    assert low == pytest.approx(10.0)
    assert 25.0 < middle < 35.0
    assert high == pytest.approx(50.0)


def test_old_durations_are_forgotten() -> None:
    durations = Durations(SPACE)
    durations.add(SPACE.setting({"ms": 50}), 1e6)
    for _ in range(MEMORY):
        durations.add(SPACE.setting({"ms": 50}), 1.0)
    assert durations.expected_s(np.array([SPACE.encode(SPACE.setting({"ms": 50}))])) == pytest.approx(1.0)
