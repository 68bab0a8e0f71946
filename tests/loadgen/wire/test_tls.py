"""TLS on both wires, against a server whose encrypted bytes the test holds in its hand."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loadgen_servers import Certificate
from test_wire import CHUNKED, HELLO, SECOND, SIZED

from swarmtune.loadgen.wire import make_wire
from swarmtune.loadgen.wire.base import (
    CERTIFICATE_WANTED,
    PEER_CLOSED,
    PIECE,
    RECORD,
    TLS_FAILED,
    Happening,
    Kind,
    prepare,
)
from swarmtune.loadgen.wire.framing import body_of
from swarmtune.loadgen.wire.tls import Tls, functions

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Encrypted:
    """A wire, and a server that says what to encrypt and when the bytes go out."""

    def __init__(self, kind: str, folder: Path, client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
        self.spool = folder / "spool.bin"
        self.wire = make_wire(self.spool, kind=kind)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self.incoming, self.outgoing, server_side=True)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            made = socket.socket()
            prepare(made)
            with pytest.raises(BlockingIOError):
                made.connect(listener.getsockname())
            self.number = self.wire.add(made, client, host)
            self.peer, _ = listener.accept()
        self.peer.settimeout(20)

    def greet(self) -> list[Happening]:
        """The handshake, until something is told."""
        found: list[Happening] = []
        while not found:
            found = self.wire.wait(10_000_000)
            self.peer.setblocking(False)
            try:
                self.incoming.write(self.peer.recv(2**16))
            except BlockingIOError:
                continue
            finally:
                self.peer.settimeout(20)
            self.step()
        return found

    def step(self) -> None:
        """The server's next words of the handshake, or of its failure."""
        with contextlib.suppress(ssl.SSLError):
            self.server.do_handshake()
        if self.outgoing.pending:
            self.peer.sendall(self.outgoing.read())

    def ask(self, payload: bytes = b"ping", *, keep: bool = False) -> None:
        """A request arrives at the server."""
        self.wire.send(self.number, 7, payload, keep=keep)
        got = b""
        while len(got) < len(payload):
            self.incoming.write(self.peer.recv(2**16))
            try:
                while part := self.server.read(2**14):
                    got += part
            except ssl.SSLWantReadError:
                continue
        assert got == payload

    def cipher(self, *parts: bytes) -> bytes:
        """These parts, each in records of its own."""
        for part in parts:
            self.server.write(part)
        return self.outgoing.read()

    def until(self, count: int = 1) -> list[Happening]:
        """Wait until so much was told."""
        found: list[Happening] = []
        for _ in range(20):
            found += self.wire.wait(SECOND)
            if len(found) >= count:
                break
        return found

    def plain(self) -> list[bytes]:
        """The pieces in the spool."""
        self.wire.flush()
        data, at, found = self.spool.read_bytes(), 0, []
        while at < len(data):
            length, kind, exchange, read, kernel, _ = RECORD.unpack_from(data, at)
            assert (kind, exchange) == (PIECE, 7)
            assert 0 < kernel <= read
            at += RECORD.size + length
            found.append(data[at - length : at])
        return found

    def close(self) -> None:
        self.wire.close()
        self.peer.close()


