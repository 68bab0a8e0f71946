"""Server metrics and device telemetry beside the run: Prometheus addresses read once a second, on the run's time axis.

A source that fails is a note, never the end of a run. ``summary`` says what the numbers did during the measurement.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson

from swarmtune.clock import Clock
from swarmtune.loadgen.exports.facts import written
from swarmtune.loadgen.exports.prometheus import Sample, parse

INTERVAL_S = 1.0
TIMEOUT_S = 5.0
LIMIT_BYTES = 32 * 2**20
HISTOGRAM_PERCENTILES = (50, 90, 95, 99)
Labels = tuple[tuple[str, str], ...]
Key = tuple[str, str, Labels]  # source, name, labels


@dataclass
class Telemetry:
    """What was read: per series its stamps (CLOCK_MONOTONIC ns) and values. ``notes``: what went wrong."""

    series: dict[Key, tuple[list[int], list[float]]] = field(default_factory=dict)
    kinds: dict[Key, str] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    last_failure: dict[str, str] = field(default_factory=dict)

    def add(self, ns: int, source: str, samples: Sequence[Sample]) -> None:
        """Samples that were read from a source at one time."""
        for sample in samples:
            key = (source, sample.name, sample.labels)
            stamps, values = self.series.setdefault(key, ([], []))
            stamps.append(ns)
            values.append(sample.value)
            self.kinds[key] = sample.kind

    @property
    def notes(self) -> list[str]:
        """One line for each source that failed."""
        return [f"{s}: not read {n} times: {self.last_failure[s]}" for s, n in sorted(self.failures.items())]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Long format, by time: ns, source, name, labels, value."""
        everything = (
            (ns, key, value) for key, (at, values) in self.series.items() for ns, value in zip(at, values, strict=True)
        )
        for ns, (source, name, labels), value in sorted(everything, key=lambda row: row[0]):
            yield {"ns": ns, "source": source, "name": name, "labels": dict(labels), "value": value}


async def scrape(sources: Sequence[str], clock: Clock, telemetry: Telemetry, *, interval_s: float = INTERVAL_S) -> None:
    """Read all sources at once every ``interval_s``, until cancelled. Stamps are half way between question and answer."""
    timeout = aiohttp.ClientTimeout(total=max(TIMEOUT_S, interval_s))
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        while True:
            began = clock.monotonic()
            await asyncio.gather(*(_read(session, source, telemetry) for source in sources))
            await clock.sleep(max(0.0, interval_s - (clock.monotonic() - began)))


async def _read(session: aiohttp.ClientSession, source: str, telemetry: Telemetry) -> None:
    asked_ns = time.monotonic_ns()
    try:
        async with session.get(source) as response:
            response.raise_for_status()
            body = await response.content.read(LIMIT_BYTES)
            while not response.content.at_eof() and len(body) < LIMIT_BYTES:
                body += await response.content.read(LIMIT_BYTES)
        samples = parse(body.decode(errors="replace"))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        telemetry.failures[source] += 1
        telemetry.last_failure[source] = str(error) or type(error).__name__
    else:
        telemetry.add((asked_ns + time.monotonic_ns()) // 2, source, samples)


def summary(telemetry: Telemetry, started_ns: int, ended_ns: int) -> list[dict[str, Any]]:
    """What each series did from ``started_ns`` to ``ended_ns``, one object per series (a histogram is one series).

    counter: delta (sum of all increases, so that a restart of the server does not turn it negative) and rate per second,
    from the last reading before the start to the first after the end, as far as there are; gauge: mean, min, max of the
    readings in between; histogram: count, mean and percentiles of what was observed in between, interpolated in the
    buckets as Prometheus' histogram_quantile does it.
    """
    found: list[dict[str, Any]] = []
    histograms: dict[Key, dict[float, Key]] = {}
    for key in telemetry.series:
        source, name, labels = key
        kind = telemetry.kinds[key]
        if kind == "histogram":
            if name.endswith("_bucket") and "le" in dict(labels):
                family = (source, name.removesuffix("_bucket"), tuple(one for one in labels if one[0] != "le"))
                histograms.setdefault(family, {})[float(dict(labels)["le"])] = key
            continue
        change = _increase if kind == "counter" else _level
        values = change(*telemetry.series[key], started_ns, ended_ns)
        if values:
            found.append({"source": source, "name": name, "labels": dict(labels), "kind": kind, **values})
    for family, buckets in histograms.items():
        values = _histogram(telemetry, family, buckets, started_ns, ended_ns)
        if values:
            source, name, labels = family
            found.append({"source": source, "name": name, "labels": dict(labels), "kind": "histogram", **values})
    return found


def _increase(stamps: list[int], values: list[float], started_ns: int, ended_ns: int) -> dict[str, float]:
    at = np.array(stamps)
    first = max(0, int(np.searchsorted(at, started_ns, side="right")) - 1)
    last = min(len(at) - 1, int(np.searchsorted(at, ended_ns, side="left")))
    if last <= first:
        return {}
    part = np.array(values[first : last + 1])
    steps = np.diff(part)
    delta = float(np.where(steps >= 0, steps, part[1:]).sum())
    seconds = float(at[last] - at[first]) / 1e9
    return {"delta": delta, "rate": delta / seconds, "seconds": seconds} if np.isfinite(delta) else {}


def _level(stamps: list[int], values: list[float], started_ns: int, ended_ns: int) -> dict[str, float]:
    at, level = np.array(stamps), np.array(values)
    inside = level[(at >= started_ns) & (at <= ended_ns) & np.isfinite(level)]
    if not len(inside):
        return {}
    return {"mean": float(inside.mean()), "min": float(inside.min()), "max": float(inside.max()), "n": len(inside)}


def _histogram(
    telemetry: Telemetry, family: Key, buckets: Mapping[float, Key], started_ns: int, ended_ns: int
) -> dict[str, float]:
    def grown(key: Key) -> float:
        return _increase(*telemetry.series.get(key, ([], [])), started_ns, ended_ns).get("delta", 0.0)

    bounds = sorted(buckets)
    counts = [grown(buckets[bound]) for bound in bounds]
    total = counts[-1]
    if total <= 0:
        return {}
    found = {"count": total, "mean": grown((family[0], f"{family[1]}_sum", family[2])) / total}
    for percentile in HISTOGRAM_PERCENTILES:
        found[f"p{percentile}"] = _quantile(bounds, counts, percentile / 100)
    return found


def _quantile(bounds: list[float], counts: list[float], share: float) -> float:
    """Linear within the bucket that holds it; the last finite bound if that is the +Inf bucket."""
    rank = share * counts[-1]
    place = next(i for i, count in enumerate(counts) if count >= rank)
    upper = bounds[place]
    lower = bounds[place - 1] if place else min(0.0, upper)
    if upper == float("inf"):
        return lower if place else 0.0
    before = counts[place - 1] if place else 0.0
    inside = counts[place] - before
    return lower + (upper - lower) * ((rank - before) / inside if inside > 0 else 1.0)


def write_jsonl(telemetry: Telemetry, path: Path) -> None:
    """One line per reading of a series. ConfigPathError if the file cannot be written."""
    with written(path) as file:
        for row in telemetry.rows():
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
