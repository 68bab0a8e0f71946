"""What each series that was read beside a run did during the measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.devices.spool import Key, Lines, Series

HISTOGRAM_PERCENTILES = (50, 90, 95, 99)
EMPTY = Series("histogram")


def summary(lines: Lines, started_ns: int, ended_ns: int) -> list[dict[str, Any]]:
    """What each series did from ``started_ns`` to ``ended_ns``, one object per series (a histogram is one series).

    counter: delta (sum of all increases, so that a restart of the server does not turn it negative) and rate per second,
    from the last reading before the start to the first after the end, as far as there are; gauge: mean, min, max of the
    readings in between; histogram: count, mean and percentiles of what was observed in between, interpolated in the
    buckets as Prometheus' histogram_quantile does it.
    """
    found: list[dict[str, Any]] = []
    histograms: dict[Key, dict[float, Key]] = {}
    for key, series in lines.series.items():
        source, name, labels = key
        kind = series.kind
        if kind == "histogram":
            bound = _bound(dict(labels).get("le", ""))
            if name.endswith("_bucket") and bound is not None:
                family = (source, name.removesuffix("_bucket"), tuple(one for one in labels if one[0] != "le"))
                histograms.setdefault(family, {})[bound] = key
            continue
        change = _increase if kind == "counter" else _level
        values = change(series, started_ns, ended_ns)
        if values:
            found.append({"source": source, "name": name, "labels": dict(labels), "kind": kind, **values})
    for family, buckets in histograms.items():
        values = _histogram(lines, family, buckets, started_ns, ended_ns)
        if values:
            source, name, labels = family
            found.append({"source": source, "name": name, "labels": dict(labels), "kind": "histogram", **values})
    return found


def _bound(text: str) -> float | None:
    """The upper bound of a bucket; None if it is not a number."""
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound


def _arrays(series: Series) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Stamps and values of the readings that are finite."""
    at, values = np.array(series.ns, np.int64), np.array(series.values, np.float64)
    finite = np.isfinite(values)
    return at[finite], values[finite]


def _increase(series: Series, started_ns: int, ended_ns: int) -> dict[str, float]:
    at, values = _arrays(series)
    first = max(0, int(np.searchsorted(at, started_ns, side="right")) - 1)
    last = min(len(at) - 1, int(np.searchsorted(at, ended_ns, side="left")))
    if last <= first:
        return {}
    part = values[first : last + 1]
    steps = np.diff(part)
    delta = float(np.where(steps >= 0, steps, part[1:]).sum())
    seconds = float(at[last] - at[first]) / 1e9
    return {"delta": delta, "rate": delta / seconds, "seconds": seconds}


def _level(series: Series, started_ns: int, ended_ns: int) -> dict[str, float]:
    at, level = _arrays(series)
    inside = level[(at >= started_ns) & (at <= ended_ns)]
    if not len(inside):
        return {}
    return {"mean": float(inside.mean()), "min": float(inside.min()), "max": float(inside.max()), "n": len(inside)}


def _histogram(
    lines: Lines, family: Key, buckets: Mapping[float, Key], started_ns: int, ended_ns: int
) -> dict[str, float]:
    def grown(key: Key) -> float:
        return _increase(lines.series.get(key, EMPTY), started_ns, ended_ns).get("delta", 0.0)

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
