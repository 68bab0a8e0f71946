"""Executors that send requests to a process of ours on the node (``NodeCommands``), over any transport."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from abc import abstractmethod
from typing import Any

from swarmtune.errors import CommunicationError, Culprit, IPCCommandError, IPCTimeoutError, SimulatorStopError
from swarmtune.execution.executors.base import Executor, Handle
from swarmtune.execution.executors.node_commands import Message, message_of
from swarmtune.execution.executors.supervised import checked
from swarmtune.records import Command

ERRORS = {kind.__name__: kind for kind in (IPCCommandError, CommunicationError, SimulatorStopError)}
ANSWER_S = 120.0  # the older tuner's time-out


def raised_of(answer: Message) -> Message:
    """The answer; an answer that carries an error is raised."""
    if "error" in answer:
        kind = ERRORS.get(answer["kind"], IPCCommandError)
        raise kind(answer["error"], details=answer["details"], culprit=Culprit(answer["culprit"]))
    return answer


class AskingHandle(Handle):
    """A command on the node, known by its number there."""

    def __init__(self, executor: AskingExecutor, number: str, directory: str) -> None:
        self.directory = directory
        self._executor = executor
        self._number = number
        self._code: int | None = None

    async def poll(self) -> int | None:
        """See Handle. CommunicationError if the node is gone."""
        if self._code is None:
            codes = self._executor.last_codes
            if codes is None:
                codes = {self._number: (await self._executor.ask("process_poll", handle=self._number))["code"]}
            self._code = codes.get(self._number, -9)
        return self._code

    async def logs(self, lines: int = 50) -> str:
        """See Handle."""
        return str((await self._executor.ask("check_success", handle=self._number, lines=lines))["log"])

    async def stop(self, grace_s: float = 5.0) -> None:
        """See Handle."""
        if self._executor.last_codes is None:
            await self._executor.ask("stop", handle=self._number, grace_s=grace_s, wait_s=grace_s + ANSWER_S)


class AskingExecutor(Executor):
    """Base of executors that send requests to a process of ours on the node."""

    def __init__(self) -> None:
        self.last_codes: dict[str, int] | None = None
        """The exit codes of all commands, filled when the executor is closed."""

    @property
    def entered(self) -> bool:
        """Can the node have had a request?"""
        return True

    async def start(self, command: Command) -> AskingHandle:
        """See Executor. IPCCommandError, for the user, if there is no such program or a file cannot be written."""
        checked(command, self.last_codes is not None)
        number = uuid.uuid4().hex
        try:
            answer = await self.ask("start", what=message_of(command), handle=number)
        except (asyncio.CancelledError, IPCTimeoutError):  # it may start yet
            if self.entered:
                with contextlib.suppress(CommunicationError):
                    await self.ask("stop", handle=number, grace_s=0.0)
            raise
        return AskingHandle(self, number, answer["directory"])

    @abstractmethod
    async def ask(self, name: str, wait_s: float = ANSWER_S, **facts: Any) -> Message:
        """Send a request and return the answer. Errors of the node are raised here; IPCTimeoutError without an answer: the
        node may still carry out the request.
        """
