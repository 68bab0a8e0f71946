"""What slow lines, lost packets, clocks that are wrong and disks that hang do to commands and copies over SSH."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from tests.lab import Lab, Machine, NoLab
from tests.lab.tools import find_faketime, find_nft

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError, Culprit
from swarmtune.execution.executors import ssh, ssh_connection, ssh_login
from swarmtune.execution.executors.base import Handle
from swarmtune.execution.executors.ssh import SshExecutor, SshTarget
from swarmtune.records import Command
from swarmtune.testing.executor import FAMILY, finished, printed, python

WAITS = "import sys; print('up', flush=True); sys.exit(len(open(sys.argv[1]).read()))"
"""A program that ends, with code 7, when somebody writes seven letters into its fifo."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Lab(1))
        except NoLab as reason:
            pytest.skip(str(reason))


@pytest.fixture
def machine(lab: Lab) -> Machine:
    return lab.machines[0]


Open = Callable[[float], SshExecutor]


@pytest.fixture
async def reach(lab: Lab, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Makes an executor with leases of so many seconds; in the end nothing of it is on the machine."""
    opened = []

    def make(lease_s: float) -> SshExecutor:
        monkeypatch.setattr(ssh, "LEASE_S", lease_s)
        opened.append(SshExecutor(SshTarget(machine.name, python=sys.executable, config=lab.config), RealClock()))
        return opened[-1]

    yield make
    for executor in opened:
        await executor.close()
    await until(lambda: machine.commands() == [])


async def waiting(executor: SshExecutor, machine: Machine) -> tuple[Handle, Callable[[], object]]:
    """A command that waits, and what lets it end."""
    machine.run("sh", "-c", "rm -f /root/fifo; mkfifo /root/fifo")
    handle = await executor.start(Command(python(WAITS, "/root/fifo")))
    await printed(handle, "up")
    return handle, lambda: (machine.disk / "root/fifo").write_text("ninety9")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - another machine's state has no event
            await asyncio.sleep(0.05)


async def test_a_slow_copy_takes_no_lease_from_commands(
    reach: Open, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = reach(3.0)
    monkeypatch.setattr(ssh_connection, "STALLED_S", 2.0)  # slow is not stalled
    handle, release = await waiting(executor, machine)
    (tmp_path / "model").write_bytes(os.urandom(6 << 20))
    machine.shape(8)
    try:
        began = time.monotonic()
        await executor.put(tmp_path / "model", "model")
        assert time.monotonic() - began > 5  # the line was slow indeed: 6 MiB at 1 MB/s
        assert await handle.poll() is None
    finally:
        machine.unshape()
    release()
    assert await finished(handle) == 7
    assert (machine.disk / "root/.swarmtune/model").read_bytes() == (tmp_path / "model").read_bytes()


@pytest.fixture
def lossy(machine: Machine) -> Iterator[Machine]:
    try:
        find_nft()
    except NoLab as reason:
        pytest.skip(str(reason))
    yield machine
    machine.undrop()
    machine.kill_sessions()  # they may still wait for a connection that we gave up


async def test_packets_lost_for_less_than_a_lease_do_no_harm(reach: Open, lossy: Machine) -> None:
    executor = reach(8.0)
    handle, release = await waiting(executor, lossy)
    for direction in ("to", "from"):
        lossy.drop(direction)
        await asyncio.sleep(2.0)  # the length of the fault
        lossy.undrop()
    release()
    assert await finished(handle) == 7
    assert executor.leftovers == set()


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_packets_lost_for_longer_lose_the_command_and_leave_nothing(
    reach: Open, lossy: Machine, monkeypatch: pytest.MonkeyPatch, direction: Literal["to", "from"]
) -> None:
    executor = reach(4.0)
    monkeypatch.setattr(ssh_login, "KEEPALIVE_S", 1.0)
    handle = await executor.start(Command(python(FAMILY, "600")))
    family = [int(word) for word in (await printed(handle, "family")).split()[1:]]
    lossy.drop(direction)
    with pytest.raises(CommunicationError, match=r"connection to h1 is lost|lease was not renewed") as caught:
        async with asyncio.timeout(30):
            await finished(handle)
    assert caught.value.culprit is Culprit.INFRASTRUCTURE
    await until(lambda: not any(map(lossy.alive, family)))  # while nobody can get there
    lossy.undrop()
    assert await finished(await executor.start(Command(("true",)))) == 0


@pytest.fixture
def skewed(machine: Machine) -> Iterator[Machine]:
    try:
        find_faketime()
    except NoLab as reason:
        pytest.skip(str(reason))
    machine.skew(7200.0)
    yield machine
    machine.unskew()


async def test_a_clock_that_is_wrong_and_jumps_back_does_no_harm(reach: Open, skewed: Machine) -> None:
    executor = reach(2.0)
    code = "import select, time\nwhile True: print('now', time.time(), flush=True); select.select([], [], [], 0.2)"
    clock = await executor.start(Command(python(code)))

    async def offset_s() -> float:
        await printed(clock, "now")
        return float((await clock.logs(2)).split()[1]) - time.time()

    handle, release = await waiting(executor, skewed)
    assert await offset_s() == pytest.approx(7200, abs=60)
    skewed.skew(-7200.0)
    await asyncio.sleep(3.0)  # more than a lease
    assert await offset_s() == pytest.approx(-7200, abs=60)
    assert await handle.poll() is None
    release()
    assert await finished(handle) == 7
    skewed.kill_sessions()  # and the lease still ends what has lost its tuner
    await until(lambda: skewed.commands() == [])


async def test_a_copy_to_a_disk_that_hangs_ends(
    reach: Open, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = reach(15.0)
    (tmp_path / "model").write_bytes(bytes(64 << 20))
    assert await finished(await executor.start(Command(("true",)))) == 0
    monkeypatch.setattr(ssh_connection, "STALLED_S", 2.0)
    copying = asyncio.create_task(executor.put(tmp_path / "model", "model"))
    await until(lambda: any(p.stat().st_size for p in (machine.disk / "root/.swarmtune").glob(".model.*")))
    (server,) = machine.pids("internal-sftp")
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(CommunicationError, match="nothing moved for 2 s") as caught:
        await asyncio.wait_for(copying, 30)
    assert caught.value.culprit is Culprit.INFRASTRUCTURE
    os.kill(server, signal.SIGCONT)
    await executor.put(tmp_path / "model", "model")
    assert (machine.disk / "root/.swarmtune/model").stat().st_size == 64 << 20
