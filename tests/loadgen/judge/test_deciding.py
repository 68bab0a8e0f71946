"""A run that ends as soon as the question is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from loadgen_servers import HEAD, TEXT, Load, Peer, RawServer, Script, chunk

Start = Callable[[Script], Awaitable[RawServer]]


@pytest.mark.parametrize(("limit_ms", "kept"), [(10_000.0, True), (0.001, False)])
async def test_it_ends_when_it_is_sure(raw_server: Start, tmp_path: Path, limit_ms: float, kept: bool) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.writer.write(HEAD + chunk(TEXT) + chunk(b""))
            await peer.writer.drain()

    server = await raw_server(script)
    options = {"stop_when_decided": True, "benchmark_duration": 60.0, "concurrency": 2, "slo_attainment_fraction": 0.9}
    async with asyncio.timeout(50):
        done = await Load(tmp_path)(server.url, slos={"e2el_ms": limit_ms}, **options)
    assert set(done.outcomes) == {"completed"}
    assert len(done.outcomes) >= 20
    assert (done.measurement.metrics["good_request_share"] > 0.9) is kept
    assert not done.report.records.interrupted
    assert not list(tmp_path.glob("deciding*"))


async def test_an_open_question_is_left_open(raw_server: Start, tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(TEXT)

    server = await raw_server(script)
    done = await Load(tmp_path)(server.url, slos={"e2el_ms": 10_000.0}, stop_when_decided=True, request_count=3)
    assert done.outcomes == ["completed"] * 3
