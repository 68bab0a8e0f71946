"""The names that users of the older parallel extension import, each loaded only when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import swarmtune.cluster
from swarmtune.cluster import (
    CircuitBreaker,
    HealthMonitor,
    NodeConfig,
    ParallelConfig,
    ParticleDispatcher,
    ParticleResult,
    RemoteExecutor,
    RetryPolicy,
    ServiceGroup,
    ServiceGroupConfig,
    ServiceGroupPool,
)


def test_every_name_is_there_and_listed() -> None:
    names = [
        *(
            CircuitBreaker,
            HealthMonitor,
            NodeConfig,
            ParallelConfig,
            ParticleDispatcher,
            ParticleResult,
            RemoteExecutor,
        ),
        *(RetryPolicy, ServiceGroup, ServiceGroupConfig, ServiceGroupPool),
    ]
    assert all(isinstance(name, type) for name in names)
    assert RemoteExecutor.__name__ == "SshExecutor"
    assert len(swarmtune.cluster.__all__) == len(names)
    with pytest.raises(AttributeError, match="no attribute 'Gone'"):
        _ = swarmtune.cluster.Gone


def test_importing_the_package_loads_none_of_them() -> None:
    program = (
        "import sys, swarmtune.cluster; print([m for m in sys.modules if m.startswith(('swarmtune.', 'asyncssh'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['swarmtune.cluster']"
