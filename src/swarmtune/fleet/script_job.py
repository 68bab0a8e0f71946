"""The job of one particle: a start script is the service, and a function of values and URL gives the cost."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from swarmtune.clock import Clock, within
from swarmtune.errors import (
    BenchmarkExecutionError,
    ConfigValidationError,
    Culprit,
    SimulatorHealthCheckError,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.execution.config import ServiceGroupConfig
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.service_group import ServiceGroup, of_rank, with_rank
from swarmtune.execution.supervisor import make_private
from swarmtune.fleet.fitness import Measure
from swarmtune.fleet.job import Job, Service
from swarmtune.records import Command, File, Group, Value

ASK_S = 10.0  # time-out for one answer of the health URL
POLL_S = 0.25
OK = 200
KILLED = {sign * number + base for number in (signal.SIGKILL, signal.SIGTERM) for sign, base in ((-1, 0), (1, 128))}
"""Exit codes of a process that was killed by the kernel or a person; a shell adds 128."""


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
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            way_out = "write the absolute path of one that is on the nodes"
            raise ConfigValidationError([f"script {text!r}: cannot be sent along ({error}); {way_out}"]) from error
        first = content.partition("\n")[0]
        interpreter = first[2:].strip().split(None, 1) if first.startswith("#!") else ["/bin/sh"]
        return cls((*interpreter, f"./{path.name}", *words[1:]), (File(path.name, content),))


@dataclass(frozen=True)
class ScriptService:
    """What all jobs of one group share: its scripts, and how the service is asked and used."""

    config: ServiceGroupConfig
    start: Script
    stop: Script | None
    measure: Measure
    timeout_s: float
    http: aiohttp.ClientSession
    clock: Clock

    @property
    def on_master(self) -> bool:
        """Does the start script run on the master alone?"""
        return self.config.start == "master"

    @classmethod
    def of(
        cls, config: ServiceGroupConfig, measure: Measure, timeout_s: float, http: aiohttp.ClientSession, clock: Clock
    ) -> ScriptService:
        """ConfigValidationError if a script cannot be read. ``timeout_s``: seconds that one measurement may take."""
        stop = Script.read(config.stop_script) if config.stop_script else None
        return cls(config, Script.read(config.start_script), stop, measure, timeout_s, http, clock)


class ScriptJob(Job[float]):
    """One particle: its values as JSON for the start script, and the cost that the fitness function finds."""

    def __init__(
        self, service: ScriptService, nodes: ServiceGroup, values: Mapping[str, Value], place: str, folder: Path
    ) -> None:
        """``place``: the folder below work_dir on the nodes; ``folder``: the one for results here."""
        self._service, self._nodes = service, nodes
        self.values, self.place, self.folder = values, place, folder
        self.ready_s = service.config.health_check_timeout
        self.facts = {"particle": folder.name.rpartition("-")[0]}

    def commands(self, group: Group) -> tuple[Command, ...]:
        """The start script where it runs, and on each node the values in ``config_path``.

        A script that runs on the master alone may end with 0 and leave the service behind.
        """
        path, script = self._service.config.config_path, self._service.start
        environment = {"SWARMTUNE_CONFIG": path}
        # A file at an absolute path is the user's and is restored; a relative path is in a folder of our own.
        content = json.dumps(dict(self.values), indent=2) + "\n"
        values = File(path, content, restore=Path(path).is_absolute())
        files, places = (*script.files, values), [of_rank(self.place, rank) for rank in range(len(group.nodes))]
        if not self._service.on_master:
            return tuple(Command(script.argv, environment, files, place) for place in places)
        argv = (*script.argv, "--config", path)
        first = Command(argv, environment, files, places[0], lives_on=True)
        # On the others a command holds the file for as long as the service runs, and shows whether the node is there.
        return (first, *(Command(("true",), environment, (values,), place, lives_on=True) for place in places[1:]))

    async def ready(self, service: Service) -> bool:  # noqa: ARG002 - the URL is the user's
        """Does the health URL answer 200?"""
        return await answers_ok(self._service.http, self._service.config.health_url)

    def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
        """A service that was killed (for lack of memory, or by a person) is retried. Else the setting is blamed."""
        if exit_code is None:
            text = f"the service did not answer at {self._service.config.health_url} within {self.ready_s:g} s"
        else:
            text = f"the service ended with code {exit_code} before it was healthy"
        culprit = Culprit.INFRASTRUCTURE if exit_code in KILLED else Culprit.SETTING
        return SimulatorStartError(with_last_line(text, log), culprit=culprit)

    def died(self, exit_code: int, log: str) -> SwarmTuneError:
        """A lost service is blamed on the infrastructure, so the particle is tried again."""
        text = f"a process of the service ended with code {exit_code} while it was measured"
        return SimulatorHealthCheckError(with_last_line(text, log), culprit=Culprit.INFRASTRUCTURE)

    async def use(self, service: Service) -> float:
        """The cost. Errors of the fitness function are blamed on the particle, unless the service that a script has left
        behind does not answer any more. A fitness function that runs in a thread cannot be cancelled: its result is then
        ignored.
        """
        limit_s, measured = self._service.timeout_s, self._service.measure(self.values, service, self.folder)
        try:
            return await within(self._service.clock, limit_s, measured)
        except TimeoutError as error:
            text = f"no result within evaluation_timeout, {limit_s:g} s"
            raise BenchmarkExecutionError(text, culprit=Culprit.SETTING) from error
        except BenchmarkExecutionError as error:
            if not self._service.on_master or await self.ready(service):
                raise
            text = f"the service does not answer any more at {self._service.config.health_url}: {error.message}"
            raise SimulatorHealthCheckError(text, culprit=Culprit.INFRASTRUCTURE) from error

    async def before_stop(self, service: Service) -> None:
        """Run the stop script, if there is one, where the start script ran."""
        script = self._service.stop
        if script is None:
            return

        async def run(rank: int, executor: Executor) -> None:
            environment = {"SWARMTUNE_CONFIG": self._service.config.config_path}
            command = Command(script.argv, environment, script.files, f"{of_rank(self.place, rank)}-stop")
            handle = await executor.start(with_rank(command, replace(service.group, rank=rank)))
            try:
                while await handle.poll() is None:
                    await self._service.clock.sleep(POLL_S)
            finally:
                await handle.stop()

        await asyncio.gather(*(run(rank, executor) for rank, executor in enumerate(self._with_script)))

    async def keep(self, result: Mapping[str, Any], remote: bool) -> str | None:
        """Write ``result.json`` here and, with ``remote``, on the master, and fetch the output of each start script.

        Returns the reason if a file could not be written or fetched.
        """
        file = self.folder / "result.json"
        try:
            make_private(self.folder)
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            if not remote:
                return None
            await self._nodes.executors[0].put(file, f"{self.place}/result.json")
            for rank, executor in enumerate(self._with_script):
                log = f"{of_rank(self.place, rank)}/output.log"
                await executor.get(log, self.folder / f"{of_rank('output', rank)}.log")
        except (SwarmTuneError, OSError) as error:
            return str(error)
        return None

    @property
    def _with_script(self) -> tuple[Executor, ...]:
        """The nodes on which start and stop script run, the master first."""
        return self._nodes.executors[: 1 if self._service.on_master else None]


async def answers_ok(http: aiohttp.ClientSession, url: str) -> bool:
    """Does this URL answer 200?"""
    try:
        async with http.get(url, timeout=aiohttp.ClientTimeout(total=ASK_S)) as answer:
            return answer.status == OK
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False


def with_last_line(text: str, log: str) -> str:
    """The text, followed by the last line that the service printed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"{text}; its last line: {lines[-1][:500]}" if lines else text
