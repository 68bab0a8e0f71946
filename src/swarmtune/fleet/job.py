"""The contract of a job for a service group, and the result of one run of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from swarmtune.errors import SwarmTuneError
from swarmtune.execution.executors.base import Handle
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.records import Command, Group

R = TypeVar("R")
LOG_LINES = 4000  # of a failed service: the cause of its death may stand far above its last line

Report = Callable[[str, Mapping[str, Any]], None]
"""Callback for the phase that a run enters ("starting", "ready", "waiting") and its facts."""


class Stage(StrEnum):
    """The stage that a run has reached."""

    LOOK = "look"  # the port is checked for another service
    START = "start"  # the nodes start the commands
    READY = "ready"  # the service loads and becomes ready
    USE = "use"  # the service is used


@dataclass(frozen=True)
class Service:
    """A running service: its group, with the port on which it answers, and the handle of its processes.

    ``token`` marks the processes: that of the job which started them, at ``since`` (since_boot()). ``nodes``: where it
    runs. ``listening``: the sockets that were seen to take its connections; the job that checks it writes them down.
    """

    group: Group
    handle: Handle
    token: str = ""
    nodes: ServiceGroup | None = None
    since: int = 0
    listening: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def url(self) -> str:
        """The base URL of the service."""
        return self.group.url


class Job(ABC, Generic[R]):
    """One job: which service it needs, and what is done with it.

    After an error or a cancellation the caller (``ServiceRun``) stops the service; the job cleans up its own use of it.
    """

    place: str = ""
    """The working folder on the nodes for commands that name none; ranks above 0 append ``-rank-N``."""
    token: str = ""
    """Marks the processes (SWARMTUNE_TOKEN), so that leftovers of a killed run can be found; empty: no mark."""
    ready_s: float = 300.0
    """Seconds that the service may take to become ready."""
    facts: Mapping[str, Any] = {}
    """Facts that are reported with each phase of its runs."""
    started_at: float = 0.0
    """When the run at hand began, the wait for a turn left out (monotonic seconds); set by the run."""
    keeps_service: bool = False
    """May it use a running service of the same commands, and leave its own to a next job?"""

    @abstractmethod
    def commands(self, group: Group) -> tuple[Command, ...]:
        """One command for each node of the group, by rank."""

    @abstractmethod
    async def ready(self, service: Service) -> bool:
        """Is the service ready? Polled until it is; a service that is not ready in time is stopped."""

    @abstractmethod
    def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
        """Why the service did not become ready; ``exit_code`` None: it still runs. The error's culprit is a guess."""

    async def overdue(self, service: Service) -> None:
        """Called before ``diagnose`` where the service still runs and was not ready in time. A look at it, in seconds."""

    @abstractmethod
    async def use(self, service: Service) -> R:
        """Use the service. This call is cancelled when the service ends, and must then leave nothing running."""

    def died(self, exit_code: int, log: str) -> SwarmTuneError:
        """Why the service ended during ``use``; by default the answer of ``diagnose``."""
        return self.diagnose(exit_code, log)

    async def before_stop(self, service: Service) -> None:
        """Called before the service is stopped. It is stopped also when this call fails or takes too long."""

    async def after_stop(self, nodes: ServiceGroup) -> None:
        """Called after the service has been stopped: fetch its logs. A lost node must not raise an error here."""


@dataclass(frozen=True)
class RunResult(Generic[R]):
    """The end of one run: a ``result``, or the ``error`` that prevented one.

    ``died``: the service ended during use. ``trouble``: the service could not be stopped; a result still counts, but the
    group is suspect. ``nodes_answer``: do the nodes start commands after the error; None: not checked, or unknown. Times
    in seconds: ``start_s`` is 0 if the service was already running, ``waited_s`` passed until the group's turn.
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
    """Would the wanted commands start the same processes as the running ones?"""
    return len(wanted) == len(running) and all(map(Command.same_process, wanted, running))
