"""URLs, heads of requests, proxies: with a real proxy on a raw socket."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from loadgen_servers import TEXT, Certificate, Load, Peer, RawServer, chunk

from swarmtune.errors import CommunicationError, ConfigPathError
from swarmtune.loadgen.ask.target import Proxy, Target, parse, proxy_for
from swarmtune.loadgen.options import LoadgenOptions

TLS_HANDSHAKE = 0x16  # first byte of a client's greeting


@dataclass
class TestProxy:
    """Forwards plain requests (absolute form) and tunnels."""

    __test__ = False
    heads: list[bytes] = field(default_factory=list)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            method, where, _ = head.split(b"\r\n")[0].split(b" ")
            host, _, port = where.decode().removeprefix("http://").partition("/")[0].rpartition(":")
            onward_reader, onward = await asyncio.open_connection(host, int(port))
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                onward.write(head)
            await asyncio.gather(self.pump(reader, onward), self.pump(onward_reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TestProxy]:
    made, running = TestProxy(), set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.create_task(made.handle(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.url = f"http://user:pass@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def answering(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(TEXT), chunk(b""))


@pytest.mark.parametrize("wire", ["native", "python"])
async def test_plain_requests_go_through_a_proxy(raw_server, proxy: TestProxy, tmp_path: Path, wire: str) -> None:  # type: ignore[no-untyped-def]
    server = await raw_server(answering)
    done = await Load(tmp_path, wire)(server.url, request_count=3, proxy=proxy.url)
    assert done.outcomes == ["completed"] * 3
    sent = [head for head in proxy.heads if head.startswith(b"POST")]
    assert sent[0].startswith(b"POST http://127.0.0.1:")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz" in sent[0]


async def test_https_goes_through_a_tunnel(proxy: TestProxy, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    await asyncio.to_thread(subprocess.run, [*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    handlers = set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def handle() -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await answering(Peer(reader, writer, 0))

        handlers.add(asyncio.create_task(handle()))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    done = await Load(tmp_path / "run")(url, request_count=3, proxy=proxy.url, ca_file=str(cert))
    server.close()
    for handler in handlers:
        handler.cancel()
    await asyncio.gather(*handlers, return_exceptions=True)
    assert done.outcomes == ["completed"] * 3
    assert proxy.heads[0].startswith(b"CONNECT localhost:")
    assert b"Proxy-Authorization" in proxy.heads[0]
    assert done.report.records.workers[0].wire == "native"


async def test_a_proxy_that_is_not_there_is_named(tmp_path: Path, unused_tcp_port: int) -> None:
    with pytest.raises(CommunicationError, match="through the proxy"):
        await Load(tmp_path)("http://127.0.0.1:9", request_count=1, proxy=f"http://127.0.0.1:{unused_tcp_port}")


def test_the_environments_proxy_is_used_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy_for("http://far.example", "") == Proxy("proxy.example", 3128)
    assert proxy_for("http://inside.example", "") is None
    assert proxy_for("http://127.0.0.1:8000", "") is None
    assert proxy_for("https://far.example", "") is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a:8000", ("http", "a", 8000, "")),
        ("http://a:8000/v1/", ("http", "a", 8000, "")),
        ("https://a/base/v1", ("https", "a", 443, "/base")),
        ("http://[::1]:9", ("http", "::1", 9, "")),
    ],
)
def test_urls(url: str, expected: tuple[str, str, int, str]) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize("url", ["", "a:8000", "ftp://a", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        parse(url)


def test_the_payload_is_a_whole_request() -> None:
    target = Target("http://127.0.0.1:9/v1", "/v1/completions", LoadgenOptions(), {"X-A": "b"})
    payload = target.payload("id-1", b"{}")
    head, _, body = payload.partition(b"\r\n\r\n")
    assert body == b"{}"
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:9\r\n")
    for line in (b"X-A: b", b"X-Request-Id: id-1", b"Content-Length: 2"):
        assert line in head


@pytest.mark.parametrize(
    ("url", "path", "sent"),
    [
        ("http://127.0.0.1:9/p/v1/?api-version=2024-02", "/v1/completions", "/p/v1/completions?api-version=2024-02"),
        ("http://127.0.0.1:9?a=1&b=%20", "/v1/x?c=2", "/v1/x?c=2&a=1&b=%20"),
        ("http://127.0.0.1:9/v1?a=b c", "/", "/?a=b%20c"),
    ],
)  # fmt: skip
def test_a_query_is_sent(url: str, path: str, sent: str) -> None:
    target = Target(url, path, LoadgenOptions(), {})
    assert target.payload("id", b"").startswith(f"POST {sent} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("known", ["user:pw@", "user@", ":pw@", "@", "a%40b:p@ss@"])
def test_a_name_and_a_password_are_refused_and_not_shown(known: str) -> None:
    with pytest.raises(ValueError, match="the url of host:8000 has a name and a password") as caught:
        parse(f"http://{known}host:8000/v1")
    assert "pw" not in str(caught.value)
    assert "p@ss" not in str(caught.value)


def test_an_unknown_host_is_told() -> None:
    with pytest.raises(CommunicationError, match="not known"):
        Target("http://no-such-host.invalid", "/", LoadgenOptions(), {})


async def tls_service(context: ssl.SSLContext) -> tuple[asyncio.Server, str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await answering(Peer(reader, writer, 0))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    return server, f"https://localhost:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("wire", ["native", "python"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_service_over_tls(tmp_path: Path, certificate: Certificate, wire: str, version: ssl.TLSVersion) -> None:
    server, url = await tls_service(certificate.server(version))
    done = await Load(tmp_path, wire)(url, request_count=20, concurrency=4, ca_file=str(certificate.file))
    server.close()
    assert done.outcomes == ["completed"] * 20
    assert {row["output_tokens"] for row in done.rows} == {3}
    assert done.report.records.workers[0].wire == wire
    assert done.report.certificate.facts["client_kernel_stamp_share"] == 1.0


@contextlib.contextmanager
def blocking_service(context: ssl.SSLContext) -> Iterator[str]:
    """A service in a thread: unlike asyncio's, its handshake sends an alert when it fails."""

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as peer:
                while (request := peer.recv(2**16)) and b"\r\n\r\n{" in request:
                    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(TEXT) + chunk(b""))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("wire", ["native", "python"])
