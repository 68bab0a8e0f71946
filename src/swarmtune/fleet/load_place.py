"""Where load generators run: on this machine, or on the master of the group that they measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from swarmtune.errors import BenchmarkExecutionError, Culprit, IPCCommandError
from swarmtune.execution.executors.base import Executor, Handle
from swarmtune.fleet.job import Service
from swarmtune.records import Command

NOT_THERE = ("No module named", "unknown option -P", "Unknown option: -P")  # -P is of Python 3.11
WAY_OUT = (
    "Install swarmtune there for a Python of 3.11 or later and name it in parallel.benchmark_python, or set benchmark_on = "
    '"tuner".'
)


@dataclass(frozen=True)
class LoadPlace:
    """``here`` runs load generators on this machine; ``python``: they run on each group's master, by this program there."""

    here: Executor
    python: str | None = None

    async def start(self, command: Command, service: Service, folder: Path) -> Handle:
        """Start our own load generator; its files are in ``folder`` after ``fetch``.

        BenchmarkExecutionError, with the culprit user, if that Python is missing.
        """
        if self.python is None:
            return await self.here.start(replace(command, directory=str(folder)))
        there = replace(command, argv=(self.python, *command.argv[1:]), directory=_place(folder))
        try:
            return await _master(service).start(there)
        except IPCCommandError as error:
            if error.culprit is not Culprit.USER:
                raise
            text = f"the load generator cannot run on {service.group.master}: {error.message}. {WAY_OUT}"
            raise BenchmarkExecutionError(text, culprit=Culprit.USER) from error

    def failed(self, service: Service, text: str, code: int, log: str) -> BenchmarkExecutionError:
        """The error of a load generator that ended with this code; the user's if swarmtune is not there."""
        details = {"exit_code": code}
        if self.python is not None and any(sign in log for sign in NOT_THERE):
            text = f"{self.python} on {service.group.master} cannot run swarmtune.loadgen. {WAY_OUT}\n{log}"
            return BenchmarkExecutionError(text, details=details, culprit=Culprit.USER)
        return BenchmarkExecutionError(f"{text} ended with code {code}: {log}", details=details)

    async def fetch(self, service: Service, folder: Path) -> None:
        """Copy the files of a load generator that has ended. CommunicationError if its node is lost."""
        if self.python is not None:
            await _master(service).get(_place(folder), folder)


def _place(folder: Path) -> str:
    """The folder on the master: below the executor's, with names that are its own in a run."""
    return "/".join(("loads", *folder.parts[-3:]))


def _master(service: Service) -> Executor:
    assert service.nodes is not None  # noqa: S101 - a service of a run has its nodes
    return service.nodes.executors[0]
