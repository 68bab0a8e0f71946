"""The message about a service that runs but was not ready in time names what the last check met; on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from tests.tuner.loop.test_evaluation import Checked, serving

from swarmtune.records import Group, Node

RAISE = "Raise the start timeout"
COMPLETION = b'{"choices": [{"text": "a"}]}'
ELSEWHERE = """
import http.server, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[1]))
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
print(server.server_port, flush=True)
server.serve_forever()
"""
Talk = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw(talk: Talk) -> AsyncIterator[str]:
    """A server that gets the head of each request, talks, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await talk(await reader.readuntil(b"\r\n\r\n"), writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answer(status: int, body: bytes = b"", location: str = "") -> bytes:
    moved = f"Location: {location}\r\n" if location else ""
    return f"HTTP/1.1 {status} X\r\n{moved}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def told(url: str, log: str = "") -> str:
    """The message after one check of this service."""
    bed = Checked(url)
    assert not await bed.job.ready(bed.service)
    await bed.job.overdue(bed.service)
    return bed.job.diagnose(None, log).message


async def unused() -> str:
    """An address where nothing listens."""
    async with serving(200, "") as url:
        return url


@contextlib.contextmanager
def marked(token: str, status: int) -> Iterator[int]:
    """A service with this token that answers with this status, on a port of its own choice."""
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(status)], env={"SWARMTUNE_TOKEN": token},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_in_a_circle_are_named(status: int) -> None:
    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(status, location="/health" if b"/login" in head else "/login?next=%1b"))

    async with raw(talk) as url:
        message = await told(url)
    assert f"GET /health answered {status}: a redirect to /login?next=%1b, in a circle." in message
    assert RAISE not in message


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/x", "https://sso.example/login", "http://[", "//other/health"])
async def test_a_redirect_to_another_address_is_named_and_not_followed(target: str) -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(302, location=target))

    async with raw(talk) as url:
        assert f"GET /health answered 302: a redirect to {target}. Correct" in await told(url)


async def test_a_long_target_with_control_characters_is_cut_and_cleaned() -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(301, location="http://x/\u202e" + "a" * 3000))

    async with raw(talk) as url:
        message = await told(url)
    assert r"a redirect to http://x/\u202eaaa" in message
    assert len(message) < 700


async def test_a_redirect_to_the_same_path_with_a_slash_is_followed_for_health_and_not_for_a_completion() -> None:
    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        if b"GET /health/ " in head:
            writer.write(answer(200))
        elif b"GET" in head:
            writer.write(answer(307, location="/health/"))
        else:
            writer.write(answer(307, location="/v1/completions/") if moved else answer(200, COMPLETION))

    moved = False
    async with raw(talk) as url:
        bed = Checked(url)
        assert await bed.job.ready(bed.service)
        moved = True
        assert "GET /health answered 200, POST /v1/completions answered 307: a redirect to /v1/comp" in await told(url)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_service_that_closes_its_connections_is_said_to_do_so(reset: bool) -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        if reset:
            writer.transport.abort()

    async with raw(talk) as url:
        message = await told(url)
        assert RAISE in await told(url, "Loading weights: 50%")
    assert f"It accepts connections at {url[7:]} and closes them without an answer to GET /health" in message
    assert RAISE not in message


async def test_what_is_no_http_is_named() -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    async with raw(talk) as url:
        message = await told(url)
    assert f"At {url[7:]}, GET /health got what is no HTTP" in message
    assert RAISE not in message


async def test_where_nothing_answers_the_port_is_doubted_and_more_time_advised() -> None:
    url = await unused()
    message = await told(url)
    assert f"Nothing answers at {url[7:]} (connection refused). It still loads, or it does not listen on" in message
    assert "$PORT" in message
    assert f"{RAISE} if it loads for longer." in message
    assert f"{RAISE} if the lines below show progress." in await told(url, "Loading weights: 50%")


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_the_port_on_which_the_service_listens_instead_is_named(status: int) -> None:
    bed = Checked(await unused())
    bed.service = replace(bed.service, token=uuid4().hex)
    with marked(bed.service.token, status) as port:
        assert not await bed.job.ready(bed.service)
        await bed.job.overdue(bed.service)
    message = bed.job.diagnose(None, "").message
    assert (
        f"(connection refused). The service listens on port {port} instead: let it listen on the port that" in message
    )
    assert RAISE not in message


async def test_a_service_that_listens_at_another_address_of_its_node_is_told_so() -> None:
    bed = Checked("http://127.0.0.2:1")
    bed.service = replace(bed.service, token=uuid4().hex)
    with marked(bed.service.token, 200) as port:
        bed.service = replace(bed.service, group=Group("g", (Node("127.0.0.2"),), port))
        assert not await bed.job.ready(bed.service)
        await bed.job.overdue(bed.service)
    assert "It listens on that port at another address of its node" in bed.job.diagnose(None, "").message


@pytest.mark.parametrize(("status", "health", "raised"), [
    (500, 200, False), (404, 200, False), (503, 200, True), (200, 503, True), (200, 401, False), (200, 204, False),
])  # fmt: skip
async def test_more_time_is_advised_only_where_it_may_help(status: int, health: int, raised: bool) -> None:
    async with serving(status, "", health) as url:
        assert (RAISE in await told(url)) == raised


async def test_an_answer_that_would_unpack_to_gigabytes_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(packed)
    asked: list[bytes] = []

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(request)
        writer.write(head + packed)
        await writer.drain()

    async with raw(talk) as url:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        bed = Checked(url)
        await bed.job.ready(bed.service)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
    assert all(b"Accept-Encoding: identity" in request for request in asked)
