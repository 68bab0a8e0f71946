"""The contract of a wire, and the format of its spool. Times are CLOCK_MONOTONIC nanoseconds.

A wire owns sockets that its user has made. It sends prepared bytes, reads what comes, writes every read with its
stamps to the spool, follows the framing of HTTP/1.1 just far enough to know where an answer ends, and reports only
happenings that a sender must act on. One request at a time on a connection; nothing is understood beyond the framing.
"""

from __future__ import annotations

import socket
import ssl
import struct
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import NamedTuple

SO_TIMESTAMPNS = 35  # Linux; the socket module has no name for it
# A record of the spool: length of the data after it, kind, exchange, read, kernel (0: no stamp), last_empty.
# last_empty: last time a read found the socket empty, so that the bytes came between then and the stamp. Later than
# the stamp when the machine took long to wake a halted CPU, which no counter tells: then it says nothing.
RECORD = struct.Struct("<IIqqqq")
PIECE, NOTE = 0, 1

MALFORMED, PEER_CLOSED, SPOOL_FAILED, UNASKED, TLS_FAILED, CERTIFICATE_WANTED, TOO_LONG = range(10001, 10008)
ERRORS = {
    MALFORMED: "the answer is not HTTP",
    PEER_CLOSED: "the connection was closed during the answer",
    UNASKED: "the server sent what nobody had asked for",
    TLS_FAILED: "the TLS connection failed",
    CERTIFICATE_WANTED: "the service wants a client certificate",
    TOO_LONG: "the answer does not end: it is longer than one to this request can be",
}
ANSWER_LIMIT = 2**30  # bytes of an answer whose request says nothing else
REFUSAL_LIMIT = 2**20  # bytes of an answer of status 400 and above
# Lines that begin the last event of a stream; LAST_EVENTS of answers.h is the same.
LAST_EVENTS = (
    b"data: [DONE]", b"data:[DONE]", b"event: response.completed", b"event: response.incomplete", b"event: response.failed",
    b'data: {"type":"response.completed"', b"event: message_stop",
)  # fmt: skip
DONE_LINES = LAST_EVENTS[:2]  # those that are whole without a line end


class Kind(IntEnum):
    """What happened on a connection."""

    CONNECTED = 1  # requests may be sent now
    ENDED = 2  # the answer is complete
    CLOSED = 3  # closed or broken, see ``error``; the connection must be dropped
    WATCHED = 4  # a watched descriptor is readable
    ANSWERING = 5  # the first byte of the answer's body may have come (only if asked for)
    STREAMED = 6  # the last event of a stream is whole; ENDED follows when the HTTP answer ends, if it does


class Happening(NamedTuple):
    """``ns``: arrival of the last byte (the kernel's stamp if there is one); ``read_ns``: when the wire saw it.

    ``error``: 0, an errno, or one of ERRORS. ``bytes``: received since the request was sent, heads included.
    """

    connection: int
    kind: int
    exchange: int
    ns: int
    read_ns: int
    bytes: int
    status: int
    error: int
    keep_alive: int


class Wire(ABC):
    """See the module. Not thread-safe."""

    name: str

    @abstractmethod
    def add(self, connecting: socket.socket, tls: ssl.SSLContext | None = None, host: str = "") -> int:
        """Take over a non-blocking socket on which connect was called; CONNECTED or CLOSED follows. Its number.

        With ``tls`` the spool holds the plain bytes, under the stamp of the read that completed them.
        """

    @abstractmethod
    def watch(self, descriptor: int) -> int:
        """Report WATCHED whenever this descriptor is readable."""

    @abstractmethod
    def send(
        self, connection: int, exchange: int, payload: bytes, *, keep: bool = False, limit: int = ANSWER_LIMIT
    ) -> int:
        """Send a request; the stamp taken before its first byte was written. OSError if the connection is broken.

        ``keep``: the raw answer can be had from ``kept``; answers of status 400 and above are always kept. ``limit``: bytes
        that the answer may have, head included; with more it is CLOSED as TOO_LONG (a refusal above REFUSAL_LIMIT).
        """

    @abstractmethod
    def wait(self, timeout_ns: int, *, tell_answering: bool = False) -> list[Happening]:
        """What happened, after at most this long (-1: no limit); empty after the timeout or a signal.

        OSError if the spool cannot be written any more: what was read since then is lost.
        """

    @abstractmethod
    def kept(self, connection: int) -> bytes:
        """The raw answer, heads included, of the connection's last request; empty if it was not kept.

        After CLOSED with TLS_FAILED or CERTIFICATE_WANTED: the reason, as text.
        """

    @abstractmethod
    def note(self, exchange: int, data: bytes) -> None:
        """Write a note about an exchange into the spool, after all its pieces. At most 64 KB."""

    @abstractmethod
    def drop(self, connection: int) -> None:
        """Close a connection; what was still to come on it is lost, and its number may be used again."""

    @abstractmethod
    def flush(self) -> None:
        """Bring the spool to the file. OSError if that fails."""

    @property
    @abstractmethod
    def spooled_bytes(self) -> int:
        """Length of the spool so far."""

    @abstractmethod
    def close(self) -> None:
        """Close everything."""


def prepare(made: socket.socket) -> bool:
    """Make a socket non-blocking, without delay, with kernel receive stamps; False if there are none here."""
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True