async def test_a_service_that_speaks_tls_where_its_address_does_not(
    tmp_path: Path, certificate: Certificate, wire: str
) -> None:
    with blocking_service(certificate.server()) as url:
        done = await Load(tmp_path, wire)(url.replace("https", "http"), request_count=9, concurrency=2)
    assert done.report.records.lost
    assert "failed" in done.outcomes
    told = next(iter(done.report.results.errors))
    assert told == f"the service speaks TLS at port {url[-5:]}: use https:// instead of http://"


@pytest.mark.parametrize("kind", ["refuses", "closes", "waits"])
async def test_a_service_without_tls_where_its_address_says_https(
    tmp_path: Path, raw_server: Callable[..., Awaitable[RawServer]], kind: str
) -> None:
    async def script(peer: Peer) -> None:
        begin = await peer.reader.readexactly(5)
        if begin[0] != TLS_HANDSHAKE:
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif kind == "refuses":
            peer.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif kind == "waits":
            await peer.reader.read()

    server = await raw_server(script)
    url = server.url.replace("http", "https")
    with pytest.raises(CommunicationError, match=r"it speaks HTTP without TLS at port \d+: use http:// instead"):
        await Load(tmp_path)(url, request_count=1, request_timeout_seconds=0.5)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"])
async def test_a_service_that_closes_is_not_taken_for_plain_http(
    tmp_path: Path, raw_server: Callable[..., Awaitable[RawServer]], answer: bytes
) -> None:
    async def script(peer: Peer) -> None:
        if (await peer.reader.readexactly(5))[0] != TLS_HANDSHAKE:
            peer.writer.write(answer)

    server = await raw_server(script)
    with pytest.raises(CommunicationError, match="cannot be reached") as caught:
        await Load(tmp_path)(server.url.replace("http", "https"), request_count=1)
    assert "use http" not in str(caught.value)


@pytest.mark.parametrize(("host", "ca", "words"), [
    ("localhost", False, "is not trusted: self-signed certificate; name the file of the CA that signed it (--ca-file)"),
    ("127.0.0.1", True, "write the name that stands in it into the URL, or do not check it (--no-tls-verify)"),
])  # fmt: skip
async def test_a_certificate_that_is_not_trusted(
    tmp_path: Path, certificate: Certificate, host: str, ca: bool, words: str
) -> None:
    trusted = {"ca_file": str(certificate.file)} if ca else {}
    with blocking_service(certificate.server()) as url, pytest.raises(CommunicationError, match=re.escape(words)):
        await Load(tmp_path)(url.replace("localhost", host), request_count=1, **trusted)


@pytest.mark.parametrize(("url", "words"), [
    ("http://host:99999", "its port is not a number from 1 to 65535"),
    ("http://host:0", "its port is not a number from 1 to 65535"),
    ("https://host:http", "its port is not a number from 1 to 65535"),
    ("http://[::1", "not of the form http://host:port, an IPv6 address in brackets"),
    ("http://", "is not of the form http://host:port"),
])  # fmt: skip
def test_what_is_no_address_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(url)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..b"])
def test_a_host_that_cannot_have_a_name_is_told(host: str) -> None:
    with pytest.raises(CommunicationError, match="is not known"):
        Target(f"http://{host}", "/", LoadgenOptions(), {})


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_service_that_wants_a_client_certificate(
    tmp_path: Path, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    trusted = {"ca_file": str(certificate.file), "request_count": 3}
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.file.read_bytes() + certificate.key.read_bytes())
    with blocking_service(certificate.server(version, trusting=certificate)) as url:
        with pytest.raises(CommunicationError, match="wants a client certificate"):
            await Load(tmp_path)(url, **trusted)
        for shown in (
            {"client_cert": str(certificate.file), "client_key": str(certificate.key)},
            {"client_cert": str(both)},
        ):
            assert (await Load(tmp_path)(url, **trusted, **shown)).outcomes == ["completed"] * 3


@pytest.mark.parametrize(("cert", "key"), [("missing.pem", ""), ("cert", ""), ("cert", "cert"), ("key", "key")])
def test_a_client_certificate_that_cannot_be_used(
    tmp_path: Path, certificate: Certificate, cert: str, key: str
) -> None:
    files = {"cert": str(certificate.file), "key": str(certificate.key), "": ""}
    cert, key = files.get(cert, str(tmp_path / cert)), files[key]
    with pytest.raises(ConfigPathError, match="--client-cert, --client-key: cannot be used"):
        Target("https://localhost:9", "/", LoadgenOptions(client_cert=cert, client_key=key), {})
