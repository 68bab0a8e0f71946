"""Two sides that share a folder and nothing else: the contract, and what happens when one of them dies."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.lab.tuner import kill, tuner_of

from swarmtune.apps.cli.node import NAME, run
from swarmtune.clock import RealClock, VirtualClock
from swarmtune.errors import (
    CommunicationError,
    ConfigPathError,
    ConfigurationError,
    ConfigValidationError,
    IPCTimeoutError,
)
from swarmtune.execution.executors.node_agent import NodeAgent
from swarmtune.execution.executors.shared_dir import SharedDirectoryExecutor
from swarmtune.execution.mailbox import (
    LOST_S,
    MESSAGE_BYTES,
    Watch,
    distrust,
    read_message,
    write_message,
)
from swarmtune.records import Command
from swarmtune.testing.executor import ExecutorContract, alive, family_of, gone

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[asyncio.Task[None]]:
    """In this process."""
    task = asyncio.create_task(NodeAgent(tmp_path / "shared" / "n1", tmp_path / "node", RealClock()).run())
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """In a process of its own: the real command."""
    (tmp_path / "shared").mkdir(exist_ok=True)
    arguments = ["node", "--shared", str(tmp_path / "shared"), "--name", "n1", "--work-dir", str(tmp_path / "work")]
    process = subprocess.Popen(
        [sys.executable, "-m", "swarmtune", *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    assert "serving as n1" in process.stderr.readline()
    yield process
    process.terminate()
    process.communicate(timeout=30)


@pytest.fixture
async def executor(agent: asyncio.Task[None], tmp_path: Path) -> AsyncIterator[SharedDirectoryExecutor]:
    executor = SharedDirectoryExecutor(tmp_path / "shared" / "n1", RealClock())
    yield executor
    await executor.close()
    assert not agent.done()
    assert [p for p in (tmp_path / "shared").rglob("*") if p.is_file() and p.name != "node.json"] == []


class TestSharedDirectoryExecutor(ExecutorContract):
    """Inherited."""


async def test_the_command_serves_and_ends_everything(node: subprocess.Popen[str], tmp_path: Path) -> None:
    executor = SharedDirectoryExecutor(tmp_path / "shared" / "n1", RealClock())
    family = await family_of(executor)
    node.terminate()
    node.wait(30)
    assert not any(map(alive, family))
    with pytest.raises(CommunicationError):
        await executor.start(Command(("true",)))
    await executor.close()
    assert not any((tmp_path / "work" / "node").iterdir())


async def test_a_killed_tuner_leaves_nothing_on_the_node(node: subprocess.Popen[str], tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "n1"
    tuner, family = await tuner_of(
        f"SharedDirectoryExecutor(Path({str(folder)!r}), RealClock())",
        "from swarmtune.execution.executors.shared_dir import SharedDirectoryExecutor",
    )
    kill(tuner)
    await asyncio.wait_for(gone(family), LOST_S + 15)
    after = SharedDirectoryExecutor(folder, RealClock())
    assert await (await after.start(Command(("true",)))).poll() in (None, 0)
    await after.close()
    assert node.poll() is None


async def test_one_tuner_at_a_time(agent: asyncio.Task[None], executor: SharedDirectoryExecutor) -> None:
    await executor.start(Command(("true",)))
    second = SharedDirectoryExecutor(executor.folder, RealClock(), lock_s=0.2)
    with pytest.raises(IPCTimeoutError, match="uses it"):
        await second.start(Command(("true",)))
    assert not agent.done()


async def test_without_an_agent_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(IPCTimeoutError, match="swarmtune node --shared"):
        await SharedDirectoryExecutor(tmp_path / "n1", RealClock(), lock_s=0.2).start(Command(("true",)))


async def test_an_agent_that_is_not_there_is_waited_for_once(tmp_path: Path) -> None:
    clock = VirtualClock()
    begin = clock.monotonic()
    with pytest.raises(IPCTimeoutError, match="no agent answers there"):
        await SharedDirectoryExecutor(tmp_path / "n1", clock).start(Command(("true",)))
    assert clock.monotonic() - begin < 62


async def test_a_second_agent_is_refused(agent: asyncio.Task[None], executor: SharedDirectoryExecutor) -> None:
    await executor.start(Command(("true",)))
    with pytest.raises(ConfigurationError, match="another agent"):
        await NodeAgent(executor.folder, executor.folder.parent / "other", RealClock()).run()
    assert not agent.done()


async def test_life_is_told_by_a_number_not_by_the_other_sides_clock(tmp_path: Path) -> None:
    clock = VirtualClock()
    watch = Watch(tmp_path / "node.json", clock)
    assert watch.name() is None
    write_message(watch.path, {"name": "a", "number": 1})
    os.utime(watch.path, (0, 0))
    assert watch.name() == "a"
    await clock.sleep(LOST_S + 1)
    assert watch.name() is None
    write_message(watch.path, {"name": "a", "number": 2})
    assert watch.name() == "a"


async def test_an_error_of_one_question_costs_nobody_his_commands(
    executor: SharedDirectoryExecutor, tmp_path: Path
) -> None:
    handle = await executor.start(Command(("sleep", "600")))
    with pytest.raises(CommunicationError, match="no such file"):
        await executor.get("nothing", tmp_path / "nothing")
    assert executor.entered
    assert await handle.poll() is None


# --- what is believed --------------------------------------------------------------------------------------------------


async def answer_to(folder: Path, message: dict[str, object], name: str = "000001-x.json") -> dict[str, object]:
    write_message(folder / "commands" / name, message)
    while (answer := read_message(folder / "answers" / name)) is None:  # noqa: ASYNC110 - a file sends no event
        await asyncio.sleep(0.02)
    return answer


async def until_taken(path: Path) -> None:
    while os.path.lexists(path):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@needs_root
async def test_a_command_of_another_user_is_not_obeyed(
    agent: asyncio.Task[None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever finds a way to put a file there must not run commands as the user of the agent."""
    folder = tmp_path / "shared" / "n1"
    assert await answer_to(folder, {"command": "init", "tuner": "t"}) == {"done": True}
    path = folder / "commands" / "000002-start.json"
    write_message(tmp_path / "planted.json", {"command": "start", "tuner": "t", "handle": "1", "what": {}})
    os.chown(tmp_path / "planted.json", NOBODY, NOBODY)
    (tmp_path / "planted.json").rename(path)
    await until_taken(path)
    assert not (folder / "answers" / path.name).exists()
    assert "belongs to the user nobody, and only the user root is obeyed here" in capsys.readouterr().err
    assert not agent.done()


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
async def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "n1"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"{folder} can be written by other users .*chmod go-w"):
        await NodeAgent(folder, tmp_path / "node", RealClock()).run()
    with pytest.raises(CommunicationError, match="can be written by other users"):
        await SharedDirectoryExecutor(folder, RealClock(), lock_s=0.2).start(Command(("true",)))


