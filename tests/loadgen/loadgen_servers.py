"""What the tests load: peers that misbehave on raw sockets, and the simulated engine with its own record."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Script = Callable[["Peer"], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def token(word: str = " x", reason: str | None = None) -> bytes:
    body = json.dumps({"choices": [{"text": word, "finish_reason": reason}]}, ensure_ascii=False)
    return b"data: " + body.encode() + b"\n\n"


@dataclass
class Peer:
    """The server's end of one connection. ``number`` counts connections from 0."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    requests: list[bytes] = field(default_factory=list)
    broken: bool = False

    async def request(self) -> bytes:
        """The next request's head and body; IncompleteReadError when the client has gone."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await self.reader.readexactly(length)
        self.requests.append(head + body)
        return body

    async def send(self, *parts: bytes) -> None:
        """Write parts as separate packets."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0.002)

    async def answer(self, *events: bytes) -> None:
        """A whole well-framed stream."""
        await self.send(HEAD, *(chunk(event) for event in events), chunk(b""))


@dataclass
class RawServer:
    """Runs one script per connection."""

    url: str = ""
    peers: list[Peer] = field(default_factory=list)
    listener: asyncio.Server | None = None


@dataclass
class Simulated:
    """A simulated engine in a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    record: Path

    async def truth(self) -> dict[str, dict[str, Any]]:
        """End the server; its own record by request id."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        await self.process.wait()
        rows = [json.loads(line) for line in self.record.read_text().splitlines()]
        return {row["request_id"]: row for row in rows}