@pytest.fixture(params=["python", "native", "native, by Python's ssl"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The wire in C asks OpenSSL itself where Python's ssl lets it, and Python's ssl where not."""
    name, _, asked = str(request.param).partition(",")
    if asked:
        monkeypatch.setattr("swarmtune.loadgen.wire.native.functions", lambda: None)
    return name


@pytest.fixture(params=[V12, V13], ids=["1.2", "1.3"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    found: ssl.TLSVersion = request.param
    return found


@pytest.fixture
def peer(kind: str, version: ssl.TLSVersion, tmp_path: Path, certificate: Certificate) -> Iterator[Encrypted]:
    made = Encrypted(kind, tmp_path, certificate.client(), certificate.server(version), "localhost")
    assert [h.kind for h in made.greet()] == [Kind.CONNECTED]
    yield made
    made.close()


@pytest.mark.skipif(functions() is None, reason="this Python keeps its OpenSSL to itself")
def test_the_part_of_openssl_is_found_in_this_python(certificate: Certificate) -> None:
    assert Tls(certificate.client(), "localhost", print).openssl


SHARES = st.sets(st.floats(0.01, 0.99), max_size=5)  # where bytes are cut, as parts of their length


def cut(data: bytes, shares: set[float]) -> list[bytes]:
    places = sorted({max(1, int(share * len(data))) for share in shares})
    return [data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=SHARES, reads=SHARES)
def test_records_are_read_however_they_are_cut_and_joined(
    kind: str, version: ssl.TLSVersion, tmp_path: Path, certificate: Certificate, records: set[float], reads: set[float]
) -> None:
    made = Encrypted(kind, tmp_path, certificate.client(), certificate.server(version), "localhost")
    try:
        made.greet()
        made.ask()
        found: list[Happening] = []
        for part in cut(made.cipher(*cut(HELLO, records)), reads):
            assert found == []
            made.peer.sendall(part)
            found += made.wire.wait(1_000_000)
        found = found or made.until()
        assert [(h.kind, h.bytes, h.keep_alive) for h in found] == [(Kind.ENDED, len(HELLO), True)]
        assert b"".join(made.plain()) == HELLO
    finally:
        made.close()


def test_several_records_in_one_read_are_one_piece(peer: Encrypted) -> None:
    peer.ask()
    peer.peer.sendall(peer.cipher(*[HELLO[i : i + 1] for i in range(len(HELLO))]))
    assert [h.kind for h in peer.until()] == [Kind.ENDED]
    assert peer.plain() == [HELLO]


def test_a_long_answer_is_read_whole(peer: Encrypted) -> None:
    body = bytes(range(256)) * 4000
    peer.ask(keep=True)
    peer.peer.sendall(peer.cipher(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body))
    assert [h.kind for h in peer.until()] == [Kind.ENDED]
    assert body_of(peer.wire.kept(peer.number))[2] == body


def test_a_long_request_is_written_whole(peer: Encrypted) -> None:
    peer.ask(bytes(range(256)) * 400)
    peer.peer.sendall(peer.cipher(SIZED))
    assert [h.kind for h in peer.until()] == [Kind.ENDED]


def closing(peer: Encrypted) -> bytes:
    with pytest.raises(ssl.SSLError):
        peer.server.unwrap()
    return peer.outgoing.read()


def test_the_peers_word_that_it_closes_ends_an_answer_without_a_length(peer: Encrypted) -> None:
    """Also in the same read as the last bytes, and although the socket stays open."""
    peer.ask()
    peer.peer.sendall(peer.cipher(b"HTTP/1.1 200 OK\r\n\r\nsome words") + closing(peer))
    (h,) = peer.until()
    assert (h.kind, h.error, h.keep_alive) == (Kind.ENDED, 0, False)
    assert b"".join(peer.plain()).endswith(b"some words")


def test_the_peers_word_that_it_closes_cuts_an_answer_with_a_length(peer: Encrypted) -> None:
    peer.ask()
    peer.peer.sendall(peer.cipher(CHUNKED + b"5\r\nhe") + closing(peer))
    (h,) = peer.until()
    assert (h.kind, h.error) == (Kind.CLOSED, PEER_CLOSED)


def test_an_idle_connection_that_the_peer_closes_is_told(peer: Encrypted) -> None:
    peer.peer.sendall(closing(peer))
    (h,) = peer.until()
    assert (h.kind, h.error) == (Kind.CLOSED, PEER_CLOSED)


def test_an_alert_in_an_answer_is_told(peer: Encrypted) -> None:
    peer.ask()
    begun = peer.cipher(CHUNKED + b"5\r\nhe")
    peer.incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # to the server, what nobody has encrypted: it complains
    with pytest.raises(ssl.SSLError):
        peer.server.read(10)
    peer.peer.sendall(begun + peer.outgoing.read())
    (h,) = peer.until()
    assert (h.kind, h.error) == (Kind.CLOSED, TLS_FAILED)
    assert b"alert bad record mac" in peer.wire.kept(peer.number)
    assert b"".join(peer.plain()) == CHUNKED + b"5\r\nhe"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 59), bit=st.integers(0, 7))
def test_bytes_that_were_tampered_with_are_told(
    kind: str, version: ssl.TLSVersion, tmp_path: Path, certificate: Certificate, at: int, bit: int
) -> None:
    """Or wait for the rest of a record that was said to be longer; they are never read as an answer."""
    made = Encrypted(kind, tmp_path, certificate.client(), certificate.server(version), "localhost")
    try:
        made.greet()
        made.ask()
        cipher = bytearray(made.cipher(SIZED))
        cipher[at] ^= 1 << bit
        made.peer.sendall(cipher)
        made.peer.shutdown(socket.SHUT_WR)
        (h,) = made.until()
        assert h.kind == Kind.CLOSED
        assert h.error in (TLS_FAILED, PEER_CLOSED)
        assert made.plain() == []
    finally:
        made.close()


@pytest.mark.parametrize(
    ("host", "trusted", "words"),
    [("localhost", False, b"not trusted"), ("elsewhere", True, b"Hostname mismatch")],
)
def test_a_certificate_that_does_not_fit_is_told(
    kind: str, tmp_path: Path, certificate: Certificate, host: str, trusted: bool, words: bytes
) -> None:
    client = certificate.client() if trusted else ssl.create_default_context()
    made = Encrypted(kind, tmp_path, client, certificate.server(), host)
    try:
        (h,) = made.greet()
        assert (h.kind, h.error) == (Kind.CLOSED, TLS_FAILED)
        assert words in made.wire.kept(made.number)
    finally:
        made.close()


def test_a_server_without_tls_is_told(kind: str, tmp_path: Path, certificate: Certificate) -> None:
    made = Encrypted(kind, tmp_path, certificate.client(), certificate.server(), "localhost")
    try:
        made.peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        (h,) = made.until()
        assert (h.kind, h.error) == (Kind.CLOSED, TLS_FAILED)
        assert b"TLS failed: " in made.wire.kept(made.number)
    finally:
        made.close()


def test_a_server_that_hangs_up_in_the_greeting_is_told(kind: str, tmp_path: Path, certificate: Certificate) -> None:
    made = Encrypted(kind, tmp_path, certificate.client(), certificate.server(), "localhost")
    try:
        made.wire.wait(SECOND)
        made.peer.shutdown(socket.SHUT_WR)
        (h,) = made.until()
        assert (h.kind, h.error) == (Kind.CLOSED, PEER_CLOSED)
    finally:
        made.close()


def test_a_server_that_wants_a_certificate_is_told(
    kind: str, version: ssl.TLSVersion, tmp_path: Path, certificate: Certificate
) -> None:
    server = certificate.server(version, trusting=certificate)
    made = Encrypted(kind, tmp_path, certificate.client(), server, "localhost")
    try:
        found = made.greet()
        if version == V13:  # it says so only after the client's last word
            assert [h.kind for h in found] == [Kind.CONNECTED]
            made.incoming.write(made.peer.recv(2**16)) if not made.incoming.pending else None
            made.step()
            found = made.until()
        (h,) = found
        assert h.kind == Kind.CLOSED
        assert h.error == (CERTIFICATE_WANTED if version == V13 else TLS_FAILED)
        assert (b"wants a client certificate" if version == V13 else b"handshake failure") in made.wire.kept(
            made.number
        )
    finally:
        made.close()


def test_a_client_certificate_is_shown(
    kind: str, version: ssl.TLSVersion, tmp_path: Path, certificate: Certificate
) -> None:
    client = certificate.client()
    client.load_cert_chain(certificate.file, certificate.key)
    made = Encrypted(kind, tmp_path, client, certificate.server(version, trusting=certificate), "localhost")
    try:
        assert [h.kind for h in made.greet()] == [Kind.CONNECTED]
        made.ask()
        made.peer.sendall(made.cipher(SIZED))
        assert [h.kind for h in made.until()] == [Kind.ENDED]
    finally:
        made.close()
