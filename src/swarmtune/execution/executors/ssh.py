"""Commands on another machine over SSH, each under a supervisor that is uploaded first."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, Culprit, IPCCommandError
from swarmtune.execution.executors import sftp
from swarmtune.execution.executors.base import Executor, Site
from swarmtune.execution.executors.ssh_connection import SshNode, open_node
from swarmtune.execution.executors.ssh_login import SshTarget, asyncssh, config_mistake
from swarmtune.execution.executors.supervised import Commands, Link, SupervisedHandle, checked, token_of
from swarmtune.records import Command

if TYPE_CHECKING:
    from swarmtune.execution.config import NodeConfig, ParallelConfig

__all__ = ["SshExecutor", "SshTarget"]

AWAY_S = 30.0  # when closing, wait so long for a node that is unreachable, to clean it up
LEASE_S = 15.0  # a supervisor that gets no renewal for so long ends its command


class _Channel(Link):
    """The standard streams of a supervisor on the node."""

    def __init__(
        self, node: SshNode, process: asyncssh.SSHClientProcess[bytes], token: str, leftovers: set[str]
    ) -> None:
        self._node = node
        self._process = process
        self._token = token
        self._leftovers = leftovers

    async def send(self, line: bytes) -> None:
        try:
            self._process.stdin.write(line)
            await self._process.stdin.drain()
        except asyncssh.Error as error:
            raise BrokenPipeError(str(error)) from error

    async def lines(self) -> AsyncIterator[bytes]:
        reason = "it was closed"
        try:
            async for line in self._process.stdout:
                yield line
            await self._process.wait_closed()
        except (asyncssh.Error, OSError) as error:
            reason = str(error)
        if self._process.exit_status is None:  # nobody saw the supervisor end
            self._leftovers.add(self._token)
            raise CommunicationError(f"the connection to {self._node.target.host} is lost: {reason}")

    async def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.close()

    async def sweep(self, token: str) -> None:
        self._leftovers.add(token)
        await self._node.sweep([token])
        self._leftovers.discard(token)

    async def tail(self, path: PurePath, size_bytes: int) -> bytes:
        async with self._node.translated(f"cannot read {path}"):
            return await sftp.tail(self._node.files, str(path), size_bytes)


class SshExecutor(Executor):
    """Runs commands on one node. There is one connection, opened at the first use and again after it was lost.

    ``leftovers``: tokens of commands that may still run there because their end was not seen: those given, and those
    whose connection was lost (their lease ends them, too). They are swept before anything else is started.
    """

    @classmethod
    def for_nodes(cls, config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site) -> Sequence[SshExecutor]:
        """See Executor."""
        del config

        def target(node: NodeConfig) -> SshTarget:
            place = f"{node.work_dir}/{site.folder}" if site.folder else node.work_dir
            return SshTarget(node.host, node.ssh_port, node.username, place, temporary=bool(site.folder))

        return [cls(target(node), site.clock, site.leftovers) for node in nodes]

    @classmethod
    def unreachable(cls, node: NodeConfig) -> str:
        """See Executor: mistakes in the SSH configuration."""
        return config_mistake(SshTarget(node.host, node.ssh_port, node.username))

    def __init__(self, target: SshTarget, clock: Clock, leftovers: Iterable[str] = ()) -> None:
        self.target = target
        self.leftovers = set(leftovers)
        self._clock = clock
        self._commands = Commands(clock, LEASE_S)
        self._node: SshNode | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def start(self, command: Command) -> SupervisedHandle:
        """See Executor. IPCCommandError, for the user, if there is no such program or a file cannot be written.

        CommunicationError if the node cannot be reached; poll, logs and stop of the handle raise it, too, when the
        connection is lost. For ``command.env["SWARMTUNE_TOKEN"]`` see LocalExecutor.
        """
        checked(command, self._closed)
        node = await self._ready()
        async with node.translated("cannot start a command"):
            directory = await sftp.inside(node.files, node.root, command.directory or f"command-{uuid.uuid4().hex[:8]}")
        token = token_of(command)
        link = _Channel(node, await node.supervise(), token, self.leftovers)
        return await self._commands.start(command, link, token, directory)

    async def put(self, local: Path, remote: str) -> None:
        """See Executor. Relative paths begin at work_dir. Links inside a folder stay links."""
        source = local.resolve()
        if not source.exists():
            raise CommunicationError(f"cannot copy {local}: no such file", culprit=Culprit.USER)
        node = await self._ready()
        async with node.translated(f"cannot copy {source} to {remote}") as moved:
            target = await sftp.inside(node.files, node.root, remote)
            await sftp.make_private(node.files, target.parent)
            await sftp.put(node.files, source, target, moved)

    async def get(self, remote: str, local: Path) -> None:
        """See Executor. Relative paths begin at work_dir. Links inside a folder stay links."""
        node = await self._ready()
        async with node.translated(f"cannot copy {remote} to {local}") as moved:
            await sftp.get(node.files, await sftp.inside(node.files, node.root, remote), local, moved)

    async def close(self) -> None:
        """See Executor. All commands are stopped concurrently; the first error is raised after all have been stopped."""
        self._closed = True
        try:
            await self._commands.stop()
        finally:
            async with self._opening:
                await self._leave()

    async def _leave(self) -> None:
        if self._node is None:
            return
        try:
            deadline = self._clock.monotonic() + AWAY_S
            while self.target.temporary and not await self._cleared() and self._clock.monotonic() < deadline:
                await self._clock.sleep(1.0)
        finally:
            await self._node.close()

    async def _cleared(self) -> bool:
        """Remove work_dir; True when it is gone, or can never be removed."""
        try:
            node = await self._connected()
            async with node.translated("cannot clear work_dir"):
                await node.files.rmtree(str(node.root), ignore_errors=True)
        except CommunicationError as error:
            return error.culprit is Culprit.USER
        return True

    async def _ready(self) -> SshNode:
        """The node, connected and without leftovers."""
        async with self._opening:
            if self._closed:
                raise IPCCommandError("this executor is closed", culprit=Culprit.BUG)
            return await self._connected()

    async def _connected(self) -> SshNode:
        if self._node is None or self._node.connection.is_closed():
            self._node = await open_node(self.target, again=self._node is not None)
        if tokens := frozenset(self.leftovers):
            await self._node.sweep(tokens)
            self.leftovers -= tokens
        return self._node
