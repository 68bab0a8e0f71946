"""Commands on this machine, each under its own supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, Culprit, IPCCommandError, SimulatorStopError
from swarmtune.execution import supervisor
from swarmtune.execution.executors.base import Executor, Site
from swarmtune.execution.executors.supervised import Commands, Link, SupervisedHandle, checked, left_behind, token_of
from swarmtune.records import Command

if TYPE_CHECKING:
    from swarmtune.execution.config import NodeConfig, ParallelConfig

MOST_TOKENS = 1000  # that are swept at a time: a command line has an end
ADOPTED = """
import os, sys
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    pass
os.execv(sys.executable, [sys.executable, "-I", sys.argv[1]])
"""


async def sweep_leftovers(tokens: Iterable[str], python: str = sys.executable) -> None:
    """End the leftovers of killed supervisors on this machine, and restore their files.

    ``tokens`` are the ``SupervisedHandle.token`` of commands whose end was not seen. Tokens without leftovers are ignored.
    SimulatorStopError if a process cannot be ended or a file cannot be put back.
    """
    wanted = list(tokens)
    for first in range(0, len(wanted), MOST_TOKENS):
        some = wanted[first : first + MOST_TOKENS]
        process = await asyncio.create_subprocess_exec(
            python, "-I", supervisor.__file__, "--sweep", *some, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise SimulatorStopError(
                f"leftovers of an earlier run could not all be removed: {left_behind(output.decode(errors='replace'))}",
                details={"tokens": some},
            )


class _Pipes(Link):
    """The standard streams of a supervisor that is our child."""

    inherits = True

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    async def send(self, line: bytes) -> None:
        await asyncio.to_thread(self._write, line)

    def _write(self, line: bytes) -> None:
        stdin = _stdin(self._process)
        stdin.write(line)
        stdin.flush()

    async def lines(self) -> AsyncIterator[bytes]:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout)
        async for line in reader:
            yield line
        await asyncio.to_thread(self._process.wait)
        with contextlib.suppress(OSError):
            _stdin(self._process).close()

    async def kill(self) -> None:
        self._process.kill()

    async def sweep(self, token: str) -> None:
        await sweep_leftovers([token])

    async def tail(self, path: PurePath, size_bytes: int) -> bytes:
        return await asyncio.to_thread(_tail, Path(path), size_bytes)


class LocalExecutor(Executor):
    """Runs commands as children of this process.

    ``root`` (created, mode 0700) holds the folders of commands that name none, and is where relative paths begin.
    ``python`` runs the supervisors; any version from 3.8 on will do. A ``temporary`` root goes with ``close``.
    ``adopted``: supervisors are not children of this process, for systems that kill a process together with its children,
    which would leave the children of the supervisors behind.
    """

    @classmethod
    def for_nodes(cls, config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site) -> Sequence[LocalExecutor]:
        """See Executor. The files of each "node" are in a folder of its own below work_dir."""
        del config
        names = [f"{site.folder}-{node.host}" if site.folder else node.host for node in nodes]
        folders = [Path(node.work_dir).expanduser() / name for node, name in zip(nodes, names, strict=True)]
        return [cls(folder, site.clock, temporary=bool(site.folder)) for folder in folders]

    def __init__(
        self,
        root: Path,
        clock: Clock,
        python: str = sys.executable,
        *,
        temporary: bool = False,
        adopted: bool = False,
    ) -> None:
        self.root = root.absolute()
        self._temporary = temporary
        self._adopted = adopted
        self._python = python
        self._commands = Commands(clock)
        self._spare: subprocess.Popen[bytes] | None = None  # a supervisor that waits for the next command
        self._closed = False

    async def start(self, command: Command) -> SupervisedHandle:
        """See Executor. IPCCommandError, for the user, if there is no such program or a file cannot be written.

        ``command.env["SWARMTUNE_TOKEN"]`` (8 to 64 letters, digits, "_" or "-") names the command for
        ``sweep_leftovers``; by default it is a new one: ``SupervisedHandle.token``.
        """
        checked(command, self._closed)
        directory = await asyncio.to_thread(self._prepare, command.directory)
        checked(command, self._closed)  # the executor may have been closed meanwhile
        handle = await self._commands.start(command, _Pipes(self._taken()), token_of(command), directory)
        self._keep_spare()
        return handle

    async def put(self, local: Path, remote: str) -> None:
        """See Executor. Links inside a folder stay links; none is followed to the outside."""
        await asyncio.to_thread(copy, local.resolve(), self._inside(remote))

    async def get(self, remote: str, local: Path) -> None:
        """See Executor. Links inside a folder stay links; none is followed to the outside."""
        source = self._inside(remote)
        if source != local.absolute():  # a file in the study's folder is there already
            await asyncio.to_thread(copy, source, local)

    async def close(self) -> None:
        """See Executor. All commands are stopped concurrently; the first error is raised after all have been stopped."""
        self._closed = True
        spare, self._spare = self._spare, None
        try:
            await self._commands.stop()
        finally:
            if spare is not None:
                await asyncio.to_thread(spare.communicate)  # it ends with its input
            if self._temporary:
                await asyncio.to_thread(shutil.rmtree, self.root, ignore_errors=True)

    def _taken(self) -> subprocess.Popen[bytes]:
        """A supervisor for a command: the spare one, or a new one."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.poll() is None else self._launch()

    def _keep_spare(self) -> None:
        """Start a spare supervisor: the start of Python is the largest part of our overhead for a command."""
        if self._spare is None and not self._closed and not self._adopted:
            self._spare = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        # Not asyncio's own: its transport kills the child with SIGKILL when the loop ends, which a supervisor must not be.
        argv = ["-c", ADOPTED, supervisor.__file__] if self._adopted else [supervisor.__file__]
        return subprocess.Popen(
            [self._python, "-I", "-S", *argv],
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


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None  # noqa: S101 - we asked Popen for it
    return process.stdin


def _tail(path: Path, size_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size_bytes))
            return file.read()
    except FileNotFoundError:
        return b""


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder on this machine; links stay links. CommunicationError if that fails."""
    try:
        if not source.is_symlink() and not source.exists():
            raise CommunicationError(f"cannot copy {source}: no such file", culprit=Culprit.USER)
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
