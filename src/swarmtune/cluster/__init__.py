"""WHERE things run: executors, groups of nodes, and who measures what on them. The names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "config": ("NodeConfig", "ParallelConfig", "ServiceGroupConfig"),
    "dispatcher": ("ParticleDispatcher", "ParticleResult"),
    "health": ("CircuitBreaker", "HealthMonitor", "RetryPolicy"),
    "pool": ("ServiceGroupPool",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the names are built above


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'swarmtune.cluster' has no attribute {name!r}")
    return getattr(importlib.import_module(f"swarmtune.cluster.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
