"""The contract of a wire, on both of them: framing, stamps, spool, happenings. The peer is a plain socket: the test writes
exactly the bytes that it wants to arrive."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmtune.loadgen.wire import make_wire, native, notice
from swarmtune.loadgen.wire.base import (
    MALFORMED,
    NOTE,
    PEER_CLOSED,
    PIECE,
    RECORD,
    UNASKED,
    Happening,
    Kind,
    Wire,
    prepare,
)
from swarmtune.loadgen.wire.framing import Framing, body_of

SECOND = 1_000_000_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = CHUNKED + b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Pair:
    """A wire, and the other end of its one connection."""

    def __init__(self, kind: str, spool: Path) -> None:
        self.spool = spool
        self.wire: Wire = make_wire(spool, kind=kind)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.number = -1
        self.peer = self.connect()

    def connect(self) -> socket.socket:
        """A further connection; its number is in ``number``."""
        made = socket.socket()
        assert prepare(made)
        with pytest.raises(BlockingIOError):
            made.connect(self._listener.getsockname())
        self.number = self.wire.add(made)
        peer, _ = self._listener.accept()
        assert [h.kind for h in self.until(1)] == [Kind.CONNECTED]
        return peer

    def until(self, count: int, *, tell_answering: bool = False) -> list[Happening]:
        """Wait until so many happenings were told."""
        found: list[Happening] = []
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            found += self.wire.wait(SECOND, tell_answering=tell_answering)
        return found

    def answered(self, *parts: bytes, exchange: int = 7) -> list[Happening]:
        """Send a request, let the parts arrive one by one, and tell what happened."""
        self.wire.send(self.number, exchange, b"ping")
        assert self.peer.recv(100) == b"ping"
        found: list[Happening] = []
        for part in parts:
            self.peer.sendall(part)
            found += self.wire.wait(SECOND)
        return found

    def records(self) -> list[tuple[int, int, int, int, int, bytes]]:
        """(kind, exchange, read, kernel, looked, data) of the whole spool."""
        self.wire.flush()
        data, at, found = self.spool.read_bytes(), 0, []
        while at < len(data):
            length, kind, exchange, read, kernel, looked = RECORD.unpack_from(data, at)
            at += RECORD.size + length
            found.append((kind, exchange, read, kernel, looked, data[at - length : at]))
        return found

    def close(self) -> None:
        self.wire.close()
        self._listener.close()
        self.peer.close()


@pytest.fixture(params=["python", "native"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(request.param, tmp_path / "spool.bin")
    yield made
    made.close()


def test_the_c_part_was_built_here() -> None:
    assert native.available(), "no C compiler when the package was installed? See hatch_build.py."


def test_a_user_without_the_part_in_c_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notice() is None
    monkeypatch.setattr(native, "available", lambda: False)
    assert "Install gcc" in (notice() or "")
    assert notice("python") is None  # as was asked


@pytest.mark.parametrize("answer", [HELLO, SIZED, b"HTTP/1.1 204 No Content\r\n\r\n"])
def test_an_answer_ends_and_the_connection_can_be_used_again(pair: Pair, answer: bytes) -> None:
    for exchange in (1, 2):
        (h,) = pair.answered(answer, exchange=exchange)
        assert (h.kind, h.exchange, h.error, h.keep_alive, h.bytes) == (Kind.ENDED, exchange, 0, True, len(answer))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(HELLO) - 1), unique=True, max_size=12))
def test_the_end_is_found_however_the_bytes_are_cut(pair: Pair, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(HELLO)]
    parts = [HELLO[a:b] for a, b in itertools.pairwise(places)]
    found = pair.answered(*parts)
    assert [(h.kind, h.keep_alive) for h in found] == [(Kind.ENDED, True)]
    assert found[0].status == 200


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=80), at=st.integers(0, len(HELLO)), length=st.integers(0, 8))
def test_bytes_that_were_tampered_with_never_hang_or_crash_it(pair: Pair, data: bytes, at: int, length: int) -> None:
    """Either it is told how it ended, or the answer is not over: then the closed connection ends it."""
    found = pair.answered(HELLO[:at] + data + HELLO[at + length :])
    pair.peer.close()
    while not any(h.kind in (Kind.ENDED, Kind.CLOSED) for h in found):
        found += pair.until(1)
        assert found
    pair.wire.drop(pair.number)
    pair.peer = pair.connect()


@pytest.mark.parametrize(
    "junk", [b"<html>not http</html>\r\n\r\n", CHUNKED + b"xyz\r\n", b"HTTP/1.1 20x OK\r\n\r\n", b"SSH-2.0-OpenSSH\r\n"]
)
def test_what_is_not_http_is_told(pair: Pair, junk: bytes) -> None:
    (h,) = pair.answered(junk)
    assert (h.kind, h.error) == (Kind.CLOSED, MALFORMED)


def test_informational_answers_are_passed_over(pair: Pair) -> None:
    (h,) = pair.answered(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED)
    assert (h.kind, h.status) == (Kind.ENDED, 200)


@pytest.mark.parametrize(
    ("head", "kept_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", True),
    ],
)
def test_it_is_told_whether_the_connection_stays(pair: Pair, head: bytes, kept_alive: bool) -> None:
    (h,) = pair.answered(head)
    assert (h.kind, h.keep_alive) == (Kind.ENDED, kept_alive)


def test_the_end_of_the_connection_ends_an_answer_without_a_length(pair: Pair) -> None:
    assert pair.answered(b"HTTP/1.1 200 OK\r\n\r\nsome words") == []
    pair.peer.close()
    (h,) = pair.until(1)
    assert (h.kind, h.error, h.keep_alive) == (Kind.ENDED, 0, False)


def test_a_connection_that_is_cut_in_an_answer_is_told(pair: Pair) -> None:
    assert pair.answered(CHUNKED + b"5\r\nhel") == []
    pair.peer.close()
    (h,) = pair.until(1)
    assert (h.kind, h.exchange, h.error, h.bytes > 0) == (Kind.CLOSED, 7, PEER_CLOSED, True)


def test_an_idle_connection_that_the_server_closes_is_told(pair: Pair) -> None:
    pair.peer.close()
    (h,) = pair.until(1)
    assert (h.kind, h.error, h.bytes) == (Kind.CLOSED, PEER_CLOSED, 0)


def test_words_that_nobody_asked_for_are_told(pair: Pair) -> None:
    pair.answered(SIZED)
    pair.peer.sendall(b"HTTP/1.1 408 Timeout\r\n\r\n")
    (h,) = pair.until(1)
    assert (h.kind, h.error) == (Kind.CLOSED, UNASKED)


def test_a_refused_connection_is_told(pair: Pair, unused_tcp_port: int) -> None:
    made = socket.socket()
    prepare(made)
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        made.connect(("127.0.0.1", unused_tcp_port))
    pair.wire.add(made)
    (h,) = pair.until(1)
    assert h.kind == Kind.CLOSED
    assert os.strerror(h.error) == "Connection refused"


def test_every_read_is_in_the_spool_with_its_stamps(pair: Pair) -> None:
    before = time.monotonic_ns()
    pair.answered(HELLO[:70], HELLO[70:])
    after = time.monotonic_ns()
    pair.wire.note(7, b"a note")
    records = pair.records()
    assert [(kind, exchange) for kind, exchange, *_ in records] == [(PIECE, 7), (PIECE, 7), (NOTE, 7)]
    assert b"".join(data for kind, *_, data in records if kind == PIECE) == HELLO
    assert records[-1][-1] == b"a note"
    for _, _, read, kernel, looked, _ in records[:2]:
        assert looked <= kernel <= read
        assert before < kernel <= read < after
    assert pair.wire.spooled_bytes == pair.spool.stat().st_size


def test_the_kernel_stamps_a_read_that_comes_late(pair: Pair) -> None:
    """The stamp is when the bytes came, not when somebody looked."""
    pair.wire.send(pair.number, 1, b"ping")
    pair.peer.sendall(SIZED)
    sent = time.monotonic_ns()
    while time.monotonic_ns() < sent + 50_000_000:
        pass  # nobody looks
    (h,) = pair.until(1)
    assert h.read_ns - sent >= 50_000_000
    assert h.ns - sent < 50_000_000


def test_a_request_larger_than_the_sockets_buffer_arrives_whole(pair: Pair) -> None:
    payload = os.urandom(16 * 2**20)
    pair.wire.send(pair.number, 1, payload)
    received = bytearray()
    pair.peer.setblocking(False)
    while len(received) < len(payload):
        try:
            received += pair.peer.recv(2**20)
        except BlockingIOError:
            pair.wire.wait(1_000_000)
    assert received == payload
    pair.peer.setblocking(True)
    pair.peer.sendall(SIZED)
    assert [h.kind for h in pair.until(1)] == [Kind.ENDED]


@pytest.mark.parametrize("length", [65536, 300_000])
def test_a_long_answer_is_read_whole(pair: Pair, length: int) -> None:
    body = os.urandom(length)
    pair.wire.send(pair.number, 1, b"ping", keep=True)
    pair.peer.settimeout(20)
    pair.peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + body)
    (h,) = pair.until(1)
    assert h.kind == Kind.ENDED
    assert body_of(pair.wire.kept(pair.number)) == (200, {b"content-length": b"%d" % length}, body)
    assert body_of(b"".join(record[-1] for record in pair.records()))[2] == body


def test_only_failures_and_what_was_asked_for_are_kept(pair: Pair) -> None:
    pair.answered(SIZED)
    assert pair.wire.kept(pair.number) == b""
    refusal = b"HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
    (h,) = pair.answered(refusal)
    assert (h.kind, h.status) == (Kind.ENDED, 429)
    assert pair.wire.kept(pair.number) == refusal


def test_the_first_part_of_the_body_is_told_if_asked_for(pair: Pair) -> None:
    pair.wire.send(pair.number, 1, b"ping")
    pair.peer.sendall(CHUNKED + b"5\r\nhello\r\n")
    assert [h.kind for h in pair.until(1, tell_answering=True)] == [Kind.ANSWERING]
    pair.peer.sendall(b"5\r\nhello\r\n0\r\n\r\n")
    assert [h.kind for h in pair.until(1, tell_answering=True)] == [Kind.ENDED]


def test_a_busy_connection_takes_no_second_request(pair: Pair) -> None:
    pair.wire.send(pair.number, 1, b"ping")
    with pytest.raises(RuntimeError):
        pair.wire.send(pair.number, 2, b"ping")


def test_a_watched_descriptor_is_told_and_stays_open(pair: Pair) -> None:
    reading, writing = os.pipe()
    number = pair.wire.watch(reading)
    os.write(writing, b"x")
    (h,) = pair.until(1)
    assert (h.kind, h.connection) == (Kind.WATCHED, number)
    pair.wire.drop(number)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)


def test_it_waits_no_longer_than_it_is_told(pair: Pair) -> None:
    before = time.monotonic_ns()
    assert pair.wire.wait(2_000_000) == []
    assert time.monotonic_ns() - before >= 1_900_000


def test_many_connections_at_once(pair: Pair) -> None:
    peers = [pair.peer]
    numbers = [pair.number]
    for _ in range(50):
        peers.append(pair.connect())
        numbers.append(pair.number)
    assert len(set(numbers)) == 51
    for number in numbers:
        pair.wire.send(number, number, b"ping")
    for peer in peers:
        assert peer.recv(100) == b"ping"
        peer.sendall(SIZED)
    found = pair.until(51)
    assert sorted(h.exchange for h in found) == sorted(numbers)
    for number in numbers[1:]:
        pair.wire.drop(number)
    for peer in peers[1:]:
        peer.close()
    pair.number = numbers[0]
    assert [h.kind for h in pair.answered(SIZED)] == [Kind.ENDED]


def test_a_full_disk_is_told(pair: Pair, tmp_path: Path) -> None:
    wire = make_wire(Path("/dev/full"), kind=pair.wire.name)
    try:
        with pytest.raises(OSError, match=r"space|spool"):
            _fill(wire)
    finally:
        wire.close()


def _fill(wire: Wire) -> None:
    for _ in range(100):
        wire.note(1, b"x" * 60_000)
    wire.flush()


def test_framing_gives_the_body_without_its_frame() -> None:
    parts: list[bytes] = []
    framing = Framing(parts.append)
    framing.feed(HELLO)
    assert (b"".join(parts), framing.done, framing.status) == (b"hello world", True, 200)
