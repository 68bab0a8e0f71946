"""The machine itself, and which names are its own."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import psutil

from swarmtune.devices.readings import Reading

INTERVAL_S = 1.0


class HostSource:
    """Use of all cores and of the memory."""

    name = "host"
    interval_s = INTERVAL_S

    def __init__(self) -> None:
        self._cpu_since = False

    def read(self) -> list[Reading]:
        """host_cpu_percent (100: all cores busy since the reading before), host_memory_used_bytes, .._total_bytes."""
        memory, cpu = psutil.virtual_memory(), psutil.cpu_percent()
        known, self._cpu_since = self._cpu_since, True  # the first value has nothing to compare with
        return [
            *([Reading("host_cpu_percent", cpu)] if known else []),
            Reading("host_memory_used_bytes", float(memory.total - memory.available)),
            Reading("host_memory_total_bytes", float(memory.total)),
        ]

    def close(self) -> None:
        """Nothing is kept open."""


def is_here(host: str) -> bool:
    """Is this name or address one of this machine? Nothing is looked up in the network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in {"localhost", socket.gethostname().lower()}
    return address.is_loopback or address in own_addresses()


def own_addresses() -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Those of the interfaces of this machine, without zones."""
    found = set()
    for several in psutil.net_if_addrs().values():
        for one in several:
            with contextlib.suppress(ValueError):  # of hardware
                found.add(ipaddress.ip_address(one.address.partition("%")[0]))
    return found
