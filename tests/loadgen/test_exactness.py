"""The whole command against the simulated engine: every number against the server's own record.

The recomputation below is written from the definitions alone and shares no code with the product. Client and server
stamp with one clock (CLOCK_MONOTONIC), and a client can only see a token after the server wrote it.
"""

from __future__ import annotations

import json
import math
from asyncio import create_subprocess_exec
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from loadgen_servers import Simulated

from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.send.plan import WARMUP_SESSIONS
from swarmtune.records import Measurement
from swarmtune.workload import Load, Workload

CLOSE_MS = 25.0  # how far medians may be apart on a busy machine
WORKLOAD = Workload(
    "simulated",
    requests=40,
    warmup_requests=3,
    input_tokens_mean=50,
    input_tokens_stddev=20,
    output_tokens_mean=24,
    output_tokens_stddev=14,
    seed=11,
    request_slos={"ttft_ms": 60.0, "tpot_ms": 20.0, "e2el_ms": 90.0},
)


async def run(workload: Workload, url: str, directory: Path) -> tuple[Measurement, list[dict[str, Any]]]:
    benchmark = SwarmtuneBenchmark(SwarmtuneBenchmark.Config())
    command = benchmark.command(workload, url)
    for file in command.files:
        (directory / file.path).write_text(file.content)
    process = await create_subprocess_exec(*command.argv, cwd=directory)
    assert await process.wait() == 0
    rows = [json.loads(line) for line in (directory / "requests.jsonl").read_text().splitlines()]
    return benchmark.read(directory), [row for row in rows if row["phase"] == "measured"]


def percentile(values: list[float], p: float) -> float:
    ordered = sorted(values)
    rank = 1
    while rank * 100 < p * len(ordered):
        rank += 1
    return ordered[rank - 1]


def statistics(name: str, values: list[float]) -> dict[str, float]:
    mean = sum(values) / len(values)
    found = {f"p{p}_{name}_ms": percentile(values, p) for p in (50, 90, 95, 99)}
    found |= {f"mean_{name}_ms": mean, f"min_{name}_ms": min(values), f"max_{name}_ms": max(values)}
    return found | {f"std_{name}_ms": math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))}


def arrivals(stamps: list[int]) -> list[tuple[int, int]]:
    """(when, how many tokens): on a busy machine several come in one read, with one stamp."""
    return [(ns, len(list(group))) for ns, group in groupby(stamps)]


def samples(rows: list[tuple[int, list[int], int]]) -> dict[str, list[float]]:
    """Per-request samples (itl: pooled gaps), ms, from (start, token stamps, output tokens)."""
    streams = [(arrivals(stamps), tokens) for _, stamps, tokens in rows]
    gaps = [((later - earlier) / 1e6, k) for came, _ in streams for (earlier, _), (later, k) in pairwise(came)]
    return {
        "ttft": [(stamps[0] - start) / 1e6 for start, stamps, _ in rows],
        "e2el": [(stamps[-1] - start) / 1e6 for start, stamps, _ in rows],
        "tpot": [(came[-1][0] - came[0][0]) / 1e6 / (n - came[0][1]) for came, n in streams if len(came) > 1],
        "itl": [gap / k for gap, k in gaps for _ in range(k)],
    }


def good(rows: list[tuple[int, list[int], int]], slack_ms: float) -> int:
    """Requests that keep the limits of WORKLOAD with this much to spare."""
    count = 0
    for start, stamps, tokens in rows:
        tpot = (stamps[-1] - stamps[0]) / 1e6 / (tokens - 1) if tokens > 1 else -math.inf
        kept = (stamps[0] - start) / 1e6 + slack_ms <= 60.0 and tpot + slack_ms <= 20.0
        count += kept and (stamps[-1] - start) / 1e6 + slack_ms <= 90.0
    return count


LOADS = [
    pytest.param("completions", Load(concurrency=6), id="completions-concurrency"),
    pytest.param("chat", Load(concurrency=6), id="chat-concurrency"),
    pytest.param("completions", Load(request_rate=60.0), id="completions-poisson"),
    pytest.param("chat", Load(request_rate=80.0, concurrency=4), id="chat-poisson-capped"),
]


