"""What a run recorded, as columns: one row per request, one entry per chunk with content. No sockets, no JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from swarmtune.devices.spool import Lines
from swarmtune.records import EarlyStop


class Outcome(IntEnum):
    """How a request ended.

    Incomplete: the measurement ended before its answer did. Cancelled: on purpose, by request_cancellation_rate.
    Dropped: it was scheduled, and never sent, because no slot came free before the end. These three are not failures.
    """

    COMPLETED = 0
    FAILED = 1
    INCOMPLETE = 2
    CANCELLED = 3
    DROPPED = 4


class Phase(IntEnum):
    """Requests of the warm-up are recorded, and left out of all results."""

    WARMUP = 0
    MEASURED = 1


# All _ns are CLOCK_MONOTONIC of the recording machine (the controller's, after merging); 0: it did not happen.
# Arrivals (first_byte, chunks, end of an answer) are the kernel's receive stamps where there are any.
REQUEST = np.dtype(
    [
        ("session", "i8"),  # number in the dataset
        ("turn", "i4"),
        ("phase", "u1"),  # Phase
        ("outcome", "u1"),  # Outcome
        ("worker", "u2"),
        ("scheduled_ns", "i8"),  # intended send; in a closed loop, when the slot came free (or the think time ended)
        (
            "ready_ns",
            "i8",
        ),  # it could have been sent: it was due, and a slot free; sent - connect - ready: our lateness
        ("sent_ns", "i8"),  # before the first byte was written, connection made
        ("connect_ns", "i8"),  # duration of connecting (and TLS); 0: connection was there
        ("first_byte_ns", "i8"),
        ("end_ns", "i8"),  # the last byte came, or it was given up
        ("end_read_ns", "i8"),  # when the worker knew of the end
        ("first_chunk", "i8"),  # its chunks are chunk[first_chunk : first_chunk + chunks]
        ("chunks", "i4"),
        ("first_answer", "i4"),  # index among its chunks of the first without reasoning; -1: none
        ("asked_input_tokens", "i4"),  # of the turns so far, without the answers between them
        ("input_tokens", "i4"),  # server's usage where it can be true, else as asked
        ("asked_output_tokens", "i4"),  # -1: not asked
        ("output_tokens", "i4"),  # of all choices: server's usage, else an estimate
        ("reasoning_tokens", "i4"),  # -1: unknown
        ("cached_tokens", "i4"),  # of the prompt, from the server's cache; -1: unknown
        (
            "last_ns",
            "i8",
        ),  # the last event of the answer came, with content or the end of it; 0: none, or a file without
        ("hidden_tokens", "i4"),  # of output_tokens, those that nothing visible accounts for (read/counts.py)
        ("choices", "u1"),  # answers in one (n); 0 in files of earlier versions
        ("server_counted", "?"),  # output_tokens is the server's usage; else it was estimated (read/counts.py)
        ("false_usage", "?"),  # the server stated a count that cannot be true; it is not among these (read/counts.py)
        ("status", "i2"),  # HTTP status; 0: none
        ("retried", "?"),  # sent twice, because the server closed an idle connection
        ("bytes", "i8"),  # received
        ("error", "i4"),  # index into errors; -1: none
    ]
)
ADDED_COLUMNS = frozenset(
    {"false_usage", "choices", "choice", "last_ns", "hidden_tokens"}
)  # that files of earlier versions lack: 0
CHUNK = np.dtype(
    [
        ("ns", "i8"),  # arrival: the kernel's stamp, else the worker's
        ("lag_ns", "i4"),  # worker's read after the kernel's stamp; -1: no kernel stamp
        ("doubt_ns", "i4"),  # it arrived at most this much earlier than ``ns`` (it came with later bytes in one read)
        ("tokens", "f4"),  # that it brought, as the server said or by its text; 0: as many as the others of its answer
        ("choice", "u1"),  # of several answers in one, the one that it belongs to
    ]
)


Stage = Literal[
    "waiting for hosts", "starting", "warming up", "measuring", "stopping", "collecting", "working out results"
]


@dataclass(slots=True)  # a msgspec.Struct would count twice as slowly
class Progress:
    """How far a worker, or a whole run, is. Counts are those of the measured phase; of a run, sums over its workers.

    ``notes``: what people should know, since the beginning.
    """

    stage: Stage = "starting"
    workers: int = 1
    sent: int = 0
    ended: int = 0
    failed: int = 0
    in_flight: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class WorkerFacts:
    """What the certificate needs to know of a worker besides its records. Times in ms, shares from 0 to 1."""

    worker: str
    wire: str  # "native" or "python"
    kernel_stamps: bool
    cpu_share: float = 0.0  # of one core, over the measurement
    cpu_share_max: float = 0.0  # in the busiest second
    cycle_p99_ms: float = 0.0  # time between two polls of the sockets, while there was something to do
    cycle_max_ms: float = 0.0
    page_faults: int = 0  # waits for the disk, because memory of the worker had been taken away
    pauses: int = 0  # times that a user waited because the service asked for it (Retry-After), in the measurement
    paused_s: float = 0.0  # those waits, all in all, until its end
    longest_pause_s: float = 0.0  # as the service asked for it
    open_ends: int = 0  # answers behind whose last event the service left the HTTP answer open
    clock_steps: int = 0  # jumps of the wall clock against the monotonic one
    clock_offset_error_ms: float = 0.0  # of a worker on another machine
    notes: list[str] = field(default_factory=list)


@dataclass
class Observed:
    """What was read beside a run, on its time axis: of devices (and their exporters), and of the service's metrics."""

    devices: Lines = field(default_factory=Lines)
    servers: Lines = field(default_factory=Lines)

    @property
    def notes(self) -> list[str]:
        """One sentence for each trouble."""
        return list(dict.fromkeys((*self.devices.notes, *self.servers.notes)))


@dataclass
class Records:
    """A whole run. ``started_ns`` to ``ended_ns``: the measurement (CLOCK_MONOTONIC); ``started_unix_ns``: wall clock."""

    requests: NDArray[Any]  # of REQUEST, ordered by scheduled_ns
    chunks: NDArray[Any]  # of CHUNK, those of one request together and in order
    errors: list[str]
    workers: list[WorkerFacts]
    started_ns: int
    ended_ns: int
    started_unix_ns: int
    request_prefix: str = ""  # the id of a request is f"{request_prefix}{session}-{turn}"
    interrupted: bool = False
    lost: bool = False  # the endpoint could no longer be reached
    early_stop: EarlyStop | None = None
    observed: Observed = field(default_factory=Observed)
