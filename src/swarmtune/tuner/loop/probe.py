"""The probe through which an engine checks a service that starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from swarmtune.engines.base import Reply
from swarmtune.execution.executors.base import Handle

REQUEST_TIMEOUT_S = 20.0


class HttpProbe:
    """Sends requests to the service at ``url``, and reads its log through its handle."""

    def __init__(self, url: str, handle: Handle, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._handle = handle
        self._session = session

    async def get(self, path: str) -> Reply:
        """GET; status 0 without an answer."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """POST of a JSON body; status 0 without an answer."""
        return await self._ask("POST", path, body)

    async def logs(self) -> str:
        """The last lines that the service printed."""
        return await self._handle.logs(200)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        try:
            async with self._session.request(method, self._url + path, json=body, timeout=timeout) as answer:
                return Reply(answer.status, await answer.text(errors="replace"))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return Reply(0)
