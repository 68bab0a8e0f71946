"""Made-up records of a run, realistic enough for tests and benchmarks of everything that reads Records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.loadgen.records import CHUNK, REQUEST, Outcome, Phase, Records, WorkerFacts

MS = 1_000_000
ERRORS = ["HTTP 500: out of memory", "the server closed the connection", "no whole answer within 120 s"]
SHARES = {Outcome.COMPLETED: 0.93, Outcome.FAILED: 0.03, Outcome.CANCELLED: 0.02, Outcome.DROPPED: 0.02}


def fake_records(
    requests: int = 400, *, chunks: int = 8, rate: float = 50.0, warmup: int = 20, seed: int = 0
) -> Records:
    """A Poisson load of ``rate`` requests/s: ``warmup`` first ones, failed, incomplete (the last few), cancelled and
    dropped ones, some answers that open with reasoning, some with two tokens in a chunk, a few completed without chunks.

    ``chunks``: of an answer, about (1 to 2 * chunks - 1). The same arguments give the same records.
    """
    draw = np.random.default_rng(seed)
    total = requests + warmup
    rows = np.zeros(total, REQUEST)
    rows["session"] = np.arange(total)
    rows["phase"] = np.where(np.arange(total) < warmup, Phase.WARMUP, Phase.MEASURED)
    rows["outcome"] = draw.choice(list(SHARES), total, p=list(SHARES.values()))
    rows["outcome"][:warmup] = Outcome.COMPLETED
    rows["outcome"][total - max(1, min(total // 100, 16)) :] = Outcome.INCOMPLETE
    rows["worker"] = draw.integers(0, 2, total)
    start = 5_000_000_000_000
    rows["scheduled_ns"] = start + np.cumsum(draw.exponential(1e9 / rate, total)).astype(np.int64)
    rows["sent_ns"] = rows["scheduled_ns"] + draw.exponential(0.1 * MS, total).astype(np.int64) + 1
    rows["connect_ns"] = np.where(draw.random(total) < 0.1, draw.integers(MS // 10, MS, total), 0)
    rows["asked_input_tokens"] = draw.integers(16, 512, total)
    rows["input_tokens"] = rows["asked_input_tokens"]
    rows["asked_output_tokens"] = -1
    rows["reasoning_tokens"] = -1
    rows["cached_tokens"] = np.where(draw.random(total) < 0.5, rows["input_tokens"] // 2, -1)
    rows["error"] = -1
    _answers(rows, chunks, draw)
    stamps = _chunks(rows, draw)
    _ends(rows, stamps, draw)
    measured = rows["phase"] == Phase.MEASURED
    started = int(rows["scheduled_ns"][measured][0]) if measured.any() else start
    ended = max(started, int(rows["end_ns"].max(initial=started)))
    workers = [WorkerFacts(f"worker_{i}", "python", True, cpu_share=0.2, cpu_share_max=0.3) for i in range(2)]
    return Records(rows, stamps, list(ERRORS), workers, started, ended, 1_790_000_000 * 1_000_000_000, "run-")


def _answers(rows: NDArray[Any], chunks: int, draw: np.random.Generator) -> None:
    """How many chunks and tokens each answer has."""
    total = len(rows)
    count = draw.integers(1, 2 * chunks, total)
    count[rows["outcome"] == Outcome.DROPPED] = 0
    count[(rows["outcome"] != Outcome.COMPLETED) & (draw.random(total) < 0.5)] = 0
    count[(rows["outcome"] == Outcome.COMPLETED) & (draw.random(total) < 0.01)] = 0
    rows["chunks"] = count
    rows["first_chunk"] = np.cumsum(count) - count
    rows["first_answer"] = np.where(count > 0, np.where(draw.random(total) < 0.2, np.minimum(1, count - 1), 0), -1)
    rows["output_tokens"] = count + (draw.random(total) < 0.2) * count
    rows["asked_output_tokens"] = np.where(draw.random(total) < 0.95, rows["output_tokens"], rows["output_tokens"] + 2)
    rows["server_counted"] = True


def _chunks(rows: NDArray[Any], draw: np.random.Generator) -> NDArray[Any]:
    """Stamps: a first token after 30 to some 100 ms, then one about every 10 ms."""
    owner = np.repeat(np.arange(len(rows)), rows["chunks"])
    stamps = np.zeros(len(owner), CHUNK)
    gaps = draw.gamma(4.0, 2.5 * MS, len(owner)).astype(np.int64)
    has = rows["chunks"] > 0
    gaps[rows["first_chunk"][has]] += 30 * MS + draw.lognormal(17, 0.5, int(has.sum())).astype(np.int64)
    passed = np.cumsum(gaps)
    before = np.zeros(len(rows), np.int64)
    before[has] = passed[rows["first_chunk"][has]] - gaps[rows["first_chunk"][has]]
    stamps["ns"] = rows["sent_ns"][owner] + passed - before[owner]
    stamps["lag_ns"] = draw.integers(10_000, 200_000, len(owner))
    return stamps


def _ends(rows: NDArray[Any], stamps: NDArray[Any], draw: np.random.Generator) -> None:
    """The last bytes come shortly after the last chunk; who had no chunk is given up on after a while."""
    has = rows["chunks"] > 0
    last = np.zeros(len(rows), np.int64)
    last[has] = stamps["ns"][rows["first_chunk"][has] + rows["chunks"][has] - 1]
    rows["end_ns"] = np.where(has, last + MS // 10, rows["sent_ns"] + 80 * MS)
    given_up = int(rows["end_ns"].max(initial=0))
    rows["end_ns"][np.isin(rows["outcome"], (Outcome.INCOMPLETE, Outcome.DROPPED))] = given_up
    rows["sent_ns"][rows["outcome"] == Outcome.DROPPED] = 0
    rows["end_read_ns"] = rows["end_ns"] + 50_000
    rows["first_byte_ns"][has] = stamps["ns"][rows["first_chunk"][has]] - 10_000
    failed = rows["outcome"] == Outcome.FAILED
    rows["error"][failed] = draw.integers(0, len(ERRORS), int(failed.sum()))
    rows["status"] = np.where(failed & ~has, 500, np.where(rows["sent_ns"] > 0, 200, 0))
    rows["bytes"] = rows["chunks"] * 180
