"""The local executor keeps the contract, and its own promises."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError, Culprit, IPCCommandError
from swarmtune.execution.executors.local import LocalExecutor, sweep_leftovers
from swarmtune.records import Command, File
from swarmtune.testing.executor import FAMILY, ExecutorContract, alive, finished, printed, python


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journals of this test are its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "swarmtune" / "commands"


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[LocalExecutor]:
    executor = LocalExecutor(tmp_path / "root", RealClock())
    yield executor
    await executor.close()


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class TestLocalExecutor(ExecutorContract):
    """Inherited."""


async def test_a_killed_supervisor_is_noticed_and_leaves_nothing(
    executor: LocalExecutor, tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text("original")
    files = (File(str(path), "tuned", restore=True),)
    handle = await executor.start(Command(python(FAMILY, "600", "polite"), files=files))
    family = [int(word) for word in (await printed(handle, "family")).split()[1:]]
    assert path.read_text() == "tuned"
    assert handle.pid is not None
    os.kill(supervisor_of(handle.pid), signal.SIGKILL)
    assert await finished(handle) == -signal.SIGKILL
    await handle.stop()
    assert [pid for pid in family if alive(pid)] == []
    assert path.read_text() == "original"
    assert list(state.iterdir()) == []


async def test_a_supervisor_that_is_stopped_does_not_keep_its_command(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmtune.execution.supervisor.KILL_WAIT_S", 0.1)
    monkeypatch.setattr("swarmtune.execution.supervisor.LOCK_WAIT_S", 0.1)
    handle = await executor.start(Command(python(FAMILY, "600")))
    family = [int(word) for word in (await printed(handle, "family")).split()[1:]]
    assert handle.pid is not None
    os.kill(supervisor_of(handle.pid), signal.SIGSTOP)
    await handle.stop(0.1)
    assert [pid for pid in family if alive(pid)] == []


async def test_the_caller_may_name_the_command(executor: LocalExecutor) -> None:
    handle = await executor.start(Command(("sleep", "600"), env={"SWARMTUNE_TOKEN": "attempt-0007"}))
    assert handle.token == "attempt-0007"
    await sweep_leftovers([handle.token, "never-was-there"])
    assert await finished(handle) == -signal.SIGTERM


async def test_a_bad_token_is_refused(executor: LocalExecutor) -> None:
    with pytest.raises(IPCCommandError, match="8 to 64"):
        await executor.start(Command(("true",), env={"SWARMTUNE_TOKEN": "../../x"}))


async def test_folders_cannot_leave_the_root(executor: LocalExecutor, tmp_path: Path) -> None:
    with pytest.raises(IPCCommandError, match="leads out"):
        await executor.start(Command(("true",), directory="../elsewhere"))
    (tmp_path / "secret").write_text("x")
    executor.root.mkdir(exist_ok=True)
    (executor.root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(IPCCommandError, match="leads out"):
        await executor.get("link", tmp_path / "stolen")


async def test_put_replaces_a_link_instead_of_following_it(executor: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_text("new")
    (executor.root / "target").mkdir(parents=True)
    (executor.root / "target" / "f").symlink_to(tmp_path / "outside")
    await executor.put(tmp_path / "source", "target")
    assert (tmp_path / "outside").read_text() == "untouched"
    assert (executor.root / "target" / "f").read_text() == "new"


async def test_nothing_starts_after_close(executor: LocalExecutor) -> None:
    await executor.close()
    with pytest.raises(IPCCommandError, match="closed"):
        await executor.start(Command(("true",)))


async def test_an_empty_command_is_refused(executor: LocalExecutor) -> None:
    with pytest.raises(IPCCommandError, match="name of a program"):
        await executor.start(Command(()))


async def test_a_folder_that_cannot_be_made_is_named(executor: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IPCCommandError, match=str(tmp_path / "file")) as caught:
        await executor.start(Command(("true",), directory=str(tmp_path / "file" / "sub")))
    assert caught.value.culprit is Culprit.USER


async def test_a_start_that_is_cancelled_leaves_nothing(executor: LocalExecutor, tmp_path: Path) -> None:
    command = Command(("sleep", "600"), directory=str(tmp_path / "run"), env={"SWARMTUNE_TOKEN": "cancelled-1"})
    for turns in range(6):
        task = asyncio.create_task(executor.start(command))
        await asyncio.sleep(0.03 * turns)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(outcome, BaseException):
            await outcome.stop()
        mark = b"SWARMTUNE_TOKEN=cancelled-1"
        assert [p for p in Path("/proc").glob("[0-9]*/environ") if mark in _bytes(p).split(b"\0")] == []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_a_broken_python_for_the_supervisor_is_reported(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path, RealClock(), python="/bin/false")
    with pytest.raises(IPCCommandError, match="supervisor ended"):
        await executor.start(Command(("true",)))
    await executor.close()


async def test_copy_trouble_names_both_ends(executor: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommunicationError, match=r"file to .*x"):
        await executor.put(tmp_path / "file", str(tmp_path / "file" / "x"))


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.02)


TUNER = """
import asyncio, sys
from pathlib import Path
from swarmtune.clock import RealClock
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.records import Command, File
from swarmtune.testing.executor import FAMILY, printed, python

async def main(root: Path, config: str, ending: str) -> None:
    executor = LocalExecutor(root, RealClock())
    handle = await executor.start(Command(python(FAMILY, "600"), files=(File(config, "tuned", restore=True),)))
    print(await printed(handle, "family"), flush=True)
    if ending == "forget":
        return
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
"""


async def one_tuner(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "config.json"
    path.write_text("original")
    tuner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TUNER, str(tmp_path / "root"), str(path), ending, stdout=asyncio.subprocess.PIPE
    )
    assert tuner.stdout is not None
    family = [int(word) for word in (await tuner.stdout.readline()).split()[1:]]
    if ending != "forget":
        tuner.send_signal(signal.SIGKILL if ending == "kill" else signal.SIGTERM)
    await tuner.wait()
    assert len(family) == 3
    async with asyncio.timeout(30):
        await until(lambda: not any(map(alive, family)) and path.read_text() == "original")


async def test_commands_end_with_their_tuner(tmp_path: Path) -> None:
    endings = ("kill", "term", "forget")
    for ending in endings:
        (tmp_path / ending).mkdir()
    await asyncio.gather(*(one_tuner(tmp_path / ending, ending) for ending in endings))
