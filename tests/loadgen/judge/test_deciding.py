"""A run that ends as soon as the question is decided."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from loadgen_servers import HEAD, TEXT, Load, Peer, RawServer, Script, chunk
from tests.loadgen.read import test_spool as spooled

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.judge.deciding import Answer, Looker
from swarmtune.loadgen.read.spool import SpoolReader
from swarmtune.loadgen.send.notes import FLIGHTS, IN_FLIGHT
from swarmtune.loadgen.wire.base import NOTE, RECORD
from swarmtune.records import EarlyStop
from swarmtune.workload import StopRules

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


SECOND = 1_000_000_000
START_NS = 1000 * SECOND
RULES = StopRules(act=True, limits={"p95_e2el_ms": 200.0})


class Spool:
    """The spool of a worker with one user, who sends again when the answer has come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"")

    def add(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def answer(self, count: int, each_ms: int) -> None:
        """So many answers, one after the other."""
        for number in range(count):
            sent_ns = START_NS + number * each_ms * 1_000_000
            end_ns = sent_ns + each_ms * 1_000_000
            answer = (
                spooled.HEAD + spooled.token() + spooled.token('"length"') + spooled.chunk(spooled.DONE) + spooled.END
            )
            self.add(spooled.piece(number, answer, end_ns, end_ns, end_ns))
            self.add(spooled.note(number, sent_ns=sent_ns, end_ns=end_ns, end_read_ns=end_ns))

    def tell(self, until_s: float, in_flight: int = 1) -> None:
        until_ns = START_NS + round(until_s * SECOND)
        self.add(RECORD.pack(FLIGHTS.size, NOTE, IN_FLIGHT, 0, 0, 0) + FLIGHTS.pack(until_ns, in_flight))


def looker(*spools: Spool) -> Looker:
    spec = Spec(url=("http://127.0.0.1:9",), model="m", early_stop=RULES)
    return Looker(spec, [SpoolReader(spool.path, spooled.ENDPOINT) for spool in spools])


def test_all_workers_are_judged_together(tmp_path: Path) -> None:
    """One in six answers is late. The worker that sees no late ones alone decides nothing."""
    quick, slow = Spool(tmp_path / "quick"), Spool(tmp_path / "slow")
    quick.answer(100, each_ms=100)
    slow.answer(20, each_ms=500)
    for spool in (quick, slow):
        spool.tell(10.0)
    assert looker(quick).look() is None
    found = looker(quick, slow).look()
    assert isinstance(found, EarlyStop)
    assert (found.rule, found.of, found.done) == ("promise_broken", "p95_e2el_ms", True)
    assert found.after_s == pytest.approx(10.0)


def test_what_a_worker_has_not_told_yet_decides_nothing(tmp_path: Path) -> None:
    """Its late answers are there first, and its quick ones may still come."""
    quick, slow = Spool(tmp_path / "quick"), Spool(tmp_path / "slow")
    slow.answer(20, each_ms=500)
    slow.tell(10.0)
    looks = looker(slow, quick)
    assert looks.look() is None
    quick.tell(1.0)
    assert looks.look() is None, "two late answers are few"
    quick.tell(10.0)
    assert isinstance(looks.look(), EarlyStop)


def test_requests_that_run_count_for_the_service(tmp_path: Path) -> None:
    slow = Spool(tmp_path / "slow")
    slow.answer(20, each_ms=500)
    slow.tell(10.0, in_flight=400)
    assert looker(slow).look() is None


def test_the_end_of_a_line_may_come_on_its_own() -> None:
    ends: list[bool] = []
    reading_end, writing_end = os.pipe()
    try:
        answer = Answer(lambda: ends.append(True), reading_end)
        answer.read()
        assert ends == []
        os.write(writing_end, msgspec.json.encode(EarlyStop("promise_broken", "p95_ttft_ms", 5.0, done=True)))
        answer.read()
        os.write(writing_end, b"\n")  # as a Python with PYTHONUNBUFFERED writes it
        answer.read()
        assert ends == [True]
        assert answer.early_stop is not None
    finally:
        os.close(reading_end)
        os.close(writing_end)
