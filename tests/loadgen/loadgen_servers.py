"""What the tests load: peers that misbehave on raw sockets, and the simulated engine with its own record."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.exports import jsonl
from swarmtune.loadgen.exports.measurement import measurement
from swarmtune.loadgen.exports.report import Report, report
from swarmtune.loadgen.run import LoadRun, RunPart
from swarmtune.records import Measurement

Script = Callable[["Peer"], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def token(word: str = " x", reason: str | None = None) -> bytes:
    body = json.dumps({"choices": [{"text": word, "finish_reason": reason}]}, ensure_ascii=False)
    return b"data: " + body.encode() + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
TEXT = b"".join([token(" a"), token(" ü"), token(" c", "length"), USAGE, DONE])


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost, signed by itself, and its key."""

    file: Path = Path(__file__).parent / "data" / "localhost.pem"
    key: Path = Path(__file__).parent / "data" / "localhost-key.pem"

    def server(self, version: ssl.TLSVersion | None = None, *, trusting: Certificate | None = None) -> ssl.SSLContext:
        """A server's context. ``trusting``: it wants a client certificate, and accepts this one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if trusting is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(trusting.file)
        return context

    def client(self) -> ssl.SSLContext:
        """The context of a client that trusts this certificate."""
        return ssl.create_default_context(cafile=str(self.file))


@dataclass
class Done:
    """A finished run: its rows as they are exported, without the warm-up, and what was made of them."""

    rows: list[dict[str, Any]]
    warmup: list[dict[str, Any]]
    report: Report

    @property
    def outcomes(self) -> list[str]:
        return [row["outcome"] for row in self.rows]

    @property
    def measurement(self) -> Measurement:
        return measurement(self.report.results, self.report.facts)


@dataclass
class Load:
    """Runs the load generator on a wire of this kind, in a thread."""

    directory: Path
    wire: str = "auto"
    running: LoadRun | None = None

    async def __call__(
        self, url: str, *, seed: int = 0, slos: dict[str, float] | None = None, **options: object
    ) -> Done:
        given = {"concurrency": None if "request_rate" in options else 1, "isl": 5, "wire": self.wire, **options}
        spec = Spec.model_validate(
            {"url": url, "model": "m", "seed": seed, "request_slos": slos or {}, "options": given}
        )
        return await asyncio.to_thread(self._run, spec)

    def _run(self, spec: Spec) -> Done:
        self.running = LoadRun(RunPart(spec, self.directory))
        try:
            self.running.prepare()
            self.running.execute()
        finally:
            self.running.close()
        made = report(spec, self.running.collected())
        rows = list(jsonl.rows(made.records))
        measured = [row for row in rows if row["phase"] == "measured"]
        return Done(measured, [row for row in rows if row["phase"] == "warmup"], made)


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
