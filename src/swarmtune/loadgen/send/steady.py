"""When is a service warm? When its answers no longer become faster. Pure: told of each answer, it says when that is so.

The answers of the warm-up are taken in blocks, in the order in which they end: as many as there are users, at least 8 and at
most 32. Once the median time of a block, per token asked for, is at least nine tenths of that of the block before, the
warm-up is over; it is over after ten blocks in any case.
"""

from __future__ import annotations

import statistics

LEAST_OF_BLOCK, MOST_OF_BLOCK = 8, 32  # answers
STILL_FASTER = 0.9  # of the median before: below it, the service is still warming up
MOST_BLOCKS = 10
LONGEST_S = 120.0  # and no request of a warm-up is sent later than this


class Steadiness:
    """``users``: how many send at a time. ``reached`` is True from the answer on with which the service is steady."""

    def __init__(self, users: int) -> None:
        self.block = min(MOST_OF_BLOCK, max(LEAST_OF_BLOCK, users))
        self.reached = False
        self._times: list[float] = []
        self._before: float | None = None
        self._blocks = 0

    @property
    def most(self) -> int:
        """Answers after which it is over in any case."""
        return MOST_BLOCKS * self.block

    def answered(self, duration_ns: int, tokens: int | None) -> None:
        """An answer took so long; ``tokens``: how many were asked for, None if that was left to the service."""
        self._times.append(duration_ns / max(1, tokens or 1))
        if self.reached or len(self._times) < self.block:
            return
        median = statistics.median(self._times)
        self._blocks += 1
        settled = self._before is not None and median >= STILL_FASTER * self._before
        self.reached = settled or self._blocks >= MOST_BLOCKS
        self._before, self._times = median, []
