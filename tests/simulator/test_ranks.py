"""One simulated engine of several processes: it answers with all of them or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from swarmtune.clock import RealClock
from swarmtune.engines.simulated import SimulatedConfig, SimulatedEngine
from swarmtune.execution.executors.base import Handle
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.service_run import free_port
from swarmtune.records import Group, Node, Setting
from swarmtune.simulator.openai import word
from swarmtune.simulator.ranks import RankLostError, Ranks, serve_rank
from swarmtune.testing.executor import finished
from swarmtune.tuner.loop.probe import HttpProbe

NODES = 3


def free_pair() -> int:
    """A free port, whose neighbour is free, too: there the ranks meet."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError, OverflowError), contextlib.closing(socket.socket()) as neighbour:
            neighbour.bind(("127.0.0.1", port + 1))
            return port


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[tuple[Group, Handle]]:
    """Three ranks of it, each its own process."""
    engine = SimulatedEngine(SimulatedConfig())
    group = Group("g", (Node(),) * NODES, free_pair())
    executor = LocalExecutor(tmp_path, RealClock())
    setting = {f.name: f.value for f in engine.fields()}
    handle = await ServiceGroup(group, [executor] * NODES).start(engine.commands(Setting(setting), group))
    async with aiohttp.ClientSession() as session:
        while not await engine.ready(HttpProbe(group.url, handle, session)):
            assert await handle.poll() is None, await handle.logs()
            await asyncio.sleep(0.05)
    yield group, handle
    await executor.close()


async def complete(group: Group, tokens: int) -> str:
    body = {"model": "simulated", "prompt": "a b c", "max_tokens": tokens, "ignore_eos": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(group.url + "/v1/completions", json=body, timeout=aiohttp.ClientTimeout(total=20)) as answer,
    ):
        return str(json.loads(await answer.read())["choices"][0]["text"])


async def test_the_answer_is_written_by_all_ranks(service: tuple[Group, Handle]) -> None:
    group, handle = service
    assert await complete(group, 10) == "".join(word(i) for i in range(10))
    logs = await handle.logs()
    assert all(f"--- rank {rank} ---" in logs for rank in range(NODES))


@pytest.mark.parametrize("rank", range(NODES))
async def test_one_rank_less_is_no_service(service: tuple[Group, Handle], rank: int) -> None:
    group, gang = service
    handles = gang.handles  # type: ignore[attr-defined]
    await handles[rank].stop()
    assert await finished(gang) is not None
    others = [handle for i, handle in enumerate(handles) if i != rank]
    if rank == 0:
        assert [await finished(other) for other in others] == [1, 1]
        assert "lost its master" in await others[0].logs()
    else:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await complete(group, 4)
        assert await finished(handles[0]) == 1
        assert "a rank is gone" in await handles[0].logs()
    await gang.stop()


async def test_a_missing_rank_is_an_error_and_not_a_shorter_answer() -> None:
    ranks, port, stopped = Ranks(2), free_port(), asyncio.Event()
    await ranks.listen("127.0.0.1", port)
    assert not ranks.complete
    other = asyncio.create_task(serve_rank(1, "127.0.0.1", port, RealClock(), stopped))
    while not ranks.complete:  # noqa: ASYNC110 - it comes over a socket
        await asyncio.sleep(0.01)
    assert await ranks.words([0, 3, 2, 5]) == [word(0), word(3), word(2), word(5)]
    stopped.set()
    assert await other == 0
    with pytest.raises(RankLostError, match="rank 1"):
        await ranks.words([1])
    await ranks.close()
