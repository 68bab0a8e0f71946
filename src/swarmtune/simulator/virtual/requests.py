"""Requests and what became of them, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
Counts = NDArray[np.int64]
NEVER = -1.0


class Reason(IntEnum):
    """Why a replica does not go on: all requests have ended; ``limit`` was reached; some have ended; none can go on."""

    DRAINED = 0
    LIMIT = 1
    ENDED = 2
    STALLED = 3


@dataclass(frozen=True)
class Requests:
    """``arrival``: seconds, ascending; ``prompt``, ``output``: tokens, at least 1; ``priority``: the least one first.

    ``contents``: numbers from 0 of what the full blocks of each request hold, prompt and output, one request behind the
    other; ``ends``: where those of each end. Blocks with the same number hold the same tokens behind the same tokens.
    """

    arrival: Seconds
    prompt: Counts
    output: Counts
    priority: NDArray[np.int32]
    ends: Counts
    contents: Counts = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(
        cls,
        arrival: Sequence[float] | Seconds,
        prompt: Sequence[int] | Counts,
        output: Sequence[int] | Counts,
        priority: Sequence[int] | None = None,
        contents: Sequence[Sequence[int]] | None = None,
    ) -> Requests:
        """From sequences of one length. ValueError if they are not, or are no such numbers."""
        times = np.ascontiguousarray(arrival, np.float64)
        count = len(times)
        known = [np.asarray(one, np.int64) for one in contents or ()]
        made = cls(
            times,
            np.ascontiguousarray(prompt, np.int64),
            np.ascontiguousarray(output, np.int64),
            np.zeros(count, np.int32) if priority is None else np.ascontiguousarray(priority, np.int32),
            np.cumsum([len(one) for one in known], dtype=np.int64) if known else np.zeros(count, np.int64),
            np.concatenate(known) if known else np.zeros(0, np.int64),
        )
        made.check()
        return made

    def __len__(self) -> int:
        return len(self.arrival)

    def at(self, place: int) -> Requests:
        """One of them."""
        one, begin, end = slice(place, place + 1), int(self.ends[place - 1]) if place else 0, int(self.ends[place])
        contents = self.contents[begin:end]
        ends = np.array([end - begin], np.int64)
        return Requests(self.arrival[one], self.prompt[one], self.output[one], self.priority[one], ends, contents)

    def chosen(self, places: Sequence[int]) -> Requests:
        """Those at these places, in this order."""
        at = np.asarray(places, np.int64)
        begins, ends = np.concatenate([[0], self.ends[:-1]])[at] if len(self) else at, self.ends[at]
        parts = [self.contents[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        contents = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        lengths = np.cumsum(ends - begins, dtype=np.int64)
        return Requests(self.arrival[at], self.prompt[at], self.output[at], self.priority[at], lengths, contents)

    @property
    def kinds(self) -> int:
        """One more than the highest of ``contents``."""
        return int(self.contents.max(initial=-1)) + 1

    def check(self) -> None:
        """ValueError if these are no requests."""
        lengths = {
            "prompt": self.prompt.size,
            "output": self.output.size,
            "priority": self.priority.size,
            "ends": self.ends.size,
        }
        for name, length in lengths.items():
            if length != len(self):
                raise ValueError(f"{length} values of {name} for {len(self)} requests")
        if not np.isfinite(self.arrival).all() or (np.diff(self.arrival) < 0).any() or self.arrival[:1].sum() < 0:
            raise ValueError("arrivals must be finite, ascending seconds from 0 on")
        if len(self) and min(self.prompt.min(), self.output.min()) < 1:
            raise ValueError("prompts and outputs have at least one token")
        if (np.diff(self.ends, prepend=0) < 0).any() or self.ends[-1:].sum() != len(self.contents):
            raise ValueError("the ends of contents must ascend to their number")
        if self.contents.min(initial=0) < 0:
            raise ValueError("contents are numbers from 0")


@dataclass(frozen=True)
class Answers:
    """What became of requests, in their order. ``first_scheduled``: seconds, NEVER if it was not; ``generated``: tokens that
    came out; ``cached``: tokens of the prompt that were found in the KV cache, -1 if it was never let in.

    ``stamps``: ns at which each token came out, 0 for those that did not; those of request i are
    ``stamps[starts[i] : starts[i] + output[i]]``.
    """

    first_scheduled: Seconds
    generated: Counts
    cached: Counts
    preemptions: NDArray[np.int32]
    starts: Counts
    stamps: Counts


STEP = np.dtype(
    [
        ("start", "f8"),
        ("end", "f8"),
        ("tokens", "i8"),
        ("decodes", "i8"),
        ("context", "i8"),
        ("prefills", "i8"),
        ("running", "i8"),
        ("waiting", "i8"),
        ("blocks_used", "i8"),
        ("preempted", "i8"),
        ("prefill_work", "f8"),
    ]
)
"""A step: seconds, what it computes (latency/features.py), and the engine when it begins."""
