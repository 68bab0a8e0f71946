"""The job of one particle: a start script is the service, and a function of values and URL gives the cost."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from swarmtune.clock import Clock, within
from swarmtune.errors import (
    BenchmarkExecutionError,
    Culprit,
    SimulatorHealthCheckError,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.execution.config import ServiceGroupConfig
from swarmtune.execution.service_group import ServiceGroup, of_rank
from swarmtune.execution.supervisor import make_private
from swarmtune.files import created
from swarmtune.fleet.fitness import Measure
from swarmtune.fleet.job import Job, Service
from swarmtune.fleet.start_script import GroupScripts
from swarmtune.records import Command, Group, Value

ASK_S = 10.0  # time-out for one answer of the health URL
OK = 200
KILLED = {sign * number + base for number in (signal.SIGKILL, signal.SIGTERM) for sign, base in ((-1, 0), (1, 128))}
"""Exit codes of a process that was killed by the kernel or a person; a shell adds 128."""


@dataclass(frozen=True)
class ScriptService:
    """What all jobs of one group share: its scripts, and how the service is asked and used."""

    config: ServiceGroupConfig
    scripts: GroupScripts
    measure: Measure
    timeout_s: float
    http: aiohttp.ClientSession
    clock: Clock

    @classmethod
    def of(
        cls, config: ServiceGroupConfig, measure: Measure, timeout_s: float, http: aiohttp.ClientSession, clock: Clock
    ) -> ScriptService:
        """ConfigValidationError if a script cannot be read. ``timeout_s``: seconds that one measurement may take."""
        return cls(config, GroupScripts.of(config), measure, timeout_s, http, clock)


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
        """See GroupScripts."""
        return self._service.scripts.commands(self.values, len(group.nodes))

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
            if not self._service.scripts.on_master or await self.ready(service):
                raise
            text = f"the service does not answer any more at {self._service.config.health_url}: {error.message}"
            raise SimulatorHealthCheckError(text, culprit=Culprit.INFRASTRUCTURE) from error

    async def before_stop(self, service: Service) -> None:
        """Run the stop script, if there is one, where the start script ran."""
        await self._service.scripts.run_stop(self._nodes, service.group, self.place, self._service.clock)

    async def keep(self, result: Mapping[str, Any], remote: bool) -> str | None:
        """Write ``result.json`` here and, with ``remote``, on the master, and fetch the output of each start script.

        Returns the reason if a file could not be written or fetched.
        """
        file = self.folder / "result.json"
        try:
            make_private(self.folder)
            with created(file, "w") as target:
                target.write(json.dumps(result, indent=2) + "\n")
            if not remote:
                return None
            await self._nodes.executors[0].put(file, f"{self.place}/result.json")
            for rank, executor in enumerate(self._service.scripts.run_by(self._nodes)):
                log = f"{of_rank(self.place, rank)}/output.log"
                await executor.get(log, self.folder / f"{of_rank('output', rank)}.log")
        except (SwarmTuneError, OSError) as error:
            return str(error)
        return None


async def answers_ok(http: aiohttp.ClientSession, url: str) -> bool:
    """Does this URL answer 200, itself?"""
    try:
        async with http.get(url, timeout=aiohttp.ClientTimeout(total=ASK_S)) as answer:
            here = all(before.url.origin() == answer.url.origin() for before in answer.history)  # no stranger was asked
            return here and answer.status == OK
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False


def with_last_line(text: str, log: str) -> str:
    """The text, followed by the last line that the service printed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"{text}; its last line: {lines[-1][:500]}" if lines else text
