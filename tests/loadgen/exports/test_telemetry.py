"""Prometheus text and its readings, against real exporters: the simulated engine and prometheus_prometheus_client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from loadgen_servers import Simulated

from swarmtune.clock import RealClock
from swarmtune.loadgen.exports.prometheus import Sample, parse
from swarmtune.loadgen.exports.telemetry import Telemetry, scrape, summary, write_jsonl

S = 1_000_000_000
DATA = Path(__file__).parents[1] / "data"


def test_labels_escapes_and_kinds() -> None:
    text = (
        "# HELP a_total A\n# TYPE a counter\n"
        'a_total{path="C:\\\\x",say="\\"hi\\"\\nthere, {you}"} 3 1700000000000\n'
        '# TYPE b gauge\r\nb -1.5e3\n b2 +Inf\nnonsense here\nc{x=1} 2\nd{x="1",} NaN\nrequests_total 7\n'
    )
    found = parse(text)
    assert found[0] == Sample("a_total", (("path", "C:\\x"), ("say", '"hi"\nthere, {you}')), 3.0, "counter")
    assert [(s.name, s.kind) for s in found[1:]] == [
        ("b", "gauge"), ("b2", "gauge"), ("d", "gauge"), ("requests_total", "counter")
    ]  # fmt: skip
    assert parse("") == []
    with pytest.raises(ValueError, match="no Prometheus text"):
        parse("<html><body>404</body></html>")


def test_it_reads_what_prometheus_client_writes() -> None:
    """Written by prometheus_client 0.26: nothing, then 0.05 0.05 0.5 0.5, then also 0.5 0.5 0.5 5.0 observed."""
    telemetry = Telemetry()
    for number, second in enumerate((0, 1, 3)):
        telemetry.add(second * S, "s", parse((DATA / f"prometheus_client_{number}.txt").read_text()))
    (found,) = [row for row in summary(telemetry, 1 * S, 3 * S) if row["name"] == "wait_seconds"]
    assert (found["labels"], found["kind"], found["count"]) == ({"model": 'm"1\\'}, "histogram", 4)
    assert found["mean"] == pytest.approx(6.5 / 4)
    assert found["p50"] == pytest.approx(0.1 + 0.9 * 2 / 3)
    assert found["p99"] == 1.0  # in the +Inf bucket: the last finite bound


def test_counters_survive_a_restart_and_gauges_are_those_of_the_window() -> None:
    telemetry = Telemetry()
    for second, count, level in ((0, 10, 1), (1, 20, 2), (2, 5, 6), (3, 8, 100)):
        text = f"# TYPE c counter\nc {count}\n# TYPE g gauge\ng {level}\n"
        telemetry.add(second * S, "s", parse(text))
    counter, gauge = summary(telemetry, 0, 2 * S)
    assert (counter["delta"], counter["rate"]) == (15, 7.5)
    assert (gauge["mean"], gauge["max"], gauge["n"]) == (3.0, 6.0, 3)
    assert summary(telemetry, 10 * S, 20 * S) == []


class Rounds(RealClock):
    """The real clock, except that the next round of readings waits until the test says so."""

    def __init__(self) -> None:
        self.read, self.go = asyncio.Event(), asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.read.set()
        await self.go.wait()
        self.go.clear()


async def test_the_simulated_engine_and_sources_that_fail(
    simulated: Callable[..., Awaitable[Simulated]], tmp_path: Path
) -> None:
    server = await simulated()
    good, missing, dead = f"{server.url}/metrics", f"{server.url}/nothing", "http://127.0.0.1:1/metrics"
    telemetry = Telemetry()
    started = time.monotonic_ns()

    clock = Rounds()
    reading = asyncio.create_task(scrape([good, missing, dead], clock, telemetry))

    await clock.read.wait()
    body = {"model": "simulated", "prompt": "a b c", "max_tokens": 5}
    async with aiohttp.ClientSession() as session, session.post(f"{server.url}/v1/completions", json=body) as response:
        await response.read()
    clock.read.clear()
    clock.go.set()
    await clock.read.wait()
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    found = {row["name"]: row for row in summary(telemetry, started, time.monotonic_ns())}
    assert found["vllm:generation_tokens_total"]["delta"] == 5
    assert found["vllm:num_requests_running"]["kind"] == "gauge"
    assert [note.partition(": ")[0] for note in telemetry.notes] == sorted([missing, dead])
    assert all("not read" in note for note in telemetry.notes)
    write_jsonl(telemetry, tmp_path / "telemetry.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "telemetry.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows} == {good}
    assert all(row["ns"] >= started for row in rows)
    assert [r["ns"] for r in rows] == sorted(r["ns"] for r in rows)
