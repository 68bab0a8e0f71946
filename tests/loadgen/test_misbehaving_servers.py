"""The load generator against servers that break the rules, on raw sockets; the run is in a thread, the server in the test's
event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loadgen_servers import DONE, HEAD, TEXT, Load, Peer, RawServer, Script, chunk, pieces, token

from swarmtune.errors import CommunicationError

Start = Callable[[Script], Awaitable[RawServer]]
Row = dict[str, Any]


@pytest.fixture(params=["native", "python"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Both wires, on everything."""
    return Load(tmp_path, request.param)


async def one(load: Load, start: Start, script: Script, **options: object) -> Row:
    server = await start(script)
    (row,) = (await load(server.url, request_count=1, **options)).rows
    return row


def answering(*parts: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)

    return script


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([HEAD, chunk(TEXT), chunk(b"")], id="all-in-one-read"),
        pytest.param([HEAD, *(chunk(p) for p in pieces(TEXT, 7)), chunk(b"")], id="events-and-utf8-split-over-chunks"),
        pytest.param(pieces(HEAD + chunk(TEXT) + chunk(b""), 11), id="everything-split-anywhere"),
        pytest.param([HEAD, chunk(TEXT.replace(b"\n", b"\r\n")), chunk(b"")], id="crlf"),
        pytest.param([HEAD, chunk(TEXT, b";name=value"), chunk(b"", b";last")], id="chunk-extensions"),
        pytest.param([HEAD, chunk(TEXT.replace(DONE, b"")), chunk(b"")], id="no-done-but-a-finish-reason"),
        pytest.param([HEAD, chunk(TEXT)], id="closed-without-the-last-chunk"),
        pytest.param([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", TEXT], id="body-until-close"),
        pytest.param([b"HTTP/1.0 200 OK\r\n\r\n", TEXT], id="http-1.0"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", HEAD, chunk(TEXT), chunk(b"")], id="100-continue"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(TEXT), TEXT], id="content-length"),
    ],
)
async def test_fine_in_every_form(load: Load, raw_server: Start, parts: list[bytes]) -> None:
    row = await one(load, raw_server, answering(*parts))
    assert (row["outcome"], row["error"]) == ("completed", None)
    assert (row["output_tokens"], row["input_tokens"], len(row["token_ns"])) == (3, 7, 3)
    assert 0 < row["sent_ns"] < row["token_ns"][0] <= row["token_ns"][1] <= row["token_ns"][2] <= row["end_ns"]


async def test_chat_role_reasoning_and_empty_deltas(load: Load, raw_server: Start) -> None:
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}, {}, {"reasoning_content": "hm"}]
    deltas += [{"reasoning": "so"}, {"content": None}, {"content": "x"}]
    events = [b"data: " + json.dumps({"choices": [{"delta": d}]}).encode() + b"\n\n" for d in deltas]

    async def script(peer: Peer) -> None:
        assert b"messages" in await peer.request()
        await peer.answer(*events, DONE)

    row = await one(load, raw_server, script, endpoint_type="chat")
    assert row["outcome"] == "completed"
    assert row["output_tokens"] == len(row["token_ns"]) == 3


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([HEAD, chunk(token()), chunk(b"")], "cut off"),
        ([HEAD, chunk(token())], "closed during the answer"),
        (
            [HEAD, chunk(token() + b'data: {"error": {"message": "out of memory"}}\n\n' + DONE), chunk(b"")],
            "out of memory",
        ),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>Hello</html>\r\n"], "a page"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], "empty answer"),
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"], "HTTP 503: busy"),
        ([b'HTTP/1.1 429 X\r\nContent-Length: 33\r\n\r\n{"error": {"message": "too many"}}'[:-1]], "HTTP 429"),
        ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], "HTTP 404"),
        ([b"garbage\r\n\r\n"], "not HTTP"),
        ([b""], "closed during the answer"),
    ],
)
async def test_failures_are_counted_and_named(load: Load, raw_server: Start, parts: list[bytes], words: str) -> None:
    row = await one(load, raw_server, answering(*parts))
    assert row["outcome"] == "failed"
    assert words in (row["error"] or "")


