"""The ways to reach a node, by name. Each is imported when it is used: some need extras."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import ConfigurationError, MissingExtraError
from swarmtune.execution.config import NodeConfig, ParallelConfig

EXECUTORS = {
    "ray": ("ray", "RayExecutor"),
    "slurm": ("slurm", "SlurmExecutor"),
    "local": ("local", "LocalExecutor"),
    "ssh": ("ssh", "SshExecutor"),
    "shared_dir": ("shared_dir", "SharedDirectoryExecutor"),
}
"""Name -> module of this package and class. What stands for a node differs: see ``executor_for``."""

RESERVING = ("ray", "slurm")
"""Those that reserve the nodes of a group together, from a scheduler: ``reserved`` of their module does."""


def executors_for(
    config: ParallelConfig, nodes: Sequence[NodeConfig], clock: Clock, leftovers: Iterable[str] = (), folder: str = ""
) -> list[Any]:
    """One executor for each node of a group; Ray and Slurm reserve them together. ConfigurationError: see ``executor_for``.

    CommunicationError, for the user, if there is no Ray cluster to join, or no Slurm here.
    """
    if config.executor in RESERVING:
        found: list[Any] = _module(config.executor).reserved(config, nodes, clock)
        return found
    return [executor_for(config.executor, node, clock, leftovers, folder) for node in nodes]


def _module(kind: str) -> Any:
    if kind not in EXECUTORS:
        raise ConfigurationError(f"there is no executor {kind!r}; use {', '.join(EXECUTORS)}")
    try:
        return importlib.import_module(f"swarmtune.execution.executors.{EXECUTORS[kind][0]}")
    except ImportError as error:
        raise MissingExtraError(f"executor {kind!r}", kind) from error


def executor_for(kind: str, node: NodeConfig, clock: Clock, leftovers: Iterable[str] = (), folder: str = "") -> Any:
    """The executor that reaches this node; nothing is connected yet. ConfigurationError if there is none of this kind.

    ``folder``: below work_dir, for this run alone; it is removed when the executor is closed.

    ``leftovers``: tokens of commands that may still run there, which ``ssh`` ends when it connects.
    ``local`` keeps the files of each "node" in a folder of its own below work_dir, where ``shared_dir`` finds the agent.
    """
    if kind in RESERVING:
        raise ConfigurationError(
            f"executor {kind!r} reserves whole groups: use executors_for, or another executor here"
        )
    module, class_name = _module(kind), EXECUTORS.get(kind, ("", ""))[1]
    if kind == "ssh":
        place = f"{node.work_dir}/{folder}" if folder else node.work_dir
        target = module.SshTarget(node.host, node.ssh_port, node.username, place, temporary=bool(folder))
        return module.SshExecutor(target, clock, leftovers)
    if kind == "local":
        own = f"{folder}-{node.host}" if folder else node.host
        return module.LocalExecutor(Path(node.work_dir).expanduser() / own, clock, temporary=bool(folder))
    return getattr(module, class_name)(Path(node.work_dir).expanduser() / node.host, clock)
