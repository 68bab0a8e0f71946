"""Several worker processes on one machine: exactness, and what happens when one of them, or we, come to an end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from loadgen_servers import DONE, USAGE, Peer, RawServer, Script, token

from swarmtune.errors import BenchmarkExecutionError, CommunicationError, ConfigValidationError
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.distributed import Output, Patience, measure, run
from swarmtune.loadgen.judge.certify import certify
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Progress, Records
from swarmtune.workload import StopRules

Start = Callable[[Script], Awaitable[RawServer]]
PROGRAM = Path(__file__).with_name("services_program.py")
GONE_S = 10.0


def spec_of(url: str, **options: Any) -> Spec:
    return Spec(url=(url,), model="m", seed=5, options=LoadgenOptions.model_validate({"isl": 9, "osl": 4, **options}))


def ours(directory: Path) -> list[psutil.Process]:
    """The processes that name this directory."""
    return [
        process for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid() and any(str(directory) in word for word in process.info["cmdline"] or ())
    ]  # fmt: skip


def worker_process(directory: Path, name: str) -> psutil.Process:
    return next(process for process in ours(directory) if name in process.info["cmdline"])


def nothing_left(directory: Path) -> None:
    _, alive = psutil.wait_procs(ours(directory), timeout=GONE_S)
    assert alive == []
    assert list(directory.iterdir()) == []


class Counting:
    """Holds the first requests until ``hold`` are there at a time (0: forever), then answers at once."""

    def __init__(self, hold: int, *, forever: bool = False) -> None:
        self.hold, self.forever = hold, forever
        self.active = self.most = 0
        self.full = asyncio.Event()
        self.bodies: list[bytes] = []

    async def script(self, peer: Peer) -> None:
        while True:
            self.bodies.append(await peer.request())
            self.active += 1
            self.most = max(self.most, self.active)
            if self.active >= self.hold:
                self.full.set()
            if self.forever:
                await asyncio.Event().wait()
            await self.full.wait()
            self.active -= 1
            await peer.answer(token(" a"), token(" b", "length"), USAGE, DONE)


async def runs(spec: Spec, workers: int, directory: Path, **more: Any) -> Records:
    return await asyncio.to_thread(run, spec, workers, directory, **more)


@pytest.mark.parametrize("turns", [1, 3])
async def test_three_workers_send_the_same_as_one(raw_server: Start, tmp_path: Path, turns: int) -> None:
    found = []
    for workers in (1, 3):
        counting = Counting(7)
        server = await raw_server(counting.script)
        spec = spec_of(
            server.url, endpoint_type="chat", concurrency=7, request_count=61,
            conversation_turn_mean=turns, conversation_turn_stddev=turns // 2,
        )  # fmt: skip
        records = await runs(spec, workers, tmp_path)
        rows = records.requests
        assert set(rows["outcome"].tolist()) == {Outcome.COMPLETED}
        assert counting.most == 7
        assert {int(w) for w in rows["worker"]} == set(range(workers))
        assert len(rows) == len(counting.bodies) == 61
        found.append((sorted(zip(rows["session"], rows["turn"], strict=True)), sorted(counting.bodies)))
        assert [facts.worker for facts in records.workers] == [f"worker-{i}" for i in range(workers)]
        assert not records.interrupted
    assert found[0] == found[1]
    nothing_left(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"request_rate": 400, "request_count": 30},
        {"request_rate": 400, "request_count": 30, "concurrency": 2, "warmup_request_count": 5},
        {"conversation_num": 30, "concurrency": 5, "warmup_request_count": 5},
    ],
)
async def test_other_loads_are_shared_too(raw_server: Start, tmp_path: Path, options: dict[str, Any]) -> None:
    counting = Counting(1)
    server = await raw_server(counting.script)
    records = await runs(spec_of(server.url, **options), 3, tmp_path)
    rows = records.requests
    measured, warm = rows[rows["phase"] == 1], rows[rows["phase"] == 0]
    assert sorted(measured["session"].tolist()) == list(range(30))
    assert len(warm) == options.get("warmup_request_count", 0)
    assert (measured["scheduled_ns"] >= records.started_ns).all()
    assert (rows["scheduled_ns"][1:] >= rows["scheduled_ns"][:-1]).all()
    assert counting.most <= options.get("concurrency", 30)


async def test_every_service_is_a_process_named_after_it(raw_server: Start, tmp_path: Path) -> None:
    counting = Counting(1_000_000)  # requests are held until all processes were seen
    server = await raw_server(counting.script)
    loop, names = asyncio.get_running_loop(), set[str]()
    output = Output(tmp_path / "results", ("jsonl", "measurement"))

    def look(progress: Progress) -> None:
        if progress.stage == "measuring" and not names:
            names.update(Path(f"/proc/{process.pid}/comm").read_text().strip() for process in ours(tmp_path))
            loop.call_soon_threadsafe(counting.full.set)

    spec = spec_of(server.url, request_count=60, concurrency=4)
    made = await asyncio.to_thread(measure, spec, 2, output, look, run_type="process")
    managers = {"dataset-manager", "timing-manager", "worker-manager", "records-manager", "post-processor"}
    assert names == {*managers, "worker-0", "worker-1"}
    assert sorted(made.records.requests["session"].tolist()) == list(range(60))
    assert made.results.scalars["completed"] == 60
    read = SwarmtuneBenchmark(LoadgenOptions()).read(output.directory)
    assert (read.metrics["completed"], read.valid) == (60, made.certificate.level != "invalid")
    assert len((output.directory / "requests.jsonl").read_text().splitlines()) == 60
    _, alive = psutil.wait_procs(ours(tmp_path), timeout=GONE_S)
    assert alive == []
    files = {"devices.jsonl", "telemetry.json", "measurement.json", "requests.jsonl", "results.json", "run.json"}
    assert {path.name for path in output.directory.iterdir()} == files


@pytest.mark.parametrize("victim", ["records-manager", "timing-manager", "worker-manager"])
async def test_a_manager_that_is_killed_ends_the_run_and_all_others(
    raw_server: Start, tmp_path: Path, victim: str
) -> None:
    counting = Counting(4, forever=True)
    server = await raw_server(counting.script)
    spec = spec_of(server.url, request_count=60, concurrency=4)
    running = asyncio.create_task(runs(spec, 2, tmp_path, run_type="process"))
    await counting.full.wait()
    worker_process(tmp_path, victim).kill()
    with pytest.raises(BenchmarkExecutionError, match=f"{victim} was killed by SIGKILL"):
        await running
    nothing_left(tmp_path)


async def test_single_is_one_worker_in_this_process(raw_server: Start, tmp_path: Path) -> None:
    server = await raw_server(Counting(1).script)
    told: list[Progress] = []
    spec = spec_of(server.url, request_count=5, concurrency=1)
    records = await runs(spec, 1, tmp_path, on_progress=told.append, run_type="single")
    assert records.requests["session"].tolist() == list(range(5))
    assert told[-1].ended == 5
    nothing_left(tmp_path)
    with pytest.raises(ConfigValidationError, match="single"):
        await runs(spec, 2, tmp_path, run_type="single")
    with pytest.raises(ConfigValidationError, match="listen"):
        await runs(spec, 2, tmp_path, run_type="distributed")


async def test_a_service_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommunicationError, match=r"127\.0\.0\.1"):
        await runs(spec_of("http://127.0.0.1:9", request_count=5), 2, tmp_path)
    nothing_left(tmp_path)


async def test_secret_headers_reach_the_workers(
    raw_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k3y\n")  # as a file has it
    server = await raw_server(Counting(1).script)
    await runs(spec_of(server.url, request_count=4, concurrency=2, header=("X-Secret: s3cret",)), 2, tmp_path)
    requests = [request for peer in server.peers for request in peer.requests]
    assert len(requests) == 4
    assert all(b"x-secret: s3cret\r\n" in request.lower() for request in requests)
    assert all(b"authorization: bearer k3y\r\n" in request.lower() for request in requests)


async def test_workers_without_a_slot_are_not_started(raw_server: Start, tmp_path: Path) -> None:
    server = await raw_server(Counting(1).script)
    told: list[Progress] = []
    records = await runs(spec_of(server.url, request_count=6, concurrency=2), 4, tmp_path, on_progress=told.append)
    assert len(records.requests) == 6
    assert (told[-1].workers, told[-1].ended, told[-1].in_flight) == (2, 6, 0)
    assert "2 of 4 workers are used" in told[-1].notes[0]


async def test_an_early_stop_is_of_all_workers(raw_server: Start, tmp_path: Path) -> None:
    """Answers take 20 ms, the SLO is 1 ms; a run of minutes ends after some seconds."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.02)
            await peer.answer(token(" a"), token(" b", "length"), USAGE, DONE)

    server = await raw_server(script)
    rules = StopRules(act=True, limits={"p95_e2el_ms": 1.0})
    spec = spec_of(server.url, benchmark_duration=170.0, concurrency=4).model_copy(update={"early_stop": rules})
    async with asyncio.timeout(150):
        records = await runs(spec, 2, tmp_path)
    stop = records.early_stop
    assert stop is not None
    assert (stop.rule, stop.of, stop.done) == ("promise_broken", "p95_e2el_ms", True)
    assert set(records.requests["outcome"].tolist()) == {Outcome.COMPLETED}
    assert {int(worker) for worker in records.requests["worker"]} == {0, 1}
    nothing_left(tmp_path)


