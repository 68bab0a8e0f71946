"""Who shares a node is measured one at a time; who does not, is not held up."""

from __future__ import annotations

import asyncio

from swarmtune.clock import VirtualClock
from swarmtune.execution.config import NodeConfig
from swarmtune.fleet.turns import Turn, Turns

A, B, C = (NodeConfig(host=name) for name in ("a", "b", "c"))


async def measured(turns: dict[str, Turn], seconds: float = 10.0) -> dict[str, tuple[float, float]]:
    clock, spans = VirtualClock(), {}
    start = clock.monotonic()

    async def measure(name: str, turn: Turn) -> None:
        async with turn():
            begun = clock.monotonic() - start
            await clock.sleep(seconds)
            spans[name] = (begun, clock.monotonic() - start)

    await asyncio.gather(*(measure(name, turn) for name, turn in turns.items()))
    return spans


async def test_those_that_share_a_node_take_turns_and_others_do_not_wait() -> None:
    turns = Turns()
    spans = await measured({"ab": turns.of([A, B]), "bc": turns.of([C, B]), "c": turns.of([C]), "a": turns.of([A])})
    assert spans["ab"] == (0.0, 10.0)
    assert spans["bc"][0] == 10.0
    assert spans["a"] == (10.0, 20.0)
    assert sorted(spans) == ["a", "ab", "bc", "c"]


async def test_many_that_cross_never_wait_for_each_other_for_ever() -> None:
    turns = Turns()
    pairs = {f"{i}": turns.of(nodes) for i, nodes in enumerate([[A, B], [B, A], [B, C], [C, B], [C, A], [A, C]] * 3)}
    assert len(await measured(pairs)) == 18


async def test_who_is_cancelled_in_the_queue_or_in_its_turn_gives_it_back() -> None:
    turn, entered = Turns().of([A]), asyncio.Queue[str]()

    async def stay(name: str) -> None:
        async with turn():
            entered.put_nowait(name)
            await asyncio.Event().wait()

    tasks = {}
    for name in ("first", "second", "third"):
        tasks[name] = asyncio.create_task(stay(name))
        await asyncio.sleep(0)
    assert await entered.get() == "first"
    tasks["second"].cancel()
    tasks["first"].cancel()
    assert await entered.get() == "third"
    tasks["third"].cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert entered.empty()
