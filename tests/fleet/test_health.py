"""Breakers, pauses and looks, in virtual time."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.clock import RealClock, VirtualClock, within
from swarmtune.execution.executors.base import NotHeldError
from swarmtune.fleet.health import Breaker, CircuitBreaker, HealthMonitor, RetryPolicy
from swarmtune.fleet.pool import ServiceGroupPool


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        breaker.begin()
        breaker.end(ok=False)


async def test_a_breaker_opens_probes_and_closes(clock: VirtualClock) -> None:
    breaker = CircuitBreaker(clock)
    fail(breaker, 4)
    assert (breaker.state, breaker.allows) == (Breaker.CLOSED, True)
    breaker.begin()
    breaker.end(ok=True)
    fail(breaker, 5)
    assert (breaker.state, breaker.allows, breaker.wait_s) == (Breaker.OPEN, False, 60.0)
    await clock.sleep(59.9)
    assert breaker.state is Breaker.OPEN
    await clock.sleep(0.1)
    assert (breaker.state, breaker.allows) == (Breaker.HALF_OPEN, True)
    breaker.begin()
    assert not breaker.allows  # one probe
    breaker.end(ok=False)
    assert (breaker.state, breaker.wait_s) == (Breaker.OPEN, 60.0)
    await clock.sleep(60)
    breaker.begin()
    breaker.end(ok=None)  # cancelled: another probe may come
    assert (breaker.state, breaker.allows) == (Breaker.HALF_OPEN, True)
    breaker.begin()
    breaker.end(ok=True)
    assert (breaker.state, breaker.allows, breaker.wait_s) == (Breaker.CLOSED, True, 0.0)
    fail(breaker, 4)
    assert breaker.state is Breaker.CLOSED  # what was before is forgotten


async def test_an_answer_lets_the_probe_come_at_once_and_heals_nothing_else(clock: VirtualClock) -> None:
    breaker = CircuitBreaker(clock, failures=2)
    fail(breaker, 1)
    breaker.answered()
    fail(breaker, 1)
    assert breaker.state is Breaker.OPEN
    breaker.answered()
    assert breaker.state is Breaker.HALF_OPEN
    breaker.failed()  # a look that finds nobody
    assert (breaker.state, breaker.wait_s) == (Breaker.OPEN, 60.0)


def test_pauses_double_up_to_a_bound() -> None:
    policy = RetryPolicy(jitter=0.0)
    rng = random.Random(1)
    assert [policy.delay_s(n, rng) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert policy.attempts == 3


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(1, 10), st.floats(0, 0.5), st.integers())
def test_jitter_stays_within_its_share(attempt: int, first: float, factor: float, jitter: float, seed: int) -> None:
    plain = RetryPolicy(first_delay_s=first, factor=factor, jitter=0.0).delay_s(attempt, random.Random(seed))
    pause = RetryPolicy(first_delay_s=first, factor=factor, jitter=jitter).delay_s(attempt, random.Random(seed))
    assert plain * (1 - jitter) - 1e-9 <= pause <= min(60.0, plain * (1 + jitter)) + 1e-9


async def test_within_gives_the_result_or_cancels(clock: VirtualClock) -> None:
    async def work(seconds: float) -> float:
        await clock.sleep(seconds)
        return clock.monotonic()

    began = clock.monotonic()
    assert await within(clock, 5, work(4)) == began + 4
    slow = asyncio.ensure_future(work(600))
    with pytest.raises(TimeoutError):
        await within(clock, 5, slow)
    assert slow.cancelled()


class Groups:
    """Members of a pool whose answers a test decides; it remembers who was looked at."""

    def __init__(self, clock: VirtualClock, *names: str) -> None:
        self.pool = ServiceGroupPool(names, clock, lambda name: name, failures=2)
        self.dead: set[str] = set()
        self.mute: set[str] = set()
        self.looks: list[tuple[float, str]] = []
        self.clock = clock
        self.start = clock.monotonic()

    async def check(self, name: str) -> bool:
        self.looks.append((self.clock.monotonic() - self.start, name))
        if name in self.mute:
            await asyncio.get_running_loop().create_future()
        if name in self.dead:
            raise OSError("no route to host")
        return True


async def test_a_monitor_takes_the_dead_out_and_lets_them_back(clock: VirtualClock) -> None:
    groups = Groups(clock, "a", "b")
    groups.dead = {"b"}
    async with HealthMonitor(groups.pool, 30, check=groups.check):
        await clock.sleep(61)
        assert groups.looks == [(30, "a"), (30, "b"), (60, "a"), (60, "b")]
        assert (groups.pool.counts.healthy, groups.pool.counts.open) == (1, 1)
        await clock.sleep(600)
        assert groups.pool.try_acquire(["a"]) == "a"  # b, found dead every time, gets no probe
        groups.dead.clear()
        await clock.sleep(30)
        assert groups.pool.try_acquire() == "b"  # the probe
        groups.pool.release("b", ok=True)
        assert groups.pool.counts.open == 0
        assert (690, "a") not in groups.looks  # who works is left alone
    looks = len(groups.looks)
    await clock.sleep(100)
    assert len(groups.looks) == looks


async def test_a_look_that_hangs_is_a_no_and_holds_up_nobody(clock: VirtualClock) -> None:
    groups = Groups(clock, "a", "b")
    groups.mute = {"a"}
    async with HealthMonitor(groups.pool, 30, check=groups.check):
        await clock.sleep(125)
    assert [name for _, name in groups.looks] == ["a", "b", "a", "b"]
    assert (groups.pool.counts.healthy, groups.pool.counts.open) == (1, 1)


async def test_a_look_at_nodes_that_nobody_has_reserved_tells_nothing(clock: VirtualClock) -> None:
    pool = ServiceGroupPool(["a"], clock, lambda name: name, failures=1)

    async def check(_: str) -> bool:
        raise NotHeldError("not reserved")

    monitor = HealthMonitor(pool, check=check)
    await monitor.look()
    assert pool.try_acquire() == "a"
    pool.release("a", ok=False)
    await monitor.look()
    assert (pool.counts.open, pool.try_acquire()) == (1, None)  # no probe comes sooner for it


class Member:
    """A member of a pool that says itself whether it answers."""

    def __init__(self, name: str, *, alive: bool = True) -> None:
        self.name = name
        self.alive = alive
        self.asked = threading.Semaphore(0)

    async def answers(self) -> bool:
        self.asked.release()
        if not self.alive:
            raise OSError("no route to host")
        return True


async def test_a_monitor_needs_nothing_but_a_pool_and_starts_and_stops(clock: VirtualClock) -> None:
    members = Member("a"), Member("b", alive=False)
    pool = ServiceGroupPool(members, clock, lambda member: member.name)
    monitor = HealthMonitor(pool)
    assert [status.is_healthy for status in monitor.get_all_status()] == [True, True]  # nothing is known yet
    monitor.start()
    monitor.start()  # twice does no harm
    await clock.sleep(61)
    a, b = monitor.get_all_status()
    assert (a.group_id, a.is_healthy, a.consecutive_failures, a.last_error) == ("a", True, 0, None)
    assert (b.group_id, b.is_healthy, b.consecutive_failures, b.last_error) == ("b", False, 2, "no route to host")
    assert b.last_check is not None
    assert b.status_summary == "Group b: unhealthy (failures=2)"
    monitor.stop()
    monitor.stop()
    await clock.sleep(100)
    assert monitor.get_all_status() == [a, b]


@pytest.mark.parametrize("as_context", [True, False])
def test_a_monitor_without_an_event_loop_has_a_thread_of_its_own(as_context: bool) -> None:
    member = Member("a")
    monitor = HealthMonitor(ServiceGroupPool([member], RealClock(), lambda member: member.name), check_interval=0.01)
    threads = threading.active_count()
    if as_context:
        with monitor:
            assert all(member.asked.acquire(timeout=60) for _ in range(2))
    else:
        monitor.start()
        assert all(member.asked.acquire(timeout=60) for _ in range(2))
        monitor.stop()
    (status,) = monitor.get_all_status()
    assert (status.is_healthy, status.last_check is not None) == (True, True)
    assert threading.active_count() == threads
