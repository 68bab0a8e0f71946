"""The node's side of the shared directory: does what the files say, and ends everything when the tuner is gone."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

from swarmtune.clock import Clock
from swarmtune.cluster.executors.node_commands import NodeCommands, error_answer
from swarmtune.cluster.mailbox import POLL_S, Message, Pulse, Watch, read_message, waiting, write_message
from swarmtune.errors import CommunicationError, ConfigurationError, SwarmTuneError

GROWS_WITHIN_S = 3.0  # the number of an agent that lives


class NodeAgent:
    """Serves one tuner after the other. ``root`` is where the node's commands run, on a disk of its own."""

    def __init__(self, folder: Path, root: Path, clock: Clock) -> None:
        self.folder, self.root = folder.absolute(), root
        self._clock = clock
        self._pulse = Pulse(self.folder / "node.json", uuid.uuid4().hex, clock)
        self._tuner = Watch(self.folder / "tuner.json", clock)
        self._served: str | None = None
        self._commands: NodeCommands | None = None
        self._work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled. ConfigurationError if another agent serves this folder."""
        if await self._another():
            raise ConfigurationError(f"{self.folder}: another agent serves this node already")
        for old in (*waiting(self.folder / "commands"), *waiting(self.folder / "answers")):
            old.unlink(missing_ok=True)
        self._pulse.beat()
        beating = asyncio.create_task(self._pulse.go_on())
        try:
            while True:
                if self._served is not None and self._tuner.name() != self._served:
                    await self._end()  # it died, or the file system was cut
                for path in waiting(self.folder / "commands"):
                    message = read_message(path)
                    path.unlink(missing_ok=True)
                    if message is not None:
                        task = asyncio.create_task(self._answer(path.name, message))
                        self._work.add(task)
                        task.add_done_callback(self._work.discard)
                await self._clock.sleep(POLL_S)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._end()
            self._pulse.path.unlink(missing_ok=True)

    async def _another(self) -> bool:
        """Does the number of an agent that is written there still grow?"""
        before = read_message(self._pulse.path)
        if before is None:
            return False
        await self._clock.sleep(GROWS_WITHIN_S)
        return read_message(self._pulse.path) != before

    async def _answer(self, name: str, message: Message) -> None:
        if message.get("command") == "init":
            await self._end()
            self._served = str(message["tuner"])
            self._commands = NodeCommands(self.root / self._served, self._clock)
            answer: Message = {"done": True}
        elif self._commands is None or message.get("tuner") != self._served:
            answer = error_answer(CommunicationError("the node serves another tuner, or has lost this one meanwhile"))
        else:
            if "passage" in message:
                message["passage"] = str(self.folder / "files" / Path(message["passage"]).name / "it")
            answer = await self._commands.answer(message)
            if message["command"] == "eof":
                self._served = self._commands = None
        write_message(self.folder / "answers" / name, answer)

    async def _end(self) -> None:
        """Nothing of the tuner is left."""
        commands, self._commands, self._served = self._commands, None, None
        if commands is not None:
            try:
                await commands.end()
            except SwarmTuneError as trouble:  # something cannot be ended; the node serves on
                sys.stderr.write(f"{trouble.message}\n")


async def serve(folder: Path, root: Path, clock: Clock) -> None:
    """Be the agent of a node until cancelled."""
    await NodeAgent(folder, root, clock).run()
