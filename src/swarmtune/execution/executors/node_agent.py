"""The node's side of the shared directory: answers requests in files, and ends all commands when the tuner is gone."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import sys
import uuid
from pathlib import Path

from swarmtune.clock import Clock, RealClock
from swarmtune.errors import CommunicationError, ConfigurationError, Culprit, IPCCommandError, SwarmTuneError
from swarmtune.execution.executors.node_commands import NodeCommands, error_answer
from swarmtune.execution.mailbox import (
    LOST_S,
    POLL_S,
    Message,
    Pulse,
    Watch,
    distrust,
    distrust_above,
    read_message,
    waiting,
    write_message,
)

GROWS_WITHIN_S = 3.0  # the heartbeat number of a live agent grows within this time


class NodeAgent:
    """Serves one tuner after the other. ``root`` is where the node's commands run, on a disk of its own."""

    def __init__(self, folder: Path, root: Path, clock: Clock, adopted: bool = False) -> None:
        """``adopted``: see LocalExecutor."""
        self.folder, self.root = folder.parent.resolve() / folder.name, root
        self._adopted = adopted
        self._clock = clock
        self._pulse = Pulse(self.folder / "node.json", uuid.uuid4().hex, clock)
        self._tuner = Watch(self.folder / "tuner.json", clock)
        self._served: str | None = None
        self._commands: NodeCommands | None = None
        self._ending: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()

    async def run(self) -> None:
        """Serve until cancelled; then all commands are ended. ConfigurationError if another agent serves this folder, or
        others can write it or replace it; if that changes later, no command is obeyed.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{self.folder}: cannot be made: {error.strerror or error}") from error
        if doubt := self._doubt():
            raise ConfigurationError(doubt)
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
                    doubt = self._doubt() or distrust(path)
                    message = None if doubt else read_message(path)
                    if doubt:
                        self._tell(f"not obeyed: {doubt}")
                    with contextlib.suppress(OSError):
                        path.unlink()
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

    def _doubt(self) -> str:
        """Why no command in this folder is to be believed; empty: they are."""
        folders = (self.folder, *(self.folder / name for name in ("commands", "answers", "files")))
        above = "" if self._adopted else distrust_above(self.folder)  # Slurm's user has chosen the folder of its jobs
        return above or next((doubt for folder in folders if (doubt := distrust(folder))), "")

    def _tell(self, text: str) -> None:
        """To whoever started the agent, once each."""
        if text not in self._told:
            self._told.add(text)
            sys.stderr.write(f"{text}\n")

    async def _another(self) -> bool:
        """Is another agent's heartbeat alive in this folder?"""
        before = read_message(self._pulse.path)
        if before is None:
            return False
        await self._clock.sleep(GROWS_WITHIN_S)
        return read_message(self._pulse.path) != before

    async def _answer(self, name: str, message: Message) -> None:
        try:
            answer = await self._answer_to(message)
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # a tuner of another version, for example
            answer = error_answer(IPCCommandError(f"the request is not understood: {error!r}", culprit=Culprit.BUG))
        try:
            write_message(self.folder / "answers" / name, answer)
        except CommunicationError as error:
            self._tell(error.message)

    async def _answer_to(self, message: Message) -> Message:
        if message.get("command") == "init":
            await self._end()
            self._served = str(message["tuner"])
            self._commands = NodeCommands(self.root / self._served, self._clock, self._adopted)
            return {"done": True}
        if self._commands is None or message.get("tuner") != self._served:
            text = "the node serves another tuner, or has lost this one meanwhile"
            return error_answer(CommunicationError(text, details={"lost": True}))
        if "passage" in message:
            message["passage"] = str(self.folder / "files" / Path(message["passage"]).name / "it")
        answer = await self._commands.answer(message)
        if message["command"] == "eof":
            self._served = self._commands = None
        return answer

    async def _end(self) -> None:
        """End all commands of the tuner. The clean-up goes on if the caller is cancelled; the next caller waits for it."""
        commands, self._commands, self._served = self._commands, None, None
        if commands is not None:
            self._ending = asyncio.create_task(_ended(commands))
        if self._ending is not None:
            await asyncio.shield(self._ending)


async def _ended(commands: NodeCommands) -> None:
    try:
        await commands.end()
    except SwarmTuneError as trouble:  # something cannot be ended; the node serves on
        sys.stderr.write(f"{trouble.message}\n")


async def serve(folder: Path, root: Path, clock: Clock) -> None:
    """Run the agent of a node until cancelled."""
    await NodeAgent(folder, root, clock).run()


OF_SLURM = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_", "PMI_", "PMIX_")


def serve_allocation(folder: str) -> None:
    """Run by Slurm on each node of a job: the agent of the node until the tuner is silent, or Slurm wants the node back.

    FOLDER/tuner.json is the heartbeat of the tuner that submitted the job, FOLDER/NODE the mailbox of this node. When the
    tuner is silent, the last agent removes FOLDER. Errors of the agent are raised.
    """
    name = os.environ["SLURMD_NODENAME"]
    for variable in [v for v in os.environ if v.startswith(OF_SLURM)]:
        del os.environ[variable]  # an engine must not take them for ranks of its own
    asyncio.run(_serve_allocation(Path(folder), name, RealClock()))


async def _serve_allocation(folder: Path, name: str, clock: Clock) -> None:
    def end() -> None:
        if not agent.cancelling():  # a second cancellation would interrupt its clean-up
            agent.cancel()

    # Slurm may kill all that descends from this process, and a killed supervisor puts no file back.
    agent = asyncio.create_task(NodeAgent(folder / name, folder / name / "run", clock, adopted=True).run())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):  # the last one comes before the time limit
        asyncio.get_running_loop().add_signal_handler(number, end)
    tuner, tuner_seen, began = Watch(folder / "tuner.json", clock), False, clock.monotonic()
    while not agent.done():
        there = tuner.name() is not None
        if not there and (tuner_seen or clock.monotonic() > began + LOST_S):
            break
        tuner_seen = tuner_seen or there
        await clock.sleep(POLL_S)
    end()
    await asyncio.gather(agent, return_exceptions=True)
    if tuner.name() is None:
        atexit.register(_clear, folder, name)  # submitit writes its result there when we return
    if not agent.cancelled():
        agent.result()


def _clear(folder: Path, name: str) -> None:
    """Remove the folder of this node, and the job's folder if no other node has files in it."""
    shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        if {entry.name for entry in folder.iterdir() if entry.is_dir()} <= {"job"}:
            shutil.rmtree(folder, ignore_errors=True)
