"""Waits that a service asks for, and connections that it leaves open: the service is named, and not the load generator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from loadgen_servers import HEAD, TEXT, Load, Peer, RawServer, Script, chunk

from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.ask.source import Source
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Phase, WorkerFacts
from swarmtune.loadgen.send.plan import all_credits
from swarmtune.loadgen.send.timing import Shape, Timing

Start = Callable[[Script], Awaitable[RawServer]]
OURS = ("users' time went by before", "load generator")
IDLE = 0.3  # of the users' time, that a busy machine may cost: less than the waits of these services


@pytest.fixture(params=["native", "python"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    return Load(tmp_path, request.param)


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Busy"])
async def test_waits_that_the_service_asks_for_are_named(load: Load, raw_server: Start, status: bytes) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.05)
            if len(peer.requests) % 2:
                await peer.send(b"HTTP/1.1 %s\r\nRetry-After: 0.2\r\nContent-Length: 0\r\n\r\n" % status)
            else:
                await peer.answer(TEXT)

    done = await load((await raw_server(script)).url, request_count=8, concurrency=2, max_idle_share=IDLE)
    (reason,) = [reason for reason in done.measurement.reasons if "Retry-After" in reason]
    assert reason.startswith("the service refuses load: it asked for up to 0.2 s of waiting (Retry-After) 4 times")
    assert "of 2 were in flight on average" in reason
    assert done.measurement.metrics["retry_after_share"] > 0.3
    assert not [reason for reason in done.measurement.reasons if any(words in reason for words in OURS)]


async def test_waits_are_named_where_nothing_was_answered(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 429 No\r\nRetry-After: 0.1\r\nContent-Length: 0\r\n\r\n")

    done = await load((await raw_server(script)).url, request_count=3)
    first, *others = done.measurement.reasons
    assert first.startswith("not a single request was completed; 3 of 3 failed with: HTTP 429")
    assert any(reason.startswith("the service refuses load") for reason in others)


async def test_a_service_that_asks_for_no_wait_is_not_named(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    done = await load((await raw_server(script)).url, request_count=3)
    assert "retry_after_share" not in done.measurement.metrics
    assert not any("refuses load" in reason for reason in done.measurement.reasons)


@pytest.mark.parametrize("phase", list(Phase))
def test_only_the_part_of_a_wait_before_the_end_counts(phase: Phase) -> None:
    options = LoadgenOptions(concurrency=2, request_count=5)
    dataset = make_dataset(options, 0)
    source = Source(dataset, lambda session: b"x", complete=True)
    source.grant(all_credits(options, dataset))
    timing = Timing(Shape(phase, concurrency=2), source, 0)
    for ns, pause_s in ((10**9, 3), (2 * 10**9, 7)):
        ticket = timing.take(ns)
        assert ticket is not None
        timing.ended(ticket, ns, succeeded=False, pause_ns=pause_s * 10**9)
    facts = WorkerFacts("w", "python", True)
    timing.tell_pauses(facts, 5 * 10**9)  # the first is over since one second, of the second there are four to come
    found = (facts.pauses, facts.paused_s, facts.longest_pause_s)
    assert found == ((2, 6.0, 7.0) if phase is Phase.MEASURED else (0, 0.0, 0.0))


def test_a_run_does_not_end_with_a_wait() -> None:
    options = LoadgenOptions(concurrency=1, request_count=1)
    dataset = make_dataset(options, 0)
    source = Source(dataset, lambda session: b"x", complete=True)
    source.grant(all_credits(options, dataset))
    timing = Timing(Shape(concurrency=1), source, 0)
    ticket = timing.take(0)
    assert ticket is not None
    assert not timing.finished
    timing.ended(ticket, 1, succeeded=False, pause_ns=60 * 10**9)
    assert timing.finished


@pytest.mark.parametrize("ending", [0, 1, 2], ids=["none ends", "the first ends", "every second ends"])
async def test_connections_that_stay_open_are_named(load: Load, raw_server: Start, ending: int) -> None:
    count = 0

    async def script(peer: Peer) -> None:
        nonlocal count
        while True:
            await peer.request()
            number, count = count, count + 1
            await asyncio.sleep(0.05)
            ends = ending and (number == 0 if ending == 1 else number % 2 == 0)
            await peer.send(HEAD + chunk(TEXT) + (chunk(b"") if ends else b""))  # at once: an end is never late

    done = await load((await raw_server(script)).url, request_count=6, max_idle_share=IDLE)
    assert done.outcomes == ["completed"] * 6
    opened = {0: 6, 1: 5, 2: 3}[ending]
    named = f"the service left the connection open behind the last event of {opened} answers"
    assert any(note.startswith(named) for note in done.report.results.notes)
    assert not [reason for reason in done.measurement.reasons if any(words in reason for words in OURS)]


@pytest.mark.parametrize("wire", ["python", "auto"])
async def test_a_last_word_without_a_line_end_ends_the_answer(tmp_path: Path, raw_server: Start, wire: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HEAD + chunk(TEXT.rstrip(b"\n")))

    done = await Load(tmp_path, wire)((await raw_server(script)).url, request_count=4, request_timeout_seconds=20)
    assert done.outcomes == ["completed"] * 4
    assert done.report.results.scalars["duration_s"] < 5
