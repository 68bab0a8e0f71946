"""``aiperf profile`` of NVIDIA AIPerf as a load generator.

Its inter_token_latency is one value per request, (last - first token) / (tokens - 1): our tpot. Its inter_chunk_latency is
our icl. It has no gaps per token, so there is no itl here. Percentiles interpolate between samples (numpy), ours are values
that occurred. Token counts are the server's usage. All latencies start when the request was sent, not when it was due.
When every request fails it ends with code 1 and leaves no result.
Source of the flags and keys: AIPerf 0.13.0, ``aiperf profile --help`` and its profile_export_aiperf.json (schema 1.4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from swarmtune.loadgen.adapters.tool import (
    ToolBenchmark,
    ToolConfig,
    arguments,
    measured,
    program,
    read_result,
    statistics_of,
)
from swarmtune.records import Command, Measurement
from swarmtune.workload import Workload

RESULT_FILE = "profile_export_aiperf.json"
SAMPLES = {  # its name: ours, and what one of its units is in ours
    "time_to_first_token": ("ttft_ms", "ms"),
    "time_to_second_token": ("ttst_ms", "ms"),
    "time_to_first_output_token": ("ttfo_ms", "ms"),
    "inter_token_latency": ("tpot_ms", "ms"),
    "inter_chunk_latency": ("icl_ms", "ms"),
    "request_latency": ("e2el_ms", "ms"),
    "output_token_throughput_per_user": ("output_throughput_per_user", "tokens/sec/user"),
    "input_sequence_length": ("isl", "tokens"),
    "output_sequence_length": ("osl", "tokens"),
}
STATISTICS = {"avg": "mean", **{name: name for name in ("std", "min", "max")}} | {
    name: name for name in ("p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99")
}
GOODPUT = {"ttft_ms": "time_to_first_token", "tpot_ms": "inter_token_latency", "e2el_ms": "request_latency"}


class AiperfConfig(ToolConfig):
    """The section ``[aiperf]``. Lengths in tokens, times in seconds."""

    executable: str = Field("aiperf", min_length=1, description="the aiperf program: a name on the PATH or a path")
    requests: int | None = Field(None, ge=1, description="requests to measure; 100 if no duration is given either")
    duration_s: float | None = Field(None, gt=0, le=1e6, description="seconds to measure")
    request_timeout_s: float = Field(120.0, gt=0, le=1e6, description="seconds until a request is given up")
    workers: int | None = Field(None, ge=1, description="its worker processes at most; empty: as many as it likes")


class AiperfBenchmark(ToolBenchmark):
    """One run is one load; the result file is the tool's own JSON."""

    name = "aiperf"
    config: AiperfConfig
    Config = AiperfConfig
    statistics = tuple(STATISTICS.values())
    samples = tuple(ours for ours, _ in SAMPLES.values())
    scalars = ("request_goodput",)
    needed = ("--artifact-dir", "--output-artifact-dir", "--export-level", "--profile-export-prefix")

    def command(self, workload: Workload, url: str) -> Command:
        """``aiperf profile --model M --url URL ...``, every prompt used once where their number is known."""
        config, load = self.config, workload.load
        counted = workload.requests is not None
        limits = [f"{GOODPUT[n]}:{limit:g}" for n, limit in sorted(workload.request_slos.items()) if n in GOODPUT]
        entries = (workload.requests or 0) + workload.warmup_requests
        flags: dict[str, str | None] = {
            "--model": workload.model,
            "--url": url,
            "--endpoint-type": workload.endpoint,
            "--tokenizer": self.tokenizer or None,
            "--concurrency": str(load.concurrency) if load.concurrency else None,
            "--request-rate": f"{load.request_rate:g}" if load.request_rate else None,
            "--arrival-pattern": load.arrivals if load.request_rate else None,
            "--request-count": str(workload.requests) if counted else None,
            "--num-dataset-entries": str(entries) if counted else None,
            "--benchmark-duration": f"{workload.duration_s:g}" if workload.duration_s else None,
            "--warmup-request-count": str(workload.warmup_requests) if workload.warmup_requests else None,
            "--isl": f"{workload.input_tokens_mean:g}",
            "--isl-stddev": f"{workload.input_tokens_stddev:g}" if workload.input_tokens_stddev else None,
            "--osl": f"{workload.output_tokens_mean:g}",
            "--osl-stddev": f"{workload.output_tokens_stddev:g}" if workload.output_tokens_stddev else None,
            "--random-seed": str(workload.seed),
            "--request-timeout-seconds": f"{workload.request_timeout_s:g}",
            "--extra-inputs": "ignore_eos:true" if workload.ignore_eos else None,
            "--goodput": " ".join(limits) or None,
            "--workers-max": str(config.workers) if config.workers else None,
            "--artifact-dir": ".",
            "--export-level": "summary",
            "--ui-type": "none",
        }
        others = arguments(config.others)
        written = {argument.partition("=")[0] for argument in others}
        argv = [program(config.executable), "profile"]
        for flag, value in flags.items():
            if value is not None and flag not in written:
                argv += [flag, value]
        switches = ("--streaming", "--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics")
        argv += [flag for flag in switches if flag not in written]
        return Command(argv=(*argv, *others), env=config.env)

    def read(self, directory: Path) -> Measurement:
        """The measurement in ``profile_export_aiperf.json``. BenchmarkParseError if there is none."""
        return read_result(directory / RESULT_FILE, "aiperf", lambda text: measurement(json.loads(text)))


def measurement(result: Mapping[str, Any]) -> Measurement:
    """The tool's result in our names. KeyError, ValueError or TypeError if it is not one."""
    metrics = {
        "completed": _average(result, "request_count", 0.0),
        "failed": _average(result, "error_request_count", 0.0),
        "duration_s": _average(result, "benchmark_duration"),
        "total_input_tokens": _average(result, "total_isl", 0.0),
        "total_output_tokens": _average(result, "total_osl", 0.0),
    }
    if metrics["completed"] and not {"total_isl", "total_osl", "time_to_first_token"} <= set(result):
        raise ValueError("it holds no tokens: the server streams nothing, or tells no usage")
    if (
        "good_request_count" in result and metrics["duration_s"] > 0
    ):  # its own rates count a moment more: all of one time
        metrics["request_goodput"] = _average(result, "good_request_count") / metrics["duration_s"]
    elif "goodput" in result:
        metrics["request_goodput"] = _average(result, "goodput")
    for theirs, (ours, unit) in SAMPLES.items():
        block = result.get(theirs, {})
        if block and block["unit"] != unit:
            raise ValueError(f"{theirs} is in {block['unit']}, not {unit}")
        metrics |= statistics_of(block, STATISTICS, ours)
    reasons = ("aiperf was stopped before the end",) if result.get("was_cancelled") else ()
    return measured(metrics, _load(result), reasons)


def _average(result: Mapping[str, Any], name: str, missing: float | None = None) -> float:
    if missing is not None and name not in result:
        return missing
    return float(result[name]["avg"])


def _load(result: Mapping[str, Any]) -> dict[str, float]:
    """What was asked for, in the phase that was measured."""
    phases = result.get("input_config", {}).get("phases", ())
    asked: Mapping[str, Any] = next((phase for phase in phases if phase.get("kind") == "profiling"), {})
    named = {"concurrency": asked.get("concurrency"), "request_rate": asked.get("rate")}
    return {name: float(value) for name, value in named.items() if isinstance(value, int | float)}
