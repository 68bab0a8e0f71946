"""A command under a supervisor: the meaning of its events is the same over a pipe, SSH or an actor."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from pathlib import PurePath
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, Culprit, IPCCommandError, SimulatorStopError
from swarmtune.execution import supervisor
from swarmtune.execution.executors.base import Handle
from swarmtune.records import Command
from swarmtune.redaction import FORMS, NAMES, ours

GRACE_S = 5.0  # used where no caller gives another: the tuner died, or the command left processes behind
RENEWALS_PER_LEASE = 3
LOG_WINDOW_BYTES = 256 * 1024  # logs() reads at least so much, from the end
LOG_LINE_BYTES = 256  # for each line that is asked for
MOST_LOG_BYTES = 1024 * 1024
NODE_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, *supervisor.NO_ROOM}
"""Errors of the node, not of the command."""


def left_behind(output: str) -> str:
    """In words, what a sweep says that it could not end or put back."""
    said = []
    for line in output.splitlines():
        try:
            event = json.loads(line)
            said += [f"process {pid} cannot be ended" for pid in event.get("left", ())]
            said += [*map(str, event.get("unrestored", ())), *([event["error"]] if "error" in event else [])]
        except (ValueError, AttributeError, TypeError):
            said.append(line)
    return "; ".join(said)


class Link(ABC):
    """The connection to one supervisor: its standard input and output, and the ways to act without it.

    A link that breaks raises CommunicationError from ``lines``; the supervisor then ends the command by its lease.
    ``inherits``: the supervisor has the environment of this process.
    """

    inherits = False

    @abstractmethod
    async def send(self, line: bytes) -> None:
        """Write to its standard input. OSError if the supervisor has ended."""

    @abstractmethod
    def lines(self) -> AsyncIterator[bytes]:
        """Its standard output line by line, until it has ended."""

    @abstractmethod
    async def kill(self) -> None:
        """End a supervisor that does not answer; it is not waited for."""

    @abstractmethod
    async def sweep(self, token: str) -> None:
        """End the leftovers of a killed supervisor, and restore its files. SimulatorStopError if that fails."""

    @abstractmethod
    async def tail(self, path: PurePath, size_bytes: int) -> bytes:
        """The end of a file in the command's folder; empty if the file does not exist."""


def spec_of(
    command: Command, directory: PurePath, token: str, lease_s: float | None, hidden: Iterable[str] = ()
) -> bytes:
    """The supervisor's first line of input: see ``supervisor.Supervisor``. ``hidden``: values that its log must not show
    besides the command's own secrets.
    """
    cwd = command.cwd if command.cwd.startswith("~") else str(directory / command.cwd)
    spec = {
        "argv": command.argv,
        "env": dict(command.env),
        "files": [{"path": f.path, "content": f.content, "restore": f.restore} for f in command.files],
        "directory": cwd,
        "log_path": str(directory / LOG_FILE),
        "memory_limit_bytes": command.memory_limit_bytes,
        "lives_on": command.lives_on,
        "nice": command.nice,
        "grace_s": GRACE_S,
        "lease_s": lease_s,
        "token": token,
        "redact": sorted({*command.secret_values, *hidden}),
        "redact_names": NAMES,
        "redact_forms": FORMS,
    }
    return json.dumps(spec).encode() + b"\n"


def token_of(command: Command) -> str:
    """The name of the command for sweeps: ``env["SWARMTUNE_TOKEN"]`` (8 to 64 letters, digits, "_" or "-"), or a new one."""
    return command.env.get(supervisor.TOKEN) or uuid.uuid4().hex


def checked(command: Command, closed: bool) -> None:
    """Raise IPCCommandError if the executor is closed or the command is empty."""
    if closed:
        raise IPCCommandError("this executor is closed; nothing more can be started", culprit=Culprit.BUG)
    if not command.argv:
        raise IPCCommandError("a command needs at least the name of a program", culprit=Culprit.USER)


LOG_FILE = "output.log"


