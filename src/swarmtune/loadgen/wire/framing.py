"""Where does an answer end? HTTP/1.1 framing by httptools, for the wire in Python and for reading the spool afterwards."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import httptools

from swarmtune.loadgen.wire.base import DONE_LINES, LAST_EVENTS

HEAD_LIMIT = 64 * 1024
VERSION = b"HTTP/1."  # what a head begins with
BLANK_LINE = re.compile(rb"\n\r?\n")
BARE_CR = re.compile(rb"\r[^\n]")
# Deviations from RFC 9112 that can mean only one thing. A length beside chunks is ignored (6.3), as native.c does.
LENIENT = {"lenient_headers": True, "lenient_chunked_length": True, "lenient_spaces_after_chunk_size": True}
LINE_BEGIN = 48  # bytes of a line that are looked at
INFORMATIONAL = range(100, 200)  # statuses that announce the real answer


class EndlessHeadError(ValueError):
    """The head of an answer is longer than HEAD_LIMIT."""


class Framing:
    """Follows one answer. ``on_body`` gets the bytes of its body, without the framing."""

    def __init__(self, on_body: Callable[[bytes], None] | None = None) -> None:
        self.on_body = on_body or _ignore
        self._parser: Any = httptools.HttpResponseParser(self)  # looks for the callbacks now
        self._parser.set_dangerous_leniencies(**LENIENT)
        self.status = 0
        self.done = False
        self.keep_alive = False
        self.in_body = False
        self.headers: dict[bytes, bytes] = {}
        self._head = b""  # an unfinished one

    def feed(self, data: bytes) -> None:
        """More bytes. ValueError if this is not HTTP."""
        if self._parser is None:
            self.keep_alive = False
            return
        try:
            while data and not (self.in_body or self.done):
                head, data = self._head_of(data)
                if head:
                    self._parser.feed_data(head)
            if data and not self.done:
                self._parser.feed_data(data)
            elif data:  # bytes after the end only spoil the connection
                self.keep_alive = False
        except ValueError:
            self.release()
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.release()
            if not self.done:
                raise ValueError(str(error)) from error
            self.keep_alive = False
        if self.done:
            self.release()

    def _head_of(self, data: bytes) -> tuple[bytes, bytes]:
        """A whole head, each line of it ended by CRLF, and what comes after it. Both are empty while its end is missing.

        ValueError if it cannot be one.
        """
        before = max(0, len(self._head) - 3)
        text = self._head + data
        blank = BLANK_LINE.search(text, before)
        head = text[: blank.end()] if blank else text
        if not VERSION.startswith(head[: len(VERSION)]) or BARE_CR.search(head, before):
            raise ValueError("it does not begin as HTTP does")
        self._head = b"" if blank else text
        if blank:
            return head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), text[blank.end() :]
        if len(text) > HEAD_LIMIT:
            raise EndlessHeadError("its head does not end")
        return b"", b""

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


class Stream:
    """Follows the lines of a body, given in pieces. ``over``: the event that ends a stream is whole: with its blank line, or
    once [DONE] stands there, behind which nothing can come."""

    def __init__(self) -> None:
        self.over = False
        self._last_event = False
        self._begin = b""  # of the unfinished line

    def feed(self, body: bytes) -> None:
        """More of the body."""
        lines = (self._begin + body).split(b"\n")
        self._begin = lines.pop()[:LINE_BEGIN]
        for line in lines:
            if not line or line == b"\r":
                self.over = self.over or self._last_event
            elif line.startswith(LAST_EVENTS):
                self._last_event = True
                self.over = self.over or line.startswith(DONE_LINES)
        self.over = self.over or self._begin.startswith(DONE_LINES)


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
