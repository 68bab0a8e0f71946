"""Does a service list a model at /v1/models? Asked before a run, where its user wants to wait for that."""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import orjson

from swarmtune.errors import ConfigValidationError, one_line
from swarmtune.loadgen.ask.target import parse, proxy_for, tls_context, with_query
from swarmtune.loadgen.options import LoadgenOptions

PATH = "/v1/models"
NO_LIST = (404, 405, 501)  # of a service that has no such address: then an answer at its own address is enough
LIMIT_BYTES, BLOCK = 8 * 2**20, 2**16
SHOWN = 5  # names of other models


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: the keys of one service are not sent to another."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def missing(url: str, model: str, options: LoadgenOptions, headers: Mapping[str, str], timeout_s: float) -> str:
    """Why the model is not there; empty: it is listed. ConfigurationError for a proxy or certificate that cannot be used."""
    try:
        body = _body(url, PATH, options, headers, timeout_s)
    except HTTPError as error:
        error.close()
        if error.code not in NO_LIST:
            return f"HTTP {error.code} at {PATH}"
        return _silent(url, options, headers, timeout_s)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _reason(error)
    names = _names(body)
    if model in names:
        return ""
    listed = ", ".join(one_line(name)[:80] for name in names[:SHOWN])
    return f"{PATH} does not list {model}" + (f", but {listed}" if listed else "")


def _silent(url: str, options: LoadgenOptions, headers: Mapping[str, str], timeout_s: float) -> str:
    try:
        _body(url, "/", options, headers, timeout_s)
    except HTTPError as error:
        error.close()
        return f"there is no {PATH}, and HTTP {error.code} at the address itself; say --wait-for-model-mode inference"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _reason(error)
    return ""


def _body(url: str, path: str, options: LoadgenOptions, headers: Mapping[str, str], timeout_s: float) -> bytes:
    scheme, host, port, base = parse(url)
    place = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(  # noqa: S310  parse takes http and https only
        f"{scheme}://{place}:{port}{with_query(base + path, urlsplit(url).query)}", headers=dict(headers)
    )
    try:
        proxy = proxy_for(url, options.proxy)
    except ValueError as error:
        raise ConfigValidationError([f"--proxy: {error}"]) from error
    if proxy is not None and proxy.authorization:
        request.add_unredirected_header("Proxy-Authorization", proxy.authorization)
    through = {} if proxy is None else {scheme: f"http://{proxy.host}:{proxy.port}"}
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler(through), _Stay()]
    if scheme == "https":
        handlers.append(urllib.request.HTTPSHandler(context=tls_context(options)))
    ends, body = time.monotonic() + timeout_s, bytearray()
    with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as response:
        while block := response.read1(BLOCK):
            body += block
            if len(body) > LIMIT_BYTES or time.monotonic() > ends:
                raise ValueError(f"no whole answer within {timeout_s:g} s and {LIMIT_BYTES:,} bytes")
    return bytes(body)


def _names(body: bytes) -> list[str]:
    """The models of an answer of OpenAI's form; what is none is none."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    listed = found.get("data") if isinstance(found, dict) else None
    models = listed if isinstance(listed, list) else []
    return [name for one in models if isinstance(one, dict) and isinstance(name := one.get("id"), str)]


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, URLError) else error
    text = (isinstance(inner, OSError) and inner.strerror) or str(inner) or type(inner).__name__
    return f"{PATH} cannot be read: {one_line(text)[:200]}"
