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
    """A look at nodes that would have to be reserved first: it is not worth that, and tells nothing."""


class Handle(ABC):
    """One running command."""

    @abstractmethod
    async def poll(self) -> int | None:
        """The exit code (negative: ended by that signal), or None while it runs."""

    @abstractmethod
    async def logs(self, lines: int = 50) -> str:
        """The last lines of its standard output and error, in the order they were written."""

    @abstractmethod
    async def stop(self, grace_s: float = 5.0) -> None:
        """End it and everything it started: asked first, killed after ``grace_s`` seconds. Files are restored.

        Returns when nothing of it is left; twice does no harm. SimulatorStopError if something cannot be ended.
        """


@dataclass(frozen=True)
class Site:
    """What the executors of one run share.

    ``leftovers``: tokens of commands that may still run on the nodes, to be ended first. ``folder``: below work_dir, for
    this run alone; an executor that made it removes it when it is closed. Empty: work_dir itself.
    """

    clock: Clock
    leftovers: tuple[str, ...] = ()
    folder: str = ""


class Executor(ABC):
    """A place where commands run. Every command ends with the executor's own process, however that ends."""

    reserves: ClassVar[bool] = False
    """Does a scheduler reserve the nodes of a group together? Then ``for_nodes`` gets the nodes of a whole group."""

    @classmethod
    def for_nodes(cls, config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site) -> Sequence[Executor]:
        """One executor for each of these nodes, in their order; nothing is connected yet.

        An executor that is registered by name must have it. CommunicationError, for the user, if it cannot work here.
        """
        del config, nodes, site
        raise ConfigurationError(f"{cls.__name__} cannot be chosen by name: it does not say how it reaches a node")

    @property
    def held(self) -> bool:
        """False: its nodes would have to be reserved first, so there is nothing to look at."""
        return True

    @abstractmethod
    async def start(self, command: Command) -> Handle:
        """Start it. ``command.directory`` is created; output goes to ``output.log`` in it."""

    @abstractmethod
    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or folder to the place."""

    @abstractmethod
    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or folder from the place."""

    @abstractmethod
    async def close(self) -> None:
        """Stop what still runs and let go of the place."""
