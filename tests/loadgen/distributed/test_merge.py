from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.ask.source import Block
from swarmtune.loadgen.distributed.clocks import ClockReading, ClockRelation
from swarmtune.loadgen.distributed.merge import STAMPS, Columns, merge
from swarmtune.loadgen.distributed.service import Watchdog
from swarmtune.loadgen.distributed.timing_manager import Credits, useful_workers
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import CHUNK, REQUEST

times = st.integers(10**10, 10**10 + 10**6)  # beyond every offset: a stamp of 0 means that it did not happen


def columns(worker: int, times: list[int], chunks_each: int, errors: list[str], offset: int) -> Columns:
    rows = np.zeros(len(times), REQUEST)
    chunks = np.zeros(len(times) * chunks_each, CHUNK)
    for i, at in enumerate(times):
        row = rows[i]
        row["session"], row["worker"], row["scheduled_ns"], row["end_ns"] = at, worker, at + offset, at + 5 + offset
        row["first_chunk"], row["chunks"], row["connect_ns"] = i * chunks_each, chunks_each, 77
        row["error"] = i % (len(errors) + 1) - 1
        chunks["ns"][i * chunks_each : (i + 1) * chunks_each] = at + 1 + offset
    return Columns(rows, chunks, errors, ClockRelation(ClockReading(0, offset, 10)))


@given(
    st.lists(
        st.tuples(
            st.lists(times, max_size=8), st.integers(0, 3), st.lists(st.sampled_from("xyz"), unique=True),
            st.integers(-(10**9), 10**9),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_every_row_keeps_its_chunks_its_error_and_its_true_time(given_parts: list) -> None:
    parts = [columns(worker, *part) for worker, part in enumerate(given_parts)]
    requests, chunks, errors = merge(parts)
    assert len(requests) == sum(len(part.requests) for part in parts)
    assert len(errors) == len(set(errors))
    assert sorted(requests["scheduled_ns"].tolist()) == requests["scheduled_ns"].tolist()
    for row in requests:
        part = parts[row["worker"]]
        at = row["session"]
        assert (row["scheduled_ns"], row["end_ns"], row["connect_ns"]) == (at, at + 5, 77)
        assert all(row[name] == 0 for name in STAMPS if name not in ("scheduled_ns", "end_ns"))
        own = chunks[row["first_chunk"] : row["first_chunk"] + row["chunks"]]
        assert own["ns"].tolist() == [at + 1] * row["chunks"]
    for worker, part in enumerate(parts):
        told = sorted(errors[e] for e in requests["error"][requests["worker"] == worker] if e >= 0)
        assert told == sorted(part.errors[e] for e in part.requests["error"] if e >= 0)


@given(st.integers(0, 5000), st.integers(1, 9), st.lists(st.integers(0, 40), min_size=1), st.integers(1, 7))
def test_credits_are_exact_in_order_and_end(count: int, workers: int, leasts: list[int], turns: int) -> None:
    purse = Credits(Block(3, count, last_turns=turns), workers)
    blocks = []
    while block := purse.take(leasts[len(blocks) % len(leasts)]):
        blocks.append(block)
    numbers = [n for b in blocks for n in range(b.first, b.first + (b.count or 0))]
    assert numbers == list(range(3, 3 + count))
    assert [b.last_turns for b in blocks] == [None] * (len(blocks) - 1) + [turns] * bool(blocks)
    assert purse.take(1) is None


def test_big_runs_take_few_messages() -> None:
    purse, blocks = Credits(Block(0, 1_000_000), 8), 0
    while purse.take(16):
        blocks += 1
    assert blocks < 200


def test_no_worker_without_a_slot() -> None:
    assert useful_workers(LoadgenOptions(concurrency=2), 5) == 2
    assert useful_workers(LoadgenOptions(concurrency=50, prefill_concurrency=3), 5) == 3
    assert useful_workers(LoadgenOptions(concurrency=50, warmup_concurrency=1), 5) == 1
    assert useful_workers(LoadgenOptions(request_rate=5), 5) == 5


def test_the_watchdog_tells_once_and_forgives() -> None:
    dog = Watchdog(tell_s=10, dead_s=30)
    dog.sign_of_life("a", 0)
    dog.sign_of_life("b", 5)
    assert (dog.missing(9.9), dog.missing(10), dog.missing(11), dog.dead(29)) == ([], ["a"], [], [])
    dog.sign_of_life("a", 12)
    assert (dog.missing(15), dog.missing(22), dog.dead(35)) == (["b"], ["a"], ["b"])
    dog.forget(["b"])
    assert dog.dead(41) == []
    assert dog.dead(42) == ["a"]
