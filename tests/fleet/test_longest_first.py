"""Who waits for a group gets it: the longest first, and nobody is lost when others give up."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from swarmtune.clock import VirtualClock
from swarmtune.errors import CommunicationError
from swarmtune.fleet.longest_first import MEMORY, Durations, Row
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.space import Field, Space

SPACE = Space([Field("ms", min=0, max=100)])


def pool_of(clock: VirtualClock, *names: str) -> ServiceGroupPool[str]:
    return ServiceGroupPool(names, clock, lambda name: name)


def row_of(pool: ServiceGroupPool[str], durations: Durations | None = None) -> Row[str]:
    return Row(durations or Durations(SPACE), pool.acquire, lambda member: pool.release(member, None))


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


async def test_the_longest_first_and_before_anything_is_known_the_first() -> None:
    clock, durations = VirtualClock(), Durations(SPACE)
    pool = pool_of(clock, "a")
    row, order = row_of(pool, durations), []

    async def work(ms: int) -> None:
        setting = SPACE.setting({"ms": ms})
        member = await row.member(setting)
        order.append(ms)
        await clock.sleep(ms)
        durations.add(setting, ms)
        pool.release(member, True)

    await asyncio.gather(*(work(ms) for ms in (30, 90, 10, 60, 80)))
    assert order == [30, 90, 80, 60, 10]


@pytest.mark.parametrize("seed", range(5))
async def test_four_members_are_busy_until_the_end(seed: int) -> None:
    """Forty pieces that differ fivefold, in any order: within 2.5 % of a fourth of the time."""
    clock, durations = VirtualClock(), Durations(SPACE)
    pool = pool_of(clock, "a", "b", "c", "d")
    row = row_of(pool, durations)
    pieces = np.random.default_rng(seed).permutation(np.linspace(20, 100, 40)).round().astype(int)

    async def work(ms: int) -> None:
        setting = SPACE.setting({"ms": ms})
        member = await row.member(setting)
        await clock.sleep(ms)
        durations.add(setting, ms)
        pool.release(member, True)

    began = clock.monotonic()
    await asyncio.gather(*(work(int(ms)) for ms in pieces))
    assert sum(pieces) / (clock.monotonic() - began) >= 3.9


async def test_who_gives_up_keeps_nobody_waiting() -> None:
    pool = pool_of(VirtualClock(), "a")
    row = row_of(pool)
    first = await row.member(SPACE.setting({"ms": 1}))
    waiting = [asyncio.create_task(row.member(SPACE.setting({"ms": ms}))) for ms in (2, 3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    pool.release(first, True)
    assert await waiting[1] == "a"
    pool.release("a", True)
    assert pool.try_acquire() == "a"


async def test_who_gives_up_in_the_moment_of_the_hand_over_keeps_nobody_waiting() -> None:
    pool = pool_of(VirtualClock(), "a")
    row = row_of(pool)
    first = await row.member(SPACE.setting({"ms": 1}))
    waiting = [asyncio.create_task(row.member(SPACE.setting({"ms": ms}))) for ms in (2, 3)]
    for _ in range(5):
        await asyncio.sleep(0)
    pool.release(first, True)
    await asyncio.sleep(0)
    waiting[0].cancel()
    async with asyncio.timeout(5):
        assert await waiting[1] == "a"
    pool.release("a", True)
    assert pool.counts.busy == 0


async def test_any_error_is_heard_by_all() -> None:
    async def acquire() -> str:
        await asyncio.sleep(0)
        raise RuntimeError("broken")

    row = Row(Durations(SPACE), acquire, lambda _: None)
    waiting = [asyncio.create_task(row.member(SPACE.setting({"ms": ms}))) for ms in (2, 3)]
    assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == ["broken", "broken"]


async def test_a_member_given_to_who_has_just_given_up_is_free_again() -> None:
    pool = pool_of(VirtualClock(), "a")
    row = row_of(pool)
    first = await row.member(SPACE.setting({"ms": 1}))
    waiting = asyncio.create_task(row.member(SPACE.setting({"ms": 2})))
    await asyncio.sleep(0)
    pool.release(first, True)
    for _ in range(10):
        if pool.counts.busy:
            break  # granted, and not yet taken
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert pool.counts.busy == 0


async def test_when_no_member_is_left_all_hear_of_it() -> None:
    pool = pool_of(VirtualClock(), "a")
    row = row_of(pool)
    await row.member(SPACE.setting({"ms": 1}))
    waiting = [asyncio.create_task(row.member(SPACE.setting({"ms": ms}))) for ms in (2, 3)]
    await asyncio.sleep(0)
    pool.leave("a")
    pool.release("a", True)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [CommunicationError, CommunicationError]
    await row.close()
