"""Several runs beside each other: one table, and latency over throughput as text and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from swarmtune.loadgen.exports.facts import RunFacts, optional, written
from swarmtune.loadgen.exports.packed import Column, number, packed
from swarmtune.loadgen.exports.plots import BLUE, ORANGE, STYLE
from swarmtune.loadgen.judge.intervals import mean_interval
from swarmtune.loadgen.judge.statistics import Interval
from swarmtune.loadgen.judge.summary import Results

PICTURE = "throughput_latency.png"
COLUMNS = {  # head: name in Results.flat()
    "requests/s": "request_throughput",
    "output tokens/s": "output_throughput",
    "good/s": "request_goodput",
    "TTFT p50, ms": "p50_ttft_ms",
    "TTFT p95": "p95_ttft_ms",
    "TTFT p99": "p99_ttft_ms",
    "TPOT p50, ms": "p50_tpot_ms",
    "TPOT p95": "p95_tpot_ms",
    "latency p50, ms": "p50_e2el_ms",
    "latency p95": "p95_e2el_ms",
    "latency p99": "p99_e2el_ms",
    "failed": "failed",
}
AXES = ("output_throughput", "request_throughput"), ("p95_ttft_ms", "p95_e2el_ms")  # the first that all runs have
TITLES = {
    "output_throughput": "output tokens/s",
    "request_throughput": "requests/s",
    "p95_ttft_ms": "TTFT p95, ms",
    "p95_e2el_ms": "request latency p95, ms",
}
MARKS = "123456789abcdefghijklmnopqrstuvwxyz"
WIDE, HIGH = 56, 12  # characters of the figure
LOG_SPAN = 20  # the greatest of more than so many of the least: a logarithmic axis


@dataclass(frozen=True)
class Compared:
    """One run: its name, results and facts."""

    name: str
    results: Results
    facts: RunFacts


def comparison(runs: Sequence[Compared], width: int) -> Group:
    """The table, what repeated runs have in common, and the figure."""
    flat = [one.results.flat() for one in runs]
    there = {head: name for head, name in COLUMNS.items() if any(name in values for values in flat)}
    columns = [Column("verdict", [one.facts.verdict for one in runs], left=True)]
    columns += [Column(head, [number(values.get(name)) for values in flat]) for head, name in there.items()]
    names = [f"{MARKS[i % len(MARKS)]}  {one.name}" for i, one in enumerate(runs)]
    parts: list[Any] = [*packed("runs", names, columns, width)]
    parts += [Text(line) for line in across(runs)]
    drawn = figure(flat)
    return Group(*parts, *([Text(""), *(Text(line, no_wrap=True, overflow="crop") for line in drawn)] if drawn else []))


def across(runs: Sequence[Compared]) -> list[str]:
    """Means over repeated runs of the same load, with their intervals (Student's t over the runs); empty without any."""
    groups: dict[str, list[dict[str, float]]] = {}
    for one in runs:
        before, _, last = one.name.rpartition("run")
        if last.isdecimal():
            groups.setdefault(before.rstrip("-"), []).append(one.results.flat())
    lines = []
    for name, found in groups.items():
        for head, metric in COLUMNS.items():
            values = np.array([values[metric] for values in found if metric in values])
            if len(values) < 2:
                continue
            interval = run_interval(values, runs[0].results.confidence)
            level = f"{runs[0].results.confidence * 100:g} %"
            told = "" if interval is None else f", {level}: {number(interval[0])} .. {number(interval[1])}"
            title = f"{name}: " if name else ""
            lines.append(
                f"{title}{head.removesuffix(', ms')}: mean of {len(values)} runs {number(float(values.mean()))}{told}"
            )
    return lines


def run_interval(values: np.ndarray[Any, Any], confidence: float) -> Interval:
    """The interval of the mean of so many runs, which do not depend on each other."""
    return mean_interval(len(values), float(len(values)), float(values.mean()), float(values.var(ddof=1)), confidence)


def axes_of(flat: Sequence[dict[str, float]]) -> tuple[str, str] | None:
    """The metrics of the figure: those that all runs have."""
    chosen = [next((name for name in names if all(name in values for values in flat)), None) for names in AXES]
    return (chosen[0], chosen[1]) if chosen[0] and chosen[1] else None


def figure(flat: Sequence[dict[str, float]]) -> list[str]:
    """Latency over throughput, one mark for each run; empty if it would have fewer than two points."""
    axes = axes_of(flat)
    if axes is None or len(flat) < 2:
        return []
    across_it, up = ([values[name] for values in flat] for name in axes)
    log = _is_log(up)
    grid = [[" "] * WIDE for _ in range(HIGH)]
    for i, (x, y) in enumerate(zip(across_it, up, strict=True)):
        row, column = HIGH - 1 - _place(y, up, HIGH, log=log), _place(x, across_it, WIDE)
        grid[row][column] = MARKS[i % len(MARKS)] if grid[row][column] == " " else "*"
    labels = [number(max(up)), *[""] * (HIGH - 2), number(min(up))]
    margin = max(map(len, labels))
    head = f"{TITLES[axes[1]]}{' (logarithmic)' if log else ''} over {TITLES[axes[0]]}; * several runs"
    low, high = number(min(across_it)), number(max(across_it))
    lines = [f"{label:>{margin}} |{''.join(row)}".rstrip() for label, row in zip(labels, grid, strict=True)]
    return [head, *lines, f"{'':>{margin}} +{'-' * WIDE}", f"{'':>{margin}}  {low}{high:>{WIDE - len(low)}}"]


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > LOG_SPAN


def _place(value: float, values: Sequence[float], cells: int, *, log: bool = False) -> int:
    scale = math.log if log else float
    low, high = scale(min(values)), scale(max(values))
    return 0 if high == low else round((scale(value) - low) / (high - low) * (cells - 1))


def draw(runs: Sequence[Compared], directory: Path) -> Path | None:
    """The picture; its path, None where the runs have nothing to draw. MissingExtraError without matplotlib,
    ConfigPathError if it cannot be written."""
    flat = [one.results.flat() for one in runs]
    axes = axes_of(flat)
    if axes is None or len(runs) < 2:
        return None
    matplotlib, figures = optional("matplotlib", "Plots"), optional("matplotlib.figure", "Plots")
    across_it, up = ([values[name] for values in flat] for name in axes)
    path = directory / PICTURE
    with matplotlib.rc_context(STYLE), written(path) as file:
        page = figures.Figure(figsize=(9, 5), layout="constrained")
        plot = page.subplots()
        plot.plot(across_it, up, "-", color=BLUE, alpha=0.4)
        plot.plot(across_it, up, "o", color=ORANGE)
        for one, x, y in zip(runs, across_it, up, strict=True):
            plot.annotate(one.name, (x, y), textcoords="offset points", xytext=(5, 5), parse_math=False)
        scale = "log" if _is_log(up) else "linear"
        plot.set(xlabel=TITLES[axes[0]], ylabel=TITLES[axes[1]], yscale=scale, title="latency over throughput")
        page.savefig(file, format="png", dpi=130)
    return path
