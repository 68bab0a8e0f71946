"""Executors by name (``registry.executors``). Each is imported when it is used, because some need extras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarmtune import registry
from swarmtune.errors import ConfigurationError, MissingExtraError
from swarmtune.execution.config import NodeConfig, ParallelConfig

if TYPE_CHECKING:
    from swarmtune.execution.executors.base import Executor, Site


def executor_class(name: str) -> type[Executor]:
    """The executor of this name. ConfigurationError if there is none, MissingExtraError if it needs an extra."""
    registry.load_plugins()
    try:
        executor: type[Executor] = registry.executors.load(name)
    except ConfigurationError as error:
        if isinstance(error.__cause__, ImportError):
            raise MissingExtraError(f"executor {name!r}", name) from error
        raise
    return executor


def executors_for(
    config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site, name: str = ""
) -> Sequence[Executor]:
    """One executor for each of these nodes, of the kind ``name``, else that of ``config``. Errors: ``executor_class``."""
    return executor_class(name or config.executor).for_nodes(config, nodes, site)
