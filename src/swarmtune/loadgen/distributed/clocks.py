"""CLOCK_MONOTONIC of another machine, related to ours by ping-pong as in NTP (RFC 5905, section 8).

Of many exchanges the one with the smallest round trip is kept: its offset is wrong by at most half of that (if all of the
way were in one direction). Measured before and after the run; between them the drift is linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarmtune.clock import Clock

EXCHANGES = 32


@dataclass(frozen=True)
class ClockReading:
    """At ``local_ns`` the other clock showed ``offset_ns`` more, give or take ``rtt_ns`` / 2."""

    local_ns: int
    offset_ns: int
    rtt_ns: int


def reading(sent_ns: int, received_ns: int, answered_ns: int, back_ns: int) -> ClockReading:
    """One exchange: sent here, received there, answered there, back here."""
    return ClockReading(
        (sent_ns + back_ns) // 2,
        ((received_ns - sent_ns) + (answered_ns - back_ns)) // 2,
        (back_ns - sent_ns) - (answered_ns - received_ns),
    )


def measure(exchange: Callable[[], tuple[int, int]], now_ns: Callable[[], int], count: int = EXCHANGES) -> ClockReading:
    """The best of ``count`` exchanges. ``exchange`` gives when the ping came and when the answer went, there."""
    readings = []
    for _ in range(count):
        sent_ns = now_ns()
        received_ns, answered_ns = exchange()
        readings.append(reading(sent_ns, received_ns, answered_ns, now_ns()))
    return min(readings, key=lambda r: r.rtt_ns)


def monotonic_ns(clock: Clock) -> int:
    """The monotonic time of this clock in whole ns."""
    return round(clock.monotonic() * 1e9)


@dataclass(frozen=True)
class ClockRelation:
    """Between our clock and another one. ``after`` None: not measured a second time, no drift is known."""

    before: ClockReading
    after: ClockReading | None = None

    @property
    def error_ms(self) -> float:
        """Bound on the error of a converted time."""
        return max(self.before.rtt_ns, self.after.rtt_ns if self.after else 0) / 2e6

    def theirs(self, local_ns: int) -> int:
        """Convert a time of our clock to the other one, ns."""
        return int(local_ns + self._offset(np.array([local_ns]))[0])

    def ours(self, remote_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Convert times of the other clock to ours, ns."""
        near = remote_ns - self.before.offset_ns  # off by the drift since then, of which the drift is nothing
        return remote_ns - self._offset(near)

    def _offset(self, local_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.after is None or self.after.local_ns == self.before.local_ns:
            return np.full_like(local_ns, self.before.offset_ns)
        drift = (self.after.offset_ns - self.before.offset_ns) / (self.after.local_ns - self.before.local_ns)
        moved: NDArray[np.int64] = np.rint(drift * (local_ns - self.before.local_ns)).astype(np.int64)
        return self.before.offset_ns + moved


SAME = ClockRelation(ClockReading(0, 0, 0))
