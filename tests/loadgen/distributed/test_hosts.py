"""Workers on other machines: network namespaces stand for them. Needs root and iproute2, as in CI."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from loadgen_servers import RawServer, Script
from test_services_run import PROGRAM, Counting, ours, spec_of

from swarmtune.errors import CommunicationError, SwarmTuneError
from swarmtune.loadgen.distributed import Remote, run, serve_host
from swarmtune.loadgen.distributed.network import Token
from swarmtune.loadgen.records import Outcome

Start = Callable[[Script], Awaitable[RawServer]]
HOUR_NS = 3600 * 10**9


def ip(*words: str) -> None:
    done = subprocess.run(("ip", *words), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"this test needs network namespaces (root and iproute2): ip {' '.join(words)}: {done.stderr}")


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two namespaces that see each other as 10.77.0.1 and 10.77.0.2."""
    if shutil.which("ip") is None:
        pytest.fail("this test needs the command ip (iproute2)")
    names = tuple(f"swarm{os.getpid()}{letter}" for letter in "ab")
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "name",
            "veth0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            "veth0",
            "netns",
            names[1],
        )
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names  # type: ignore[misc]
    finally:
        for name in names:
            subprocess.run(("ip", "netns", "delete", name), capture_output=True, check=False)


@pytest.fixture
async def started() -> AsyncIterator[Callable[..., Awaitable[asyncio.subprocess.Process]]]:
    processes: list[asyncio.subprocess.Process] = []

    async def start(*argv: str, inside: str = "") -> asyncio.subprocess.Process:
        where = ("ip", "netns", "exec", inside) if inside else ()
        process = await asyncio.create_subprocess_exec(*where, sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
        processes.append(process)
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process, key: str) -> Any:
    """The next line that tells this."""
    assert process.stdout
    while line := await process.stdout.readline():
        if key in (told := json.loads(line)):
            return told[key]
    pytest.fail(f"it ended without telling {key}")


async def test_two_machines_are_merged_in_one_clock(
    machines: tuple[str, str], started: Callable[..., Awaitable[asyncio.subprocess.Process]], tmp_path: Path
) -> None:
    here, there = machines
    server = await started("-m", "swarmtune.simulator", "--host", "10.77.0.1", "--port", "0", inside=here)
    assert server.stdout
    url = (await server.stdout.readline()).decode().split()[-1]
    spec = spec_of(url, request_count=60, concurrency=6, osl=4).model_copy(update={"model": "simulated"})
    token = tmp_path / "token"
    given = {
        "spec": spec.model_dump(mode="json", exclude_unset=True), "workers": 1, "directory": str(tmp_path / "here"),
        "listen": "tcp://10.77.0.1:0", "hosts": 1, "token": str(token),
    }  # fmt: skip
    controller = await started(str(PROGRAM), "controller", json.dumps(given), inside=here)
    address = await said(controller, "address")
    assert token.stat().st_mode & 0o777 == 0o600
    host_given = {
        "address": address, "token": str(token), "workers": 2, "directory": str(tmp_path / "there"),
        "clock_offset_ns": HOUR_NS,
    }  # fmt: skip
    host = await started(str(PROGRAM), "host", json.dumps(host_given), inside=there)
    output, _ = await controller.communicate()
    result = json.loads(output.splitlines()[-1])
    assert controller.returncode == 0, result
    assert result["sessions"] == list(range(60))
    assert set(result["outcomes"]) == {Outcome.COMPLETED}
    assert set(result["by_worker"]) == {"0", "1", "2"}
    assert result["ordered"]
    errors = result["offset_errors_ms"]
    assert errors[0] == 0
    assert all(0 < error < 1000 for error in errors[1:])  # an hour of offset was taken out
    assert max(result["early_ms"], result["late_ms"]) <= max(errors)
    output, _ = await host.communicate()
    assert (host.returncode, json.loads(output.splitlines()[-1])) == (0, {"done": True})
    assert [*(tmp_path / "here").iterdir(), *(tmp_path / "there").iterdir()] == []
    assert ours(tmp_path) == []


async def test_a_cable_that_is_pulled_out_is_told_on_both_sides(
    machines: tuple[str, str], started: Callable[..., Awaitable[asyncio.subprocess.Process]], tmp_path: Path
) -> None:
    here, there = machines
    server = await started("-m", "swarmtune.simulator", "--host", "10.77.0.1", "--port", "0", inside=here)
    assert server.stdout
    url = (await server.stdout.readline()).decode().split()[-1]
    spec = spec_of(url, request_count=1_000_000, concurrency=2).model_copy(update={"model": "simulated"})
    given = {
        "spec": spec.model_dump(mode="json", exclude_unset=True), "workers": 1, "directory": str(tmp_path / "here"),
        "listen": "tcp://10.77.0.1:0", "hosts": 1, "token": str(tmp_path / "token"), "patience": (2, 4),
    }  # fmt: skip
    controller = await started(str(PROGRAM), "controller", json.dumps(given), inside=here)
    host_given = {
        "address": await said(controller, "address"), "token": str(tmp_path / "token"), "workers": 1,
        "directory": str(tmp_path / "there"), "patience": (2, 4),
    }  # fmt: skip
    host = await started(str(PROGRAM), "host", json.dumps(host_given), inside=there)
    while await said(controller, "phase") != "measuring":
        pass
    ip("-n", here, "link", "set", "veth0", "down")
    (output, _), (told, _) = await asyncio.gather(controller.communicate(), host.communicate())
    result = json.loads(output.splitlines()[-1])
    assert result["level"] == "invalid"
    assert any("worker-1: is gone with its host" in reason for reason in result["reasons"])
    assert set(result["by_worker"]) == {"0"}
    assert "from the controller for" in json.loads(told.splitlines()[-1])["error"]
    assert ours(tmp_path) == []


