"""The results for people: tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from swarmtune.loadgen.exports.facts import RunFacts
from swarmtune.loadgen.exports.packed import Column, number, packed
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
WITH_INTERVALS = ("mean", "p99")
USUAL_WIDTH = 80  # columns of a terminal
COLOURS = {"valid": "green", "degraded": "yellow", "invalid": "red", "predicted": "cyan"}
ERRORS_SHOWN = 8


def report(results: Results, facts: RunFacts, width: int = USUAL_WIDTH) -> Group:
    """Everything, ready to print on a terminal of so many columns: what has no room beside the rest comes below it."""
    parts: list[Any] = [*_statistics(results, width), _asked_and_achieved(results, facts)]
    if results.errors:
        parts.append(_errors(results))
    parts.append(Text(sent_line(facts), style="dim"))
    parts += [Text(f"note: {note}", style="dim") for note in results.notes]
    told = "predicted: nothing was measured" if facts.verdict == "predicted" else f"measurement: {facts.verdict}"
    verdict = Text(told, style=f"bold {COLOURS[facts.verdict]}")
    return Group(*parts, verdict, *(Text(f"  - {reason}") for reason in facts.reasons))


def show(results: Results, facts: RunFacts, console: Console) -> None:
    """Print it."""
    console.print(report(results, facts, console.width))


def _interval(interval: Interval) -> str:
    return "-" if interval is None else f"{number(interval[0])} .. {number(interval[1])}"


def _statistics(results: Results, width: int) -> list[Table]:
    there = {row: results.statistics[row] for row in ROWS if row in results.statistics}
    level = f"{results.confidence * 100:g} %"
    columns = [Column(name, [number(sample.value(name)) for sample in there.values()]) for name in STATISTICS]
    columns.append(Column("n", [f"{sample.n:,}" for sample in there.values()]))
    columns += [
        Column(f"{name}, {level}", [_interval(sample.intervals[name]) for sample in there.values()])
        for name in WITH_INTERVALS
    ]
    guessed = estimated_words(results)
    names = [ROWS[row] + (guessed if row == "osl" else "") for row in there]
    return packed(facts_line(results), names, columns, width)


def sent_line(facts: RunFacts) -> str:
    """What was sent, in one line; where nobody chose it, that AIPerf would have sent something else."""
    options, given = facts.options, facts.options.model_fields_set
    lengths = "" if options.input_file or options.public_dataset else _lengths_text(facts)
    said = f"sent: {options.endpoint_type}, {'streamed' if options.streaming else 'not streamed'}{lengths}"
    usual = {"endpoint_type": "chat", "streaming": "not streamed"}
    if lengths and not options.sequence_distribution:
        usual |= {"isl": "550 tokens", "osl": "no length asked for"}
    chosen = [f"--{name.replace('_', '-')}: {value}" for name, value in usual.items() if name not in given]
    return f"{said}; our defaults, where AIPerf's are others ({', '.join(chosen)})" if chosen else said


def _lengths_text(facts: RunFacts) -> str:
    if facts.options.sequence_distribution:
        return f", lengths {facts.options.sequence_distribution}"
    return f", prompts of {facts.options.isl:g} tokens, answers of {facts.options.osl:g}"


def estimated_words(results: Results) -> str:
    """What stands behind the name of a figure that rests on estimated tokens."""
    return " (estimated)" if results.scalars.get("estimated_count") else ""


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
        (f"output tokens/s{estimated_words(results)}", None, scalars.get("output_throughput")),
        (f"total tokens/s{estimated_words(results)}", None, scalars.get("total_token_throughput")),
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
    table.add_column("error", overflow="fold")
    for text, count in list(results.errors.items())[:ERRORS_SHOWN]:
        table.add_row(f"{count:,}", Text(text))
    if (rest := len(results.errors) - ERRORS_SHOWN) > 0:
        table.add_row("", f"and {rest} more kinds")
    return table
