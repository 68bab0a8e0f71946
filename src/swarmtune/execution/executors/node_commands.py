"""The requests that a process of ours on a node answers for a tuner elsewhere: run commands, copy files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, Culprit, IPCCommandError, SwarmTuneError
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.executors.supervised import SupervisedHandle
from swarmtune.records import Command, File

Message = dict[str, Any]


def message_of(command: Command) -> Message:
    """A command as plain data."""
    return {
        "argv": list(command.argv),
        "env": dict(command.env),
        "files": [{"path": f.path, "content": f.content, "restore": f.restore} for f in command.files],
        "directory": command.directory,
        "memory_limit_bytes": command.memory_limit_bytes,
        "secrets": sorted(command.secrets),
        "lives_on": command.lives_on,
        "nice": command.nice,
        "cwd": command.cwd,
    }


def command_from(message: Message) -> Command:
    """Inverse of ``message_of``."""
    files = tuple(File(f["path"], f["content"], f["restore"]) for f in message["files"])
    return Command(
        tuple(message["argv"]),
        message["env"],
        files,
        message["directory"],
        message["memory_limit_bytes"],
        frozenset(message["secrets"]),
        bool(message.get("lives_on")),
        int(message.get("nice", 0)),
        str(message.get("cwd", "")),
    )


class NodeCommands:
    """The commands of one tuner on this node. ``root`` is where they run; it goes with ``end``.

    ``start`` (what, handle: a name for it), ``check_success`` (handle, lines), ``process_poll`` (handle), ``stop`` (handle,
    grace_s), ``put`` and ``backup`` (passage: a file here; path), ``eof``.
    """

    def __init__(self, root: Path, clock: Clock, adopted: bool = False) -> None:
        """``adopted``: see LocalExecutor."""
        self._executor = LocalExecutor(root, clock, temporary=True, adopted=adopted)
        self._handles: dict[str, asyncio.Future[SupervisedHandle]] = {}
        self._do: dict[str, Callable[[Message], Coroutine[Any, Any, Message]]] = {
            "start": self._start,
            "check_success": self._check_success,
            "process_poll": self._process_poll,
            "stop": self._stop,
            "put": self._put,
            "backup": self._backup,
            "eof": self._eof,
        }

    async def answer(self, message: Message) -> Message:
        """Carry out a request; a SwarmTuneError becomes an answer, too (``raised_of`` raises it again)."""
        try:
            name = message.get("command")
            if name not in self._do:
                raise IPCCommandError(f"there is no command {name!r}", culprit=Culprit.BUG)
            return await self._do[name](message)
        except SwarmTuneError as error:
            return error_answer(error)

    async def end(self) -> None:
        """Stop all commands and remove ``root``."""
        await self._executor.close()

    async def _start(self, message: Message) -> Message:
        starting = self._executor.start(command_from(message["what"]))
        self._handles[message["handle"]] = asyncio.ensure_future(starting)
        return {"directory": str((await self._handle(message)).directory)}

    async def _check_success(self, message: Message) -> Message:
        handle = await self._handle(message)
        return {"code": await handle.poll(), "log": await handle.logs(int(message["lines"]))}

    async def _process_poll(self, message: Message) -> Message:
        return {"code": await (await self._handle(message)).poll()}

    async def _stop(self, message: Message) -> Message:
        await (await self._handle(message)).stop(float(message["grace_s"]))
        return {"done": True}

    async def _put(self, message: Message) -> Message:
        await self._executor.put(Path(message["passage"]), message["path"])
        return {"done": True}

    async def _backup(self, message: Message) -> Message:
        await self._executor.get(message["path"], Path(message["passage"]))
        return {"done": True}

    async def _eof(self, message: Message) -> Message:  # noqa: ARG002 - they all get one
        await self.end()
        started = {n: h.result() for n, h in self._handles.items() if h.done() and h.exception() is None}
        return {"codes": {number: await handle.poll() for number, handle in started.items()}}

    async def _handle(self, message: Message) -> SupervisedHandle:
        """The handle of this command, as soon as it has started."""
        if message["handle"] not in self._handles:
            raise CommunicationError("the node does not know this command; its agent was started again meanwhile")
        return await asyncio.shield(self._handles[message["handle"]])


def error_answer(error: SwarmTuneError) -> Message:
    """An error as plain data."""
    details = {k: v for k, v in error.details.items() if isinstance(v, (str, int, float, list))}
    return {"error": error.message, "kind": type(error).__name__, "culprit": error.culprit.value, "details": details}
