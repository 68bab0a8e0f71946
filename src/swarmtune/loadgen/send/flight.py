"""A request under way, and when it is no longer waited for: its time limit, cancelling on purpose, and an answer whose
stream is over while its HTTP answer is not. Pure: no clock, no socket.

All times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from swarmtune.loadgen.send.timing import FOREVER, Ticket, Timing
from swarmtune.loadgen.wire.base import ANSWER_LIMIT, Happening

LINGER_NS = 50_000_000  # so long is the end of the HTTP answer waited for after the last event
ANSWER_BYTES = 2**24  # that an answer may have besides those for each token and each text
BYTES_PER_TOKEN, BYTES_PER_TEXT = 2**14, 2**18  # an event with twenty alternatives; an embedding of 8,192 numbers
UNKNOWN_TOKENS = 4096  # counted for a request that sets no limit
MAX_PAUSE_NS = 60_000_000_000  # the longest Retry-After that is obeyed
ENDED_KEPT = 10_000  # ended requests that may wait in line for their time limit


class Reason(Enum):
    """Why a flight is no longer waited for."""

    LINGERED = 1  # all of its events have come
    LATE = 2
    CANCELLED = 3


@dataclass(slots=True, eq=False)
class Flight:
    """A request under way. ``number``: of the exchange; ``began_ns``: when connecting began."""

    ticket: Ticket
    timing: Timing
    number: int
    payload: bytes
    connection: int = -1
    sent_ns: int = 0
    began_ns: int = 0
    connect_ns: int = 0
    retried: bool = False
    most_tokens: int = -1  # that the request allows; -1: no limit, or it was not sent
    streamed: Happening | None = None  # its last event has come, and the end of the HTTP answer has not
    over: bool = False


class Limits:
    """The flights that have a limit, by its time."""

    def __init__(self, timeout_ns: int) -> None:
        """``timeout_ns``: how long each may take, from the decision to send it."""
        self._timeout_ns = timeout_ns
        self._deadlines: deque[tuple[int, Flight]] = deque()
        self._cancels: list[tuple[int, int, Flight]] = []
        self._lingering: deque[tuple[int, Flight]] = deque()

    def begin(self, flight: Flight, now_ns: int, in_flight: int) -> None:
        """Its time limit runs from now on."""
        self._deadlines.append((now_ns + self._timeout_ns, flight))
        if len(self._deadlines) > 2 * in_flight + ENDED_KEPT:  # one slow answer must not keep all later ones
            self._deadlines = deque(entry for entry in self._deadlines if not entry[1].over)

    def cancel(self, flight: Flight, at_ns: int) -> None:
        """It is to be cancelled then."""
        heapq.heappush(self._cancels, (at_ns, flight.number, flight))

    def linger(self, flight: Flight, now_ns: int) -> None:
        """Its last event came just now."""
        self._lingering.append((now_ns + LINGER_NS, flight))

    def expired(self, now_ns: int) -> Iterator[tuple[Flight, Reason]]:
        """Those whose time has come, each once."""
        for line, reason in ((self._lingering, Reason.LINGERED), (self._deadlines, Reason.LATE)):
            while line and (line[0][1].over or line[0][0] <= now_ns):
                _, flight = line.popleft()
                if not flight.over:
                    yield flight, reason
        while self._cancels and (self._cancels[0][2].over or self._cancels[0][0] <= now_ns):
            flight = heapq.heappop(self._cancels)[2]
            if not flight.over:
                yield flight, Reason.CANCELLED

    @property
    def next_ns(self) -> int:
        """When to look again, at the latest."""
        soonest = FOREVER
        for line in (self._lingering, self._deadlines, self._cancels):
            if line and line[0][0] < soonest:
                soonest = line[0][0]
        return soonest


def answer_limit(most_tokens: int, texts: int) -> int:
    """Bytes that an answer may have: many times what any service needs for it. ``most_tokens``: -1, if without limit."""
    tokens = UNKNOWN_TOKENS if most_tokens < 0 else most_tokens
    return min(ANSWER_LIMIT, ANSWER_BYTES + BYTES_PER_TOKEN * tokens + BYTES_PER_TEXT * texts)


def retry_after_ns(value: bytes) -> int:
    """Seconds of a Retry-After header; 0 without one that can be used. (A date is not obeyed.)"""
    try:
        seconds = float(value)
    except ValueError:
        return 0
    return min(MAX_PAUSE_NS, round(seconds * 1e9)) if math.isfinite(seconds) and seconds > 0 else 0
