"""The columns of several workers as those of one run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.loadgen.distributed.clocks import SAME, ClockRelation
from swarmtune.loadgen.records import CHUNK, REQUEST

REQUESTS_FILE, CHUNKS_FILE = "requests.npy", "chunks.npy"
STAMPS = ("scheduled_ns", "ready_ns", "sent_ns", "first_byte_ns", "end_ns", "end_read_ns", "last_ns")
Convert = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Columns:
    """The records of one worker; ``relation``: of its clock to ours."""

    requests: NDArray[Any]  # of REQUEST
    chunks: NDArray[Any]  # of CHUNK
    errors: Sequence[str]
    relation: ClockRelation = SAME


def shift(requests: NDArray[Any], chunks: NDArray[Any], convert: Convert) -> None:
    """Convert all times in place; 0 (it did not happen) stays 0."""
    for name in STAMPS:
        requests[name] = np.where(requests[name] == 0, 0, convert(requests[name]))
    chunks["ns"] = convert(chunks["ns"])


def merge(parts: Sequence[Columns]) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Requests (ordered by scheduled_ns), chunks and error texts of all, in our clock."""
    requests = np.empty(sum(len(part.requests) for part in parts), REQUEST)
    chunks = np.empty(sum(len(part.chunks) for part in parts), CHUNK)
    errors: dict[str, int] = {}
    row = first = 0
    for part in parts:
        rows = requests[row : row + len(part.requests)]
        entries = chunks[first : first + len(part.chunks)]
        rows[:], entries[:] = part.requests, part.chunks
        if part.relation != SAME:
            shift(rows, entries, part.relation.ours)
        rows["first_chunk"] += first
        numbers = np.array([errors.setdefault(text, len(errors)) for text in part.errors] + [-1], "i4")
        rows["error"] = numbers[rows["error"]]  # -1, no error, is the last
        row, first = row + len(rows), first + len(entries)
    return requests[np.argsort(requests["scheduled_ns"], kind="stable")], chunks, list(errors)
