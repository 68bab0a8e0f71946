"""A service on several nodes: all ranks or none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarmtune.clock import RealClock
from swarmtune.errors import IPCCommandError
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.service_group import Gang, ServiceGroup, rank_environment
from swarmtune.records import Command, Group, Node
from swarmtune.testing.executor import alive, finished, printed, python

TOLD = """
import json, os
print("told " + json.dumps({k: v for k, v in os.environ.items() if k.startswith(("SWARMTUNE_", "CUDA_"))}))
"""
GROUP = Group("a", (Node("h1", (0, 1)), Node("h2", (2,))), 8000)


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[ServiceGroup]:
    executors = [LocalExecutor(tmp_path / name, RealClock()) for name in ("h1", "h2")]
    group = ServiceGroup(GROUP, executors)
    yield group
    for executor in group.executors:
        await executor.close()


async def test_every_rank_is_told_who_it_is(group: ServiceGroup) -> None:
    gang = await group.start([Command(python(TOLD)), Command(python(TOLD), env={"SWARMTUNE_MASTER": "mine"})])
    assert isinstance(gang, Gang)
    told = [json.loads((await printed(handle, "told ")).partition(" ")[2]) for handle in gang.handles]
    assert [(t["SWARMTUNE_RANK"], t["CUDA_VISIBLE_DEVICES"], t["SWARMTUNE_MASTER"]) for t in told] == [
        ("0", "0,1", "h1"),
        ("1", "2", "mine"),
    ]
    assert {t["SWARMTUNE_HOSTS"] for t in told} == {"h1,h2"}
    assert {t["SWARMTUNE_PORT"] for t in told} == {"8000"}


def test_without_devices_none_are_hidden() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in rank_environment(Group())


async def test_the_first_rank_that_ends_has_ended_the_service(group: ServiceGroup) -> None:
    gang = await group.start([Command(("sleep", "600")), Command(python("raise SystemExit(7)"))])
    assert await finished(gang) == 7
    await gang.stop()
    assert await gang.poll() == 7


async def test_a_rank_that_cannot_start_leaves_no_other(group: ServiceGroup, tmp_path: Path) -> None:
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(IPCCommandError, match="no such program"):
        await group.start([Command(python(script)), Command(("no-such-engine",))])
    written = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    assert not (written and alive(int(written)))


async def test_folders_of_all_ranks_come_home(group: ServiceGroup, tmp_path: Path) -> None:
    commands = [Command(python(f"print('rank {r}')"), directory="run" + "-rank-1" * r) for r in range(2)]
    gang = await group.start(commands)
    await asyncio.gather(*map(finished, gang.handles))  # type: ignore[attr-defined]
    await gang.stop()
    await group.get("run", tmp_path / "home" / "run")
    assert (tmp_path / "home" / "run" / "output.log").read_text() == "rank 0\n"
    assert (tmp_path / "home" / "run-rank-1" / "output.log").read_text() == "rank 1\n"


async def test_of_many_lines_each_rank_has_its_share(group: ServiceGroup) -> None:
    commands = [Command(python(f"for i in range(900): print('rank{rank}', i)")) for rank in range(2)]
    gang = await group.start(commands)
    await asyncio.gather(*map(finished, gang.handles))  # type: ignore[attr-defined]
    for wanted, share in ((1000, 500), (600, 400), (50, 50)):
        log = await gang.logs(wanted)
        assert [log.count("rank0 "), log.count("rank1 ")] == [share, share]
        assert log.rstrip().endswith("rank0 899")
