"""Where does an answer end? HTTP/1.1 framing by httptools, for the wire in Python and for reading the spool afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import httptools

INFORMATIONAL = range(100, 200)  # statuses that announce the real answer


class Framing:
    """Follows one answer. ``on_body`` gets the bytes of its body, without the framing."""

    def __init__(self, on_body: Callable[[bytes], None] | None = None) -> None:
        self.on_body = on_body or _ignore
        self._parser: Any = httptools.HttpResponseParser(self)  # looks for the callbacks now
        self.status = 0
        self.done = False
        self.keep_alive = False
        self.in_body = False
        self.headers: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> None:
        """More bytes. ValueError if this is not HTTP."""
        if self._parser is None:
            self.keep_alive = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.release()
            if not self.done:  # bytes after the end only spoil the connection
                raise ValueError(str(error)) from error
            self.keep_alive = False
        if self.done:
            self.release()

    def release(self) -> None:
        """Let go of the parser: it and this object hold each other, and millions of them wait for no garbage collector."""
        self._parser = None
        self.on_body = _ignore

    @property
    def until_close(self) -> bool:
        """Does the end of the connection end the answer?"""
        framed = b"content-length" in self.headers or b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        return self.in_body and not self.done and not framed

    def on_message_begin(self) -> None:
        self.headers = {}
        self.in_body = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.in_body = self.status not in INFORMATIONAL

    def on_message_complete(self) -> None:
        if self.status not in INFORMATIONAL:
            self.done = True
            self.keep_alive = self._parser.should_keep_alive()


def _ignore(_: bytes) -> None:
    return None


def body_of(raw: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers (lower-case names) and body of a raw answer, as far as it goes."""
    parts: list[bytes] = []
    framing = Framing(parts.append)
    with contextlib.suppress(ValueError):
        framing.feed(raw)
    framing.release()
    return framing.status, framing.headers, b"".join(parts)
