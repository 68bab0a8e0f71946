"""The contract of a wire, on both of them: framing, stamps, spool, happenings. The peer is a plain socket: the test writes
exactly the bytes that it wants to arrive."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loadgen_servers import Certificate

from swarmtune.loadgen.wire import make_wire, native, notice
from swarmtune.loadgen.wire.base import (
    MALFORMED,
    NOTE,
    PEER_CLOSED,
    PIECE,
    RECORD,
    REFUSAL_LIMIT,
    TOO_LONG,
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

    def __init__(
        self, kind: str, spool: Path, certificate: Certificate | None = None, version: ssl.TLSVersion | None = None
    ) -> None:
        """With ``certificate``: over TLS."""
        self.spool = spool
        self._client = certificate.client() if certificate else None
        self._server = certificate.server(version) if certificate else None
        if self._server is not None:
            self._server.num_tickets = 0  # each wait of these tests is for what they sent themselves
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
        self.number = self.wire.add(made, self._client, "localhost")
        peer, _ = self._listener.accept()
        greeting = None
        if self._server is not None:
            peer = self._server.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
            greeting = threading.Thread(target=peer.do_handshake)
            greeting.start()
        assert [h.kind for h in self.until(1)] == [Kind.CONNECTED]
        if greeting is not None:
            greeting.join()
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


@pytest.fixture(params=["python", "native", "python-tls1.2", "native-tls1.2", "python-tls1.3", "native-tls1.3"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, certificate: Certificate) -> Iterator[Pair]:
    kind, _, version = request.param.partition("-")
    versions = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}
    made = Pair(kind, tmp_path / "spool.bin", certificate if version else None, versions.get(version))
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


LINES = (b"HTTP/1.1 200 OK", b"X-Empty:", b"Transfer-Encoding: chunked", b"")
ENDS = st.sampled_from([b"\r\n", b"\n"])


def read(pair: Pair, raw: bytes, cuts: set[int]) -> bytes:
    """The body of this answer, cut in these places, as the wire has kept it and as it is read from the spool."""
    places = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    pair.wire.send(pair.number, 7, b"ping", keep=True)
    assert pair.peer.recv(100) == b"ping"
    found: list[Happening] = []
    for begin, end in itertools.pairwise(places):
        assert found == []
        pair.peer.sendall(raw[begin:end])
        found += pair.wire.wait(SECOND)
    assert [(h.kind, h.error, h.keep_alive) for h in found] == [(Kind.ENDED, 0, True)]
    kept = body_of(pair.wire.kept(pair.number))[2]
    parts: list[bytes] = []
    framing = Framing(parts.append)
    for *_, data in pair.records()[-(len(places) - 1) :]:
        framing.feed(data)
    assert (b"".join(parts), framing.done) == (kept, True)
    return kept


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), cuts=st.sets(st.integers(1, 150), max_size=6))
def test_lines_of_a_head_may_end_in_a_line_feed_alone(pair: Pair, data: st.DataObject, cuts: set[int]) -> None:
    announced = data.draw(st.sampled_from([(), (b"HTTP/1.1 100 Continue", b"")]))
    head = b"".join(line + data.draw(ENDS) for line in (*announced, *LINES))
    assert read(pair, head + HELLO.removeprefix(CHUNKED), cuts) == b"hello world"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), cuts=st.sets(st.integers(1, 150), max_size=6))
def test_sizes_of_chunks_with_zeros_before_and_blanks_behind_are_read(
    pair: Pair, data: st.DataObject, cuts: set[int]
) -> None:
    zeros = st.integers(0, 30).map(lambda n: b"0" * n)
    blanks = st.text(" \t", max_size=4).map(str.encode)
    ends = st.sampled_from([b"\r\n", b";a=b\r\n", b';a="b;c"\r\n'])
    sizes = [data.draw(zeros) + size + data.draw(blanks) + data.draw(ends) for size in (b"5", b"6", b"0")]
    raw = CHUNKED + sizes[0] + b"hello\r\n" + sizes[1] + b" world\r\n" + sizes[2] + b"\r\n"
    assert read(pair, raw, cuts) == b"hello world"


def test_a_length_beside_chunks_does_not_count(pair: Pair) -> None:
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n")
    assert read(pair, head + HELLO.removeprefix(CHUNKED), set()) == b"hello world"


@pytest.mark.parametrize("raw", [
    CHUNKED + b"1" + b"0" * 16 + b"\r\n", CHUNKED + b"0000" + b"f" * 17 + b"\r\n",
    CHUNKED + b" 5\r\n", CHUNKED + b"5 5\r\n", CHUNKED + b"0x5\r\n", CHUNKED + b";a=b\r\n", CHUNKED + b"-5\r\n",
    CHUNKED + b"5\nhello", CHUNKED + b"5;a\nhello", CHUNKED + b"5\rhello", CHUNKED + b"5\r\nhello\n",
    CHUNKED + b"5\r\nhello!",
    CHUNKED + b"0\r\n\n", CHUNKED + b"0\r\nA: b\n", CHUNKED + b"0\r\n\r0",
    b"HTTP/1.1 200 OK\rContent-Length: 5\r\r", b"HTTP/1.1 200 OK\r\r\n", b"\nHTTP/1.1 200 OK\n", b"X",
])  # fmt: skip
def test_what_cannot_be_an_answer_is_refused_at_once(pair: Pair, raw: bytes) -> None:
    """Bytes of which nobody knows where the answer ends are not waited for; both wires refuse the same."""
    (h,) = pair.answered(raw)
    assert (h.kind, h.error) == (Kind.CLOSED, MALFORMED)
    with pytest.raises(ValueError, match=r"."):
        Framing().feed(raw)


def test_a_chunk_of_the_largest_size_is_given_up_by_its_bytes(pair: Pair) -> None:
    pair.wire.send(pair.number, 7, b"ping", limit=200_000)
    pair.peer.sendall(CHUNKED + b"f" * 16 + b"\r\n")
    found: list[Happening] = []
    while not found:
        pair.peer.sendall(b"x" * 5000)
        found = pair.wire.wait(SECOND)
    assert (found[-1].kind, found[-1].error) == (Kind.CLOSED, TOO_LONG)


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
        except (BlockingIOError, ssl.SSLWantReadError):
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


STREAM = b'data: {"choices":[{"text":"a [DONE]"}]}\n\n'
LAST = [
    b"data: [DONE]\n\n",
    b"data:[DONE]\n\n",
    b"data: [DONE]\r\n\r\n",
    b'event: response.completed\ndata: {"type":"response.completed","response":{"output":[]}}\n\n',
    b'data: {"type":"response.completed","response":{"output":[]}}\n\n',
]


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("framed", [True, False])
def test_the_last_event_is_told_although_the_answer_goes_on(pair: Pair, last: bytes, framed: bool) -> None:
    head = CHUNKED if framed else b"HTTP/1.1 200 OK\r\n\r\n"
    body = STREAM + last
    parts = [b"%x\r\n%b\r\n" % (len(part), part) if framed else part for part in (body[:-1], body[-1:])]
    found = pair.answered(head, *parts)
    assert [(h.kind, h.exchange, h.status) for h in found] == [(Kind.STREAMED, 7, 200)]
    if framed:
        pair.peer.sendall(b"0\r\n\r\n")
        (h,) = pair.until(1)
        assert (h.kind, h.keep_alive) == (Kind.ENDED, True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), last=st.sampled_from(LAST))
def test_the_last_event_is_found_however_it_is_cut(pair: Pair, data: st.DataObject, last: bytes) -> None:
    """Over chunks and over reads; and it is not found before it is whole."""
    body = STREAM + last
    at = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=8)))
    chunks = [body[a:b] for a, b in itertools.pairwise([0, *at, len(body)])]
    raw = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in chunks)
    whole = b"]" if b"[DONE]" in last else b"\n"  # [DONE] needs no line end, others need their blank line
    end = raw.rindex(whole, 0, len(raw) - 1)
    cuts = [cut for cut in sorted(data.draw(st.sets(st.integers(1, end), max_size=6))) if cut < end]
    parts = [raw[a:b] for a, b in itertools.pairwise([0, *cuts, end])]
    assert pair.answered(*parts) == []
    pair.peer.sendall(raw[end:])
    assert [h.kind for h in pair.until(1)] == [Kind.STREAMED]
    pair.peer.sendall(b"0\r\n\r\n")
    assert [h.kind for h in pair.until(1)] == [Kind.ENDED]


@pytest.mark.parametrize(
    "body",
    [
        STREAM,
        b"data: [DON",
        b"data: DONE\n",
        b'data: {"text":"data: [DONE]"}\n\n',
        b": data: [DONE]\n\n",
        b'{\n "a": "data: [DONE]"\n}\n\n',
    ],
)
def test_what_is_not_the_last_event_is_not_told_as_such(pair: Pair, body: bytes) -> None:
    assert pair.answered(CHUNKED + b"%x\r\n%b\r\n" % (len(body), body)) == []


@pytest.mark.parametrize("end", [b"", b"\r", b"\n", b"\r\n"])
def test_the_last_word_needs_no_line_end(pair: Pair, end: bytes) -> None:
    body = STREAM + b"data: [DONE]" + end
    found = pair.answered(CHUNKED + b"%x\r\n%b\r\n" % (len(body), body))
    assert [h.kind for h in found] == [Kind.STREAMED]


def test_a_refusal_has_no_last_event(pair: Pair) -> None:
    head = b"HTTP/1.1 500 No\r\nContent-Length: 99\r\n\r\n"
    assert pair.answered(head + b"data: [DONE]\n\n") == []


@pytest.mark.parametrize(
    ("head", "part"),
    [
        pytest.param(CHUNKED, b"4000\r\n" + b"x" * 0x4000 + b"\r\n", id="body"),
        pytest.param(CHUNKED + b"5;", b"x" * 5000, id="chunk-extension"),
        pytest.param(CHUNKED + b"0\r\n", b"T: x\r\n" * 1000, id="trailer"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 5000, id="until-close"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, id="informational"),
    ],
)
def test_an_answer_without_end_is_given_up(pair: Pair, head: bytes, part: bytes) -> None:
    limit = 200_000
    pair.wire.send(pair.number, 7, b"ping", limit=limit)
    pair.peer.sendall(head)
    found: list[Happening] = []
    while not found:
        pair.peer.sendall(part)
        found = pair.wire.wait(SECOND)
    assert found[-1].kind == Kind.CLOSED
    assert found[-1].error in (TOO_LONG, MALFORMED)
    assert pair.wire.spooled_bytes < limit + 200_000


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_head_without_end_is_given_up(pair: Pair, head: bytes) -> None:
    pair.wire.send(pair.number, 7, b"ping")
    pair.peer.sendall(head)
    found: list[Happening] = []
    while not found:
        pair.peer.sendall(b"X-A: " + b"b" * 1000 + b"\r\n" if head.endswith(b"\n") else b"b" * 1000)
        found = pair.wire.wait(SECOND)
    assert (found[-1].kind, found[-1].error) == (Kind.CLOSED, TOO_LONG)
    assert pair.wire.spooled_bytes < 300_000


def test_a_refusal_without_end_is_given_up_earlier(pair: Pair) -> None:
    pair.wire.send(pair.number, 7, b"ping")
    pair.peer.sendall(b"HTTP/1.1 500 No\r\n\r\n")
    found: list[Happening] = []
    while not found:
        pair.peer.sendall(b"x" * 10_000)
        found = pair.wire.wait(SECOND)
    assert (found[-1].kind, found[-1].error) == (Kind.CLOSED, TOO_LONG)
    assert len(pair.wire.kept(pair.number)) < REFUSAL_LIMIT + 200_000
