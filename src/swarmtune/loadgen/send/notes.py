"""The record that a sender adds to the spool when a request ends, after the pieces of its answer."""

from __future__ import annotations

import struct
from typing import NamedTuple

_FIXED = struct.Struct("<qiBBqqqqqqqqqiiih?")
IN_FLIGHT = -1  # exchange of a note that only holds a FLIGHTS: until when all is in the spool, and what is not over
FLIGHTS = struct.Struct("<qq")  # CLOCK_MONOTONIC, ns; requests in flight
TEXT_LIMIT = 500  # characters of a transport error that are kept


class Note(NamedTuple):
    """Columns of records.REQUEST that only the sender knows. ``error``: of the transport, empty if there was none."""

    session: int
    turn: int
    phase: int
    outcome: int  # COMPLETED here means only: the answer came to its end
    scheduled_ns: int
    ready_ns: int
    sent_ns: int
    connect_ns: int
    end_ns: int
    end_read_ns: int
    received_bytes: int
    sent_bytes: int  # of the request, and what stands behind addresses in it may have
    most_tokens: int  # that the request allowed; -1: it set no limit
    expected_results: int  # vectors that the answer has to hold; -1: none, or not known
    asked_input_tokens: int  # of the turns so far, without the answers between them
    asked_output_tokens: int
    status: int
    retried: bool
    error: str

    def pack(self) -> bytes:
        """As bytes for the spool."""
        return _FIXED.pack(*self[:-1]) + self.error[:TEXT_LIMIT].encode(errors="replace")

    @classmethod
    def unpack(cls, data: bytes) -> Note:
        """Inverse of ``pack``."""
        return cls(*_FIXED.unpack_from(data), data[_FIXED.size :].decode(errors="replace"))  # type: ignore[call-arg] # a struct's length is not typed
