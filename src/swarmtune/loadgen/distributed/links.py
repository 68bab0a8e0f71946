"""Connections of a bus to one or more other processes: sockets here; ZeroMQ to other hosts is in network.py."""

from __future__ import annotations

import socket
import struct
import threading
from abc import ABC, abstractmethod

SEND_TIMEOUT_S = 5  # a peer that reads nothing for so long counts as lost
READ_BYTES = 1 << 16
_LENGTH = struct.Struct("!I")


class Link(ABC):
    """``send`` may be called by any thread, the rest by one."""

    @property
    @abstractmethod
    def descriptors(self) -> tuple[int, ...]:
        """To wait on. Something may have come without their being readable: ``receive`` before waiting."""

    @abstractmethod
    def receive(self) -> list[tuple[str, bytes | None]]:
        """All that has come, without waiting: pairs of peer and data; None: the peer is gone. The link names peers."""

    @abstractmethod
    def send(self, data: bytes, peer: str = "") -> None:
        """To this peer, or to all. What cannot be delivered is dropped, and its peer comes out of ``receive`` as gone."""

    @abstractmethod
    def close(self) -> None:
        """Twice does no harm."""


class SocketLink(Link):
    """Over a connected stream socket: the end of the other process is known at once."""

    PEER = "it"

    def __init__(self, connected: socket.socket) -> None:
        timeout = struct.pack("@ll", SEND_TIMEOUT_S, 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._socket = connected
        self._lock = threading.Lock()
        self._rest = bytearray()
        self._lost = False
        self._told = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        return () if self._told else (self._socket.fileno(),)

    def receive(self) -> list[tuple[str, bytes | None]]:
        if self._told:
            return []
        self._read()
        found: list[tuple[str, bytes | None]] = []
        while len(self._rest) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._rest)[0]
            if len(self._rest) < end:
                break
            found.append((self.PEER, bytes(self._rest[_LENGTH.size : end])))
            del self._rest[:end]
        if self._lost:
            self._told = True
            found.append((self.PEER, None))
        return found

    def _read(self) -> None:
        try:
            while data := self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT):
                self._rest += data
        except BlockingIOError:
            return
        except OSError:
            pass
        self._lost = True

    def send(self, data: bytes, peer: str = "") -> None:  # noqa: ARG002 - there is only one
        if self._lost:
            return
        try:
            with self._lock:
                self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            self._lost = True

    def close(self) -> None:
        self._socket.close()
        self._told = True
