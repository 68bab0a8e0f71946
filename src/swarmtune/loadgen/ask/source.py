"""The sessions that a worker has credits for, with the bytes of their first requests made ahead of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from swarmtune.workload.session import Dataset, Session


@dataclass(frozen=True, slots=True)
class Block:
    """Credits for sessions ``first``, ``first + step``, ...: ``count`` of them, or as many as wanted.

    ``last_turns``: how many turns of the last one may be sent, if not all (so that a number of requests is kept exactly).
    """

    first: int
    count: int | None = None
    step: int = 1
    last_turns: int | None = None


@dataclass(slots=True)
class Prepared:
    """A session, how many of its turns may be sent, and the payload of the first."""

    session: Session
    turns: int
    payload: bytes


AHEAD_BYTES = 2**29  # of payloads that lie ready, about


class Source:
    """First in, first out. ``payload`` makes the bytes of a session's first request."""

    def __init__(self, dataset: Dataset, payload: Callable[[Session], bytes], *, complete: bool) -> None:
        """``complete``: no further block will be granted."""
        self._dataset = dataset
        self._payload = payload
        self._blocks: deque[Block] = deque()
        self._used = 0  # sessions taken from the first block
        self._ahead: deque[Prepared] = deque()
        self._ahead_bytes = 0
        self.complete = complete

    def grant(self, block: Block) -> None:
        """More credits."""
        if block.count != 0:
            self._blocks.append(block)

    @property
    def left(self) -> float:
        """Credits not yet taken; infinite for an unlimited block."""
        counts = [float("inf") if block.count is None else block.count for block in self._blocks]
        return sum(counts) - self._used + len(self._ahead)

    @property
    def exhausted(self) -> bool:
        """No credit is left, and none will be granted."""
        return self.complete and not self._ahead and not self._blocks

    def prepare(self, most: int) -> int:
        """Make at most so many payloads ahead, and not more than fit into AHEAD_BYTES; how many were made."""
        made = 0
        while made < most and self._ahead_bytes < AHEAD_BYTES and (prepared := self._make()):
            self._ahead.append(prepared)
            self._ahead_bytes += len(prepared.payload)
            made += 1
        return made

    @property
    def prepared(self) -> int:
        """Payloads that lie ready."""
        return len(self._ahead)

    def next(self) -> Prepared | None:
        """The next session; None if there is no credit (now)."""
        if not self._ahead:
            return self._make()
        found = self._ahead.popleft()
        self._ahead_bytes -= len(found.payload)
        return found

    def _make(self) -> Prepared | None:
        if not self._blocks:
            return None
        block = self._blocks[0]
        session = self._dataset.session(block.first + self._used * block.step)
        self._used += 1
        turns = len(session.turns)
        if self._used == block.count:
            turns = min(turns, block.last_turns or turns)
            self._blocks.popleft()
            self._used = 0
        return Prepared(session, turns, self._payload(session))
