"""Where requests go: addresses, TLS, proxies, and the head of a request. Resolved once, before the run."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

from swarmtune.errors import CommunicationError, ConfigPathError, ConfigValidationError
from swarmtune.loadgen.ask import proxies
from swarmtune.loadgen.ask.proxies import Proxy
from swarmtune.loadgen.ask.scheme import SCHEME_S, greeting, speaks_plain_http, speaks_tls
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.wire.base import CERTIFICATE_WANTED, prepare
from swarmtune.loadgen.wire.tls import meaning

CONNECT_LIMIT_BYTES = 64 * 1024
QUERY = "%/?:@!$&'()*+,;=-._~[]"  # characters that stay as they are in a query
SECOND_THOUGHTS_S = 0.25  # in TLS 1.3 a service refuses a client after the client has taken the connection for made
WANTS_ONE = "most likely it wants a client certificate (--client-cert, --client-key)"


Address = tuple[socket.AddressFamily, tuple[str, int]]


def parse(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and base path (without a trailing /v1) of a service's URL; ValueError if it is none, or has a name
    and a password, which would not be sent.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # half of the brackets of an IPv6 address
        raise ValueError("the url is not of the form http://host:port, an IPv6 address in brackets: [::1]") from None
    if "@" in parts.netloc:
        raise ValueError(
            f"the url of {parts.netloc.rpartition('@')[2]} has a name and a password, which are not sent: give the header "
            "-H 'Authorization: Basic ...' instead"
        )
    if parts.fragment:
        raise ValueError(f"url {url!r} has a part behind #, which no server ever gets; leave #{parts.fragment} out")
    if any(character.isspace() or not character.isprintable() for character in url.partition("?")[0]):
        raise ValueError(f"url {url!r} holds a blank or a control character; write %20 for a blank")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url {url!r} is not of the form http://host:port")
    port = _port(parts)
    if port is None:
        raise ValueError(f"url {url!r}: its port is not a number from 1 to 65535")
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1")


def _port(parts: SplitResult) -> int | None:
    """The port of an address, or that of its scheme; None: it is none."""
    try:
        port = parts.port
    except ValueError:
        return None
    return {"http": 80, "https": 443}[parts.scheme] if port is None else port or None


def with_query(path: str, query: str) -> str:
    """The path with the query of the service's URL, such as ?api-version=..., and its own."""
    return f"{path}{'&' if '?' in path else '?'}{quote(query, safe=QUERY)}" if query else path


def proxy_for(url: str, given: str) -> Proxy | None:
    """The proxy that is asked for, or that the environment names for this URL (http_proxy, https_proxy, no_proxy).

    ValueError if it is no HTTP proxy.
    """
    scheme, host, port, _ = parse(url)
    return proxies.proxy_for(scheme, host, port, given)


def notes(urls: Sequence[str], options: LoadgenOptions) -> list[str]:
    """What a user should know of the way to these services. ConfigValidationError for a proxy that cannot be used."""
    try:
        proxied = [proxy for url in urls if (proxy := proxy_for(url, options.proxy))]
    except ValueError as error:
        raise ConfigValidationError([f"--proxy: {error}"]) from error
    found = [
        f"requests go through the proxy {proxy.host}:{proxy.port}, which {proxy.source} names; unset it, or name the "
        "service in $no_proxy, if they should not"
        for proxy in dict.fromkeys(proxied)
        if proxy.source
    ]
    excepted = urllib.request.getproxies_environment().get("no", "")
    strange = proxies.not_understood(excepted) if found else []
    if strange:
        found.append(
            f"$no_proxy: {', '.join(strange)} is not understood; an entry is a name, .name, an address or a network "
            "(10.0.0.0/8), with :port or without"
        )
    return found


def check_sources(options: LoadgenOptions) -> None:
    """ConfigValidationError for source_addresses that this machine does not have."""
    mistakes = []
    for address in dict.fromkeys(options.source_addresses):
        try:
            family = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.bind((address, 0))
        except OSError as error:
            mistakes.append(f"--source-addresses: {address} is no address of this machine ({error.strerror or error})")
    if mistakes:
        raise ConfigValidationError(mistakes)


