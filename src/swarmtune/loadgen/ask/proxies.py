"""Which proxy a request goes through: the one that is given, or that of the environment, with the exceptions of no_proxy as
curl, Go and requests understand them.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

DOMAIN = re.compile(r"(\*?\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy; ``authorization``: value of Proxy-Authorization, empty without. ``source``: what named it."""

    host: str
    port: int
    authorization: str = ""
    source: str = field(default="", compare=False)


def proxy_for(scheme: str, host: str, port: int, given: str) -> Proxy | None:
    """The proxy for a service. ValueError if what is named is no HTTP proxy."""
    if given:
        return _parsed(given, "")
    found = urllib.request.getproxies_environment()
    name = next((name for name in (scheme, "all") if found.get(name)), "")
    if not name or bypassed(host, port, found.get("no", "")):
        return None
    return _parsed(found[name], f"${name}_proxy")


def _parsed(text: str, source: str) -> Proxy:
    where = f"{source}: " if source else ""
    try:
        parts = urlsplit(text if "//" in text else f"http://{text}")
        port = parts.port or 80
    except ValueError:
        raise ValueError(f"{where}the proxy is not of the form http://host:port") from None
    if parts.scheme != "http" or not parts.hostname:
        shown = f"{parts.scheme}://{parts.hostname or ''}"
        raise ValueError(f"{where}the proxy {shown} is not of the form http://host:port; no other kind is known")
    known = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    authorization = f"Basic {base64.b64encode(known.encode()).decode()}" if known else ""
    return Proxy(parts.hostname, port, authorization, source)


def bypassed(host: str, port: int, no_proxy: str) -> bool:
    """Is this service one of the exceptions? This machine always is."""
    name = host.lower().rstrip(".")
    address = _address(name)
    if name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry, name, address, port) for entry in _entries(no_proxy))


def not_understood(no_proxy: str) -> list[str]:
    """Entries of no_proxy that say nothing here."""
    return [entry for entry in _entries(no_proxy) if not _is_known(entry)]


def _entries(no_proxy: str) -> Iterator[str]:
    return (entry for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _is_known(entry: str) -> bool:
    if entry == "*" or _network(entry) is not None:
        return True
    name, port = _split(entry)
    if port == 0:
        return False
    digits = name.replace(".", "").isdecimal()  # 10.1 is neither an address nor a name
    return _address(name) is not None or (bool(DOMAIN.fullmatch(name)) and not digits)


def _matches(entry: str, name: str, address: Address | None, port: int) -> bool:
    if entry == "*":
        return True
    network = _network(entry)
    if network is not None:
        return address is not None and address.version == network.version and address in network
    if not _is_known(entry):
        return False
    excepted, its_port = _split(entry)
    if its_port not in (-1, port):
        return False
    its_address = _address(excepted)
    if its_address is not None or address is not None:
        return its_address == address
    domain = excepted.removeprefix("*").strip(".")
    return name.endswith(f".{domain}") or (name == domain and not excepted.startswith("*"))


def _split(entry: str) -> tuple[str, int]:
    """Host and port of an entry; -1: all ports, 0: what stands there is no port."""
    if _address(entry) is not None:
        return entry.strip("[]"), -1
    name, colon, port = entry.rpartition(":")
    if not colon:
        return entry, -1
    valid = port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= 65535
    return name.strip("[]"), int(port) if valid else 0


def _address(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
