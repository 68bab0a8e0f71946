"""What every executor must do. Inherit ``ExecutorContract`` in a test class and supply ``make_executor``."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import stat
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import CommunicationError, Culprit, IPCCommandError
from swarmtune.execution.executors.base import Executor, Handle
from swarmtune.records import Command, File

PATIENCE_S = 120.0  # for a test that waits for what never comes

STUBBORN = """
import signal, time
for number in (1, 2, 15):
    signal.signal(number, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
"""A program that only SIGKILL ends."""

POLITE = """
import signal, sys, time
def bye(*_):
    print("bye")
    sys.exit(3)
signal.signal(signal.SIGTERM, bye)
print("up", flush=True)
time.sleep(600)
"""
"""A program that ends with code 3 on SIGTERM."""

FAMILY = """
import os, signal, subprocess, sys, time
ignored = () if "polite" in sys.argv else (1, 2, 15)
code = f"import signal, time; [signal.signal(s, signal.SIG_IGN) for s in {ignored}]; time.sleep(600)"
pids = [subprocess.Popen([sys.executable, "-c", code]).pid]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open("grandchild.part", "w") as f:
            f.write(str(os.getpid()))
        os.rename("grandchild.part", "grandchild")
        os.execv(sys.executable, [sys.executable, "-c", code])
    os._exit(0)
os.wait()
while not os.path.exists("grandchild"):
    time.sleep(0.01)
print("family", os.getpid(), *pids, open("grandchild").read(), flush=True)
time.sleep(float(sys.argv[1]))
"""
"""A program with a child and a double-forked grandchild in a session of its own; both ignore TERM, HUP and INT.

Arguments: for how many seconds the first process lives; "polite" if the others end on SIGTERM."""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """argv of a Python program that prints nothing of its own (-S: no module of site-packages is imported)."""
    return (sys.executable, "-S", "-c", code, *arguments)


def alive(pid: int) -> bool:
    """Does this process run (a zombie does not)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def finished(handle: Handle) -> int:
    """Wait for the exit code."""
    while True:
        if (code := await handle.poll()) is not None:
            return code
        await asyncio.sleep(0.01)


async def printed(handle: Handle, text: str) -> str:
    """Wait until the text is in the log; the whole line that holds it. AssertionError if the command ends without it."""
    while True:
        ended = await handle.poll() is not None
        for line in (await handle.logs(200)).splitlines(keepends=True):
            if text in line and (ended or line.endswith("\n")):
                return line.rstrip("\n")
        assert not ended, (await handle.poll(), await handle.logs())
        await asyncio.sleep(0.01)


async def family_of(executor: Executor) -> list[int]:
    """Start a FAMILY that lives on; its pids."""
    handle = await executor.start(Command(python(FAMILY, "600", "polite")))
    return [int(word) for word in (await printed(handle, "family")).split()[1:]]


async def gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes of this machine is left."""
    while any(map(alive, pids)):  # noqa: ASYNC110 - processes have no events
        await asyncio.sleep(0.05)


def _with_executor(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test as one that is not async, so that pytest runs it by itself, with an executor that is closed afterwards."""
    wanted = inspect.signature(test).parameters

    def run(self: ExecutorContract, tmp_path: Path, **arguments: Any) -> None:
        async def whole() -> None:
            async with asyncio.timeout(PATIENCE_S):
                executor = self.make_executor(tmp_path / "root")
                try:
                    await test(self, executor=executor, **arguments)
                finally:
                    await executor.close()

        arguments |= {"tmp_path": tmp_path} if "tmp_path" in wanted else {}
        asyncio.run(whole())

    functools.update_wrapper(run, test)
    names = dict.fromkeys(["self", "tmp_path", *(name for name in wanted if name != "executor")])
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    vars(run)["__signature__"] = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    del vars(run)["__wrapped__"]  # else pytest takes it for async
    return run


class ExecutorContract:
    """The tests. The executor must run on this machine's kernel, so that the tests can look at its processes.

    ``tmp_path`` must be the same folder on both sides. A class with ``make_executor`` needs no plugin of pytest; its own
    async tests that take an ``executor`` need none either. A class without it gives a fixture ``executor``, which may be
    async where the plugin is that runs such fixtures.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.make_executor is ExecutorContract.make_executor:
            return
        for name in dir(cls):
            test = getattr(cls, name)
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                setattr(cls, name, _with_executor(test))

    def make_executor(self, folder: Path) -> Executor:
        """An executor whose files go to ``folder``, which is not there yet. The tests close it. Each subclass writes it."""
        raise NotImplementedError

    def alive(self, pid: int) -> bool:
        """Does this process run? To be answered by those whose commands live in a pid namespace of their own."""
        return alive(pid)

    @pytest.mark.parametrize("code", [0, 1, 77])
    async def test_exit_code_arrives(self, executor: Executor, code: int) -> None:
        handle = await executor.start(Command(python(f"raise SystemExit({code})")))
        assert await finished(handle) == code

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
    async def test_a_signal_is_a_negative_exit_code(self, executor: Executor, number: signal.Signals) -> None:
        code = (
            f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number:d})"
        )
        handle = await executor.start(Command(python(code)))
        assert await finished(handle) == -number

    async def test_poll_is_none_while_it_runs(self, executor: Executor) -> None:
        handle = await executor.start(Command(("sleep", "600")))
        assert await handle.poll() is None
        await handle.stop()
        assert await handle.poll() == -signal.SIGTERM

    async def test_logs_hold_both_streams_in_order(self, executor: Executor) -> None:
        code = "import sys\nfor i in range(6): print(i, file=(sys.stdout, sys.stderr)[i % 2], flush=True)"
        handle = await executor.start(Command(python(code)))
        await finished(handle)
        assert (await handle.logs()).split() == list("012345")
        assert (await handle.logs(2)).split() == ["4", "5"]

    async def test_logs_reach_far_back_where_many_lines_are_wanted(self, executor: Executor) -> None:
        code = "print('first'); [print('x' * 200) for _ in range(3000)]"
        handle = await executor.start(Command(python(code)))
        await finished(handle)
        assert (await handle.logs(4000)).startswith("first\n")
        assert await handle.logs() == 50 * f"{'x' * 200}\n"

    async def test_logs_are_there_while_it_runs(self, executor: Executor) -> None:
        handle = await executor.start(Command(python("import time; print('loading', flush=True); time.sleep(600)")))
        assert await printed(handle, "loading") == "loading"
        await handle.stop()

    async def test_last_words_are_in_the_log_when_poll_gives_the_code(self, executor: Executor) -> None:
        handle = await executor.start(
            Command(python("print('x' * 60_000, flush=True); raise SystemExit('out of memory')"))
        )
        await finished(handle)
        assert (await handle.logs(1)).strip() == "out of memory"

    async def test_stop_ends_what_ignores_every_request(self, executor: Executor) -> None:
        handle = await executor.start(Command(python(STUBBORN)))
        await printed(handle, "up")
        await handle.stop(grace_s=0.1)
        assert await handle.poll() == -signal.SIGKILL

    async def test_stop_asks_first(self, executor: Executor) -> None:
        handle = await executor.start(Command(python(POLITE)))
        await printed(handle, "up")
        await handle.stop(grace_s=30)
        assert await handle.poll() == 3
        assert "bye" in await handle.logs()

    async def test_stop_twice_and_at_once_does_no_harm(self, executor: Executor) -> None:
        handle = await executor.start(Command(("sleep", "600")))
        await asyncio.gather(handle.stop(), handle.stop())
        await handle.stop()
        assert await handle.poll() is not None

    @pytest.mark.parametrize("lifetime", ["600", "0"])
    async def test_nothing_of_a_scattered_family_survives(self, executor: Executor, lifetime: str) -> None:
        handle = await executor.start(Command(python(FAMILY, lifetime)))
        family = await self.family(handle)
        assert len(family) == 3, (family, await handle.logs())
        await handle.stop(grace_s=0.1)
        assert [pid for pid in family if self.alive(pid)] == []

    async def family(self, handle: Handle) -> list[int]:
        """The pids of FAMILY."""
        return [int(word) for word in (await printed(handle, "family")).split()[1:]]

    async def test_environment_and_files_arrive(self, executor: Executor) -> None:
        code = "import os; print(os.environ['COLOUR'], open('sub/plan.txt').read(), 'RAY_ADDRESS' in os.environ)"
        files = (File("sub/plan.txt", "grün\n"),)
        os.environ["RAY_ADDRESS"] = "must not leak"
        try:
            handle = await executor.start(Command(python(code), env={"COLOUR": "blue"}, files=files))
        finally:
            del os.environ["RAY_ADDRESS"]
        assert await finished(handle) == 0, await handle.logs()
        assert (await handle.logs()).split() == ["blue", "grün", "False"]

    async def test_a_command_gives_way_as_a_process_and_as_a_session(self, executor: Executor) -> None:
        code = "import os; print(os.nice(0)); p = '/proc/self/autogroup'; print(open(p).read() if os.path.exists(p) else '')"
        handle = await executor.start(Command(python(code), nice=7))
        assert await finished(handle) == 0, await handle.logs()
        nice, *session = (await handle.logs()).split()
        assert int(nice) >= 7  # Ray gives its workers 15
        assert session[1:] in ([], ["nice", "7"])

    @pytest.mark.parametrize("how", ["stop", "exit"])
    async def test_a_file_is_put_back(self, executor: Executor, tmp_path: Path, how: str) -> None:
        path = tmp_path / "config.json"
        path.write_bytes(b'{"a": 1}\r\n')
        path.chmod(0o640)
        absent = tmp_path / "absent.json"
        code = "import sys, time; print(open(sys.argv[1]).read(), flush=True); time.sleep(float(sys.argv[2]))"
        files = (File(str(path), "tuned", restore=True), File(str(absent), "tuned", restore=True))
        handle = await executor.start(Command(python(code, str(path), "0" if how == "exit" else "600"), files=files))
        await printed(handle, "tuned")
        await handle.stop()
        assert path.read_bytes() == b'{"a": 1}\r\n'
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(("config", "absent"))] == ["config.json"]

    async def test_a_flood_of_output_is_bounded(self, executor: Executor, tmp_path: Path) -> None:
        code = "import sys\nprint('first')\nfor _ in range(640): sys.stdout.write('x' * 65535 + '\\n')\nprint('last')"
        handle = await executor.start(Command(python(code), directory=str(tmp_path / "run")))
        assert await finished(handle) == 0
        await handle.stop()
        await executor.get(str(tmp_path / "run" / "output.log"), tmp_path / "copy.log")
        content = (tmp_path / "copy.log").read_bytes()
        assert 5 << 20 <= len(content) <= 10 << 20
        assert content.startswith(b"first\n")
        assert content.endswith(b"last\n")
        assert b"left out" in content

    async def test_too_much_memory_is_a_failure(self, executor: Executor) -> None:
        code = "x = bytearray(1 << 30)"
        handle = await executor.start(Command(python(code), memory_limit_bytes=512 << 20))
        assert await finished(handle) == 1
        assert "MemoryError" in await handle.logs()

    async def test_no_such_program_is_the_users_mistake(self, executor: Executor) -> None:
        with pytest.raises(IPCCommandError, match="no such program") as caught:
            await executor.start(Command(("no-such-engine", "--port", "1")))
        assert caught.value.culprit is Culprit.USER
        assert caught.value.details["argv0"] == "no-such-engine"

    async def test_secrets_are_in_no_log(self, executor: Executor) -> None:
        code = "import os, sys, time\nfor c in os.environ['API_KEY'] + '.': print(c, end='', flush=True); time.sleep(0.005)"
        env = {"API_KEY": uuid.uuid4().hex}  # of which no part is known
        handle = await executor.start(Command(python(code), env=env, secrets=frozenset(env)))
        await finished(handle)
        await handle.stop()
        assert await handle.logs() == "***."

    async def test_put_and_get_give_back_the_same(self, executor: Executor, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "sub" / "weights.bin").write_bytes(bytes(range(256)) * 1000)
        (source / "link").symlink_to("sub/weights.bin")
        for _ in range(2):
            await executor.put(source, "model")
            await executor.get("model", tmp_path / "back")
        assert (tmp_path / "back" / "sub" / "weights.bin").read_bytes() == bytes(range(256)) * 1000
        assert (tmp_path / "back" / "link").readlink() == Path("sub/weights.bin")
        await executor.put(source / "link", "one.bin")
        await executor.get("one.bin", tmp_path / "one.bin")
        assert (tmp_path / "one.bin").stat().st_size == 256_000

    async def test_copying_what_is_not_there_is_an_error(self, executor: Executor, tmp_path: Path) -> None:
        with pytest.raises(CommunicationError, match="no such file"):
            await executor.get("nothing", tmp_path / "nothing")

    async def test_close_ends_all(self, executor: Executor) -> None:
        handles = [await executor.start(Command(python(FAMILY, "600", "polite"))) for _ in range(3)]
        family = [pid for handle in handles for pid in await self.family(handle)]
        await handles[0].stop()
        await executor.close()
        assert [pid for pid in family if self.alive(pid)] == []
        assert all([await handle.poll() is not None for handle in handles])

    async def test_a_command_that_runs_elsewhere_leaves_its_output_in_its_folder(self, executor: Executor) -> None:
        """The folder in which a service runs is a user's: an output.log that lies there is none of ours."""
        code = "import os; os.mkdir('own'); open('own/output.log', 'w').write('mine'); print(os.path.abspath('own'))"
        first = await executor.start(Command(python(code), directory="trial-1/first"))
        await finished(first)
        own = (await first.logs()).strip()
        code = "import os; print(os.getcwd(), open('output.log').read(), os.path.exists('f'))"
        for directory, cwd in (("trial-1/second", own), ("trial-1/first", "own")):
            command = Command(python(code), directory=directory, cwd=cwd, files=(File("f", "x"),))
            handle = await executor.start(command)
            await finished(handle)
            assert (await handle.logs()).split() == [own, "mine", "True"]

    async def test_folders_and_output_are_private(self, executor: Executor) -> None:
        code = (
            "import os; print(os.getcwd()); [print(oct(os.stat(p).st_mode & 0o777)) for p in ('.', 'output.log', 'f')]"
        )
        handle = await executor.start(Command(python(code), directory="trial-1/service", files=(File("f", "x"),)))
        await finished(handle)
        directory, *modes = (await handle.logs()).split()
        assert directory.endswith("trial-1/service")
        assert modes == ["0o700", "0o600", "0o600"]
