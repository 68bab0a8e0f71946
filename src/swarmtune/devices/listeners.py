"""Which sockets listen and which are connected, and which process holds them, from /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from typing import NamedTuple

LISTENING, ESTABLISHED = "0A", "01"  # include/net/tcp_states.h
TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
PREFIX = "socket:["
MAPPED = "0000000000000000FFFF0000"  # an IPv4 address on an IPv6 socket


class Socket(NamedTuple):
    """A TCP socket of this network namespace; ``local`` and ``remote`` are "ADDRESS:PORT" as the kernel writes them."""

    local: str
    remote: str
    state: str
    inode: str
    user: int

    @property
    def port(self) -> int:
        """The local port."""
        return int(self.local.rpartition(":")[2], 16)


def sockets() -> list[Socket]:
    """All that listen or are connected."""
    found = []
    for table in TABLES:
        with contextlib.suppress(OSError), open(table, encoding="ascii", errors="replace") as file:  # noqa: PTH123
            next(file, None)  # the heading
            for line in file:
                words = line.split()
                if len(words) > 9 and words[3] in (LISTENING, ESTABLISHED):
                    local, remote = (word.removeprefix(MAPPED) for word in words[1:3])
                    found.append(Socket(local, remote, words[3], words[9], int(words[7])))
    return found


def held_by(pid: int) -> set[str]:
    """The inodes of the sockets that this process holds; empty if we may not look."""
    found = set()
    with contextlib.suppress(OSError):
        folder = f"/proc/{pid}/fd"
        for number in os.listdir(folder):  # noqa: PTH208
            with contextlib.suppress(OSError):
                target = os.readlink(f"{folder}/{number}")  # noqa: PTH115
                if target.startswith(PREFIX):
                    found.add(target[len(PREFIX) : -1])
    return found


def listeners(ports: Collection[int], among: Iterable[int]) -> dict[int, set[int]]:
    """For each of these ports, those of the processes ``among`` that hold a socket listening there."""
    inodes = {one.inode: one.port for one in sockets() if one.state == LISTENING and one.port in ports}
    found: dict[int, set[int]] = {port: set() for port in ports}
    if inodes:
        for pid in among:
            for inode in held_by(pid) & inodes.keys():
                found[inodes[inode]].add(pid)
    return found


def listening(port: int) -> dict[str, int]:
    """The inodes of the sockets that listen on this port, each with the number of the user who made it."""
    return {one.inode: one.user for one in sockets() if one.state == LISTENING and one.port == port}


def ports_of(members: Iterable[int]) -> set[int]:
    """The ports on which these processes listen."""
    inodes = {one.inode: one.port for one in sockets() if one.state == LISTENING}
    return {inodes[inode] for pid in members for inode in held_by(pid) & inodes.keys()}


def connects_elsewhere(members: Iterable[int]) -> bool:
    """Has one of these processes a connection that it opened itself, to something that none of them holds?

    Then it may pass its requests on, as a proxy does, and whoever computes the answers is not among them.
    """
    ours = {inode for pid in members for inode in held_by(pid)}
    every = sockets()
    listening = {one.port for one in every if one.state == LISTENING and one.inode in ours}
    inside = {(one.local, one.remote) for one in every if one.inode in ours or one.port in listening}
    return any(
        one.state == ESTABLISHED
        and one.inode in ours
        and one.port not in listening
        and (one.remote, one.local) not in inside
        for one in every
    )
