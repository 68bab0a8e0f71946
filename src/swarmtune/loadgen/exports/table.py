"""The results for people: tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from swarmtune.loadgen.exports.facts import RunFacts
from swarmtune.loadgen.judge.statistics import Interval
from swarmtune.loadgen.judge.summary import Results

ROWS = {
    "ttft_ms": "time to first token, ms",
    "scheduled_ttft_ms": "  from the scheduled time",
    "ttst_ms": "time to second token, ms",
    "ttfo_ms": "time to first output, ms",
    "tpot_ms": "time per output token, ms",
    "itl_ms": "inter-token latency, ms",
    "icl_ms": "inter-chunk latency, ms",
    "e2el_ms": "request latency, ms",
    "scheduled_e2el_ms": "  from the scheduled time",
    "output_throughput_per_user": "output per user, tokens/s",
    "isl": "prompt length, tokens",
    "osl": "answer length, tokens",
    "send_lag_ms": "send lag, ms",
}
STATISTICS = ("mean", "min", "max", "p50", "p90", "p95", "p99")
NARROW = ("mean", "p50", "p90", "p99", "max")
WIDE = 120  # columns of a terminal that has room for everything
COLOURS = {"valid": "green", "degraded": "yellow", "invalid": "red"}
ERRORS_SHOWN = 8


def report(results: Results, facts: RunFacts, width: int = WIDE) -> Group:
    """Everything, ready to print on a terminal of so many columns: on a narrow one without intervals and extremes."""
    parts: list[Any] = [_statistics(results, wide=width >= WIDE), _asked_and_achieved(results, facts)]
    if results.errors:
        parts.append(_errors(results))
    parts += [Text(f"note: {note}", style="dim") for note in results.notes]
    verdict = Text(f"measurement: {facts.verdict}", style=f"bold {COLOURS[facts.verdict]}")
    return Group(*parts, verdict, *(Text(f"  - {reason}") for reason in facts.reasons))


def show(results: Results, facts: RunFacts, console: Console) -> None:
    """Print it."""
    console.print(report(results, facts, console.width))


def number(value: float | None) -> str:
    """At most four significant digits, and all digits before the point; "-" for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _interval(interval: Interval) -> str:
    return "-" if interval is None else f"{number(interval[0])} .. {number(interval[1])}"


def _statistics(results: Results, *, wide: bool) -> Table:
    table = _table(facts_line(results))
    table.add_column("", no_wrap=True)
    level = f"{results.confidence * 100:g} %"
    shown = STATISTICS if wide else NARROW
    intervals = ("mean", "p99") if wide else ()
    for name in (*shown, *(f"{name}, {level}" for name in intervals), "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, title in ROWS.items():
        if sample := results.statistics.get(row):
            cells = [number(sample.value(name)) for name in shown]
            table.add_row(title, *cells, *(_interval(sample.intervals[name]) for name in intervals), f"{sample.n:,}")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)


def facts_line(results: Results) -> str:
    """How many requests ended how, in one line."""
    names = ("completed", "failed", "incomplete", "cancelled", "dropped")
    counts = [f"{results.scalars[name]:,.0f} {name}" for name in names if results.scalars[name] or name == "completed"]
    return f"{', '.join(counts)} in {results.scalars['duration_s']:.1f} s"


def _asked_and_achieved(results: Results, facts: RunFacts) -> Table:
    table = _table("asked and achieved")
    for name in ("", "asked", "achieved"):
        table.add_column(name, justify="right" if name else "left")
    scalars, options = results.scalars, facts.options
    rows: list[tuple[str, float | None, float | None]] = [
        ("requests in flight, mean", options.concurrency, scalars.get("mean_concurrency")),
        ("requests/s", options.request_rate, scalars.get("request_throughput")),
        ("requests", options.request_count, scalars["completed"]),
        ("duration, s", options.benchmark_duration, scalars["duration_s"]),
        ("output tokens/s", None, scalars.get("output_throughput")),
        ("total tokens/s", None, scalars.get("total_token_throughput")),
        ("good requests/s", None, scalars.get("request_goodput")),
        ("  from the scheduled time", None, scalars.get("scheduled_request_goodput")),
        ("sent late (> 1 ms)", 0, scalars["late"]),
        ("dropped", 0, scalars["dropped"]),
    ]
    for title, asked, achieved in rows:
        if achieved is not None:
            table.add_row(title, number(asked), number(achieved))
    return table


def _errors(results: Results) -> Table:
    table = _table("errors")
    table.add_column("requests", justify="right")
    table.add_column("error")
    for text, count in list(results.errors.items())[:ERRORS_SHOWN]:
        table.add_row(f"{count:,}", Text(text))
    if (rest := len(results.errors) - ERRORS_SHOWN) > 0:
        table.add_row("", f"and {rest} more kinds")
    return table
