"""Who gets work, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtune.clock import VirtualClock
from swarmtune.errors import CommunicationError, ConfigurationError
from swarmtune.fleet.pool import PoolCounts, ServiceGroupPool

Pool = ServiceGroupPool[str]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def make(clock: VirtualClock, *names: str, failures: int = 2) -> Pool:
    return ServiceGroupPool(names, clock, lambda name: name, failures=failures)


def open_breaker(pool: Pool, name: str) -> None:
    others = [n for n in pool.names if n != name]
    for _ in range(2):
        assert pool.try_acquire(others) == name
        pool.release(name, ok=False)


async def soon(action: Callable[[], object], clock: VirtualClock, after_s: float = 1.0) -> None:
    await clock.sleep(after_s)
    action()


async def test_the_longest_idle_is_first(clock: VirtualClock) -> None:
    pool = make(clock, "a", "b", "c")
    assert [pool.try_acquire() for _ in range(4)] == ["a", "b", "c", None]
    assert pool.counts == PoolCounts(healthy=3, busy=3, open=0, gone=0)
    for name in "bca":
        pool.release(name, ok=True)
    assert [await pool.acquire() for _ in range(3)] == ["b", "c", "a"]


async def test_the_avoided_is_waited_out_while_another_is_in_use(clock: VirtualClock) -> None:
    pool = make(clock, "a", "b")
    assert pool.try_acquire() == "a"
    pool.release("a", ok=True)
    assert pool.try_acquire(["a"]) == "b"
    assert pool.try_acquire(["a"]) is None  # b will be free again
    assert pool.try_acquire(["a", "b"]) == "a"  # nobody else could ever
    pool.release("a", ok=True)
    waiting = asyncio.create_task(pool.acquire(["a"]))
    await soon(lambda: pool.release("b", ok=True), clock)
    assert await waiting == "b"


async def test_the_avoided_serves_when_all_others_are_out_of_use(clock: VirtualClock) -> None:
    pool = make(clock, "a", "b")
    open_breaker(pool, "b")
    assert pool.try_acquire(["a"]) == "a"
    pool.release("a", ok=True)
    await clock.sleep(60)
    assert pool.try_acquire(["a"]) == "b"  # its probe


async def test_one_probe_goes_to_who_was_out_of_use(clock: VirtualClock) -> None:
    pool = make(clock, "a")
    open_breaker(pool, "a")
    assert pool.counts == PoolCounts(healthy=0, busy=0, open=1, gone=0)
    began = clock.monotonic()
    first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    assert await first == "a"  # woken by time alone
    assert clock.monotonic() - began == pytest.approx(60)
    assert not second.done()
    pool.release("a", ok=True)
    assert await second == "a"
    assert pool.counts.healthy == 1


async def test_groups_come_and_go(clock: VirtualClock) -> None:
    pool = make(clock, "a")
    assert pool.try_acquire() == "a"
    waiting = asyncio.create_task(pool.acquire())
    await soon(lambda: pool.join("b"), clock)
    assert await waiting == "b"
    pool.leave("a")
    assert pool.names == ("b",)
    assert pool.counts == PoolCounts(healthy=1, busy=2, open=0, gone=0)  # a is still at work
    with pytest.raises(ConfigurationError, match="group 'a' already exists"):
        pool.join("a")
    pool.release("a", ok=True)
    assert pool.counts == PoolCounts(healthy=1, busy=1, open=0, gone=1)
    with pytest.raises(ConfigurationError, match="unknown group 'a'; the groups are: b"):
        pool.leave("a")
    pool.release("b", ok=True)
    pool.leave("b")
    pool.join("a")
    assert pool.try_acquire() == "a"
    assert pool.counts.gone == 2


async def test_nobody_waits_for_an_empty_pool(clock: VirtualClock) -> None:
    pool = make(clock, "a")
    assert pool.try_acquire() == "a"
    waiting = asyncio.create_task(pool.acquire())
    await soon(lambda: pool.leave("a"), clock)
    with pytest.raises(CommunicationError, match="no service group is left"):
        await waiting


async def test_changes_between_looking_and_waiting_are_seen(clock: VirtualClock) -> None:
    pool = make(clock, "a")
    version = pool.version
    pool.join("b")
    await pool.changed(version)
    waiting = asyncio.create_task(pool.changed(pool.version))
    await clock.sleep(5)
    assert not waiting.done()
    pool.leave("b")
    await waiting


async def test_a_cancelled_waiter_takes_nothing_away(clock: VirtualClock) -> None:
    pool = make(clock, "a")
    pool.try_acquire()
    gone, stays = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await clock.sleep(1)
    gone.cancel()
    pool.release("a", ok=True)
    assert await stays == "a"
    assert gone.cancelled()


async def test_a_look_at_somebody_who_got_work_meanwhile_counts_nothing(clock: VirtualClock) -> None:
    pool = make(clock, "a", failures=1)
    pool.try_acquire()
    pool.checked("a", ok=False)
    pool.checked("stranger", ok=False)
    assert pool.counts.healthy == 1
    pool.release("a", ok=True)
    pool.checked("a", ok=False)
    assert pool.counts.open == 1


@settings(deadline=None)  # one slow moment of the machine is no failure
@given(st.integers(0, 10**6))
def test_every_piece_of_work_is_done_exactly_once_whatever_happens(seed: int) -> None:
    """Groups fail, leave and join at random; nobody works on two things at once and nothing is left waiting."""

    async def run() -> None:
        clock, rng = VirtualClock(), random.Random(seed)
        pool = make(clock, *(f"g{i}" for i in range(4)))
        busy: set[str] = set()
        done: list[int] = []

        async def work(number: int) -> None:
            lost_on: list[str] = []
            while True:
                name = await pool.acquire(lost_on)
                assert name not in busy
                busy.add(name)
                await clock.sleep(rng.uniform(0.1, 30))
                busy.remove(name)
                ok = rng.random() < 0.7
                pool.release(name, ok)
                if ok:
                    done.append(number)
                    return
                lost_on.append(name)

        async def come_and_go() -> None:
            for number in range(4, 8):
                await clock.sleep(rng.uniform(0, 20))
                pool.join(f"g{number}")
                pool.leave(rng.choice(pool.names[:-1]))

        await asyncio.gather(come_and_go(), *(work(n) for n in range(30)))
        assert sorted(done) == list(range(30))
        assert pool.counts.busy == 0
        assert pool.counts.gone == 4

    asyncio.run(run())
