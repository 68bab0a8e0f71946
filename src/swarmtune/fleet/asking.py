"""HTTP to a service that may send anything."""

from __future__ import annotations

from typing import Any

import aiohttp


def http_session(**options: Any) -> aiohttp.ClientSession:
    """A session that unpacks nothing (a few bytes may stand for gigabytes) and keeps no cookies. ``options``: of aiohttp."""
    return aiohttp.ClientSession(
        auto_decompress=False, headers={"Accept-Encoding": "identity"}, cookie_jar=aiohttp.DummyCookieJar(), **options
    )
