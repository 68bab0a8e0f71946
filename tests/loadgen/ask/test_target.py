"""URLs, heads of requests, proxies: with a real proxy on a raw socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from loadgen_servers import TEXT, Load, Peer, chunk

from swarmtune.errors import CommunicationError
from swarmtune.loadgen.ask.target import Proxy, Target, parse, proxy_for
from swarmtune.loadgen.options import LoadgenOptions


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
    assert done.report.records.workers[0].wire == "python"


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


def test_an_unknown_host_is_told() -> None:
    with pytest.raises(CommunicationError, match="not known"):
        Target("http://no-such-host.invalid", "/", LoadgenOptions(), {})
