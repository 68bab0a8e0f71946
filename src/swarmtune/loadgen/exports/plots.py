"""Pictures of a run: latency over time, distributions, throughput, concurrency. matplotlib, imported when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swarmtune.loadgen.exports.facts import optional, written
from swarmtune.loadgen.judge.latencies import NS_PER_S, Columns, Floats, columns, gaps_of, request_samples
from swarmtune.loadgen.judge.series import concurrency, series
from swarmtune.loadgen.judge.summary import Results
from swarmtune.loadgen.records import Outcome, Records

POINTS = 4000  # drawn at most, so that the file stays small
SLICES = 40
LOG_SPAN = 20  # the longest of more than so many medians: a logarithmic axis
BLUE, ORANGE, GREY, RED, GREEN = "#2563a8", "#d9730d", "#8a8f98", "#c0392b", "#2e8b57"
NAMES = ("latency_over_time", "distributions", "throughput", "concurrency")  # of the pictures
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e8eb", "font.size": 9,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold", "legend.frameon": False,
    "svg.hashsalt": "swarmtune", "svg.fonttype": "path", "axes.axisbelow": True,
}  # fmt: skip


def write(records: Records, results: Results, directory: Path, form: Literal["svg", "png"] = "svg") -> list[Path]:
    """Four self-contained pictures; their paths. MissingExtraError without matplotlib, ConfigPathError if unwritable."""
    matplotlib, figures = optional("matplotlib", "Plots"), optional("matplotlib.figure", "Plots")
    data = columns(records)
    samples = request_samples(data)
    drawings: tuple[Callable[[Any], None], ...] = (
        lambda figure: _latency_over_time(figure, records, data, samples),
        lambda figure: _distributions(figure, data, samples),
        lambda figure: _throughput(figure, records),
        lambda figure: _concurrency(figure, records, results),
    )
    paths = []
    for name, draw in zip(NAMES, drawings, strict=True):
        with matplotlib.rc_context(STYLE):
            figure = figures.Figure(figsize=(9, 5), layout="constrained")
            draw(figure)
            paths.append(directory / f"{name}.{form}")
            with written(paths[-1]) as file:
                figure.savefig(file, format=form, dpi=130, metadata={"Date": None} if form == "svg" else {})
    return paths


def _shown(values: Floats) -> slice:
    return slice(None, None, max(1, len(values) // POINTS))


def _latency_over_time(figure: Any, records: Records, data: Columns, samples: dict[str, Floats]) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True)
    at = (data.rows["scheduled_ns"] - records.started_ns) / NS_PER_S
    for axes, name, title in ((top, "ttft_ms", "time to first token"), (bottom, "e2el_ms", "request latency")):
        there = ~np.isnan(samples[name])
        times, values = at[there], samples[name][there]
        each = _shown(values)
        axes.plot(times[each], values[each], ".", color=BLUE, alpha=0.35, markersize=3, label="one request")
        centres, medians, tails = _rolling(times, values)
        axes.plot(centres, medians, color=ORANGE, linewidth=1.6, label="median")
        axes.plot(centres, tails, color=RED, linewidth=1.2, label="p95")
        failed = at[data.outcome(Outcome.FAILED)]
        if len(failed):
            axes.plot(failed, np.zeros(len(failed)), "x", color=RED, markersize=4, label="failed", clip_on=False)
        axes.set(title=title, ylabel="ms", ylim=(0, None))
    figure.legend(*top.get_legend_handles_labels(), ncols=4, loc="outside upper right")
    bottom.set_xlabel("scheduled, s after the start of the measurement")


def _rolling(times: Floats, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Median and p95 of consecutive slices with about equally many requests."""
    parts = [p for p in np.array_split(np.arange(len(values)), min(SLICES, max(1, len(values) // 20))) if len(p)]
    centres = [float(times[p].mean()) for p in parts]
    medians = [float(np.median(values[p])) for p in parts]
    tails = [float(np.percentile(values[p], 95, method="inverted_cdf")) for p in parts]
    return np.array(centres), np.array(medians), np.array(tails)


def _distributions(figure: Any, data: Columns, samples: dict[str, Floats]) -> None:
    gaps = gaps_of(data)
    panels: Sequence[tuple[str, list[tuple[str, Floats, Floats | None, str]]]] = (
        ("time to first token", [("from send", samples["ttft_ms"], None, BLUE),
                                 ("from schedule", samples["scheduled_ttft_ms"], None, ORANGE)]),
        ("time per output token", [("tpot, per request", samples["tpot_ms"], None, BLUE)]),
        ("gaps", [("between tokens", gaps.ms / gaps.tokens, gaps.tokens, BLUE),
                  ("between chunks", gaps.ms, None, ORANGE)]),
        ("request latency", [("from send", samples["e2el_ms"], None, BLUE),
                             ("from schedule", samples["scheduled_e2el_ms"], None, ORANGE)]),
    )  # fmt: skip
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for i, (label, values, weights, colour) in enumerate(lines):
            there = ~np.isnan(values)
            chosen = values[there]
            if not len(chosen):
                continue
            order = np.argsort(chosen)
            share = np.cumsum(np.ones(len(order)) if weights is None else weights[there][order])
            each = np.unique(np.linspace(0, len(order) - 1, POINTS).astype(int))
            style = "-" if i == 0 else "--"
            axes.step(chosen[order][each], share[each] / share[-1], style, where="post", color=colour, label=label)
            if chosen.max() > LOG_SPAN * np.median(chosen) > 0:
                axes.set_xscale("log")
        for level in (0.5, 0.99):
            axes.axhline(level, color=GREY, linewidth=0.6, linestyle=":")
        axes.set(title=title, xlabel="ms", ylim=(0, 1.02))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.99], ["0", "25 %", "50 %", "75 %", "99 %"])
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right")


def _throughput(figure: Any, records: Records) -> None:
    per = series(records, width_s=max(1.0, (records.ended_ns - records.started_ns) / NS_PER_S / 200))
    middle = per.start_s + per.width_s / 2
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.bar(middle, per.output_tokens / per.width_s, width=per.width_s * 0.9, color=BLUE)
    top.set(title="output tokens per second, as they arrived", ylabel="tokens/s", ylim=(0, None))
    for values, colour, label in (
        (per.sent, GREY, "sent"),
        (per.completed, GREEN, "completed"),
        (per.failed, RED, "failed"),
    ):
        bottom.step(middle, values / per.width_s, where="mid", color=colour, label=label)
    bottom.set(title="requests per second", ylabel="requests/s", ylim=(0, None))
    bottom.set_xlabel("s after the start of the measurement (the last bar may be cut short)")
    figure.legend(*bottom.get_legend_handles_labels(), ncols=3, loc="outside upper right")


def _concurrency(figure: Any, records: Records, results: Results) -> None:
    axes = figure.subplots()
    duration_ns = max(1, round(results.scalars["duration_s"] * NS_PER_S))
    edges = np.linspace(records.started_ns, records.started_ns + duration_ns, 401)
    middle = (edges[1:] + edges[:-1]) / 2
    axes.fill_between((middle - records.started_ns) / NS_PER_S, concurrency(records).means(edges), step="mid",
                      color=BLUE, alpha=0.25)  # fmt: skip
    axes.step(
        (middle - records.started_ns) / NS_PER_S,
        concurrency(records).means(edges),
        where="mid",
        color=BLUE,
        linewidth=1,
    )
    mean = results.scalars.get("mean_concurrency")
    if mean is not None:
        axes.axhline(mean, color=ORANGE, linestyle="--", label=f"mean {mean:.1f}")
    if results.steady is not None and results.steady.window.asked:
        window = results.steady.window
        axes.axvspan(window.start_s, window.end_s, color=GREEN, alpha=0.15, label=f"steady, {window.duration_s:.1f} s")
    axes.set(title="requests in flight", xlabel="s after the start of the measurement", ylim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), ncols=2, loc="outside upper right")
