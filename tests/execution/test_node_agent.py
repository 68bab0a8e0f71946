"""The agent that Slurm runs on a node, as a process of its own; the tuner is a folder here."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from swarmtune.clock import RealClock
from swarmtune.execution.executors.shared_dir import SharedDirectoryExecutor
from swarmtune.execution.mailbox import Pulse
from swarmtune.records import Command
from swarmtune.testing.executor import alive, printed, python

SLOW = """
import os, signal, sys, time
def bye(*_):
    open(sys.argv[1], "w").close()
    time.sleep(1.5)
    sys.exit()
signal.signal(signal.SIGTERM, bye)
print("up", os.getpid(), flush=True)
time.sleep(600)
"""
SERVE = (
    "import sys; from swarmtune.execution.executors.node_agent import serve_allocation; serve_allocation(sys.argv[1])"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a job; the tuner lives until its file is taken away."""
    folder = tmp_path / "slurm-1"
    (folder / "job").mkdir(parents=True)
    Pulse(folder / "tuner.json", "us", RealClock()).beat()  # which is good for 15 s
    return folder


def agent(folder: Path, name: str = "n1") -> subprocess.Popen[str]:
    environment = os.environ | {"SLURMD_NODENAME": name}
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], env=environment, stderr=subprocess.PIPE, text=True
    )


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - other processes have no events
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("dead", [True, False], ids=["tuner-dead", "cancelled"])
async def test_an_agent_that_is_told_twice_to_end_still_ends_its_commands(folder: Path, dead: bool) -> None:
    process = await asyncio.to_thread(agent, folder)
    executor = SharedDirectoryExecutor(folder / "n1", RealClock())
    asked = folder.parent / "asked"
    handle = await executor.start(Command(python(SLOW, str(asked))))
    pid = int((await printed(handle, "up")).split()[1])
    if dead:
        executor.let_go()
        await until(asked.exists)  # by the agent, which misses us
        (folder / "tuner.json").unlink()
    else:
        process.terminate()
        await until(asked.exists)
    process.terminate()
    await asyncio.to_thread(process.communicate)
    executor.let_go()
    assert (process.returncode, alive(pid)) == (0, False)
    assert folder.exists() != dead  # a living tuner looks after it itself


@pytest.mark.parametrize("others", [(), ("n3",)])
async def test_the_last_agent_of_a_dead_tuner_removes_the_folder(folder: Path, others: Sequence[str]) -> None:
    agents = [await asyncio.to_thread(agent, folder, name) for name in ("n1", "n2")]
    await until(lambda: all((folder / name / "node.json").exists() for name in ("n1", "n2")))
    for name in others:
        (folder / name).mkdir()
    (folder / "tuner.json").unlink()
    for process in agents:
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
    assert folder.exists() == bool(others)
    assert all((folder / name).exists() for name in others)
    assert not any((folder / name).exists() for name in ("n1", "n2"))


async def test_what_went_wrong_with_an_agent_is_said(folder: Path) -> None:
    (folder / "n1").touch()
    process = await asyncio.to_thread(agent, folder)
    _, said = await asyncio.to_thread(process.communicate)
    assert process.returncode != 0
    assert "cannot be made" in said
