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
from swarmtune.loadgen.ask.spec import Spec, headers_of
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.exports.jsonl import read
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Records

Start = Callable[..., Awaitable[Simulated]]


async def started(directory: Path, *argv: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "swarmtune.loadgen", *argv), cwd=directory, stderr=asyncio.subprocess.PIPE
    )


async def ended(directory: Path, *argv: str) -> tuple[int | None, str]:
    process = await started(directory, *argv)
    _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


def leave_spec(directory: Path, url: str, model: str, **options: object) -> None:
    spec = Spec(url=(url,), model=model, options=LoadgenOptions.model_validate(options))
    (directory / "spec.json").write_text(spec.to_json())


def errors(records: Records) -> list[str]:
    return [records.errors[number] for number in records.requests["error"] if number >= 0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (None, "cannot be read"),
        ("{", "Invalid JSON"),
        ("{}", "url: Field required"),
        ('{"url": "ftp://x", "model": "m"}', "http://host:port"),
        ('{"url": "http://x", "model": "m", "options": {"request_count": 0}}', "request_count"),
        ('{"url": "http://x", "model": "m", "options": {"endpoint_type": "x"}}', "endpoint_type"),
        ('{"url": "http://x", "model": "m", "request_slos": {"x": 1}}', "knows only"),
        ('{"url": "http://x", "model": "m", "request_slos": {"ttft_ms": 0}}', "above 0"),
        ('{"url": "http://x", "model": "m", "extra": 1}', "extra"),
        ('{"url": "http://x", "model": "m", "options": {"input_file": "/no/such"}}', "/no/such"),
    ],
)
async def test_a_bad_spec_is_code_2_and_told(tmp_path: Path, spec: str | None, words: str) -> None:
    if spec is not None:
        (tmp_path / "spec.json").write_text(spec)
    code, stderr = await ended(tmp_path, "spec.json")
    assert code == 2
    assert words in stderr
    assert "Traceback" not in stderr


def test_headers_of_the_environment_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMTUNE_LOADGEN_HEADERS", '{"X-Key": 3}')
    with pytest.raises(
        ConfigValidationError, match=r"SWARMTUNE_LOADGEN_HEADERS is not a JSON object of texts.*unset it"
    ):
        headers_of(LoadgenOptions())


async def test_no_argument_is_code_2(tmp_path: Path) -> None:
    code, stderr = await ended(tmp_path)
    assert code == 2
    assert "usage" in stderr


def test_a_spec_survives_its_file_without_the_values_of_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = LoadgenOptions(concurrency=3, request_rate=2.5, arrival_pattern="constant", header=("X-Key: secret",))
    spec = Spec(url=("http://127.0.0.1:1/",), model="m", seed=9, request_slos={"ttft_ms": 5.0}, options=options)
    (tmp_path / "spec.json").write_text(spec.to_json())
    assert "secret" not in (tmp_path / "spec.json").read_text()
    read_back = Spec.read(tmp_path / "spec.json")
    assert read_back.options.model_copy(update={"header": options.header}) == options
    for name, value in spec.secret_environment().items():
        monkeypatch.setenv(name, value)
    assert headers_of(read_back.options) == {"X-Key": "secret"}


def test_misspelt_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"url": "http://x", "model": "m", "options": {"request": 1}}')
    with pytest.raises(ConfigValidationError):
        Spec.read(tmp_path / "spec.json")


async def test_an_endpoint_that_nobody_serves_is_code_3(tmp_path: Path, unused_tcp_port: int) -> None:
    leave_spec(tmp_path, f"http://127.0.0.1:{unused_tcp_port}", "m", request_count=1)
    code, stderr = await ended(tmp_path, "spec.json")
    assert code == 3
    assert "cannot be reached" in stderr
    assert "Traceback" not in stderr


async def test_failed_requests_are_code_0_and_in_the_success_rate(simulated: Start, tmp_path: Path) -> None:
    server = await simulated()
    leave_spec(tmp_path, server.url, "no-such-model", request_count=3)
    code, _ = await ended(tmp_path, "spec.json")
    measurement = json.loads((tmp_path / "measurement.json").read_text())
    assert code == 0
    assert (measurement["metrics"]["success_rate"], measurement["metrics"]["failed"]) == (0, 3)
    assert "does not exist" in errors(read(tmp_path))[0]


async def test_a_service_that_crashes_is_code_3_with_what_there_is(simulated: Start, tmp_path: Path) -> None:
    server = await simulated("--crash-after-requests", "5")
    leave_spec(tmp_path, server.url, "simulated", concurrency=4, request_count=500)
    code, stderr = await ended(tmp_path, "spec.json")
    assert code == 3
    assert "lost during the run" in stderr
    outcomes = read(tmp_path).requests["outcome"].tolist()
    assert outcomes.count(Outcome.COMPLETED) <= 5
    assert outcomes.count(Outcome.FAILED) >= 1
    assert await server.process.wait() == -signal.SIGABRT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_is_code_130_with_what_there_is(
    simulated: Start, tmp_path: Path, number: signal.Signals
) -> None:
    server = await simulated()
    leave_spec(tmp_path, server.url, "simulated", concurrency=2, benchmark_duration=1000.0, osl=8)
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
    assert len(read(tmp_path).requests) >= 5
