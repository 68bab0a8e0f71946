"""AIPerf's files: profile_export_aiperf.json and .csv (summary) and profile_export.jsonl (one record per request).

Names, units and statistics are those of AIPerf 0.13 (aiperf/metrics/types, exporters, common/models); its plot command and
loaders read them. Its inter_token_latency is our tpot (per request), its inter_chunk_latency our icl. Percentiles are
nearest rank (AIPerf interpolates).
"""

from __future__ import annotations

import csv
import datetime
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from swarmtune.files import escaped
from swarmtune.loadgen.exports.facts import RunFacts, written
from swarmtune.loadgen.judge.latencies import NS_PER_MS, NS_PER_S, columns, request_samples
from swarmtune.loadgen.judge.statistics import Statistics
from swarmtune.loadgen.judge.summary import Results
from swarmtune.loadgen.records import Outcome, Phase, Records

SCHEMA_VERSION = "1.4"  # JsonExportData.SCHEMA_VERSION of AIPerf 0.13.0
JSON_FILE, CSV_FILE, RECORDS_FILE = "profile_export_aiperf.json", "profile_export_aiperf.csv", "profile_export.jsonl"
STATISTICS = ("avg", "min", "max", "sum", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "std")
PER_USER = "tokens/sec/user"
SAMPLES = {  # tag: (header, unit, our sample)
    "time_to_first_token": ("Time to First Token", "ms", "ttft_ms"),
    "time_to_second_token": ("Time to Second Token", "ms", "ttst_ms"),
    "time_to_first_output_token": ("Time to First Output Token", "ms", "ttfo_ms"),
    "request_latency": ("Request Latency", "ms", "e2el_ms"),
    "inter_token_latency": ("Inter Token Latency", "ms", "tpot_ms"),
    "inter_chunk_latency": ("Inter Chunk Latency", "ms", "icl_ms"),
    "output_token_throughput_per_user": ("Output Token Throughput Per User", PER_USER, "output_throughput_per_user"),
    "prefill_throughput_per_user": ("Prefill Throughput Per User", PER_USER, "prefill_throughput_per_user"),
    "output_sequence_length": ("Output Sequence Length", "tokens", "osl"),
    "input_sequence_length": ("Input Sequence Length", "tokens", "isl"),
    "reasoning_token_count": ("Reasoning Token Count", "tokens", "reasoning_tokens"),
    "osl_mismatch_diff_pct": ("OSL Mismatch Diff %", "%", "osl_mismatch_pct"),
}
SCALARS = {  # tag: (header, unit, our scalar)
    "request_throughput": ("Request Throughput", "requests/sec", "request_throughput"),
    "output_token_throughput": ("Output Token Throughput", "tokens/sec", "output_throughput"),
    "total_token_throughput": ("Total Token Throughput", "tokens/sec", "total_token_throughput"),
    "request_count": ("Request Count", "requests", "completed"),
    "error_request_count": ("Error Request Count", "requests", "failed"),
    "benchmark_duration": ("Benchmark Duration", "sec", "duration_s"),
    "total_isl": ("Total Input Sequence Length", "tokens", "total_input_tokens"),
    "total_osl": ("Total Output Sequence Length", "tokens", "total_output_tokens"),
    "osl_mismatch_count": ("OSL Mismatch Count", "requests", "osl_mismatch_count"),
    "goodput": ("Goodput", "requests/sec", "request_goodput"),
}


def metrics(records: Records, results: Results) -> dict[str, dict[str, Any]]:
    """All metrics by AIPerf's tags, each with unit and statistics (a total only ``avg``)."""
    found = {
        tag: {"unit": unit, **statistics_of(results.statistics[ours])}
        for tag, (_, unit, ours) in SAMPLES.items()
        if ours in results.statistics
    }
    scalars = dict(results.scalars)
    found |= {tag: {"unit": unit, "avg": scalars[ours]} for tag, (_, unit, ours) in SCALARS.items() if ours in scalars}
    if "request_goodput" in scalars:
        good = round(scalars["request_goodput"] * scalars["duration_s"])
        found["good_request_count"] = {"unit": "requests", "avg": good}
    sent = records.requests[(records.requests["phase"] == Phase.MEASURED) & (records.requests["sent_ns"] > 0)]
    if len(sent):
        unix = records.started_unix_ns - records.started_ns
        found["min_request_timestamp"] = {"unit": "ns", "avg": int(sent["sent_ns"].min()) + unix}
        found["max_response_timestamp"] = {"unit": "ns", "avg": int(sent["end_ns"].max()) + unix}
    return found


def statistics_of(sample: Statistics) -> dict[str, float | int | None]:
    """A sample by AIPerf's names; None: it is too small for that."""
    ours = {"avg": "mean"}
    return {**{name: sample.value(ours.get(name, name)) for name in STATISTICS}, "count": sample.n}


def input_config(facts: RunFacts) -> dict[str, Any]:
    """What was asked for, in AIPerf's words."""
    options = facts.options
    names = ("concurrency", "request_rate", "request_count", "benchmark_duration")
    return {
        "models": {"items": [{"name": facts.model}]},
        "endpoint": {
            "model_names": [facts.model],
            "type": options.endpoint_type,
            "streaming": options.streaming,
            "urls": [facts.url],
        },
        "loadgen": {name: value for name in names if (value := getattr(options, name)) is not None},
    }


