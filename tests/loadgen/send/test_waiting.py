"""Nothing waits for a beat: what becomes free is used at once, also when nothing else happens. On both wires."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from loadgen_servers import TEXT, Done, Load, Peer, RawServer, Script

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.read import spool
from swarmtune.loadgen.run import LoadRun, RunPart
from swarmtune.loadgen.send import sender

Start = Callable[[Script], Awaitable[RawServer]]
BEAT_MS = 10_000  # of the sender, here: none of these waits may be seen
PATIENCE_MS = BEAT_MS / 2  # what a loaded machine may need


@pytest.fixture(autouse=True)
def _long_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "TICK_NS", BEAT_MS * 1_000_000)


@pytest.fixture(params=["native", "python"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Both wires, on everything."""
    return Load(tmp_path, request.param)


async def silent(peer: Peer) -> None:
    """Takes requests, and never answers."""
    await peer.request()
    await peer.reader.read()


def lags_ms(done: Done) -> list[float]:
    """How long each request was held back after it could have been sent."""
    return [(row["sent_ns"] - row["connect_ns"] - row["ready_ns"]) / 1e6 for row in done.rows]


@pytest.mark.parametrize("users", [1, 4])
@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"request_cancellation_rate": 100.0, "request_cancellation_delay": 0.02}, "cancelled"),
        ({"request_cancellation_rate": 100.0}, "cancelled"),
        ({"request_timeout_seconds": 0.05}, "failed"),
    ],
    ids=["cancelled", "cancelled-at-once", "time-limit"],
)
async def test_a_slot_that_comes_free_by_giving_up_sends_at_once(
    load: Load, raw_server: Start, users: int, options: dict[str, float], outcome: str
) -> None:
    server = await raw_server(silent)
    limits = {"max_lag_ms": PATIENCE_MS, "max_idle_share": 0.9}
    done = await load(server.url, request_count=6 * users, concurrency=users, **limits, **options)
    assert done.outcomes == [outcome] * 6 * users
    assert max(lags_ms(done)) < PATIENCE_MS
    last = max(row["end_ns"] for row in done.rows)
    assert (done.report.records.ended_ns - last) / 1e6 < PATIENCE_MS  # nor does the end of the run
    blamed = [reason for reason in done.measurement.reasons if "load generator" in reason or "users' time" in reason]
    assert blamed == []


async def test_a_run_with_cancellations_is_valid(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.05)
            await peer.answer(TEXT)

    server = await raw_server(script)
    options = {"request_cancellation_rate": 50.0, "request_cancellation_delay": 0.02, "max_idle_share": 0.9}
    done = await load(server.url, request_count=40, concurrency=4, **options)
    assert set(done.outcomes) == {"completed", "cancelled"}
    assert not any("users' time" in reason for reason in done.measurement.reasons)


async def test_a_service_that_refuses_connections_is_asked_again_as_soon_as_the_pause_is_over(
    load: Load, raw_server: Start
) -> None:
    """The pause is ours, and nobody's lateness."""

    async def script(peer: Peer) -> None:
        await peer.request()
        assert server.listener
        server.listener.close()
        await peer.answer(TEXT)
        peer.writer.close()

    server = await raw_server(script)
    done = await load(server.url, request_count=6, connection_reuse_strategy="never")
    assert done.outcomes == ["completed", *["failed"] * 5]
    ends = [row["end_ns"] / 1e6 for row in done.rows[1:]]
    assert max(later - earlier for earlier, later in itertools.pairwise(ends)) < 100 + PATIENCE_MS
    pauses = [(later["ready_ns"] - earlier["end_ns"]) / 1e6 for earlier, later in itertools.pairwise(done.rows[1:])]
    assert min(pauses) > 99


@pytest.mark.parametrize("gap_ms", [0, 10, 30])
async def test_turns_of_a_trace_that_come_before_the_answer_are_queued(
    load: Load, raw_server: Start, tmp_path: Path, gap_ms: int
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.08)
            await peer.answer(TEXT)

    lines = [
        {"timestamp": gap_ms * turn, "session_id": name, "input_length": 8, "output_length": 3}
        for turn in range(3)
        for name in ("a", "b")
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    server = await raw_server(script)
    done = await load(
        server.url, concurrency=None, fixed_schedule=True, input_file=str(trace), custom_dataset_type="mooncake_trace",
        max_lag_ms=PATIENCE_MS,
    )  # fmt: skip
    assert done.outcomes == ["completed"] * 6
    third = [row for row in done.rows if row["turn"] == 2]
    waits = [(row["sent_ns"] - row["scheduled_ns"]) / 1e6 for row in third]
    assert min(waits) > 2 * 80 - 2 * gap_ms - 5  # the scheduled latencies show it
    assert max(lags_ms(done)) < PATIENCE_MS
    assert not any("late" in reason for reason in done.measurement.reasons)


async def test_reading_the_spool_obeys_a_stop(
    raw_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "READ_BYTES", 2000)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    server = await raw_server(script)
    spec = Spec.model_validate({"url": server.url, "model": "m", "options": {"request_count": 30, "isl": 5}})
    run = LoadRun(RunPart(spec, tmp_path))

    def measure() -> None:
        run.prepare()
        run.execute()

    await asyncio.to_thread(measure)
    whole = run.collected()
    assert (len(whole.requests), whole.interrupted) == (30, False)

    def progress(share: float) -> None:
        if share > 0.3:
            run.sender.stop()

    part = run.collected(progress)
    assert 0 < len(part.requests) < 30
    assert part.interrupted
