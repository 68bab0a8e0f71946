"""The Ray executor on a real Ray: the contract, reservations, and what happens when actors and drivers die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.tuner import kill, tuner_of

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError
from swarmtune.execution.config import NodeConfig
from swarmtune.execution.executors.ray import RayExecutor, RayReservation
from swarmtune.records import Command
from swarmtune.testing.executor import FAMILY, ExecutorContract, family_of, finished, gone, printed, python

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One node with four devices; its address."""
    folder = Path(f"/tmp/swarmtune-ray-{os.getpid()}")  # short: a socket's path has 107 characters
    ray.init(
        num_cpus=2, resources={"NPU": 4}, include_dashboard=False, _temp_dir=str(folder), log_to_driver=False,
        object_store_memory=100 << 20,
    )  # fmt: skip
    yield ray.util.get_node_ip_address()
    ray.shutdown()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def reserved(cluster: str, devices: int, clock: Any = None) -> RayReservation:
    node = NodeConfig(host=cluster, npu_ids=tuple(range(devices)))
    return RayReservation([node], "NPU", clock or RealClock())


@pytest.fixture
async def executor(cluster: str, tmp_path: Path) -> AsyncIterator[RayExecutor]:
    executor = RayExecutor(reserved(cluster, 0), 0, str(tmp_path / "node"), RealClock())
    yield executor
    await executor.close()
    assert [*(tmp_path / "node").glob("*")] == []


class TestRayExecutor(ExecutorContract):
    """Inherited."""


async def test_a_killed_actor_is_a_lost_node_and_leaves_nothing(executor: RayExecutor) -> None:
    handle = await executor.start(Command(python(FAMILY, "600", "polite")))
    family = [int(word) for word in (await printed(handle, "family")).split()[1:]]
    _, pid = await executor._actor.place.remote()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(CommunicationError, match="lost"):
        await finished(handle)
    await asyncio.wait_for(gone(family), 30)
    assert await family_of(executor)  # another actor


async def test_devices_are_reserved_and_given_back(cluster: str, tmp_path: Path, monkeypatch: Any) -> None:
    first = RayExecutor(reserved(cluster, 4), 0, str(tmp_path / "a"), RealClock())
    assert not first.held
    await (await first.start(Command(("true",)))).stop()
    assert first.held
    monkeypatch.setattr("swarmtune.execution.executors.ray.RESERVE_S", 0.5)
    second = RayExecutor(reserved(cluster, 1), 0, str(tmp_path / "b"), RealClock())
    with pytest.raises(CommunicationError, match="has not reserved"):
        await second.start(Command(("true",)))
    await first.close()
    monkeypatch.setattr("swarmtune.execution.executors.ray.RESERVE_S", 30.0)
    await (await second.start(Command(("true",)))).stop()
    await second.close()


async def test_a_killed_driver_leaves_nothing(cluster: str, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    reservation = f"RayReservation([NodeConfig(host={cluster!r}, npu_ids=())], 'NPU', RealClock(), {address!r})"
    driver, family = await tuner_of(
        f"RayExecutor({reservation}, 0, {str(tmp_path / 'node')!r}, RealClock())",
        "from swarmtune.execution.config import NodeConfig\n"
        "from swarmtune.execution.executors.ray import RayExecutor, RayReservation",
    )
    kill(driver)
    await asyncio.wait_for(gone(family), 60)