def document(records: Records, results: Results, facts: RunFacts) -> dict[str, Any]:
    """The object of profile_export_aiperf.json."""
    from swarmtune import __version__

    started = records.started_unix_ns
    ended = started + round(results.scalars["duration_s"] * NS_PER_S)
    return {
        "schema_version": SCHEMA_VERSION,
        "aiperf_version": f"swarmtune {__version__}",
        "benchmark_id": f"{records.request_prefix}{started}",
        **metrics(records, results),
        "input_config": input_config(facts),
        "run_info": {"random_seed": facts.seed, "trial": 0, "cli_command": facts.command or None},
        "was_cancelled": records.interrupted,
        "error_summary": [
            {"error_details": {"type": "RequestError", "message": text}, "count": count}
            for text, count in results.errors.items()
        ],
        "start_time": _iso(started),
        "end_time": _iso(ended),
        "metadata": {"verdict": facts.verdict, "reasons": list(facts.reasons)},
    }  # fmt: skip


def _iso(unix_ns: int) -> str:
    return datetime.datetime.fromtimestamp(unix_ns / NS_PER_S, datetime.UTC).replace(tzinfo=None).isoformat()


def table(records: Records, results: Results) -> str:
    """The text of profile_export_aiperf.csv: samples with all statistics, an empty line, totals with one value."""
    headers = {tag: header for tag, (header, _, _) in (SAMPLES | SCALARS).items()}
    found = {
        tag: m for tag, m in sorted(metrics(records, results).items()) if tag in headers or tag == "good_request_count"
    }
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["Metric", *STATISTICS])
    for tag, metric in found.items():
        if tag in SAMPLES:
            writer.writerow([_titled(headers[tag], metric["unit"]), *(number(metric[name]) for name in STATISTICS)])
    writer.writerow([])
    writer.writerow(["Metric", "Value"])
    for tag, metric in found.items():
        if tag not in SAMPLES:
            writer.writerow([_titled(headers.get(tag, "Good Request Count"), metric["unit"]), number(metric["avg"])])
    return stream.getvalue()


def _titled(header: str, unit: str) -> str:
    return header if unit == "requests" else f"{header} ({unit})"


def number(value: float | None) -> str:
    """A value as AIPerf's CSV files have it."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def request_records(records: Records, *, streamed: bool = True) -> Iterator[dict[str, Any]]:
    """One record per measured request that was sent, as profile_export.jsonl has them. Times are wall clock ns."""
    data = columns(records)
    samples = request_samples(data, streamed=streamed)
    unix = records.started_unix_ns - records.started_ns
    tags = {tag: (unit, samples[ours]) for tag, (_, unit, ours) in SAMPLES.items() if ours in samples}
    for i, row in enumerate(data.rows):
        if row["sent_ns"] == 0:
            continue
        outcome, ack = Outcome(row["outcome"]), int(row["first_byte_ns"])
        found: dict[str, Any] = {}
        if outcome is Outcome.COMPLETED:
            found = {
                tag: {"value": float(values[i]), "unit": unit}
                for tag, (unit, values) in tags.items()
                if not math.isnan(values[i])
            }
            stamps = data.chunk_ns[row["first_chunk"] : row["first_chunk"] + row["chunks"]]
            if streamed and len(stamps) > 1:
                found["inter_chunk_latency"] = {"value": (np.diff(stamps) / NS_PER_MS).tolist(), "unit": "ms"}
        yield {
            "metadata": {
                "session_num": int(row["session"]),
                "x_request_id": f"{records.request_prefix}{row['session']}-{row['turn']}",
                "x_correlation_id": f"{records.request_prefix}{row['session']}",
                "conversation_id": str(row["session"]),
                "turn_index": int(row["turn"]),
                "credit_issued_ns": int(row["scheduled_ns"]) + unix,
                "request_start_ns": int(row["sent_ns"]) + unix,
                "request_ack_ns": ack + unix if ack else None,
                "request_end_ns": int(row["end_ns"]) + unix,
                "worker_id": f"worker_{row['worker']}",
                "record_processor_id": "swarmtune",
                "benchmark_phase": "profiling",
                "was_cancelled": outcome is Outcome.CANCELLED,
            },
            "metrics": found,
            "error": _error(records, outcome, int(row["error"]), int(row["status"])),
        }


def _error(records: Records, outcome: Outcome, error: int, status: int) -> dict[str, Any] | None:
    if outcome is Outcome.COMPLETED:
        return None
    message = records.errors[error] if error >= 0 else f"the request was {outcome.name.lower()}"
    return {"code": status or None, "type": outcome.name.capitalize(), "message": message}


def write(records: Records, results: Results, facts: RunFacts, directory: Path) -> None:
    """Write the three files. ConfigPathError if they cannot be."""
    with written(directory / RECORDS_FILE) as file:
        for record in request_records(records, streamed=facts.options.streaming):
            file.write(escaped(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)))
    write_summary(records, results, facts, directory)


def write_summary(records: Records, results: Results, facts: RunFacts, directory: Path) -> None:
    """Write the two files without a line for each request. ConfigPathError if they cannot be."""
    with written(directory / CSV_FILE) as file:
        file.write(table(records, results).encode())
    with written(directory / JSON_FILE) as file:
        file.write(escaped(orjson.dumps(document(records, results, facts), option=orjson.OPT_INDENT_2)))