class Target:
    """One service. ``connect`` gives sockets on their way; ``payload`` a whole request."""

    def __init__(self, url: str, path: str, options: LoadgenOptions, headers: Mapping[str, str]) -> None:
        """CommunicationError if the host's name is not known; ValueError for a URL that is none.

        ``headers``: further ones, authorization included.
        """
        self.url = url.partition("?")[0]  # for people: a query may hold a key
        self.answered = False  # HTTP came from it
        self._mistaken: str | None = None  # why its address cannot be right; None: not asked yet
        scheme, self.host, self.port, base = parse(url)
        self.tls = tls_context(options) if scheme == "https" else None
        self._shows_certificate = bool(options.client_cert)
        try:
            self.proxy = proxy_for(url, options.proxy)
        except ValueError as error:
            raise ConfigValidationError([f"--proxy: {error}"]) from error
        self.tunnelled = self.proxy is not None and self.tls is not None
        host, port = (self.proxy.host, self.proxy.port) if self.proxy else (self.host, self.port)
        self._addresses = _resolved(host, port)
        check_sources(options)
        self._sources = itertools.cycle(options.source_addresses or ("",))
        self._head = self._make_head(with_query(base.removesuffix(path) + path, urlsplit(url).query), options, headers)

    def _make_head(self, path: str, options: LoadgenOptions, headers: Mapping[str, str]) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = f"http://{host}:{self.port}{path}" if self.proxy and self.tls is None else path
        lines = {
            "Host": f"{host}:{self.port}",
            "User-Agent": "swarmtune",
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if options.streaming else "application/json",
            "Accept-Encoding": "identity",
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
            greeting = False
            try:
                with self._reached(candidate, timeout_s) as tried:
                    greeting = self.tls is not None
                    if self.tls:
                        self._greet(tried, self.tls)
            except ssl.SSLError as error:
                reason = self._plain_reason(candidate, error) or self._tls_reason(error)
            except OSError as error:
                reason = error.strerror or str(error) or "no answer in time"
                if greeting:
                    reason = self._plain_reason(candidate, error) or reason
            else:
                self._addresses = [candidate]
                return
        via = f" (through the proxy {self.proxy.host}:{self.proxy.port})" if self.proxy else ""
        raise CommunicationError(f"The endpoint {self.url} cannot be reached{via}: {reason}.")

    def _reached(self, candidate: Address, timeout_s: float) -> socket.socket:
        """A blocking socket that is connected to this address, through the tunnel if there is one. OSError."""
        tried = socket.socket(candidate[0], socket.SOCK_STREAM)
        try:
            tried.settimeout(timeout_s)
            if source := next(self._sources):
                tried.bind((source, 0))
            if self.tunnelled:
                self._tunnel(tried, candidate[1])
            else:
                tried.connect(candidate[1])
        except BaseException:
            tried.close()
            raise
        return tried

    def _plain_reason(self, candidate: Address, error: OSError) -> str:
        """That the service speaks HTTP without TLS; empty if it does not. ``error``: what the TLS handshake met."""
        if not speaks_plain_http(lambda: self._reached(candidate, SCHEME_S), self.host, error):
            return ""
        return f"it speaks HTTP without TLS at port {self.port}: use http:// instead of https://"

    def wrong_scheme(self) -> str:
        """That a service which has never answered speaks TLS, where its address says http, or greets as no HTTP server does;
        empty if it does not. It is asked once, for at most SCHEME_S each.
        """
        if self.answered or self.tls or self.proxy:
            return ""
        if self._mistaken is None:
            self._mistaken = ""
            if greets := greeting(lambda: self._reached(self._addresses[0], SCHEME_S)):
                kind = "an SSH server" if greets.startswith("SSH-") else "no HTTP server"
                self._mistaken = f"at port {self.port} answers {kind} ({greets!r}): correct the port of the url"
            elif speaks_tls(lambda: self._reached(self._addresses[0], SCHEME_S), self.host):
                self._mistaken = f"the service speaks TLS at port {self.port}: use https:// instead of http://"
        return self._mistaken

    def _greet(self, tried: socket.socket, context: ssl.SSLContext) -> None:
        """A TLS handshake, and the service's second thoughts about a client that has shown no certificate."""
        with context.wrap_socket(tried, server_hostname=self.host) as greeted:
            if self._shows_certificate or greeted.version() != "TLSv1.3":
                return
            greeted.setblocking(False)
            if select.select([greeted], [], [], SECOND_THOUGHTS_S)[0]:
                with contextlib.suppress(ssl.SSLWantReadError):  # a session ticket: it is content
                    if not greeted.recv(1):
                        raise OSError(f"it closed the connection after the TLS handshake; {WANTS_ONE}")

    def _tls_reason(self, error: ssl.SSLError) -> str:
        number, reason = meaning(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return reason
        refused = any(word in (error.reason or str(error)).upper() for word in ("ALERT_HANDSHAKE_FAILURE", "EOF"))
        if number == CERTIFICATE_WANTED or not refused or self._shows_certificate:
            return reason
        return f"it ended the TLS handshake ({reason}); {WANTS_ONE}"

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


def tls_context(options: LoadgenOptions) -> ssl.SSLContext:
    """What the options say of TLS. ConfigPathError for a file of certificates that cannot be used."""
    context = ssl.create_default_context()
    for name in ("ca_file", "client_cert", "client_key"):
        path = getattr(options, name)
        if path and Path(path).exists() and not Path(path).is_file():
            raise ConfigPathError(f"--{name.replace('_', '-')}: {path} is no regular file.")
    if options.ca_file:
        try:
            context.load_verify_locations(options.ca_file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigPathError(f"--ca-file: {options.ca_file} cannot be used: {reason}.") from error
    if options.client_cert:
        try:  # a key with a password is refused: nobody could type it
            context.load_cert_chain(options.client_cert, options.client_key or None, password="")
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, ssl.SSLError):
                reason = "not a certificate and its key, unlocked, as PEM"
            raise ConfigPathError(f"--client-cert, --client-key: cannot be used: {reason}.") from error
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _resolved(host: str, port: int) -> Sequence[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise CommunicationError(f"The host {host[:100]} is not known: a host cannot have this name.") from error
    except OSError as error:
        raise CommunicationError(f"The host {host} is not known: {error.strerror or error}.") from error
    return [(family, (str(address[0]), int(address[1]))) for family, _, _, _, address in found]
