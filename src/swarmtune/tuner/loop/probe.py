"""The probe through which an engine checks a service that starts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from swarmtune.engines.base import Reply
from swarmtune.errors import one_line
from swarmtune.execution.executors.base import Handle

REQUEST_TIMEOUT_S = 20.0
MOST_BYTES = 1 << 20  # of an answer that are read
SHOWN = 200  # characters of an answer
OK = 200
LATER = frozenset({408, 425, 429})  # of the 4xx, those that may go away by themselves
LOADING = LATER | {503}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 10
NO_CONNECTION = "got no connection"
CLOSED = "got its connection closed without an answer"
SILENT = "got no answer"
CIRCLE = ", in a circle"


class HttpProbe:
    """Sends requests to the service at ``url``, and reads its log through its handle. ``answers``: the last one to each; of
    status 0, with what came instead.

    A GET follows redirects on the same address, as of a path to the one with a slash; others are answers.
    """

    def __init__(self, url: str, handle: Handle, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._handle = handle
        self._session = session
        self.answers: dict[str, Reply] = {}

    async def get(self, path: str) -> Reply:
        """GET; status 0 without an answer."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """POST of a JSON body; status 0 without an answer."""
        return await self._ask("POST", path, body)

    async def logs(self) -> str:
        """The last lines that the service printed."""
        return await self._handle.logs(200)

    @property
    def refused(self) -> bool:
        """Does the service answer, and refuse a request (4xx) as one that will never do?"""
        statuses = [reply.status for reply in self.answers.values()]
        return OK in statuses and any(400 <= status < 500 and status not in LATER for status in statuses)

    @property
    def told(self) -> str:
        """The last answers in words: "GET /health answered 200, POST /v1/completions answered 500: ..."; empty: none."""
        if not any(reply.status for reply in self.answers.values()):
            return ""
        return ", ".join(f"{request} {_shown(reply)}" for request, reply in self.answers.items())

    @property
    def unreached(self) -> str:
        """The address, "HOST:PORT", to which the first request got no connection; empty: it got one, or none was sent."""
        first = next(iter(self.answers), None)
        reply = self.answers[first] if first else Reply(OK)
        return self._address(first) if first and reply.status == 0 and reply.body.startswith(NO_CONNECTION) else ""

    @property
    def closes(self) -> bool:
        """Did the service take the first request's connection and close it?"""
        return next(iter(self.answers.values()), Reply(OK)).body == CLOSED

    @property
    def may_load(self) -> bool:
        """Could the service still be loading, by all that it answered?"""
        replies = list(self.answers.values())
        silent = any(r.status == 0 and r.body.startswith((NO_CONNECTION, CLOSED, SILENT)) for r in replies)
        return not replies or silent or any(r.status in LOADING for r in replies)

    @property
    def silence(self) -> str:
        """What the first request met where nothing was answered, as a sentence; empty: an answer, or no request."""
        if self.told or not self.answers:
            return ""
        request, reply = next(iter(self.answers.items()))
        address = self._address(request)
        if self.unreached:
            return f"Nothing answers at {address}{reply.body.removeprefix(NO_CONNECTION)}."
        if self.closes:
            return (
                f"It accepts connections at {address} and closes them without an answer to {request}, as a service does "
                "that speaks TLS, or the port of a container before anything in it listens."
            )
        return f"At {address}, {request} {_shown(reply)}."

    def _address(self, request: str) -> str:
        return urlsplit(self._full(request.partition(" ")[2])).netloc.rpartition("@")[2]

    def _full(self, path: str) -> str:
        """A path below the address of the service, or a URL as it is."""
        return self._url + path if path.startswith("/") else path

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        self.answers[f"{method} {path}"] = Reply(0, f"{SILENT} yet")
        self.answers[f"{method} {path}"] = reply = await self._answer(method, path, body)
        return Reply(0) if reply.status == 0 else reply

    async def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> Reply:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await self._followed(method, self._full(path), body)
        except TimeoutError:
            return Reply(0, f"{SILENT} within {REQUEST_TIMEOUT_S:g} s")
        except aiohttp.ClientSSLError as error:
            return Reply(0, f"got no TLS connection ({type(error).__name__})")
        except aiohttp.ClientConnectorError as error:
            return Reply(0, f"{NO_CONNECTION} ({_reason(error.os_error)})")
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
            return Reply(0, CLOSED)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(0, f"got what is no HTTP ({type(error).__name__})")

    async def _followed(self, method: str, url: str, body: Mapping[str, Any] | None) -> Reply:
        """The answer; of a redirect that is not followed, its status and target."""
        first = None
        for _ in range(MOST_REDIRECTS):
            async with self._session.request(method, url, json=body, allow_redirects=False) as answer:
                target = answer.headers.get("Location") if answer.status in REDIRECTS else None
                if target is None:
                    return await _read(answer)
                first = first or Reply(answer.status, f"a redirect to {target}")
            try:
                moved = urljoin(url, target)
                elsewhere = urlsplit(moved)[:2] != urlsplit(url)[:2]
            except ValueError:
                return first
            if method != "GET" or elsewhere:
                return first
            url = moved
        assert first is not None  # noqa: S101 - each turn either returned or was redirected
        return replace(first, body=f"{first.body[: SHOWN - len(CIRCLE)]}{CIRCLE}")


async def _read(answer: aiohttp.ClientResponse) -> Reply:
    parts, size = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            return Reply(0, "answered more than can be an answer to that")
    return Reply(answer.status, b"".join(parts).decode(errors="replace"))


def _reason(error: OSError) -> str:
    number = error.errno
    return (os.strerror(number) if number and number > 0 else error.strerror or "it failed").lower()


def _shown(reply: Reply) -> str:
    text = " ".join(reply.body.split())
    text = one_line(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")
    if reply.status == 0:
        return text or "got no answer"
    return f"answered {reply.status}: {text}" if text else f"answered {reply.status}"
