"""Services that answer to do harm, one behaviour at one place each. Started by adversary.py.

    python benchmarks/hostile_service.py PORT PLACE BEHAVIOUR

PLACE is what is answered so: ``health`` (GET), ``metrics`` (GET /metrics), ``first`` (the first completion, with which a
tuner tries whether the service works) or ``load`` (every completion after the first). All else is answered well.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
STEERING = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\u202etxt\u202c\x9b31m<img src=x onerror=alert(1)>[bold]b[/bold]"
PLACES = ("health", "metrics", "first", "load")
Write = Callable[[bytes], Awaitable[None]]


def chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Parts in HTTP's chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + end


def events(*bodies: Any) -> bytes:
    """Server-sent events with these bodies, as JSON if they are not bytes."""
    return b"".join(b"data: " + (b if isinstance(b, bytes) else json.dumps(b).encode()) + b"\n\n" for b in bodies)


def token(text: Any = " a", **more: Any) -> dict[str, Any]:
    """The body of an event with one token."""
    return {"choices": [{"index": 0, "text": text, "finish_reason": None}], **more}


LAST = {
    "choices": [{"index": 0, "text": " z", "finish_reason": "length"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 2},
}
GOOD = events(token(), LAST, b"[DONE]")
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


async def forever(write: Write, part: bytes, pause_s: float = 0.0) -> None:
    """The same again and again."""
    while True:
        await write(part)
        await asyncio.sleep(pause_s)


def once(*parts: bytes, close: bool = False) -> Callable[[Write], Awaitable[None]]:
    """These bytes; then the connection is closed, or another request awaited."""

    async def send(write: Write) -> None:
        await write(b"".join(parts))
        if close:
            raise ConnectionResetError

    return send


def endless(head: bytes, part: bytes, pause_s: float = 0.0) -> Callable[[Write], Awaitable[None]]:
    """A beginning, and the same part for ever."""

    async def send(write: Write) -> None:
        await write(head)
        await forever(write, part, pause_s)

    return send


async def bomb(write: Write) -> None:
    """Ten gigabytes of zeros in ten megabytes."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    await write(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"))
    for _ in range(160):
        await write(chunks(packer.compress(bytes(64 << 20)), end=b""))
    await write(b"0\r\n\r\n")


async def drop_by_drop(write: Write) -> None:
    """A good answer, a byte at a time."""
    for byte in CHUNKED + chunks(GOOD):
        await write(bytes([byte]))
        await asyncio.sleep(0.3)


async def silence(_: Write) -> None:
    """Nothing, for an hour."""
    await asyncio.sleep(3600)


