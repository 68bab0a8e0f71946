"""AIPerf's files of time slices: profile_export_aiperf_timeslices.json (one object for each slice) and .csv (one line for
each value), as AIPerf 0.13 writes them for --slice-duration. A request belongs to the slice in which it ended.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from swarmtune.files import escaped
from swarmtune.loadgen.exports import aiperf
from swarmtune.loadgen.exports.facts import RunFacts, written
from swarmtune.loadgen.judge.latencies import NS_PER_S, columns, request_samples
from swarmtune.loadgen.judge.series import series
from swarmtune.loadgen.judge.statistics import statistics
from swarmtune.loadgen.records import Outcome, Records

JSON_FILE, CSV_FILE = "profile_export_aiperf_timeslices.json", "profile_export_aiperf_timeslices.csv"
HEADS = ("Timeslice", "Metric", "Unit", "Stat", "Value")
WINDOW = ("start_ns", "end_ns", "is_complete")


def slices(records: Records, width_s: float, *, streamed: bool = True) -> list[dict[str, Any]]:
    """One object for each slice: its window (wall clock, ns; complete: it ended before the run did) and metrics by AIPerf's
    tags, each with unit and statistics."""
    found, data = series(records, width_s=width_s), columns(records)
    samples = request_samples(data, streamed=streamed)
    last_s = max(0.0, (int(data.rows["end_ns"].max(initial=records.started_ns)) - records.started_ns) / NS_PER_S)
    after_s = (data.rows["end_ns"] - records.started_ns) / NS_PER_S
    place = np.where(data.outcome(Outcome.COMPLETED), (after_s / found.width_s).astype(np.int64), -1)
    place = np.minimum(place, len(found.start_s) - 1)
    made = []
    for at, start_s in enumerate(found.start_s.tolist()):
        end_s = start_s + found.width_s
        length_s = max(1e-9, min(end_s, last_s) - start_s)
        window = [records.started_unix_ns + round(second * NS_PER_S) for second in (start_s, end_s)]
        scalars = {
            "request_throughput": found.completed[at] / length_s,
            "output_token_throughput": found.output_tokens[at] / length_s,
            "request_count": int(found.completed[at]),
            "error_request_count": int(found.failed[at]),
        }
        one: dict[str, Any] = dict(zip(WINDOW, (*window, end_s <= last_s), strict=True))
        for tag, (_, unit, ours) in aiperf.SAMPLES.items():
            values = samples[ours][place == at] if ours in samples else np.zeros(0)
            if (sample := statistics(values[~np.isnan(values)])) is not None:
                one[tag] = {"unit": unit, **aiperf.statistics_of(sample)}
        one |= {tag: {"unit": aiperf.SCALARS[tag][1], "avg": value} for tag, value in scalars.items()}
        made.append(one)
    return made


def table(made: list[dict[str, Any]]) -> str:
    """The text of the CSV file."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(HEADS)
    headers = {tag: header for tag, (header, _, _) in (aiperf.SAMPLES | aiperf.SCALARS).items()}
    for number, one in enumerate(made):
        for tag, metric in sorted((tag, metric) for tag, metric in one.items() if tag not in WINDOW):
            writer.writerows(
                [number, headers[tag], metric["unit"], name, aiperf.number(metric[name])]
                for name in aiperf.STATISTICS
                if metric.get(name) is not None
            )
    return stream.getvalue()


def write(records: Records, width_s: float, facts: RunFacts, directory: Path) -> None:
    """Write both files. ConfigPathError if they cannot be."""
    made = slices(records, width_s, streamed=facts.options.streaming)
    with written(directory / CSV_FILE) as file:
        file.write(table(made).encode())
    document = {"timeslices": made, "input_config": aiperf.input_config(facts)}
    with written(directory / JSON_FILE) as file:
        file.write(escaped(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)))
