"""The contract of every executor: it runs commands somewhere and never learns what an LLM is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from swarmtune.errors import CommunicationError
from swarmtune.records import Command


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


class Executor(ABC):
    """A place where commands run. Every command ends with the executor's own process, however that ends."""

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
