"""Names that users of the older parallel extension import; each is loaded on first use.

The control plane will live here. Until then this package only re-exports.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "NodeConfig": "swarmtune.execution.config",
    "ParallelConfig": "swarmtune.execution.config",
    "ServiceGroupConfig": "swarmtune.execution.config",
    "ServiceGroup": "swarmtune.execution.service_group",
    "RemoteExecutor": "swarmtune.execution.executors.ssh",
    "ParticleDispatcher": "swarmtune.fleet.particles",
    "ParticleResult": "swarmtune.fleet.particle_values",
    "CircuitBreaker": "swarmtune.fleet.health",
    "HealthMonitor": "swarmtune.fleet.health",
    "RetryPolicy": "swarmtune.fleet.health",
    "ServiceGroupPool": "swarmtune.fleet.pool",
}
_ALIASES = {"RemoteExecutor": "SshExecutor"}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the names are built above


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'swarmtune.cluster' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), _ALIASES.get(name, name))


def __dir__() -> list[str]:
    return __all__