@pytest.mark.parametrize(("endpoint", "load"), LOADS)
async def test_numbers_agree_with_the_servers_own_record(
    simulated: Callable[..., Awaitable[Simulated]], tmp_path: Path, endpoint: Any, load: Load
) -> None:
    server = await simulated("--max-num-seqs", "4")
    measurement, rows = await run(replace(WORKLOAD, endpoint=endpoint, load=load), server.url, tmp_path)
    truth = await server.truth()
    metrics = measurement.metrics
    assert len(truth) == 40 + 3
    truth = {name: row for name, row in truth.items() if int(name.split("-")[1]) < WARMUP_SESSIONS}

    assert {row["id"] for row in rows} == set(truth)
    for row in rows:
        true = truth[row["id"]]
        assert row["outcome"] == "completed"
        assert (row["input_tokens"], row["output_tokens"]) == (true["prompt_tokens"], true["output_tokens"])
        assert len(row["token_ns"]) == len(true["chunks_ns"])
        assert all(seen >= written for seen, written in zip(row["token_ns"], true["chunks_ns"], strict=True))
        assert row["scheduled_ns"] <= row["sent_ns"] <= true["received_ns"]

    true_rows = [(t["received_ns"], t["chunks_ns"], t["output_tokens"]) for t in truth.values()]
    seen_rows = [(r["sent_ns"], r["token_ns"], r["output_tokens"]) for r in rows]
    for name, values in samples(true_rows).items():
        assert abs(metrics[f"p50_{name}_ms"] - percentile(values, 50)) < CLOSE_MS
        if name in ("ttft", "e2el"):
            assert all(metrics[f"p{p}_{name}_ms"] >= percentile(values, p) for p in (50, 90, 95, 99))
    for name, values in samples(seen_rows).items():
        for key, value in statistics(name, values).items():
            assert metrics[key] == pytest.approx(value, rel=1e-9, abs=1e-6), key

    output, prompts = (sum(t[key] for t in truth.values()) for key in ("output_tokens", "prompt_tokens"))
    assert (metrics["total_output_tokens"], metrics["total_input_tokens"]) == (output, prompts)
    assert (metrics["completed"], metrics["failed"], metrics["incomplete"], metrics["success_rate"]) == (40, 0, 0, 1)
    duration = metrics["duration_s"]
    assert metrics["output_throughput"] == pytest.approx(output / duration)
    assert metrics["total_token_throughput"] == pytest.approx((output + prompts) / duration)
    assert metrics["request_throughput"] == pytest.approx(40 / duration)
    last = max(stamps[-1] for _, stamps, _ in true_rows)
    first = min(row["scheduled_ns"] for row in rows)
    assert (last - first) / 1e9 <= duration < (last - first) / 1e9 + 1.0
    kept = round(metrics["request_goodput"] * duration)
    assert kept == good(seen_rows, 0.0)
    assert good(true_rows, CLOSE_MS) <= kept


async def test_a_second_run_sends_the_same_and_schedules_the_same(
    simulated: Callable[..., Awaitable[Simulated]], tmp_path: Path
) -> None:
    server = await simulated()
    workload = replace(WORKLOAD, requests=15, load=Load(request_rate=100.0))
    seen = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _, rows = await run(workload, server.url, tmp_path / name)
        start = rows[0]["scheduled_ns"]
        seen.append([(r["id"], r["input_tokens"], r["output_tokens"], r["scheduled_ns"] - start) for r in rows])
    assert seen[0] == seen[1]


async def test_more_sequences_help_the_throughput_that_we_measure(
    simulated: Callable[..., Awaitable[Simulated]], tmp_path: Path
) -> None:
    found = []
    for seqs in ("1", "16"):
        (tmp_path / seqs).mkdir()
        server = await simulated("--max-num-seqs", seqs)
        workload = replace(WORKLOAD, requests=32, load=Load(concurrency=16))
        measurement, _ = await run(workload, server.url, tmp_path / seqs)
        found.append(measurement.metrics)
    few, many = found
    assert many["output_throughput"] > 2 * few["output_throughput"]
    assert many["p50_ttft_ms"] < few["p50_ttft_ms"]
