"""The load generator against servers that break the rules, on raw sockets, in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from loadgen_servers import HEAD, Peer, RawServer, Script, chunk, token

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError
from swarmtune.loadgen.rows import Outcome, Row
from swarmtune.loadgen.run import Result, Run
from swarmtune.loadgen.spec import Limits, Spec
from swarmtune.workload import Load, Workload

Start = Callable[[Script], Awaitable[RawServer]]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
BODY = b"".join([token(" a"), token(" ü"), token(" c", "length"), USAGE, DONE])


async def load(
    url: str, requests: int | None = 1, load: Load | None = None, limits: Limits | None = None, **more: object
) -> Result:
    workload = Workload(model="m", load=load or Load(1), requests=requests, input_tokens_mean=5, **more)  # type: ignore[arg-type]
    return await Run(Spec(url=url, workload=workload, limits=limits or Limits()), RealClock()).execute()


async def one(start: Start, script: Script, **more: object) -> Row:
    server = await start(script)
    result = await load(server.url, **more)  # type: ignore[arg-type]
    (row,) = result.rows
    return row


def answering(*parts: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)

    return script


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([HEAD, chunk(BODY), chunk(b"")], id="all-in-one-read"),
        pytest.param([HEAD, *(chunk(p) for p in pieces(BODY, 7)), chunk(b"")], id="events-and-utf8-split-over-chunks"),
        pytest.param(pieces(HEAD + chunk(BODY) + chunk(b""), 11), id="everything-split-anywhere"),
        pytest.param([HEAD, chunk(BODY.replace(b"\n", b"\r\n")), chunk(b"")], id="crlf"),
        pytest.param([HEAD, chunk(BODY, b";name=value"), chunk(b"", b";last")], id="chunk-extensions"),
        pytest.param([HEAD, chunk(BODY.replace(DONE, b"")), chunk(b"")], id="no-done-but-a-finish-reason"),
        pytest.param([HEAD, chunk(BODY)], id="closed-without-the-last-chunk"),
        pytest.param([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", BODY], id="body-until-close"),
        pytest.param([b"HTTP/1.0 200 OK\r\n\r\n", BODY], id="http-1.0"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", HEAD, chunk(BODY), chunk(b"")], id="100-continue"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY], id="content-length"),
    ],
)
async def test_fine_in_every_form(raw_server: Start, parts: list[bytes]) -> None:
    row = await one(raw_server, answering(*parts))
    assert (row.outcome, row.error) == (Outcome.COMPLETED, None)
    assert (row.output_tokens, row.input_tokens, len(row.token_ns)) == (3, 7, 3)
    assert row.sent_ns is not None
    assert row.sent_ns < row.token_ns[0] <= row.token_ns[1] <= row.token_ns[2] <= row.end_ns


async def test_chat_role_reasoning_and_empty_deltas(raw_server: Start) -> None:
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}, {}, {"reasoning_content": "hm"}]
    deltas += [{"reasoning": "so"}, {"content": None}, {"content": "x"}]
    events = [b"data: " + json.dumps({"choices": [{"delta": d}]}).encode() + b"\n\n" for d in deltas]

    async def script(peer: Peer) -> None:
        assert b"messages" in await peer.request()
        await peer.answer(*events, DONE)

    row = await one(raw_server, script, endpoint="chat")
    assert row.outcome is Outcome.COMPLETED
    assert row.output_tokens == len(row.token_ns) == 3


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([HEAD, chunk(token()), chunk(b"")], "cut off"),
        ([HEAD, chunk(token())], "closed during the answer"),
        (
            [HEAD, chunk(token() + b'data: {"error": {"message": "out of memory"}}\n\n' + DONE), chunk(b"")],
            "out of memory",
        ),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>Hello</html>\r\n"], "<html>"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], "empty answer"),
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"], "HTTP 503: busy"),
        ([b'HTTP/1.1 429 X\r\nContent-Length: 33\r\n\r\n{"error": {"message": "too many"}}'[:-1]], "HTTP 429"),
        ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], "HTTP 404"),
        ([b"garbage\r\n\r\n"], "not HTTP"),
        ([b""], "closed during the answer"),
    ],
)
async def test_failures_are_counted_and_named(raw_server: Start, parts: list[bytes], words: str) -> None:
    row = await one(raw_server, answering(*parts))
    assert row.outcome is Outcome.FAILED
    assert words in (row.error or "")


async def test_a_request_that_takes_too_long_fails(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD, chunk(token()))
        await peer.reader.read()

    row = await one(raw_server, script, request_timeout_s=0.2)
    assert row.outcome is Outcome.FAILED
    assert "within 0.2 s" in (row.error or "")
    assert len(row.token_ns) == 1


async def test_connections_are_kept_alive_and_closed_ones_replaced(raw_server: Start) -> None:
    async def keep(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(BODY)

    async def close(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), chunk(BODY), chunk(b""))

    kept, closed = await raw_server(keep), await raw_server(close)
    for server, connections in ((kept, 1), (closed, 4)):
        result = await load(server.url, 4)
        assert [row.outcome for row in result.rows] == [Outcome.COMPLETED] * 4
        assert len(server.peers) == connections


async def test_a_kept_connection_that_died_is_replaced_once(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(BODY)
        if peer.number == 0:
            await peer.request()
            return
        while True:
            await peer.request()
            await peer.answer(BODY)

    server = await raw_server(script)
    result = await load(server.url, 3)
    assert [(row.outcome, row.retried) for row in result.rows] == [
        (Outcome.COMPLETED, False),
        (Outcome.COMPLETED, True),
        (Outcome.COMPLETED, False),
    ]
    assert server.peers[0].requests[1] == server.peers[1].requests[0]


async def test_a_fresh_connection_that_dies_is_a_failure_and_not_retried(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    server = await raw_server(script)
    result = await load(server.url, 2)
    assert [row.outcome for row in result.rows] == [Outcome.FAILED] * 2
    assert [len(peer.requests) for peer in server.peers] == [1, 1]


async def test_what_still_runs_after_the_grace_is_incomplete_and_not_failed(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.number == 0:
                await peer.send(HEAD, chunk(token()))
                await peer.reader.read()
            await peer.answer(BODY)

    server = await raw_server(script)
    result = await load(server.url, None, Load(2), Limits(drain_grace_s=0.1), duration_s=0.3)
    outcomes = [row.outcome for row in result.rows]
    assert outcomes.count(Outcome.INCOMPLETE) == 1
    assert Outcome.FAILED not in outcomes
    metrics = result.measurement.metrics
    assert (metrics["incomplete"], metrics["success_rate"]) == (1, 1.0)
    assert metrics["completed"] == len(outcomes) - 1 > 0


async def test_answers_of_the_drain_count(raw_server: Start) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await release.wait()
        await peer.answer(BODY)

    server = await raw_server(script)
    running = asyncio.create_task(load(server.url, None, duration_s=0.1))
    await asked.wait()
    await asyncio.sleep(0.3)  # the measurement of 0.1 s is over
    release.set()
    assert [row.outcome for row in (await running).rows] == [Outcome.COMPLETED]


async def test_a_rate_is_capped_by_the_concurrency(raw_server: Start) -> None:
    now, most = 0, 0

    async def script(peer: Peer) -> None:
        nonlocal now, most
        while True:
            await peer.request()
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            await peer.answer(BODY)
            now -= 1

    server = await raw_server(script)
    result = await load(server.url, 12, Load(concurrency=3, request_rate=500.0))
    assert most == 3
    assert [row.outcome for row in result.rows] == [Outcome.COMPLETED] * 12
    assert all(row.sent_ns is not None and row.sent_ns >= row.scheduled_ns for row in result.rows)


async def test_without_a_cap_every_arrival_is_sent_however_slow_the_service(raw_server: Start) -> None:
    waiting, all_there = 0, asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal waiting
        await peer.request()
        waiting += 1
        if waiting == 12:
            all_there.set()
        await all_there.wait()
        await peer.answer(BODY)

    server = await raw_server(script)
    result = await load(server.url, 12, Load(request_rate=200.0))
    assert [row.outcome for row in result.rows] == [Outcome.COMPLETED] * 12


async def test_arrivals_without_a_slot_before_the_end_are_incomplete(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read()

    server = await raw_server(script)
    limits = Limits(drain_grace_s=0.0)
    result = await load(server.url, None, Load(1, 50.0, "constant"), limits, duration_s=0.5)
    assert all(row.outcome is Outcome.INCOMPLETE for row in result.rows)
    assert [row.sent_ns is None for row in result.rows[:3]] == [False, True, True]
    assert "no free slot" in (result.rows[1].error or "")


async def test_warm_up_is_sent_before_and_not_counted(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(BODY)

    server = await raw_server(script)
    result = await load(server.url, 4, Load(2), warmup_requests=3)
    assert result.measurement.metrics["completed"] == 4
    heads = [request for peer in server.peers for request in peer.requests]
    assert sum(b"X-Request-Id: warmup-" in head for head in heads) == 3
    assert len(heads) == 7


async def test_an_interrupted_run_gives_what_it_has(raw_server: Start) -> None:
    second_asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(BODY)
        await peer.request()
        second_asked.set()
        await peer.reader.read()

    server = await raw_server(script)
    run = Run(Spec(url=server.url, workload=Workload("m", requests=9)), RealClock())
    running = asyncio.create_task(run.execute())
    await second_asked.wait()
    run.interrupt()
    result = await running
    assert [row.outcome for row in result.rows] == [Outcome.COMPLETED, Outcome.INCOMPLETE]
    assert result.interrupted
    assert not result.measurement.valid
    assert any("interrupted" in reason for reason in result.measurement.reasons)


async def test_nobody_listens(unused_tcp_port: int) -> None:
    with pytest.raises(CommunicationError, match="cannot be reached"):
        await load(f"http://127.0.0.1:{unused_tcp_port}")


async def test_a_service_that_dies_ends_the_run(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(BODY)
        assert server.listener
        server.listener.close()

    server = await raw_server(script)
    result = await load(server.url, None, Load(8), Limits(drain_grace_s=0.0), duration_s=60.0)
    assert result.lost
    assert any("cannot connect" in (row.error or "") for row in result.rows)


async def test_a_client_that_is_too_busy_does_not_trust_itself(raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.05)
            await peer.answer(BODY)

    server = await raw_server(script)
    result = await load(server.url, 3, limits=Limits(max_loop_lag_ms=1e-9, max_cpu_share=1e-9))
    assert not result.measurement.valid
    assert len(result.measurement.reasons) == 2
    assert result.measurement.metrics["client_lag_ms"] > 0
