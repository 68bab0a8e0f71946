"""The probe through which an engine checks a service that starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from swarmtune.engines.base import Reply
from swarmtune.execution.executors.base import Handle

REQUEST_TIMEOUT_S = 20.0
MOST_BYTES = 1 << 20  # of an answer that are read
SHOWN = 200  # characters of an answer
OK = 200
LATER = frozenset({408, 425, 429})  # of the 4xx, those that may go away by themselves


class HttpProbe:
    """Sends requests to the service at ``url``, and reads its log through its handle. ``answers``: the last one to each."""

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

    def _full(self, path: str) -> str:
        """A path below the address of the service, or a URL as it is."""
        return self._url + path if path.startswith("/") else path

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        self.answers[f"{method} {path}"] = Reply(0, "nothing yet")
        self.answers[f"{method} {path}"] = reply = await self._answer(method, path, body)
        return Reply(0) if reply.status == 0 else reply

    async def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> Reply:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        try:
            async with self._session.request(method, self._full(path), json=body, timeout=timeout) as answer:
                parts, size = [], 0
                async for part in answer.content.iter_any():
                    parts.append(part)
                    size += len(part)
                    if size > MOST_BYTES:
                        return Reply(0, "more than can be an answer to that")
                return Reply(answer.status, b"".join(parts).decode(errors="replace"))
        except TimeoutError:
            return Reply(0, f"nothing within {REQUEST_TIMEOUT_S:g} s")
        except aiohttp.ClientConnectorError:
            return Reply(0, "no connection")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(0, f"what is no HTTP ({type(error).__name__})")


def _shown(reply: Reply) -> str:
    text = " ".join(reply.body.split())
    text = "".join(c if c.isprintable() else "?" for c in text[:SHOWN]) + ("..." if len(text) > SHOWN else "")
    if reply.status == 0:
        return f"answered {text}" if text else "answered nothing"
    if reply.status == OK and not text:
        return "answered 200"
    return f"answered {reply.status}: {text}" if text else f"answered {reply.status}"
