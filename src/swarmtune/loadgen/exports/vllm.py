"""The result file of ``vllm bench serve`` (0.32 and 0.33, vllm/benchmarks/serve.py), for the tools that read it.

Same keys and units (its lists are in seconds). Its percentiles interpolate, ours are values that occurred; its itl is our
icl (gaps between chunks). ``failed`` also counts incomplete, cancelled and dropped requests, which it does not know.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from swarmtune.files import escaped
from swarmtune.loadgen.exports.facts import RunFacts, written
from swarmtune.loadgen.judge.latencies import NS_PER_S, Columns, columns
from swarmtune.loadgen.judge.series import series
from swarmtune.loadgen.judge.summary import Results
from swarmtune.loadgen.records import Outcome, Records

METRICS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "itl": "icl_ms", "e2el": "e2el_ms"}
QUEUED = {"client_queue_time": "send_lag_ms", "e2el_including_client_queue": "scheduled_e2el_ms"}
PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9")
BACKENDS = {"chat": "openai-chat", "completions": "openai", "embeddings": "openai-embeddings"}


def document(records: Records, results: Results, facts: RunFacts, *, detailed: bool = True) -> dict[str, Any]:
    """The object of the file. ``detailed`` adds the lists per request, as ``--save-detailed`` does."""
    options, scalars = facts.options, results.scalars
    data = columns(records)
    backend = BACKENDS.get(options.endpoint_type, options.endpoint_type)
    started = datetime.datetime.fromtimestamp(records.started_unix_ns / NS_PER_S, datetime.UTC)
    per_second = series(records)
    found: dict[str, Any] = {
        "date": started.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": backend,
        "backend": backend,
        "label": facts.label or None,
        "model_id": facts.model,
        "tokenizer_id": facts.model,
        "num_prompts": len(data.rows),
        "request_rate": "inf" if options.request_rate is None else options.request_rate,
        "burstiness": options.arrival_smoothness if options.arrival_pattern == "gamma" else 1.0,
        "max_concurrency": options.concurrency,
        "duration": scalars["duration_s"],
        "completed": int(scalars["completed"]),
        "failed": len(data.rows) - int(scalars["completed"]),
        "total_input_tokens": int(scalars["total_input_tokens"]),
        "total_output_tokens": int(scalars["total_output_tokens"]),
        "request_throughput": scalars.get("request_throughput", 0.0),
        "request_goodput": scalars.get("request_goodput"),
        "output_throughput": scalars.get("output_throughput", 0.0),
        "total_token_throughput": scalars.get("total_token_throughput", 0.0),
        "max_output_tokens_per_s": float(per_second.output_tokens.max(initial=0.0)),
        "max_concurrent_requests": int(scalars.get("peak_concurrency", 0)),
        "rtfx": 0.0,
    }
    found |= _statistics(results)
    return found | (_lists(data, records) if detailed else {})


def _statistics(results: Results) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, ours in (METRICS | QUEUED).items():
        sample = results.statistics.get(ours)
        if sample is None and name in QUEUED:
            continue
        for key, statistic in (("mean", "mean"), ("median", "p50"), ("std", "std"), *((p, p) for p in PERCENTILES)):
            value = 0.0 if sample is None else sample.value(statistic)
            if value is not None:
                found[f"{key}_{name}_ms"] = value
    return found


def _lists(data: Columns, records: Records) -> dict[str, list[Any]]:
    """One entry per measured request, s; a request that was not completed has 0 tokens and its error."""
    rows = data.rows
    completed, sent = data.outcome(Outcome.COMPLETED), rows["sent_ns"]
    end = np.where(rows["chunks"] > 0, data.last_ns, rows["end_ns"])
    ttft = np.where(completed & (data.first_ns > 0), (data.first_ns - sent) / NS_PER_S, 0.0)
    latency = np.where(completed, (end - sent) / NS_PER_S, 0.0)
    bounds = zip(rows["first_chunk"].tolist(), (rows["first_chunk"] + rows["chunks"]).tolist(), strict=True)
    errors = zip(completed.tolist(), rows["error"].tolist(), rows["outcome"].tolist(), strict=True)
    return {
        "input_lens": rows["input_tokens"].tolist(),
        "output_lens": np.where(completed, rows["output_tokens"], 0).tolist(),
        "ttfts": ttft.tolist(),
        "itls": [(np.diff(data.chunk_ns[a:b]) / NS_PER_S).tolist() for a, b in bounds],
        "latencies": latency.tolist(),
        "start_times": (sent / NS_PER_S).tolist(),
        "queue_times": np.where(sent > 0, (sent - rows["scheduled_ns"]) / NS_PER_S, 0.0).tolist(),
        "generated_texts": [""] * len(rows),
        "errors": [
            "" if ok else (records.errors[error] if error >= 0 else Outcome(outcome).name.lower())
            for ok, error, outcome in errors
        ],
    }


def write(records: Records, results: Results, facts: RunFacts, path: Path, *, detailed: bool = True) -> None:
    """Write the file. ConfigPathError if it cannot be."""
    with written(path) as file:
        file.write(escaped(orjson.dumps(document(records, results, facts, detailed=detailed))))