@needs_root
@pytest.mark.parametrize(("owner", "mode", "told"), [
    (NOBODY, 0o755, "belongs to the user nobody"), (NOBODY, 0o1777, "belongs to the user nobody"),
    (0, 0o777, "can be written by everybody"), (0, 0o1777, ""), (0, 0o2775, ""), (0, 0o755, ""),
])  # fmt: skip
@pytest.mark.parametrize("place", ["shared", "shared/deep"])
async def test_a_folder_that_others_can_replace_is_refused(
    tmp_path: Path, owner: int, mode: int, told: str, place: str
) -> None:
    folder = tmp_path / place / "n1"
    folder.mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / "shared", owner, owner)
    (tmp_path / "shared").chmod(mode)
    (tmp_path / "link").symlink_to(tmp_path / place)
    work = asyncio.create_task(NodeAgent(tmp_path / "link" / "n1", tmp_path / "node", RealClock()).run())
    if told:
        with pytest.raises(ConfigurationError, match=f"{tmp_path}/shared {told}"):
            await work
    else:
        executor = SharedDirectoryExecutor(folder, RealClock())
        await executor.start(Command(("true",)))
        await executor.close()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_nothing_is_obeyed_once_others_can_write_the_folder(
    agent: asyncio.Task[None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shared" / "n1"
    assert await answer_to(folder, {"command": "init", "tuner": "t"}) == {"done": True}
    (folder / "commands").chmod(0o777)
    path = folder / "commands" / "000002-eof.json"
    write_message(path, {"command": "eof", "tuner": "t"})
    await until_taken(path)
    assert not (folder / "answers" / path.name).exists()
    assert "not obeyed" in capsys.readouterr().err


@needs_root
def test_a_folder_of_another_user_is_named(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    assert "belongs to the user nobody" in distrust(tmp_path)
    os.chown(tmp_path, 54321, 54321)
    assert "belongs to the user 54321" in distrust(tmp_path)
    assert distrust(tmp_path / "nothing") == ""


def test_only_a_small_file_of_ours_is_a_message(tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    write_message(good, {"a": 1})
    assert read_message(good) == {"a": 1}
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(good)
    (tmp_path / "folder").mkdir()
    (tmp_path / "deep").write_text("[" * 200_000)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{}")
    (tmp_path / "list").write_text("[1]")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MESSAGE_BYTES + 1)
    for name in ("fifo", "link", "folder", "deep", "bytes", "list", "huge", "nothing"):
        assert read_message(tmp_path / name) is None, name


@pytest.mark.parametrize(
    "message",
    [
        {"command": "start", "handle": "1"},
        {"command": "start", "handle": "1", "what": {"argv": 7}},
        {"command": "start", "handle": ["x"], "what": {}},
        {"command": "stop", "handle": "1", "grace_s": "soon"},
        {"command": "put", "passage": 3, "path": "x"},
        {"command": "put", "path": "x"},
        {"command": "nothing"},
        {"command": ["x"]},
        {},
    ],
)
async def test_a_request_that_is_not_understood_is_answered(
    agent: asyncio.Task[None], tmp_path: Path, message: dict[str, object]
) -> None:
    folder = tmp_path / "shared" / "n1"
    assert await answer_to(folder, {"command": "init", "tuner": "t"}) == {"done": True}
    assert "error" in await answer_to(folder, {"tuner": "t", **message}, "000002-x.json")
    assert not agent.done()


async def test_a_greeting_without_a_name_is_answered(agent: asyncio.Task[None], tmp_path: Path) -> None:
    assert "error" in await answer_to(tmp_path / "shared" / "n1", {"command": "init"})


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/n1", "n1\n", "n1\x1b[2J", "n 1", "-n", "n" * 254])
def test_a_name_that_is_no_node_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "shared").mkdir()
    with pytest.raises(ConfigValidationError, match="a node is named like its host"):
        run(argparse.Namespace(shared=str(tmp_path / "shared"), name=name, work_dir=str(tmp_path / "work")))
    assert not any((tmp_path / "shared").iterdir())


@pytest.mark.parametrize("name", ["n1", "gpu-07.example.org", "10.0.0.7", "fe80::1", "node_3"])
def test_a_name_like_that_of_a_host_is_taken(name: str) -> None:
    assert NAME.fullmatch(name)


@needs_root
@pytest.mark.parametrize("place", ["theirs", "theirs/below", "mine"])
def test_a_link_of_another_user_is_refused(tmp_path: Path, place: str) -> None:
    """Also one behind a link of one's own."""
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "theirs").symlink_to(tmp_path / "real")
    (tmp_path / "mine").symlink_to("theirs")
    os.lchown(tmp_path / "theirs", NOBODY, NOBODY)
    with pytest.raises(ConfigPathError, match="who could lead it elsewhere"):
        run(argparse.Namespace(shared=str(tmp_path / place), name="n1", work_dir=str(tmp_path / "work")))
    assert not any((tmp_path / "real" / "below").iterdir())