async def test_all_workers_end_when_it_is_decided(raw_server: Start, tmp_path: Path) -> None:
    server = await raw_server(Counting(1).script)
    options = {"stop_when_decided": True, "benchmark_duration": 170.0, "concurrency": 4, "slo_attainment_fraction": 0.9}
    spec = spec_of(server.url, **options).model_copy(update={"request_slos": {"e2el_ms": 10_000.0}})
    async with asyncio.timeout(150):
        records = await runs(spec, 2, tmp_path)
    rows = records.requests
    assert set(rows["outcome"].tolist()) == {Outcome.COMPLETED}
    assert {int(worker) for worker in rows["worker"]} == {0, 1}
    assert not records.interrupted
    nothing_left(tmp_path)


async def test_a_worker_that_is_killed_makes_the_run_invalid(raw_server: Start, tmp_path: Path) -> None:
    counting = Counting(6, forever=True)
    server = await raw_server(counting.script)
    spec = spec_of(server.url, request_count=60, concurrency=6)
    running = asyncio.create_task(runs(spec, 3, tmp_path))
    await counting.full.wait()
    worker_process(tmp_path, "worker-1").kill()
    records = await running
    verdict = certify(records, spec.options)
    assert verdict.level == "invalid"
    assert any("worker-1: was killed by SIGKILL" in reason for reason in verdict.reasons)
    assert {int(worker) for worker in records.requests["worker"]} == {0, 2}
    assert records.requests["outcome"].tolist() == [Outcome.INCOMPLETE] * 4
    nothing_left(tmp_path)


