"""timeslices.csv: the measurement in stretches of equal length, one line each."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from swarmtune.loadgen.exports.facts import written
from swarmtune.loadgen.judge.latencies import NS_PER_S, columns, request_samples
from swarmtune.loadgen.judge.series import series
from swarmtune.loadgen.judge.statistics import statistics
from swarmtune.loadgen.records import Outcome, Records

FILE = "timeslices.csv"
SAMPLES = ("ttft_ms", "tpot_ms", "e2el_ms")
STATISTICS = ("mean", "p50", "p95", "p99")


def write(records: Records, width_s: float, directory: Path) -> None:
    """Requests, tokens and requests in flight of each stretch of ``width_s``, and the latencies of the answers that ended
    in it. ConfigPathError if it cannot be written.
    """
    with written(directory / FILE) as file:
        file.write(text(records, width_s).encode())


def text(records: Records, width_s: float) -> str:
    """The content of the file."""
    found, data = series(records, width_s=width_s), columns(records)
    samples = request_samples(data)
    after_s = (data.rows["end_ns"] - records.started_ns) / NS_PER_S
    place = np.where(data.outcome(Outcome.COMPLETED), (after_s / found.width_s).astype(np.int64), -1)
    heads = [f"{statistic}_{name}" for name in SAMPLES for statistic in STATISTICS]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["start_s", "end_s", "sent", "completed", "failed", "request_throughput", "output_throughput",
                     "mean_concurrency", *heads])  # fmt: skip
    for i, start in enumerate(found.start_s):
        row: list[object] = [
            f"{start:g}",
            f"{start + found.width_s:g}",
            found.sent[i],
            found.completed[i],
            found.failed[i],
        ]
        row += [f"{found.completed[i] / found.width_s:.4f}", f"{found.output_tokens[i] / found.width_s:.4f}"]
        row.append(f"{found.concurrency[i]:.4f}")
        for name in SAMPLES:
            values = samples[name][place == i]
            one = statistics(values[~np.isnan(values)])
            row += ["" if one is None else f"{one.value(statistic):.4f}" for statistic in STATISTICS]
        writer.writerow(row)
    return stream.getvalue()
