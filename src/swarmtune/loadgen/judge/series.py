"""What happened over time: step functions (a sweep over starts and ends), values per second, and the steady window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.loadgen.judge.latencies import NS_PER_S, Bools, Columns, Floats, Ints, columns, ragged
from swarmtune.loadgen.records import Outcome, Records

STEADY_SHARE = 0.95
STEADY_SLICES = 200
SHORT_SHARE = 0.5  # of the measurement: a shorter steady window is warned of


@dataclass(frozen=True)
class Steps:
    """A step function: ``values[i]`` holds from ``times_ns[i]`` to ``times_ns[i + 1]``, 0 before the first."""

    times_ns: Ints
    values: Floats

    def integral(self, at_ns: NDArray[Any]) -> Floats:
        """Integral from the beginning to each of these times, value seconds."""
        if not len(self.times_ns):
            return np.zeros(len(at_ns))
        widths = np.diff(self.times_ns) / NS_PER_S
        before = np.concatenate([[0.0], np.cumsum(self.values[:-1] * widths)])
        place = np.searchsorted(self.times_ns, at_ns, side="right") - 1
        inside = place >= 0
        place = np.maximum(place, 0)
        found: Floats = before[place] + self.values[place] * (at_ns - self.times_ns[place]) / NS_PER_S
        return np.where(inside, found, 0.0)

    def means(self, edges_ns: NDArray[Any]) -> Floats:
        """Mean by time between consecutive edges."""
        found: Floats = np.diff(self.integral(edges_ns)) / (np.diff(edges_ns) / NS_PER_S)
        return found

    def peak(self, start_ns: int, end_ns: int) -> float:
        """The greatest value between two times."""
        first = max(0, int(np.searchsorted(self.times_ns, start_ns, side="right")) - 1)
        last = int(np.searchsorted(self.times_ns, end_ns, side="left"))
        return float(self.values[first:last].max(initial=0.0))


def steps(starts_ns: NDArray[Any], ends_ns: NDArray[Any], heights: Floats | None = None) -> Steps:
    """How much is under way at each time, when every row adds its height (1) from its start to its end (sweep line)."""
    rise = np.ones(len(starts_ns)) if heights is None else heights
    times = np.concatenate([starts_ns, ends_ns])
    order = np.argsort(times)
    times = times[order]
    values = np.cumsum(np.concatenate([rise, -rise])[order])
    last = np.flatnonzero(np.diff(times, append=times[-1] + 1)) if len(times) else np.zeros(0, np.int64)
    return Steps(times[last].astype(np.int64), values[last])


def concurrency(records: Records) -> Steps:
    """Requests in flight, from send to end, of all phases: what the service had to hold."""
    rows = records.requests
    sent = rows["sent_ns"] > 0
    end = np.where(rows["end_ns"] > 0, rows["end_ns"], max(records.ended_ns, records.started_ns))[sent]
    return steps(rows["sent_ns"][sent], np.maximum(end, rows["sent_ns"][sent]))


@dataclass(frozen=True)
class Series:
    """One value per ``width_s``, from the start of the measurement on. ``output_tokens``: that arrived in it."""

    width_s: float
    start_s: Floats
    sent: Ints
    completed: Ints
    failed: Ints
    output_tokens: Floats
    concurrency: Floats

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        names = ("start_s", "sent", "completed", "failed", "output_tokens", "concurrency")
        return {"width_s": self.width_s, **{name: getattr(self, name).tolist() for name in names}}


def series(records: Records, *, width_s: float = 1.0, most: int = 100_000) -> Series:
    """The measurement second by second (or, beyond ``most`` values, in wider slices)."""
    end_ns = max(records.ended_ns, int(records.requests["end_ns"].max(initial=0)), records.started_ns + 1)
    duration_s = (end_ns - records.started_ns) / NS_PER_S
    width_s = max(width_s, duration_s / most)
    slices = max(1, math.ceil(duration_s / width_s))
    data = columns(records)
    rows, done = data.rows, data.outcome(Outcome.COMPLETED)

    def counted(at_ns: NDArray[Any], weights: Floats | None = None) -> NDArray[Any]:
        return _counted(at_ns - records.started_ns, width_s, slices, weights)

    edges = records.started_ns + np.arange(slices + 1) * int(width_s * NS_PER_S)
    return Series(
        width_s,
        np.arange(slices, dtype=np.float64) * width_s,
        counted(rows["sent_ns"][rows["sent_ns"] > 0]),
        counted(rows["end_ns"][done]),
        counted(rows["end_ns"][data.outcome(Outcome.FAILED)]),
        counted(*_tokens(data, done)),
        concurrency(records).means(edges),
    )


def _counted(after_ns: NDArray[Any], width_s: float, slices: int, weights: Floats | None = None) -> NDArray[Any]:
    """How many (or what weight) fall into each slice; times after the start."""
    place = (after_ns / (width_s * NS_PER_S)).astype(np.int64)
    return np.bincount(np.clip(place, 0, slices - 1), weights, minlength=slices)


def _tokens(data: Columns, done: Bools) -> tuple[Ints, Floats]:
    """When the chunks of these answers came, and how many of the answer's tokens fall to each."""
    with_chunks = done & (data.rows["chunks"] > 0)
    chunks = data.rows["chunks"][with_chunks]
    where = ragged(data.rows["first_chunk"][with_chunks], chunks)
    each = np.repeat(data.rows["output_tokens"][with_chunks] / np.maximum(1, chunks), chunks)
    return data.chunk_ns[where], each


@dataclass(frozen=True)
class SteadyWindow:
    """The longest span with at least 95 % of the target (without one: of the peak) in flight. Seconds after the start."""

    start_s: float
    end_s: float
    target_concurrency: float
    asked: bool  # the target was asked for; the peak of a rate is chance, and its window says little
    warning: str = ""

    @property
    def duration_s(self) -> float:
        """Its length, s."""
        return self.end_s - self.start_s


def steady_window(flight: Steps, started_ns: int, ended_ns: int, target: float | None = None) -> SteadyWindow | None:
    """Find it among 200 equal slices of the measurement, by each slice's mean; None if no slice is so full.

    Means, since a slot of a closed loop is empty for a moment between an answer and the next request.
    """
    if ended_ns - started_ns < STEADY_SLICES:
        return None
    edges = np.linspace(started_ns, ended_ns, STEADY_SLICES + 1)
    means = flight.means(edges)
    aim = float(means.max()) if target is None else float(target)
    full = np.concatenate([[False], means >= STEADY_SHARE * aim, [False]])
    if aim <= 0 or not full.any():
        return None
    changes = np.flatnonzero(np.diff(full))
    starts, ends = changes[::2], changes[1::2]
    longest = int(np.argmax(ends - starts))
    first, last = edges[starts[longest]] - started_ns, edges[ends[longest]] - started_ns
    share = float(last - first) / (ended_ns - started_ns)
    warning = (
        ""
        if share >= SHORT_SHARE or target is None
        else f"steady for only {share:.0%} of the measurement: measure longer"
    )
    return SteadyWindow(float(first) / NS_PER_S, float(last) / NS_PER_S, aim, target is not None, warning)
