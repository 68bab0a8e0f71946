"""The contract of every executor: it runs commands somewhere and never learns what an LLM is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, ConfigurationError
from swarmtune.records import Command

if TYPE_CHECKING:
    from swarmtune.execution.config import NodeConfig, ParallelConfig


class NotHeldError(CommunicationError):
    """The nodes are not reserved now, so they cannot be checked; this says nothing about their health."""


class Handle(ABC):
    """One running command. A cancelled ``poll`` or ``logs`` changes nothing; a cancelled ``stop`` may be called again."""

    @abstractmethod
    async def poll(self) -> int | None:
        """The exit code (negative: ended by that signal), or None while it runs. CommunicationError if the node is lost."""

    @abstractmethod
    async def logs(self, lines: int = 50) -> str:
        """The last lines of standard output and error, in the order they were written. CommunicationError if the node is
        lost.
        """

    @abstractmethod
    async def stop(self, grace_s: float = 5.0) -> None:
        """End the command and everything it started: SIGTERM first, SIGKILL after ``grace_s`` seconds. Files are restored.

        Returns when nothing of it is left; a second call does no harm. SimulatorStopError if a process cannot be ended;
        CommunicationError if the node is lost, where the command then ends when its lease expires.
        """


@dataclass(frozen=True)
class Site:
    """What all executors of a run share.

    ``leftovers``: tokens of commands that may still run on the nodes, to be ended first. ``folder``: below work_dir, for
    this run alone; an executor that made it removes it when it is closed. Empty: work_dir itself.
    """

    clock: Clock
    leftovers: tuple[str, ...] = ()
    folder: str = ""


class Executor(ABC):
    """Runs commands on one node. Every command ends with the executor's own process, however that ends."""

    reserves: ClassVar[bool] = False
    """Does a scheduler reserve the nodes of a group together? Then ``for_nodes`` gets the nodes of a whole group."""

    @classmethod
    def for_nodes(cls, config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site) -> Sequence[Executor]:
        """One executor for each of these nodes, in their order; nothing is connected yet.

        An executor that is registered by name must implement this. CommunicationError, for the user, if it cannot work on
        this machine.
        """
        del config, nodes, site
        raise ConfigurationError(f"{cls.__name__} cannot be chosen by name: it does not say how it reaches a node")

    @classmethod
    def unreachable(cls, node: NodeConfig) -> str:
        """Why the configuration of this machine leads to no connection with the node, as a sentence; empty: it may lead to
        one. Nothing is connected, but it may block.
        """
        del node
        return ""

    @property
    def held(self) -> bool:
        """Are its nodes reserved? False: they cannot be checked before a reservation."""
        return True

    @abstractmethod
    async def start(self, command: Command) -> Handle:
        """Start a command. ``command.directory`` is created; output goes to ``output.log`` in it.

        A failed or cancelled start leaves no process of the command; on a lost node the lease ends it.
        """

    @abstractmethod
    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or folder to the node. A failed or cancelled copy may leave a part; repeat it."""

    @abstractmethod
    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or folder from the node. A failed or cancelled copy may leave a part; repeat it."""

    @abstractmethod
    async def close(self) -> None:
        """Stop all commands that still run and release the node. The first error is raised after all have been tried."""
