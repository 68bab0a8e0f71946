"""The Ray executor on several machines: services of two nodes, and raylets, machines, heads and drivers that die.

The driver is a process of its own: Ray has one place in one cluster per process, and may end the process with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab import Lab, NoLab
from tests.lab.ray import RayCluster

pytest.importorskip("ray", reason="the extra [ray] is not installed")

DRIVER = Path(__file__).with_name("ray_driver.py")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with contextlib.ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab(2))
        except NoLab as reason:
            pytest.skip(str(reason))
        yield stack.enter_context(RayCluster(lab))


class Driver:
    """The process, and what its service group said when it started: of each rank, what it was told and its processes."""

    def __init__(self, cluster: RayCluster, **changes: str) -> None:
        hosts = [machine.address for machine in cluster.machines]
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), changes.pop("address", cluster.address), *hosts],
            env={**os.environ, **cluster.env, **changes}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a remark of Ray
                return json.loads(line)
        pytest.fail(f"the driver ended: {self.process.communicate()[1]}")

    def ask(self, what: str) -> Any:
        self.say(what)
        return self.answer()

    def say(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")


@pytest.fixture
def driver(cluster: RayCluster) -> Iterator[Driver]:
    """A service of two nodes is up. In the end it closes its group, and nothing of it is on the machines."""
    driver = Driver(cluster)
    yield driver
    closed(cluster, driver)


def closed(cluster: RayCluster, driver: Driver) -> None:
    """Nothing of it is on the machines."""
    with driver.process:
        if driver.process.poll() is None:
            driver.say("close")
        _, err = driver.process.communicate(timeout=60)
    assert driver.process.returncode == 0, err
    assert families(cluster) == [0, 0]
    for machine in cluster.machines:
        assert machine.run("sh", "-c", "ls -A /root/.swarmtune") == ""


def refusal(driver: Driver) -> str:
    """What is said by one that cannot join."""
    with driver.process:
        _, err = driver.process.communicate(timeout=60)
    assert driver.process.returncode == 1
    return err


@contextlib.contextmanager
def frozen_head(cluster: RayCluster) -> Iterator[None]:
    cluster.freeze_head()
    try:
        yield
    finally:
        cluster.thaw_head()
    cluster.start(*cluster.machines)  # a raylet without its head gives up


def families(cluster: RayCluster) -> list[int]:
    """How many processes of services each machine has."""
    return [len(machine.pids("time.sleep(600)")) for machine in cluster.machines]


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def goes_on(driver: Driver) -> None:
    assert driver.ask("anew") == [[0, 0], ["h1", "h2"]]


def test_a_service_of_two_nodes_runs_on_two_machines(cluster: RayCluster, driver: Driver) -> None:
    hosts = ",".join(machine.address for machine in cluster.machines)
    for rank, (told, family) in enumerate(driver.answer()):
        assert told == [str(rank), hosts, "0,1,2,3,4,5,6,7", "0,1,2,3,4,5,6,7"]
        assert [cluster.machines[rank].alive(pid) for pid in family] == [True] * 3


def test_a_killed_raylet_loses_the_node_until_it_is_started_again(cluster: RayCluster, driver: Driver) -> None:
    driver.answer()
    cluster.kill(cluster.machines[1])
    culprit, message = driver.ask("ended")
    assert culprit == "infrastructure"
    assert "rank 1 is lost" in message
    until(lambda: families(cluster)[1] == 0)
    cluster.start(cluster.machines[1])
    goes_on(driver)


def test_a_machine_that_is_switched_off_is_lost_until_it_is_back(cluster: RayCluster, driver: Driver) -> None:
    driver.answer()
    master = cluster.machines[0]
    master.off()
    culprit, message = driver.ask("ended")
    assert culprit == "infrastructure"
    assert "rank 0 is lost" in message
    master.on()
    cluster.start(master)
    goes_on(driver)


def test_a_dead_head_ends_the_services_and_not_the_driver(cluster: RayCluster, driver: Driver) -> None:
    driver.answer()
    cluster.kill_head()
    assert driver.ask("ended")[0] == "infrastructure"
    until(lambda: families(cluster) == [0, 0])
    cluster.start_head()
    cluster.start(*cluster.machines)
    goes_on(driver)


def test_a_frozen_head_ends_the_services_and_is_awaited(cluster: RayCluster, driver: Driver) -> None:
    driver.answer()
    with frozen_head(cluster):
        assert driver.ask("ended")[0] == "infrastructure"
        assert "does not answer" in driver.ask("refused")
        until(lambda: families(cluster) == [0, 0])
    goes_on(driver)


def test_a_frozen_head_keeps_nobody_from_ending(cluster: RayCluster) -> None:
    driver = Driver(cluster)
    driver.answer()
    with frozen_head(cluster):
        with driver.process:
            driver.say("close")
            _, err = driver.process.communicate(timeout=90)
        assert driver.process.returncode == 1
        assert "the head of the Ray cluster hangs" in err
        until(lambda: families(cluster) == [0, 0])
        assert "user: no Ray cluster answers at" in refusal(Driver(cluster))
    closed(cluster, Driver(cluster))


def test_a_killed_driver_leaves_no_process_and_files_only_until_the_next(cluster: RayCluster) -> None:
    killed = Driver(cluster)
    with killed.process:
        killed.answer()
        assert families(cluster) == [3, 3]
        killed.process.kill()
        until(lambda: families(cluster) == [0, 0])
    closed(cluster, Driver(cluster))


@pytest.mark.parametrize(
    "changes",
    [{"RAY_AUTH_MODE": "disabled", "RAY_NUM_REDIS_GET_RETRIES": "1"}, {"address": "127.0.0.1:1"}],
    ids=["no token", "nobody there"],
)
def test_a_cluster_that_does_not_answer_us_is_named(cluster: RayCluster, changes: dict[str, str]) -> None:
    said = refusal(Driver(cluster, **changes))
    assert "user: no Ray cluster answers at" in said
    assert "RAY_AUTH_MODE=token" in said


def test_sigterm_still_means_what_we_said(cluster: RayCluster) -> None:
    program = f"""
import os, signal
from swarmtune.execution.executors.ray import MEMBERSHIP
signal.signal(signal.SIGTERM, lambda *_: os._exit(77))
MEMBERSHIP.join({cluster.address!r})
signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **cluster.env}, check=False)
    assert done.returncode == 77
