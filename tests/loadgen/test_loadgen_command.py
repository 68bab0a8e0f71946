"""``python -m swarmtune.loadgen`` as a process: exit codes and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from loadgen_servers import Simulated

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.export import read_rows
from swarmtune.loadgen.rows import Outcome
from swarmtune.loadgen.spec import Spec
from swarmtune.workload import Load, Workload

Start = Callable[..., Awaitable[Simulated]]


async def started(directory: Path, *argv: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "swarmtune.loadgen", *argv), cwd=directory, stderr=asyncio.subprocess.PIPE
    )


async def ended(directory: Path, *argv: str) -> tuple[int | None, str]:
    process = await started(directory, *argv)
    _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


def leave_spec(directory: Path, url: str, workload: Workload) -> None:
    (directory / "spec.json").write_text(Spec(url=url, workload=workload).to_json())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (None, "cannot be read"),
        ("{", "Invalid JSON"),
        ("{}", "url: Field required"),
        ('{"url": "ftp://x", "workload": {"model": "m", "requests": 1}}', "http://host:port"),
        ('{"url": "http://x", "workload": {"model": "m"}}', "requests or duration_s"),
        ('{"url": "http://x", "workload": {"model": "m", "requests": 0}}', "requests must be at least 1"),
        ('{"url": "http://x", "workload": {"model": "m", "requests": 1, "endpoint": "x"}}', "endpoint"),
        ('{"url": "http://x", "workload": {"model": "m", "requests": 1, "load": {}}}', "concurrency or request_rate"),
        ('{"url": "http://x", "workload": {"model": "m", "requests": 1, "request_slos": {"x": 1}}}', "knows only"),
        ('{"url": "http://x", "workload": {"model": "m", "requests": 1}, "extra": 1}', "extra"),
    ],
)
async def test_a_bad_spec_is_code_2_and_told(tmp_path: Path, spec: str | None, words: str) -> None:
    if spec is not None:
        (tmp_path / "spec.json").write_text(spec)
    code, stderr = await ended(tmp_path, "spec.json")
    assert code == 2
    assert words in stderr
    assert "Traceback" not in stderr


async def test_no_argument_is_code_2(tmp_path: Path) -> None:
    code, stderr = await ended(tmp_path)
    assert code == 2
    assert "usage" in stderr


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    workload = Workload("m", Load(3, 2.5, "constant"), duration_s=4.0, request_slos={"ttft_ms": 5.0}, seed=9)
    leave_spec(tmp_path, "http://127.0.0.1:1/", workload)
    assert Spec.read(tmp_path / "spec.json").workload == workload


def test_misspelt_workload_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"url": "http://x", "workload": {"model": "m", "request": 1}}')
    with pytest.raises(ConfigValidationError):
        Spec.read(tmp_path / "spec.json")


async def test_an_endpoint_that_nobody_serves_is_code_3(tmp_path: Path, unused_tcp_port: int) -> None:
    leave_spec(tmp_path, f"http://127.0.0.1:{unused_tcp_port}", Workload("m", requests=1))
    code, stderr = await ended(tmp_path, "spec.json")
    assert code == 3
    assert "cannot be reached" in stderr
    assert "Traceback" not in stderr


async def test_failed_requests_are_code_0_and_in_the_success_rate(simulated: Start, tmp_path: Path) -> None:
    server = await simulated()
    leave_spec(tmp_path, server.url, Workload("no-such-model", requests=3))
    code, _ = await ended(tmp_path, "spec.json")
    measurement = json.loads((tmp_path / "measurement.json").read_text())
    assert code == 0
    assert measurement["valid"]
    assert (measurement["metrics"]["success_rate"], measurement["metrics"]["failed"]) == (0, 3)
    assert "does not exist" in (read_rows(tmp_path)[0].error or "")


async def test_a_service_that_crashes_is_code_3_with_what_there_is(simulated: Start, tmp_path: Path) -> None:
    server = await simulated("--crash-after-requests", "5")
    leave_spec(tmp_path, server.url, Workload("simulated", Load(4), requests=500))
    code, stderr = await ended(tmp_path, "spec.json")
    assert code == 3
    assert "lost during the run" in stderr
    outcomes = [row.outcome for row in read_rows(tmp_path)]
    assert outcomes.count(Outcome.COMPLETED) <= 5
    assert outcomes.count(Outcome.FAILED) >= 1
    assert await server.process.wait() == -signal.SIGABRT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_is_code_130_with_what_there_is(
    simulated: Start, tmp_path: Path, number: signal.Signals
) -> None:
    server = await simulated()
    leave_spec(tmp_path, server.url, Workload("simulated", Load(2), duration_s=1000.0, output_tokens_mean=8))
    process = await started(tmp_path, "spec.json")
    async with asyncio.timeout(60):
        while not server.record.exists() or len(server.record.read_text().splitlines()) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    process.send_signal(number)
    await process.communicate()
    assert process.returncode == 130
    measurement = SwarmtuneBenchmark(SwarmtuneBenchmark.Config()).read(tmp_path)
    assert measurement.metrics["completed"] >= 4
    assert not measurement.valid
    assert len(read_rows(tmp_path)) >= 5