async def test_a_request_that_takes_too_long_fails(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD, chunk(token()))
        await peer.reader.read()

    row = await one(load, raw_server, script, request_timeout_seconds=0.2)
    assert row["outcome"] == "failed"
    assert "within 0.2 s" in (row["error"] or "")
    assert len(row["token_ns"]) == 1


async def test_connections_are_kept_alive_and_closed_ones_replaced(load: Load, raw_server: Start) -> None:
    async def keep(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    async def close(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), chunk(TEXT), chunk(b""))

    kept, closed = await raw_server(keep), await raw_server(close)
    for server, connections in ((kept, 2), (closed, 5)):  # one of them to see whether somebody listens
        assert (await load(server.url, request_count=4)).outcomes == ["completed"] * 4
        assert len(server.peers) == connections


async def test_a_kept_connection_that_died_is_replaced_once(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(TEXT)
        if peer.number == 1:
            await peer.request()
            return
        while True:
            await peer.request()
            await peer.answer(TEXT)

    server = await raw_server(script)
    rows = (await load(server.url, request_count=3)).rows
    assert [(row["outcome"], row["retried"]) for row in rows] == [
        ("completed", False),
        ("completed", True),
        ("completed", False),
    ]
    assert server.peers[1].requests[1] == server.peers[2].requests[0]


async def test_a_fresh_connection_that_dies_is_a_failure_and_not_retried(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    server = await raw_server(script)
    assert (await load(server.url, request_count=2)).outcomes == ["failed"] * 2
    asked = [len(peer.requests) for peer in server.peers[1:] if peer.requests]  # without a look whether it speaks TLS
    assert asked == [1, 1]


@pytest.mark.parametrize(("strategy", "connections"), [("never", 4), ("pooled", 1)])
async def test_connections_are_used_as_the_strategy_says(
    load: Load, raw_server: Start, strategy: str, connections: int
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    server = await raw_server(script)
    done = await load(server.url, request_count=4, connection_reuse_strategy=strategy)
    assert done.outcomes == ["completed"] * 4
    assert len([peer for peer in server.peers if peer.requests]) == connections
    assert [row["connect_ns"] > 0 for row in done.rows] == [strategy == "never"] * 4


async def test_a_session_keeps_its_connection_if_it_is_to_stick(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    server = await raw_server(script)
    options = {"conversation_num": 3, "conversation_turn_mean": 3, "endpoint_type": "chat"}
    done = await load(server.url, connection_reuse_strategy="sticky-user-sessions", **options)
    assert done.outcomes == ["completed"] * 9
    assert [len(peer.requests) for peer in server.peers if peer.requests] == [3, 3, 3]


async def test_a_conversation_goes_on_with_the_words_of_the_answer(load: Load, raw_server: Start) -> None:
    bodies = []

    async def script(peer: Peer) -> None:
        while True:
            bodies.append(json.loads(await peer.request()))
            await peer.answer(TEXT)

    server = await raw_server(script)
    delays = {"conversation_turn_mean": 2, "conversation_turn_delay_mean": 30}
    chat = TEXT.replace(b'"text": ', b'"delta": {"content": ').replace(b', "finish_reason"', b'}, "finish_reason"')
    done = await load(server.url, conversation_num=1, endpoint_type="completions", **delays)
    assert done.outcomes == ["completed"] * 2
    first, second = done.rows
    assert second["scheduled_ns"] - first["end_ns"] == pytest.approx(30e6, abs=1e3)
    assert bodies[1]["prompt"].startswith(bodies[0]["prompt"])
    assert " a ü c" in bodies[1]["prompt"]
    assert chat != TEXT


async def test_too_many_requests_are_failures_and_the_server_is_left_alone_as_it_asks(
    load: Load, raw_server: Start
) -> None:
    asked = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            asked.append(time.monotonic())
            if len(asked) == 1:
                await peer.send(b"HTTP/1.1 429 Slow down\r\nRetry-After: 0.3\r\nContent-Length: 0\r\n\r\n")
            else:
                await peer.answer(TEXT)

    server = await raw_server(script)
    done = await load(server.url, request_count=2)
    assert done.outcomes == ["failed", "completed"]
    assert done.rows[0]["status"] == 429
    assert asked[1] - asked[0] >= 0.3


async def test_a_share_of_requests_is_cancelled_as_asked(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HEAD, chunk(token()))
            await asyncio.sleep(0.3)
            await peer.send(chunk(TEXT), chunk(b""))

    server = await raw_server(script)
    options = {"request_cancellation_rate": 50.0, "request_cancellation_delay": 0.05, "concurrency": 4}
    done = await load(server.url, request_count=16, **options)
    assert set(done.outcomes) == {"completed", "cancelled"}
    again = await load(server.url, request_count=16, **options)
    assert [r["session"] for r in done.rows if r["outcome"] == "cancelled"] == [
        r["session"] for r in again.rows if r["outcome"] == "cancelled"
    ]
    assert done.measurement.metrics["success_rate"] == 1.0


async def test_what_still_runs_after_the_grace_is_incomplete_and_not_failed(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.number == 1:
                await peer.send(HEAD, chunk(token()))
                await peer.reader.read()
            await peer.answer(TEXT)

    server = await raw_server(script)
    done = await load(server.url, concurrency=2, benchmark_duration=0.3, benchmark_grace_period=0.1)
    assert done.outcomes.count("incomplete") == 1
    assert "failed" not in done.outcomes
    metrics = done.measurement.metrics
    assert (metrics["incomplete"], metrics["success_rate"]) == (1, 1.0)
    assert metrics["completed"] == len(done.outcomes) - 1 > 0
    (given_up,) = [row for row in done.rows if row["outcome"] == "incomplete"]
    assert given_up["end_ns"] - given_up["scheduled_ns"] >= 0.39e9  # as long as somebody waited for it


def slow(seconds: float) -> Script:
    """Every answer takes so long."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(seconds)
            await peer.answer(TEXT)

    return script


@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        ({"benchmark_min_requests": 8}, 8),
        ({"benchmark_min_requests_per_user": 3}, 6),
        ({"benchmark_min_requests": 1}, 1),
    ],
)
async def test_a_duration_goes_on_until_enough_requests_have_ended(
    load: Load, raw_server: Start, least: dict[str, object], wanted: int
) -> None:
    server = await raw_server(slow(0.1))
    done = await load(server.url, concurrency=2, benchmark_duration=0.15, **least)
    assert set(done.outcomes) == {"completed"}  # those under way at the end are waited for
    assert wanted <= len(done.outcomes) <= max(wanted, 4) + 2


async def test_a_rate_goes_on_until_enough_requests_have_ended(load: Load, raw_server: Start) -> None:
    server = await raw_server(slow(0.01))
    options = {"arrival_pattern": "constant", "benchmark_min_requests": 12}
    done = await load(server.url, request_rate=20.0, benchmark_duration=0.2, **options)
    assert set(done.outcomes) == {"completed"}
    assert 12 <= len(done.outcomes) <= 15


async def test_a_service_that_never_comes_to_so_many_requests_is_not_waited_for_without_end(
    load: Load, raw_server: Start
) -> None:
    server = await raw_server(slow(0.1))
    done = await load(server.url, concurrency=1, benchmark_duration=0.05, benchmark_min_requests=1000)
    assert 1 <= len(done.outcomes) <= 7  # ten times the duration


async def test_answers_after_the_end_of_the_duration_count(load: Load, raw_server: Start) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await release.wait()
        await peer.answer(TEXT)

    server = await raw_server(script)
    running = asyncio.create_task(load(server.url, benchmark_duration=0.1))
    await asked.wait()
    await asyncio.sleep(0.3)  # the measurement of 0.1 s is over
    release.set()
    assert (await running).outcomes == ["completed"]


async def test_a_rate_is_capped_by_the_concurrency(load: Load, raw_server: Start) -> None:
    now, most = 0, 0

    async def script(peer: Peer) -> None:
        nonlocal now, most
        while True:
            await peer.request()
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            now -= 1
            await peer.answer(TEXT)

    server = await raw_server(script)
    done = await load(server.url, request_count=12, concurrency=3, request_rate=500.0)
    assert most == 3
    assert done.outcomes == ["completed"] * 12
    assert all(row["sent_ns"] >= row["ready_ns"] >= row["scheduled_ns"] for row in done.rows)


async def test_the_prefill_concurrency_caps_requests_without_a_first_token(load: Load, raw_server: Start) -> None:
    now, most, together = 0, 0, 0
    running = 0

    async def script(peer: Peer) -> None:
        nonlocal now, most, running, together
        while True:
            await peer.request()
            now, running = now + 1, running + 1
            most, together = max(most, now), max(together, running)
            await asyncio.sleep(0.02)
            now -= 1
            await peer.send(HEAD, chunk(token()))
            await asyncio.sleep(0.1)
            running -= 1
            await peer.send(chunk(TEXT), chunk(b""))

    server = await raw_server(script)
    done = await load(server.url, request_count=12, concurrency=6, prefill_concurrency=2)
    assert done.outcomes == ["completed"] * 12
    assert most == 2
    assert together > 2


async def test_without_a_cap_every_arrival_is_sent_however_slow_the_service(load: Load, raw_server: Start) -> None:
    waiting, all_there = 0, asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal waiting
        await peer.request()
        waiting += 1
        if waiting == 12:
            all_there.set()
        await all_there.wait()
        await peer.answer(TEXT)

    server = await raw_server(script)
    assert (await load(server.url, request_count=12, request_rate=200.0)).outcomes == ["completed"] * 12


async def test_arrivals_without_a_slot_before_the_end_are_dropped(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read()

    server = await raw_server(script)
    options = {"benchmark_duration": 0.5, "benchmark_grace_period": 0, "arrival_pattern": "constant"}
    done = await load(server.url, concurrency=1, request_rate=50.0, **options)
    assert done.outcomes == ["incomplete", *["dropped"] * 24]
    assert [row["sent_ns"] > 0 for row in done.rows[:3]] == [True, False, False]
    assert "no slot" in done.rows[1]["error"]


@pytest.mark.parametrize(
    "warmup", [{"warmup_request_count": 3}, {"warmup_request_count": 3, "warmup_request_rate": 50}]
)
async def test_warm_up_is_sent_before_and_not_counted(load: Load, raw_server: Start, warmup: dict[str, object]) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    server = await raw_server(script)
    done = await load(server.url, request_count=4, concurrency=2, **warmup)
    assert done.measurement.metrics["completed"] == 4
    assert (len(done.rows), len(done.warmup)) == (4, 3)
    assert sum(len(peer.requests) for peer in server.peers) == 7
    assert max(row["end_ns"] for row in done.warmup) <= min(row["sent_ns"] for row in done.rows)


async def test_the_measurement_can_begin_while_the_warm_up_still_runs(load: Load, raw_server: Start) -> None:
    """No moment without load between the two, and no more of it."""
    now, most = 0, 0

    async def script(peer: Peer) -> None:
        nonlocal now, most
        while True:
            await peer.request()
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.1)
            now -= 1
            await peer.answer(TEXT)

    server = await raw_server(script)
    done = await load(server.url, request_count=4, concurrency=2, warmup_request_count=3, warmup_grace_period=0)
    assert [row["outcome"] for row in done.warmup] == ["completed"] * 3
    assert done.outcomes == ["completed"] * 4
    assert max(row["end_ns"] for row in done.warmup) > min(row["sent_ns"] for row in done.rows)
    assert most == 2


async def test_an_interrupted_run_gives_what_it_has(load: Load, raw_server: Start) -> None:
    second_asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(TEXT)
        await peer.request()
        second_asked.set()
        await peer.reader.read()

    server = await raw_server(script)
    running = asyncio.create_task(load(server.url, request_count=9))
    await second_asked.wait()
    assert load.running
    load.running.sender.stop()
    done = await running
    assert done.outcomes == ["completed", "incomplete"]
    assert done.report.records.interrupted
    assert not done.measurement.valid
    assert any("interrupted" in reason for reason in done.measurement.reasons)


async def test_nobody_listens(load: Load, unused_tcp_port: int) -> None:
    with pytest.raises(CommunicationError, match="cannot be reached"):
        await load(f"http://127.0.0.1:{unused_tcp_port}")


async def test_a_service_that_dies_ends_the_run(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(TEXT)
        assert server.listener
        server.listener.close()

    server = await raw_server(script)
    done = await load(server.url, concurrency=8, benchmark_duration=60.0, benchmark_grace_period=0)
    assert done.report.records.lost
    assert any("cannot connect" in (row["error"] or "") for row in done.rows)


async def test_several_services_share_the_requests(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    servers = [await raw_server(script), await raw_server(script)]
    done = await load([server.url for server in servers], request_count=8, concurrency=2)  # type: ignore[arg-type]
    assert done.outcomes == ["completed"] * 8
    assert [sum(len(peer.requests) for peer in server.peers) for server in servers] == [4, 4]


async def test_a_server_that_sends_a_byte_at_a_time_is_understood(load: Load, raw_server: Start) -> None:
    row = await one(load, raw_server, answering(*pieces(HEAD + chunk(TEXT) + chunk(b""), 1)))
    assert (row["outcome"], row["output_tokens"]) == ("completed", 3)


async def test_a_client_that_is_too_busy_does_not_trust_itself(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.05)
            await peer.answer(TEXT)

    server = await raw_server(script)
    done = await load(server.url, request_count=3, max_idle_share=1e-12, max_cpu_share=1e-9)
    assert not done.measurement.valid
    assert any("before their next request" in reason for reason in done.measurement.reasons)
    assert done.measurement.metrics["client_send_lag_p99_ms"] > 0


async def test_a_pause_that_is_asked_for_in_two_packets_is_obeyed(load: Load, raw_server: Start) -> None:
    asked = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            asked.append(time.monotonic())
            if len(asked) == 1:
                head = b"HTTP/1.1 429 Slow down\r\nRetry-After: 0.3\r\nContent-Length: 0\r\n\r\n"
                await peer.send(head[:20], head[20:])
            else:
                await peer.answer(TEXT)

    server = await raw_server(script)
    await load(server.url, request_count=2)
    assert asked[1] - asked[0] >= 0.3


async def test_an_answer_before_the_whole_request_was_read_spoils_only_the_connection(
    load: Load, raw_server: Start
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.2)

    server = await raw_server(script)
    async with asyncio.timeout(60):
        done = await load(server.url, request_count=3, isl=1_500_000)
    assert [row["status"] for row in done.rows] == [413] * 3


async def test_idle_connections_that_the_server_closes_are_never_used_for_others(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            async with asyncio.timeout(0.03):
                await peer.request()
            if peer.number % 3 == 0 and len(peer.requests) > 1:
                return
            await peer.answer(TEXT)

    async def forgiving(peer: Peer) -> None:
        with contextlib.suppress(TimeoutError):
            await script(peer)

    server = await raw_server(forgiving)
    options = {"request_rate": 150.0, "concurrency": 30, "request_count": 300}
    async with asyncio.timeout(60):
        done = await load(server.url, **options)
    assert len(done.rows) == 300
    assert done.outcomes.count("completed") > 250


async def test_a_session_whose_connection_was_closed_while_it_thought_gets_another(
    load: Load, raw_server: Start
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(TEXT)
        await asyncio.sleep(0.02)

    server = await raw_server(script)
    turns = {"conversation_turn_mean": 2, "conversation_turn_delay_mean": 100, "concurrency": 2}
    done = await load(server.url, request_count=8, connection_reuse_strategy="sticky-user-sessions", **turns)
    assert done.outcomes == ["completed"] * 8


async def test_a_rate_ends_with_its_last_request(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    server = await raw_server(script)
    started = time.monotonic()
    done = await load(server.url, request_count=2, request_rate=0.25, arrival_pattern="constant")
    assert done.outcomes == ["completed"] * 2
    assert time.monotonic() - started < 8  # the second is due after 4 s; a third would be after 8 s


async def test_a_run_without_a_completed_request_is_not_valid(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    server = await raw_server(script)
    done = await load(server.url, request_count=2)
    assert not done.measurement.valid
    assert [reason.partition(";")[0] for reason in done.measurement.reasons] == ["not a single request was completed"]


@pytest.mark.parametrize("cut", [None, 5], ids=["whole", "cut"])
@pytest.mark.parametrize("share", [1, 3], ids=["always", "one-in-three"])
async def test_a_stream_that_is_over_ends_the_answer_although_the_connection_stays_open(
    load: Load, raw_server: Start, share: int, cut: int | None
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if asked := next(counted) % share:
                await peer.answer(TEXT)
                assert asked
            else:
                await peer.send(HEAD, *[chunk(part) for part in pieces(TEXT, cut or len(TEXT))])

    counted = itertools.count()
    server = await raw_server(script)
    async with asyncio.timeout(60):
        done = await load(server.url, request_count=18, concurrency=2, request_timeout_seconds=100)
    assert done.outcomes == ["completed"] * 18
    assert {row["output_tokens"] for row in done.rows} == {3}
    assert max(row["end_ns"] - row["token_ns"][-1] for row in done.rows) < 1e9  # its end is that of the stream


async def test_a_conversation_goes_on_after_a_stream_that_leaves_its_connection_open(
    load: Load, raw_server: Start
) -> None:
    bodies = []

    async def script(peer: Peer) -> None:
        while True:
            bodies.append(json.loads(await peer.request()))
            await peer.send(HEAD, chunk(TEXT))

    server = await raw_server(script)
    done = await load(server.url, conversation_num=1, conversation_turn_mean=3)
    assert done.outcomes == ["completed"] * 3
    assert bodies[2]["prompt"].count(" a ü c") == 2


async def test_an_end_that_comes_a_little_later_keeps_the_connection(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HEAD, chunk(TEXT))
            await asyncio.sleep(0.01)
            await peer.send(chunk(b""))

    server = await raw_server(script)
    assert (await load(server.url, request_count=8)).outcomes == ["completed"] * 8
    assert max(len(peer.requests) for peer in server.peers) > 1  # a busy machine may be late for some


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (HEAD, b"40000\r\n" + b"x" * 0x40000 + b"\r\n"),
        (HEAD, chunk(token(" x" * 100) * 1000)),
        (b"HTTP/1.1 500 No\r\n\r\n", b"x" * 2**18),
        (HEAD + b"5;", b"x" * 2**18),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 2**18),
    ],
    ids=["body", "events", "refusal", "chunk-extension", "header-line"],
)
@pytest.mark.no_cover
async def test_answers_without_end_cost_a_bounded_spool_and_end_the_run(
    load: Load, raw_server: Start, head: bytes, part: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(head)
        while True:
            peer.writer.write(part)
            await peer.writer.drain()

    server = await raw_server(script)
    async with asyncio.timeout(100):
        done = await load(server.url, concurrency=2, benchmark_duration=20.0, osl=4)
    assert set(done.outcomes) == {"failed"}
    assert len(done.rows) <= 10
    assert (load.directory / "spool.bin").stat().st_size < 10 * 18 * 2**20
    assert any("in a row" in reason for reason in done.measurement.reasons)


GZIP = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")


async def test_a_compressed_answer_is_read(load: Load, raw_server: Start) -> None:
    row = await one(
        load, raw_server, answering(GZIP, *[chunk(part) for part in pieces(gzip.compress(TEXT), 9)], chunk(b""))
    )
    assert (row["outcome"], row["error"], row["output_tokens"]) == ("completed", None, 3)


async def test_a_conversation_of_compressed_answers_goes_on(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(GZIP, chunk(gzip.compress(TEXT)), chunk(b""))

    server = await raw_server(script)
    assert (await load(server.url, conversation_num=1, conversation_turn_mean=2)).outcomes == ["completed"] * 2


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([GZIP.replace(b"gzip", b"br"), chunk(b"\x0b"), chunk(b"")], "the answer is compressed (br), which was not asked"),
        ([GZIP, chunk(b"\x0b\x02"), chunk(b"")], "the answer says that it is compressed (gzip), and is not"),
        ([GZIP.replace(b"200", b"500"), chunk(gzip.compress(b"no memory")), chunk(b"")], "HTTP 500: no memory"),
        (
            [GZIP.replace(b"200", b"500"), chunk(gzip.compress(bytes(2**22))), chunk(b"")],
            "HTTP 500: the answer is compressed (gzip), and unpacked longer than 1,048,576 bytes",
        ),
    ],
)  # fmt: skip
async def test_a_compressed_answer_that_cannot_be_read_is_named(
    load: Load, raw_server: Start, parts: list[bytes], words: str
) -> None:
    row = await one(load, raw_server, answering(*parts))
    assert row["outcome"] == "failed"
    assert (row["error"] or "").startswith(words)