async def test_a_host_that_is_killed_makes_the_run_invalid(
    raw_server: Start, started: Callable[..., Awaitable[asyncio.subprocess.Process]], tmp_path: Path
) -> None:
    counting = Counting(4, forever=True)
    server = await raw_server(counting.script)
    spec = spec_of(server.url, request_count=60, concurrency=4).model_dump(mode="json", exclude_unset=True)
    given = {
        "spec": spec, "workers": 1, "directory": str(tmp_path / "here"),
        "listen": "tcp://127.0.0.1:0", "hosts": 1, "token": str(tmp_path / "token"),
    }  # fmt: skip
    controller = await started(str(PROGRAM), "controller", json.dumps(given))
    host_given = {
        "address": await said(controller, "address"), "token": str(tmp_path / "token"), "workers": 1,
        "directory": str(tmp_path / "there"),
    }  # fmt: skip
    host = await started(str(PROGRAM), "host", json.dumps(host_given))
    await counting.full.wait()
    host.kill()
    output, _ = await controller.communicate()
    result = json.loads(output.splitlines()[-1])
    assert result["level"] == "invalid"
    assert any("worker-1: is gone with its host" in reason for reason in result["reasons"])
    assert result["by_worker"] == {"0": 2}
    _, alive = psutil.wait_procs(ours(tmp_path), timeout=10)
    assert alive == []


async def test_a_controller_that_is_killed_ends_its_hosts(
    raw_server: Start, started: Callable[..., Awaitable[asyncio.subprocess.Process]], tmp_path: Path
) -> None:
    counting = Counting(2, forever=True)
    server = await raw_server(counting.script)
    spec = spec_of(server.url, request_count=60, concurrency=2).model_dump(mode="json", exclude_unset=True)
    given = {
        "spec": spec, "workers": 0, "directory": str(tmp_path / "here"),
        "listen": "tcp://127.0.0.1:0", "hosts": 1, "token": str(tmp_path / "token"),
    }  # fmt: skip
    controller = await started(str(PROGRAM), "controller", json.dumps(given))
    host_given = {
        "address": await said(controller, "address"), "token": str(tmp_path / "token"), "workers": 2,
        "directory": str(tmp_path / "there"),
    }  # fmt: skip
    host = await started(str(PROGRAM), "host", json.dumps(host_given))
    await counting.full.wait()
    controller.kill()
    output, _ = await host.communicate()
    assert "is gone" in json.loads(output.splitlines()[-1])["error"]
    _, alive = psutil.wait_procs(ours(tmp_path), timeout=10)
    assert alive == []


@pytest.mark.parametrize("wrong", ["controller", "host"])
async def test_a_wrong_key_is_refused_and_both_sides_are_told(tmp_path: Path, wrong: str) -> None:
    right, other = Token.at(tmp_path / "right"), Token.fresh()
    mixed = {
        "controller": (other.controller_public, other.controller_secret, right.host_public, right.host_secret),
        "host": (right.controller_public, right.controller_secret, other.host_public, other.host_secret),
    }[wrong]
    path = tmp_path / "wrong"
    path.touch(0o600)
    names = ("controller_public", "controller_secret", "host_public", "host_secret")
    path.write_text(json.dumps(dict(zip(names, mixed, strict=True))))
    addresses: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def listening(address: str) -> None:
        loop.call_soon_threadsafe(addresses.put_nowait, address)

    remote = Remote("tcp://127.0.0.1:0", 1, tmp_path / "right", 3.0, listening)
    spec = spec_of("http://127.0.0.1:9", request_count=1)
    controller = asyncio.create_task(asyncio.to_thread(run, spec, 1, tmp_path / "here", remote=remote))
    address = await addresses.get()
    with pytest.raises(CommunicationError, match="refuses the token"):
        await asyncio.to_thread(serve_host, address, path, 1, tmp_path / "there", wait_s=2.0)
    with pytest.raises(CommunicationError, match=r"0 of 1 hosts came.*have not the token"):
        await controller


async def test_nobody_answers(tmp_path: Path) -> None:
    Token.at(tmp_path / "token")
    with pytest.raises(SwarmTuneError, match="nobody answers there"):
        await asyncio.to_thread(serve_host, "tcp://127.0.0.1:9", tmp_path / "token", 1, tmp_path / "there", wait_s=0.5)
