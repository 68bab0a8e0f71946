"""One keep-alive HTTP/1.1 connection per slot: write prepared bytes, stamp every read, keep the raw body.

The hot path does nothing else; understanding comes later (sse.py). Stamps are ``time.monotonic_ns``, the clock that all
processes of a machine share, taken once per read before any parsing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from swarmtune.loadgen.sse import Piece

INFORMATIONAL = range(100, 200)  # statuses that announce the real answer


@dataclass(frozen=True)
class Endpoint:
    """Where requests go."""

    host: str
    port: int
    path: str
    tls: bool = False

    @classmethod
    def parse(cls, url: str, endpoint: str) -> Endpoint:
        """From the service's base URL (with or without ``/v1``) and "chat" or "completions"; ValueError if it is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url {url!r} is not of the form http://host:port")
        tls = parts.scheme == "https"
        base = parts.path.rstrip("/").removesuffix("/v1")
        path = base + ("/v1/chat/completions" if endpoint == "chat" else "/v1/completions")
        return cls(parts.hostname, parts.port or (443 if tls else 80), path, tls)

    def payload(self, request_id: str, body: bytes) -> bytes:
        """Head and body of one POST, ready for the wire."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nUser-Agent: swarmtune\r\n"
            f"Content-Type: application/json\r\nAccept: text/event-stream\r\nX-Request-Id: {request_id}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class Exchange:
    """The raw facts of one request and its answer. ``error`` is about the transport only."""

    sent_ns: int | None = None
    end_ns: int | None = None
    status: int | None = None
    pieces: list[Piece] = field(default_factory=list)
    error: str | None = None
    answered: bool = False  # at least one byte came
    retried: bool = False
    refused: bool = False  # no connection could be made


class Wire(asyncio.Protocol):
    """The protocol of one TCP connection: feeds httptools and files what it reports under the current exchange."""

    def __init__(self) -> None:
        self.alive = False
        self.served = 0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[None] | None = None
        self._now = 0
        self._framed = False  # the head told the length of the body, or that it is chunked
        self._until_close = False

    def send(self, payload: bytes, exchange: Exchange) -> asyncio.Future[None]:
        """Write a request; the future is done when its answer has ended, well or not. One at a time."""
        if self._transport is None or self._done is not None:
            raise RuntimeError("the connection is not ready for a request")
        self._exchange = exchange
        self._done = asyncio.get_running_loop().create_future()
        done = self._done
        exchange.sent_ns = time.monotonic_ns()
        self._transport.write(payload)
        return done

    def abort(self) -> None:
        """Close at once; unread bytes are lost."""
        self.alive = False
        self._exchange = None
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        if self._exchange is None:
            self.abort()
            return
        self._exchange.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"the answer is not HTTP: {error}")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._now = time.monotonic_ns()
        if self._until_close and exc is None:
            self._end(None)
        else:
            self._end(f"the connection was closed during the answer{f': {exc}' if exc else ''}")

    def on_headers_complete(self) -> None:
        if self._exchange:
            self._exchange.status = self._parser.get_status_code()
            self._until_close = not self._framed

    def on_message_begin(self) -> None:
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: ARG002 - the signature is httptools'
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_body(self, body: bytes) -> None:
        if self._exchange:
            self._exchange.pieces.append((self._now, body))

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() in INFORMATIONAL:
            return
        self.served += 1
        if not self._parser.should_keep_alive():
            self.alive = False
        self._end(None)

    def _end(self, error: str | None) -> None:
        exchange, done = self._exchange, self._done
        self._exchange = self._done = None
        if exchange:
            exchange.end_ns = self._now
            exchange.error = error
        if done and not done.done():
            done.set_result(None)


class Connection:
    """A slot: one connection that is opened again whenever the server has closed it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._wire: Wire | None = None
        self._was_reused = False
        self._tls = ssl.create_default_context() if endpoint.tls else None

    async def open(self) -> Wire:
        """The live connection, made if needed; OSError if the server cannot be reached."""
        if self._wire is None or not self._wire.alive:
            self.close()
            loop = asyncio.get_running_loop()
            _, self._wire = await loop.create_connection(Wire, self._endpoint.host, self._endpoint.port, ssl=self._tls)
        return self._wire

    async def perform(self, payload: bytes, exchange: Exchange, timeout_s: float) -> None:
        """Send a request and wait for the end of its answer; what happened is in ``exchange``, nothing is raised.

        A kept-alive connection that dies before the first byte of the answer was closed by the server in the meantime:
        the request is sent once more on a fresh one. Cancelling closes the connection.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._attempt(payload, exchange)
                if exchange.error and not exchange.answered and not exchange.retried and self._was_reused:
                    exchange.retried = True
                    exchange.error = exchange.end_ns = None
                    await self._attempt(payload, exchange)
        except TimeoutError:
            exchange.error = f"no complete answer within {timeout_s:g} s"
            self.close()
        except OSError as error:
            exchange.error = f"cannot connect: {error}"
            exchange.refused = True
            self.close()
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            exchange.end_ns = exchange.end_ns or time.monotonic_ns()

    async def _attempt(self, payload: bytes, exchange: Exchange) -> None:
        wire = await self.open()
        self._was_reused = wire.served > 0
        await wire.send(payload, exchange)

    def close(self) -> None:
        """Let go of the connection."""
        if self._wire:
            self._wire.abort()
            self._wire = None