class SupervisedHandle(Handle):
    """A command that runs under a supervisor of its own."""

    def __init__(self, link: Link, token: str, directory: PurePath, clock: Clock, lease_s: float | None = None) -> None:
        """``directory`` holds output.log. A lease (seconds) is renewed three times in its span."""
        self.token = token
        self.directory = directory
        self.pid: int | None = None
        """The command's main process, once it has started."""
        self._link = link
        self._clock = clock
        self._events: dict[str, dict[str, Any]] = {}
        self._trouble: list[str] = []
        self._started = asyncio.Event()
        self._silent = False  # has the supervisor ended?
        self._ended = asyncio.create_task(self._watch())
        self._renewing = asyncio.create_task(self._renew(lease_s)) if lease_s else None

    @property
    def gone(self) -> bool:
        """Has the command ended with all its processes, and is every file restored?"""
        return self._ended.done() and not self._ended.cancelled() and self._ended.exception() is None

    @property
    def lost(self) -> bool:
        """Is the connection to the supervisor lost? Then the lease ends the command."""
        return (
            self._ended.done()
            and not self._ended.cancelled()
            and isinstance(self._ended.exception(), CommunicationError)
        )

    async def poll(self) -> int | None:
        """See Handle. -9 also when the supervisor itself was killed: the command is ended with it.

        CommunicationError when the connection to it is lost, or when its lease was not renewed in time.
        """
        if "lapsed" in self._events:
            raise CommunicationError("the node ended the command, because its lease was not renewed in time")
        if "exited" in self._events:
            code = self._events["exited"]["code"]
            return int(code) if code is not None else -int(self._events["exited"]["signal"])
        if self._ended.done() and not self._ended.cancelled() and (error := self._ended.exception()) is not None:
            raise error
        return -9 if self._silent or self._ended.done() else None

    async def logs(self, lines: int = 50) -> str:
        """See Handle. The values of secrets are redacted."""
        window = min(MOST_LOG_BYTES, max(LOG_WINDOW_BYTES, LOG_LINE_BYTES * lines))
        data = await self._link.tail(self.directory / LOG_FILE, window)
        return ours.hide("".join(data.decode(errors="replace").splitlines(keepends=True)[-lines:]))

    async def stop(self, grace_s: float = 5.0) -> None:
        """See Handle."""
        if not self._ended.done():
            with contextlib.suppress(OSError, ValueError):  # the supervisor has just ended
                await self._link.send(json.dumps({"stop": grace_s}).encode() + b"\n")
            limit = grace_s + supervisor.KILL_WAIT_S + supervisor.LOCK_WAIT_S
            alarm = asyncio.ensure_future(self._clock.sleep(limit))
            await asyncio.wait({self._ended, alarm}, return_when=asyncio.FIRST_COMPLETED)
            alarm.cancel()
            if not self._ended.done():
                await self._link.kill()
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
        culprit = Culprit.INFRASTRUCTURE if failed.get("errno") in NODE_TROUBLE else Culprit.USER
        raise IPCCommandError(message, details={"directory": str(self.directory)}, culprit=culprit)

    async def _renew(self, lease_s: float) -> None:
        """Renew the lease with a line of input, again and again."""
        with contextlib.suppress(OSError, ValueError):
            while True:
                await self._clock.sleep(lease_s / RENEWALS_PER_LEASE)
                await self._link.send(b"\n")

    async def _watch(self) -> None:
        """Read the supervisor's events to their end, then clean up behind it if it was killed."""
        try:
            async for line in self._link.lines():
                self._take(line)
        finally:
            self._silent = True
            if self._renewing is not None:
                self._renewing.cancel()
        await self._judge()

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            self._events[event.pop("event")] = event
        except (ValueError, KeyError, AttributeError):  # a traceback of the supervisor
            self._trouble = [*self._trouble[-20:], line.decode(errors="replace").rstrip()]
            return
        if "started" in self._events and not self._started.is_set():
            self.pid = int(self._events["started"]["pid"])
            self._started.set()

    async def _judge(self) -> None:
        if "left" in self._events:
            pids = self._events["left"]["pids"]
            raise SimulatorStopError(f"processes {pids} cannot be ended, not even by SIGKILL", details={"pids": pids})
        if "unrestored" in self._events:
            facts = self._events["unrestored"]
            raise SimulatorStopError(f"{facts['path']} could not be put back: {facts['error']}", details=facts)
        if "done" not in self._events and "failed" not in self._events:
            await self._link.sweep(self.token)


class Commands:
    """The commands of one executor: each under a supervisor of its own, all ended together."""

    def __init__(self, clock: Clock, lease_s: float | None = None) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._handles: set[SupervisedHandle] = set()

    async def start(self, command: Command, link: Link, token: str, directory: PurePath) -> SupervisedHandle:
        """Give the command to the supervisor that listens at ``link``; a start that fails or is cancelled leaves nothing.

        IPCCommandError, for the user, if there is no such program or a file cannot be written.
        """
        handle = SupervisedHandle(link, token, directory, self._clock, self._lease_s)
        self._handles = {h for h in self._handles if not (h.gone or h.lost)} | {handle}
        try:
            with contextlib.suppress(OSError):  # started() raises the reason
                hidden = ours.known if link.inherits else ()
                await link.send(spec_of(command, directory, token, self._lease_s, hidden))
            await handle.started()
        except IPCCommandError as error:
            error.details["argv0"] = command.argv[0]
            raise
        except asyncio.CancelledError:
            await handle.stop(GRACE_S)
            raise
        return handle

    async def stop(self) -> None:
        """Stop all commands concurrently; the first error is raised after all have been stopped. One whose connection is
        lost ends when its lease expires.
        """
        handles = list(self._handles)
        results = await asyncio.gather(*(h.stop(GRACE_S) for h in handles), return_exceptions=True)
        self._handles -= set(handles)
        for handle, result in zip(handles, results, strict=True):
            if isinstance(result, BaseException) and not handle.lost:
                raise result
