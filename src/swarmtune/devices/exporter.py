"""A Prometheus address as a source: an exporter of devices, or the service's own metrics."""

from __future__ import annotations

import http.client
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from swarmtune.devices.prometheus import parse
from swarmtune.devices.readings import ReadError, Reading

INTERVAL_S = 1.0
TIMEOUT_S = 5.0
LIMIT_BYTES = 8 * 2**20  # more than the largest services tell; to read it takes seconds
BLOCK = 2**16


class _NoStranger(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to another path, as of /metrics to /metrics/, and none to another server."""

    def redirect_request(self, req: urllib.request.Request, *others: Any) -> urllib.request.Request | None:
        """None: the redirect is the answer."""
        made = super().redirect_request(req, *others)
        return made if made is None or urlsplit(made.full_url)[:2] == urlsplit(req.full_url)[:2] else None


class ExporterSource:
    """GET on the address, without a proxy. ``bad_lines``: so many lines of all answers were not understood."""

    interval_s = INTERVAL_S

    def __init__(self, url: str) -> None:
        """ReadError if it is not an http or https address."""
        self.name = url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ReadError(f"{url} is not an http:// or https:// address")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoStranger())
        self.bad_lines = 0

    def read(self) -> list[Reading]:
        """All samples of the answer, which is bounded in bytes and time."""
        try:
            found, bad = parse(self._body().decode(errors="replace"))
        except HTTPError as error:
            error.close()
            raise ReadError(f"HTTP {error.code} {error.reason}") from error
        except URLError as error:
            raise ReadError(str(error.reason)) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ReadError(str(error) or type(error).__name__) from error
        self.bad_lines += bad
        return found

    def _body(self) -> bytes:
        deadline = time.monotonic() + TIMEOUT_S
        body = bytearray()
        with self._opener.open(self.name, timeout=TIMEOUT_S) as response:
            while block := response.read1(BLOCK):
                body += block
                if len(body) > LIMIT_BYTES:
                    raise ValueError(f"too large: the answer is longer than {LIMIT_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise ValueError(f"no whole answer within {TIMEOUT_S:g} s")
        return bytes(body)

    def close(self) -> None:
        """Nothing is kept open."""