def failed(status: int, body: bytes, head: bytes = b"") -> Callable[[Write], Awaitable[None]]:
    """An error."""
    return once(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n%b\r\n" % (status, len(body), head), body)


def stream(*parts: bytes) -> Callable[[Write], Awaitable[None]]:
    """An answer of these parts."""
    return once(CHUNKED, chunks(*parts))


MEGABYTE = b"x" * (1 << 20)
WEIRD = [-5, 1e308, "many", True, None, [1], {"a": 1}, 2**70, -1e-9]
COUNTS = [
    {**LAST, "usage": {"prompt_tokens": w, "completion_tokens": w, "prompt_tokens_details": {"cached_tokens": w}}}
    for w in WEIRD
]
SHAPES = [
    {"choices": 5},
    {"choices": [5]},
    {"choices": [{"text": 5}]},
    {"choices": [{"delta": []}]},
    [1],
    5,
    None,
    {"choices": None},
]
ANYWHERE: dict[str, Callable[[Write], Awaitable[None]]] = {
    "headers without end": endless(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 1000 + b"\r\n"),
    "a header without end": endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 65536),
    "a flood of 100 Continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a body without end": endless(OK + b"\r\n", MEGABYTE),
    "chunks without end": endless(CHUNKED, b"100000\r\n" + MEGABYTE + b"\r\n"),
    "an error without end": endless(CHUNKED.replace(b"200 OK", b"500 No"), b"100000\r\n" + MEGABYTE + b"\r\n"),
    "a chunk extension without end": endless(CHUNKED + b"5;", b"e" * 65536),
    "trailers without end": endless(CHUNKED + chunks(GOOD, end=b"0\r\n"), b"T: " + b"e" * 1000 + b"\r\n"),
    "a gzip bomb": bomb,
    "gzip": once(OK, b"Content-Encoding: gzip\r\n", PLAIN[17:] % (len(gzip.compress(GOOD)), gzip.compress(GOOD))),
    "a chunk of 2^96 bytes": once(CHUNKED, b"F" * 24 + b"\r\nabc"),
    "a chunk of less than nothing": once(CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"),
    "a length below zero": once(OK, b"Content-Length: -5\r\n\r\n", GOOD),
    "a length of 10^25": once(OK, b"Content-Length: " + b"9" * 25 + b"\r\n\r\n", GOOD),
    "two lengths": once(OK, b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n" % len(GOOD), GOOD),
    "length and chunks": once(OK, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", chunks(GOOD)),
    "longer than it says": once(OK, b"Content-Length: %d\r\n\r\n" % (len(GOOD) - 9), GOOD),
    "shorter than it says": once(OK, b"Content-Length: %d\r\n\r\n" % (len(GOOD) + 9), GOOD, close=True),
    "a byte at a time": drop_by_drop,
    "silence": silence,
    "a reset": once(close=True),
    "HTTP/0.9": once(b"hello world\r\n\r\n", close=True),
    "HTTP/2": once(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00\x03\x00\x00\x00\x64" * 3),
    "TLS": once(b"\x15\x03\x01\x00\x02\x02\x16", close=True),
    "SSH": once(b"SSH-2.0-OpenSSH_9.6\r\n", close=True),
    "random bytes": once(os.urandom(5000), close=True),
    "status 2OO": once(b"HTTP/1.1 2OO OK\r\nContent-Length: 0\r\n\r\n"),
    "status 999": once(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
    "status 101": once(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
    "nothing with 204": once(b"HTTP/1.1 204 No\r\n\r\n"),
    "a redirect to a file": failed(302, b"", b"Location: file:///etc/passwd\r\n"),
    "a redirect to itself": failed(307, b"", b"Location: /health\r\n"),
    "a redirect that steers": failed(301, b"", b"Location: http://x/" + STEERING.encode() + b"\r\n"),
    "a reason that steers": once(b"HTTP/1.1 503 " + STEERING.encode() + b"\r\nContent-Length: 0\r\n\r\n"),
    "an error that steers": failed(500, json.dumps({"error": {"message": STEERING}}).encode()),
    "an error of 5000 levels": failed(500, b'{"error":' * 5000 + b"1" + b"}" * 5000),
    "an error of odd parts": failed(500, json.dumps({"error": [1, {"message": 5}, None] * 50}).encode()),
    "Retry-After: 1e999": failed(503, b"busy", b"Retry-After: 1e999\r\n"),
    "headers with NUL": once(b"HTTP/1.1 200 OK\r\nX-\x00: \x00\r\n folded\r\n", chunks(GOOD)),
    "two answers at once": once(PLAIN % (len(GOOD), GOOD), PLAIN % (len(GOOD), GOOD)),
}  # fmt: skip
STREAMS: dict[str, Callable[[Write], Awaitable[None]]] = {
    "events without end": endless(CHUNKED, chunks(events(token()) * 5000, end=b"")),
    "comments without end": endless(OK + b"\r\n", b": keep\n\n", 0.05),
    "a line of 60 MB": once(OK, b"\r\ndata: ", MEGABYTE * 60, close=True),
    "an event of 200,000 levels": stream(b"data: " + b"[" * 200_000 + b"\n\n", GOOD),
    "bytes that are not UTF-8": stream(b'data: {"choices":[{"text":"\xff\xfe\xc0\x80"}]}\n\n', GOOD),
    "an event that steers": stream(events({"error": {"message": STEERING}})),
    "odd counts": stream(events(token(), *COUNTS, b"[DONE]")),
    "counts of 2^31": stream(
        events({**LAST, "usage": {"prompt_tokens": 2**31 - 2, "completion_tokens": 2**31 - 2}}, b"[DONE]")
    ),
    "odd choices": stream(events(*SHAPES, LAST, b"[DONE]")),
    "numbers that are none": stream(b'data: {"choices":[{"index":1e999,"text":NaN}]}\n\n', GOOD),
    "an index of 10^30": stream(b'data: {"choices":[{"index":1' + b"0" * 30 + b',"text":"a"}]}\n\n', GOOD),
    "[DONE] and silence": endless(CHUNKED + chunks(GOOD, end=b""), b"", 3600),
}
METRICS: dict[str, Callable[[Write], Awaitable[None]]] = {
    "a million series": once(PLAIN % (16_000_000, b'x{a="12345"} 1\n\n' * 1_000_000)),
    "labels that steer": once(PLAIN % (len(f'x{{a="{STEERING}"}} 1\n'.encode()), f'x{{a="{STEERING}"}} 1\n'.encode())),
    "values of 5000 digits": once(PLAIN % (5003, b"x " + b"9" * 5000 + b"\n")),
}
BEHAVIOURS = {
    "health": ANYWHERE, "metrics": ANYWHERE | METRICS, "first": ANYWHERE | STREAMS, "load": ANYWHERE | STREAMS,
}  # fmt: skip


class Service:
    """Answers on one port."""

    def __init__(self, place: str, behaviour: str) -> None:
        self._place = place
        self._answer = BEHAVIOURS[place][behaviour]
        self._completions = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lengths = [
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ]
                body = await reader.readexactly(lengths[0] if lengths else 0)
                await self._one(head.split()[:2], body, write)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            sock = writer.get_extra_info("socket")
            if self._answer is ANYWHERE["a reset"] and sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()

    async def _one(self, asked: list[bytes], body: bytes, write: Write) -> None:
        method, path = asked
        place = "metrics" if path.startswith(b"/metrics") else "health"
        if method == b"POST":
            self._completions += 1
            place = "first" if self._completions == 1 else "load"
        if place == self._place:
            await self._answer(write)
        elif method == b"GET":
            await write(PLAIN % (2, b"{}"))
        elif b'"stream":true' in body.replace(b" ", b""):
            await write(CHUNKED + chunks(GOOD))
        else:
            answer = json.dumps(LAST).encode()
            await write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + PLAIN[17:] % (len(answer), answer))


async def main() -> None:
    """Serve until it is ended."""
    port, place, behaviour = sys.argv[1:]
    server = await asyncio.start_server(Service(place, behaviour).serve, "127.0.0.1", int(port))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
