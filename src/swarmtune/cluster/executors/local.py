"""Commands on this machine, each under its own supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from swarmtune.clock import Clock
from swarmtune.cluster import supervisor
from swarmtune.cluster.executors.base import Executor, Handle
from swarmtune.errors import CommunicationError, Culprit, IPCCommandError, SimulatorStopError
from swarmtune.records import Command

GRACE_S = 5.0  # when nobody can be asked for another: the tuner died, or the command left processes behind
LOG_WINDOW_BYTES = 256 * 1024  # what logs() reads at most, from the end
PRIVATE_PREFIXES = ("RAY_", "SWARMTUNE_")  # a service must neither join our Ray cluster nor see our own settings


async def sweep_leftovers(tokens: Iterable[str], python: str = sys.executable) -> None:
    """End what supervisors that were killed left behind on this machine, and put their files back.

    ``tokens`` are the ``LocalHandle.token`` of commands that never ended. Tokens without leftovers do no harm.
    SimulatorStopError if a process cannot be ended or a file cannot be put back.
    """
    wanted = list(tokens)
    if not wanted:
        return
    process = await asyncio.create_subprocess_exec(
        python, "-I", supervisor.__file__, "--sweep", *wanted, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise SimulatorStopError(
            f"leftovers of an earlier run could not all be removed: {output.decode(errors='replace').strip()}",
            details={"tokens": wanted},
        )


class LocalHandle(Handle):
    """A command that runs under a supervisor of its own. Made by LocalExecutor."""

    def __init__(self, process: subprocess.Popen[bytes], token: str, directory: Path, clock: Clock) -> None:
        self.token = token
        self.directory = directory
        self.pid: int | None = None
        """The command's main process, once it has started."""
        self._process = process
        self._clock = clock
        self._events: dict[str, dict[str, Any]] = {}
        self._trouble: list[str] = []
        self._started = asyncio.Event()
        self._ended = asyncio.create_task(self._watch())

    @property
    def gone(self) -> bool:
        """Is nothing of it left, and every file put back?"""
        return self._ended.done() and not self._ended.cancelled() and self._ended.exception() is None

    async def poll(self) -> int | None:
        """See Handle. -9 also when the supervisor itself was killed: the command is ended with it."""
        if "exited" in self._events:
            code = self._events["exited"]["code"]
            return int(code) if code is not None else -int(self._events["exited"]["signal"])
        return -9 if self._process.returncode is not None or self._ended.done() else None

    async def logs(self, lines: int = 50) -> str:
        """See Handle. The values of secrets are not in it."""
        return await asyncio.to_thread(_tail, self.directory / "output.log", lines)

    async def stop(self, grace_s: float = 5.0) -> None:
        """See Handle."""
        if not self._ended.done():
            with contextlib.suppress(OSError, ValueError):  # the supervisor has just ended
                _send(self._process, {"stop": grace_s})
            limit = grace_s + supervisor.KILL_WAIT_S + supervisor.LOCK_WAIT_S
            alarm = asyncio.ensure_future(self._clock.sleep(limit))
            await asyncio.wait({self._ended, alarm}, return_when=asyncio.FIRST_COMPLETED)
            alarm.cancel()
            if not self._ended.done():
                self._process.kill()
        await asyncio.shield(self._ended)

    async def started(self) -> None:
        """Return when the command runs; IPCCommandError if it cannot, SimulatorStopError if that left something."""
        ended = asyncio.ensure_future(self._started.wait())
        await asyncio.wait({ended, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if "started" in self._events:
            return
        await asyncio.wait({self._ended})
        if not self.gone:
            await self._ended
        failed = self._events.get("failed")
        if failed is None:
            raise IPCCommandError(f"the supervisor ended before it started the command: {' '.join(self._trouble)}")
        message = f"no such program: {failed['error']}" if failed["program"] else str(failed["error"])
        raise IPCCommandError(message, details={"directory": str(self.directory)}, culprit=Culprit.USER)

    async def _watch(self) -> None:
        """Read the supervisor's events to their end, then clean up behind it if it was killed."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout)
        async for line in reader:
            try:
                event = json.loads(line)
                self._events[event.pop("event")] = event
            except (ValueError, KeyError, AttributeError):  # a traceback of the supervisor
                self._trouble = [*self._trouble[-20:], line.decode(errors="replace").rstrip()]
                continue
            if "started" in self._events and not self._started.is_set():
                self.pid = int(self._events["started"]["pid"])
                self._started.set()
        await asyncio.to_thread(self._process.wait)
        with contextlib.suppress(OSError):
            _stdin(self._process).close()
        await self._judge()

    async def _judge(self) -> None:
        if "left" in self._events:
            pids = self._events["left"]["pids"]
            raise SimulatorStopError(f"processes {pids} cannot be ended, not even by SIGKILL", details={"pids": pids})
        if "unrestored" in self._events:
            facts = self._events["unrestored"]
            raise SimulatorStopError(f"{facts['path']} could not be put back: {facts['error']}", details=facts)
        if "done" not in self._events and "failed" not in self._events:
            await sweep_leftovers([self.token])


class LocalExecutor(Executor):
    """Runs commands as children of this process.

    ``root`` (created, mode 0700) holds the folders of commands that name none, and is where relative paths begin.
    ``python`` runs the supervisors; any version from 3.8 on will do.
    """

    def __init__(self, root: Path, clock: Clock, python: str = sys.executable) -> None:
        self.root = root.absolute()
        self._clock = clock
        self._python = python
        self._handles: set[LocalHandle] = set()
        self._closed = False

    async def start(self, command: Command) -> LocalHandle:
        """See Executor. IPCCommandError, for the user, if there is no such program or a file cannot be written.

        ``command.env["SWARMTUNE_TOKEN"]`` (8 to 64 letters, digits, "_" or "-") names the command for
        ``sweep_leftovers``; by default it is a new one: ``LocalHandle.token``.
        """
        if self._closed:
            raise IPCCommandError("this executor is closed; nothing more can be started", culprit=Culprit.BUG)
        if not command.argv:
            raise IPCCommandError("a command needs at least the name of a program", culprit=Culprit.USER)
        directory = await asyncio.to_thread(self._prepare, command.directory)
        token = command.env.get(supervisor.TOKEN) or uuid.uuid4().hex
        process = self._launch()
        handle = LocalHandle(process, token, directory, self._clock)
        self._handles = {h for h in self._handles if not h.gone} | {handle}
        try:
            with contextlib.suppress(BrokenPipeError):  # started() knows why
                await asyncio.to_thread(_send, process, _spec(command, directory, token))
            await handle.started()
        except IPCCommandError as error:
            error.details["argv0"] = command.argv[0]
            raise
        except asyncio.CancelledError:
            await handle.stop(GRACE_S)
            raise
        return handle

    async def put(self, local: Path, remote: str) -> None:
        """See Executor. Links inside a folder stay links; none is followed to the outside."""
        await asyncio.to_thread(_copy, local.resolve(), self._inside(remote))

    async def get(self, remote: str, local: Path) -> None:
        """See Executor. Links inside a folder stay links; none is followed to the outside."""
        await asyncio.to_thread(_copy, self._inside(remote), local)

    async def close(self) -> None:
        """See Executor. All commands are stopped at once; the first trouble is raised when all have been."""
        self._closed = True
        results = await asyncio.gather(*(h.stop(GRACE_S) for h in self._handles), return_exceptions=True)
        self._handles.clear()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _launch(self) -> subprocess.Popen[bytes]:
        # Not asyncio's own: its transport kills the child with SIGKILL when the loop ends, which a supervisor must not be.
        return subprocess.Popen(
            [self._python, "-I", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _prepare(self, wanted: str) -> Path:
        supervisor.make_private(self.root)
        if not wanted:
            return Path(tempfile.mkdtemp(prefix="command-", dir=self.root))
        directory = self._inside(wanted)
        try:
            supervisor.make_private(directory)
        except OSError as error:
            raise IPCCommandError(
                f"cannot create the folder {directory}: {error.strerror}", culprit=Culprit.USER
            ) from error
        return directory

    def _inside(self, path: str) -> Path:
        """An absolute path as it is; a relative one below the root, and no link or ".." may lead out of it."""
        if Path(path).is_absolute():
            return Path(path)
        target = (self.root / path).resolve()
        if not target.is_relative_to(self.root.resolve()):
            raise IPCCommandError(f"{path!r} leads out of {self.root}; use an absolute path", culprit=Culprit.USER)
        return target


def _spec(command: Command, directory: Path, token: str) -> dict[str, Any]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PRIVATE_PREFIXES)}
    return {
        "argv": command.argv,
        "env": {**inherited, **command.env},
        "files": [{"path": f.path, "content": f.content, "restore": f.restore} for f in command.files],
        "directory": str(directory),
        "log_path": str(directory / "output.log"),
        "memory_limit_bytes": command.memory_limit_bytes,
        "grace_s": GRACE_S,
        "lease_s": None,
        "token": token,
        "redact": list(command.secret_values),
    }


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None  # noqa: S101 - we asked Popen for it
    return process.stdin


def _send(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    stdin = _stdin(process)
    stdin.write(json.dumps(message).encode() + b"\n")
    stdin.flush()


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_WINDOW_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])


def _copy(source: Path, target: Path) -> None:
    try:
        if not source.is_symlink() and not source.exists():
            raise CommunicationError(f"cannot copy {source}: there is no such file", culprit=Culprit.USER)
        supervisor.make_private(target.parent)
        _copy_tree(source, target)
    except OSError as error:
        raise CommunicationError(f"cannot copy {source} to {target}: {error}") from error


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        if target.is_symlink():
            target.unlink()
        target.mkdir(mode=0o700, exist_ok=True)
        for entry in source.iterdir():
            _copy_tree(entry, target / entry.name)
        return
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        shutil.copy2(source, fresh, follow_symlinks=False)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