async def test_a_worker_that_hangs_is_told_and_ended(raw_server: Start, tmp_path: Path) -> None:
    counting = Counting(4, forever=True)
    server = await raw_server(counting.script)
    told: list[Progress] = []
    spec = spec_of(server.url, request_count=60, concurrency=4)
    running = asyncio.create_task(
        runs(spec, 2, tmp_path, on_progress=told.append, patience=Patience(tell_s=2.0, dead_s=4.0))
    )
    await counting.full.wait()
    worker_process(tmp_path, "worker-0").suspend()
    records = await running
    reasons = certify(records, spec.options).reasons
    assert any("worker-0: gave no sign of life for 4 s" in reason for reason in reasons)
    assert "nothing heard from worker-0 for 2 s" in told[-1].notes
    assert {int(worker) for worker in records.requests["worker"]} == {1}
    nothing_left(tmp_path)


async def controller(url: str, directory: Path, **options: Any) -> asyncio.subprocess.Process:
    spec = spec_of(url, **options).model_dump(mode="json", exclude_unset=True)
    given = {"spec": spec, "workers": 2, "directory": str(directory)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), "controller", json.dumps(given)), stdout=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_gives_partial_results(raw_server: Start, tmp_path: Path, number: signal.Signals) -> None:
    counting = Counting(4, forever=True)
    server = await raw_server(counting.script)
    process = await controller(server.url, tmp_path, request_count=60, concurrency=4)
    await counting.full.wait()
    process.send_signal(number)
    output, _ = await process.communicate()
    result = json.loads(output.splitlines()[-1])
    assert process.returncode == 0
    assert result["interrupted"]
    assert result["outcomes"] == [Outcome.INCOMPLETE] * 4
    assert result["level"] == "invalid"
    nothing_left(tmp_path)


async def test_without_the_controller_no_worker_stays(raw_server: Start, tmp_path: Path) -> None:
    counting = Counting(4, forever=True)
    server = await raw_server(counting.script)
    process = await controller(server.url, tmp_path, request_count=60, concurrency=4)
    await counting.full.wait()
    workers = [worker_process(tmp_path, name) for name in ("worker-0", "worker-1")]
    assert {Path(f"/proc/{worker.pid}/comm").read_text().strip() for worker in workers} == {"worker-0", "worker-1"}
    process.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, 2.0)
    assert alive == []
    await process.communicate()
