"""Where requests go: addresses, TLS, proxies, and the head of a request. Resolved once, before the run."""

from __future__ import annotations

import base64
import contextlib
import itertools
import socket
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from swarmtune.errors import CommunicationError, ConfigPathError
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.wire.base import prepare

CONNECT_LIMIT_BYTES = 64 * 1024


def parse(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and base path (without a trailing /v1) of a service's URL; ValueError if it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url {url!r} is not of the form http://host:port")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1")


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy; ``authorization``: value of Proxy-Authorization, empty without."""

    host: str
    port: int
    authorization: str = ""


def proxy_for(url: str, given: str) -> Proxy | None:
    """The proxy that is asked for, or that the environment names for this URL (http_proxy, https_proxy, no_proxy)."""
    scheme, host, port, _ = parse(url)
    if not given:
        bypassed = urllib.request.proxy_bypass(f"{host}:{port}") or host in ("localhost", "127.0.0.1", "::1")
        given = "" if bypassed else urllib.request.getproxies_environment().get(scheme, "")
    if not given:
        return None
    parts = urlsplit(given if "//" in given else f"http://{given}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"proxy {given!r} is not of the form http://host:port")
    known = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    authorization = f"Basic {base64.b64encode(known.encode()).decode()}" if known else ""
    return Proxy(parts.hostname, parts.port or 80, authorization)


class Target:
    """One service. ``connect`` gives sockets on their way; ``payload`` a whole request."""

    def __init__(self, url: str, path: str, options: LoadgenOptions, headers: Mapping[str, str]) -> None:
        """CommunicationError if the host's name is not known; ValueError for a URL that is none.

        ``headers``: further ones, authorization included.
        """
        self.url = url
        scheme, self.host, self.port, base = parse(url)
        self.tls = _context(options) if scheme == "https" else None
        self.proxy = proxy_for(url, options.proxy)
        self.tunnelled = self.proxy is not None and self.tls is not None
        host, port = (self.proxy.host, self.proxy.port) if self.proxy else (self.host, self.port)
        self._addresses = _resolved(host, port)
        self._sources = itertools.cycle(options.source_addresses or ("",))
        self._head = self._make_head(base + path, options, headers)

    def _make_head(self, path: str, options: LoadgenOptions, headers: Mapping[str, str]) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = f"http://{host}:{self.port}{path}" if self.proxy and self.tls is None else path
        lines = {
            "Host": f"{host}:{self.port}",
            "User-Agent": "swarmtune",
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if options.streaming else "application/json",
        }
        if self.proxy and self.proxy.authorization and self.tls is None:
            lines["Proxy-Authorization"] = self.proxy.authorization
        if options.connection_reuse_strategy == "never":
            lines["Connection"] = "close"
        lines |= headers
        return "".join(
            [f"POST {where} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lines.items())]
        ).encode()

    def payload(self, request_id: str, body: bytes) -> bytes:
        """Head and body of one POST, ready for the wire."""
        return b"%bX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            self._head,
            request_id.encode(),
            len(body),
            body,
        )

    def probe(self, timeout_s: float) -> None:
        """Find the address that answers. CommunicationError if none does."""
        reason = "no address"
        for candidate in self._addresses:
            try:
                with socket.socket(candidate[0], socket.SOCK_STREAM) as tried:
                    tried.settimeout(timeout_s)
                    if source := next(self._sources):
                        tried.bind((source, 0))
                    if self.tunnelled:
                        self._tunnel(tried, candidate[1])
                    else:
                        tried.connect(candidate[1])
                    if self.tls:
                        self.tls.wrap_socket(tried, server_hostname=self.host).close()
            except OSError as error:
                reason = getattr(error, "verify_message", "") or error.strerror or str(error) or "no answer in time"
            else:
                self._addresses = [candidate]
                return
        via = f" (through the proxy {self.proxy.host}:{self.proxy.port})" if self.proxy else ""
        raise CommunicationError(f"The endpoint {self.url} cannot be reached{via}: {reason}.")

    def connect(self) -> tuple[socket.socket, bool]:
        """A non-blocking socket on its way, and whether the kernel stamps what it receives. OSError if none can be made.

        Through a proxy to an https service the tunnel is made first, and that waits.
        """
        family, address = self._addresses[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            if source := next(self._sources):
                with contextlib.suppress(AttributeError, OSError):  # Linux: a port only with the destination
                    made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                made.bind((source, 0))
            if self.tunnelled:
                self._tunnel(made, address)
                return made, prepare(made)
            stamped = prepare(made)
            with contextlib.suppress(BlockingIOError):
                made.connect(address)
        except BaseException:
            made.close()
            raise
        return made, stamped

    def _tunnel(self, made: socket.socket, address: tuple[str, int]) -> None:
        made.settimeout(30)
        made.connect(address)
        host = f"[{self.host}]" if ":" in self.host else self.host
        known = self.proxy.authorization if self.proxy else ""
        authorization = f"Proxy-Authorization: {known}\r\n" if known else ""
        made.sendall(f"CONNECT {host}:{self.port} HTTP/1.1\r\nHost: {host}:{self.port}\r\n{authorization}\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < CONNECT_LIMIT_BYTES:
            part = made.recv(1)  # not a byte of the tunnel itself
            if not part:
                break
            answer += part
        status = answer.split(b"\r\n", 1)[0]
        if b" 200" not in status[:13]:
            raise OSError(f"the proxy refused the tunnel: {status.decode(errors='replace') or 'no answer'}")


def _context(options: LoadgenOptions) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if options.ca_file:
        try:
            context.load_verify_locations(options.ca_file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigPathError(f"--ca-file: {options.ca_file} cannot be used: {reason}.") from error
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _resolved(host: str, port: int) -> Sequence[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CommunicationError(f"The host {host} is not known: {error.strerror or error}.") from error
    return [(family, (str(address[0]), int(address[1]))) for family, _, _, _, address in found]
