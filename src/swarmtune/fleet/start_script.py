"""Start and stop scripts of a service group, as commands for its nodes."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swarmtune.clock import Clock
from swarmtune.errors import ConfigValidationError
from swarmtune.execution.config import ServiceOptions
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.service_group import ServiceGroup, of_rank, with_rank
from swarmtune.files import text_of
from swarmtune.records import Command, File, Group, Value

POLL_S = 0.25
LARGEST = 2**24  # bytes of a script


@dataclass(frozen=True)
class Script:
    """A start or stop script as a command: argv, and the file that is sent to the node."""

    argv: tuple[str, ...]
    files: tuple[File, ...] = ()

    @classmethod
    def read(cls, text: str) -> Script:
        """``./start.sh --fast`` is a file here, run by the program behind its #!; a name or absolute path is on the node.

        ConfigValidationError if it cannot be read.
        """
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ConfigValidationError([f"script {text!r}: {error}"]) from error
        if not words:
            raise ConfigValidationError([f"script {text!r}: names no program"])
        program, path = words[0], Path(words[0])
        if program.startswith("~"):
            raise ConfigValidationError([f"script {text!r}: '~' is not known on the node; write an absolute path"])
        if "/" not in program or path.is_absolute():
            return cls(tuple(words))
        try:
            content = text_of(path, LARGEST).replace("\r\n", "\n")  # no interpreter takes the line ends of Windows
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            way_out = "write the absolute path of one that is on the nodes"
            raise ConfigValidationError([f"script {text!r}: cannot be sent along ({why}); {way_out}"]) from error
        first = content.partition("\n")[0]
        interpreter = first[2:].strip().split(None, 1) if first.startswith("#!") else ["/bin/sh"]
        return cls((*interpreter, f"./{path.name}", *words[1:]), (File(path.name, content),))


@dataclass(frozen=True)
class GroupScripts:
    """How scripts start and stop the service of one group."""

    options: ServiceOptions
    start: Script
    stop: Script | None

    @classmethod
    def of(cls, options: ServiceOptions) -> GroupScripts:
        """ConfigValidationError if a script cannot be read."""
        stop = Script.read(options.stop_script) if options.stop_script else None
        return cls(options, Script.read(options.start_script), stop)

    @property
    def on_master(self) -> bool:
        """Does the start script run on the master alone?"""
        return self.options.start == "master"

    def commands(self, values: Mapping[str, Value], nodes: int) -> tuple[Command, ...]:
        """The start script where it runs, and on each node the values in ``config_path``, as JSON.

        A script that runs on the master alone may end with 0 and leave the service behind.
        """
        path = self.options.config_path
        environment = {"SWARMTUNE_CONFIG": path}
        # A file at an absolute path is the user's and is restored; a relative path is in a folder of our own.
        content = json.dumps(dict(values), indent=2) + "\n"
        file = File(path, content, restore=Path(path).is_absolute())
        files = (*self.start.files, file)
        if not self.on_master:
            return (Command(self.start.argv, environment, files),) * nodes
        first = Command((*self.start.argv, "--config", path), environment, files, lives_on=True)
        # On the others a command holds the file for as long as the service runs, and shows whether the node is there.
        return (first, *(Command(("true",), environment, (file,), lives_on=True),) * (nodes - 1))

    async def run_stop(self, nodes: ServiceGroup, group: Group, place: str, clock: Clock) -> None:
        """Run the stop script, if there is one, where the start script ran; it has ended when this returns or raises."""
        script = self.stop
        if script is None:
            return

        async def run(rank: int, executor: Executor) -> None:
            environment = {"SWARMTUNE_CONFIG": self.options.config_path}
            command = Command(script.argv, environment, script.files, f"{of_rank(place, rank)}-stop")
            handle = await executor.start(with_rank(command, replace(group, rank=rank)))
            try:
                while await handle.poll() is None:
                    await clock.sleep(POLL_S)
            finally:
                await handle.stop()

        await asyncio.gather(*(run(rank, executor) for rank, executor in enumerate(self.run_by(nodes))))

    def run_by(self, nodes: ServiceGroup) -> Sequence[Executor]:
        """The executors of the nodes on which the scripts run, the master first."""
        return nodes.executors[: 1 if self.on_master else None]


def script_mistakes(services: Sequence[ServiceOptions]) -> list[str]:
    """A sentence for each script that cannot be read."""
    mistakes: list[str] = []
    for text in dict.fromkeys(t for one in services for t in (one.start_script, one.stop_script) if t):
        try:
            Script.read(text)
        except ConfigValidationError as error:
            mistakes += error.mistakes
    return mistakes
