"""The contract of a piece of work for a service group, and how one run of it ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from swarmtune.errors import SwarmTuneError
from swarmtune.execution.executors.base import Handle
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.records import Command, Group

R = TypeVar("R")
LOG_LINES = 400  # vLLM names the cause of its death far above its last line

Report = Callable[[str, Mapping[str, Any]], None]
"""Takes the phase that a run enters ("starting", "ready", "waiting") and its facts."""


class Stage(StrEnum):
    """How far a run came."""

    LOOK = "look"  # does something else answer on the port?
    START = "start"  # the nodes start the commands
    READY = "ready"  # the service loads and becomes ready
    USE = "use"  # the service is used


@dataclass(frozen=True)
class Service:
    """A service that runs: its group, with the port on which it answers, and the handle of its processes."""

    group: Group
    handle: Handle

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.group.url


class Job(ABC, Generic[R]):
    """One piece of work: which service it needs, and what is done with it."""

    place: str = ""
    """The folder on the nodes in which the commands run that name none; other ranks have ``-rank-N`` behind it."""
    token: str = ""
    """Marks the processes (SWARMTUNE_TOKEN), so that leftovers of a killed run are found; empty: no mark."""
    ready_s: float = 300.0
    """Seconds that the service may take to become ready."""
    facts: Mapping[str, Any] = {}
    """What is reported with each phase of its runs."""
    keeps_service: bool = False
    """Does the service go on running after a result, for a next job that needs the same one?"""

    @abstractmethod
    def commands(self, group: Group) -> tuple[Command, ...]:
        """One command for each node of the group, by rank."""

    @abstractmethod
    async def ready(self, service: Service) -> bool:
        """Is the service up? Asked again and again until it is."""

    @abstractmethod
    def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
        """Why it did not become ready; ``exit_code`` None: it still runs. The error's culprit is this job's guess."""

    @abstractmethod
    async def use(self, service: Service) -> R:
        """Use the service, which is watched meanwhile: when it ends, this call is cancelled."""

    def died(self, exit_code: int, log: str) -> SwarmTuneError:
        """Why it ended while it was used; by default what ``diagnose`` says."""
        return self.diagnose(exit_code, log)

    async def before_stop(self, service: Service) -> None:
        """Called before the service is stopped."""

    async def after_stop(self, nodes: ServiceGroup) -> None:
        """Called when the service has been stopped: bring its logs home. Trouble must not be raised for a lost node."""


@dataclass(frozen=True)
class RunResult(Generic[R]):
    """How one run ended: with a ``result``, or with the ``error`` that kept it from one.

    ``died``: the service ended while it was used. ``trouble``: it could not be ended; a result counts, the group is
    suspect. ``nodes_answer``: do the nodes start commands after the error; None: not looked at, or not known. Times in
    seconds: ``start_s`` is 0 where the service was there already, ``waited_s`` went by until the group's turn came.
    """

    result: R | None = None
    error: SwarmTuneError | None = None
    stage: Stage = Stage.USE
    died: bool = False
    trouble: SwarmTuneError | None = None
    nodes_answer: bool | None = None
    start_s: float = 0.0
    waited_s: float = 0.0
    seconds: float = 0.0

    @property
    def served(self) -> bool:
        """Did the service become ready?"""
        return self.stage is Stage.USE


def same_service(wanted: Sequence[Command], running: Sequence[Command]) -> bool:
    """Would these commands start the very processes that those have started?"""
    return len(wanted) == len(running) and all(map(Command.same_process, wanted, running))
