"""``guidellm run`` as a load generator.

Its inter_token_latency_ms is one value per request without the first token: our tpot; its statistics weight each request by
its tokens, ours do not. Its time_per_output_token_ms includes the first token and is not used. It has no gaps between tokens
or chunks, so there is no itl or icl here. Its clock is the wall clock (time.time). Warm-up requests are the first of the
same run, not a run of their own, and it may leave out one or two more (40 asked for with a warm-up of 4: 39 counted).
Source of the keys: GuideLLM 0.8.1, guidellm/schemas/benchmark (BenchmarkScenario, GenerativeBenchmark).
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
from swarmtune.records import Command, File, Measurement
from swarmtune.workload import Workload

SCENARIO_FILE = "scenario.json"
RESULT_FILE = "result.json"
ROUTES = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
SAMPLES = {  # its name: ours, and the factor from its unit to ours
    "time_to_first_token_ms": ("ttft_ms", 1.0),
    "time_to_first_output_token_ms": ("ttfo_ms", 1.0),
    "inter_token_latency_ms": ("tpot_ms", 1.0),
    "request_latency": ("e2el_ms", 1000.0),
    "prompt_token_count": ("isl", 1.0),
    "output_token_count": ("osl", 1.0),
}
SCHEDULED = {  # only in a load with a rate
    "request_scheduled_latency": ("scheduled_e2el_ms", 1000.0),
    "request_dispatch_delay": ("send_lag_ms", 1000.0),
}
BASIC = {"mean": "mean", "std_dev": "std", "min": "min", "max": "max"}
PERCENTILES = {"p01": "p1", "p05": "p5", "p999": "p99.9"} | {
    name: name for name in ("p10", "p25", "p50", "p75", "p90", "p95", "p99")
}
LIMITS = ("ttft_ms", "tpot_ms", "e2el_ms")


class GuidellmConfig(ToolConfig):
    """The section ``[guidellm]``. Lengths in tokens, times in seconds."""

    executable: str = Field("guidellm", min_length=1, description="the guidellm program: a name on the PATH or a path")
    requests: int | None = Field(None, ge=1, description="requests to measure; 100 if no duration is given either")
    duration_s: float | None = Field(None, gt=0, le=1e6, description="seconds to measure, warm-up included")
    request_timeout_s: float = Field(120.0, gt=0, le=1e6, description="seconds until a request is given up")
    workers: int | None = Field(None, ge=1, description="its worker processes at most; empty: as many as it likes")


class GuidellmBenchmark(ToolBenchmark):
    """One run is one load, asked for in a scenario file; the result file is the tool's own JSON."""

    name = "guidellm"
    config: GuidellmConfig
    Config = GuidellmConfig
    statistics = (*BASIC.values(), *PERCENTILES.values())
    samples = tuple(ours for ours, _ in SAMPLES.values())
    scalars = ("request_goodput", "incomplete")

    def mistakes(self) -> list[str]:
        """Adds: a warm-up counted in requests, in a run that is counted in seconds only."""
        config, found = self.config, super().mistakes()
        if config.warmup_requests and config.requests is None and config.duration_s is not None:
            found.append("guidellm.warmup_requests: guidellm needs guidellm.requests, too, to leave requests out")
        return found

    def command(self, workload: Workload, url: str) -> Command:
        """``guidellm run --config scenario.json``."""
        config = self.config
        scenario = {"spec": self._spec(workload, url)}
        argv = (program(config.executable), "run", "--config", SCENARIO_FILE, "--disable-console")
        workers = {"GUIDELLM__MAX_WORKER_PROCESSES": str(config.workers)} if config.workers else {}
        return Command(
            argv=(*argv, *arguments(config.others)),
            env={**workers, **config.env},
            files=(File(SCENARIO_FILE, json.dumps(scenario, indent=1, ensure_ascii=False)),),
        )

    def _spec(self, workload: Workload, url: str) -> dict[str, Any]:
        tokenizer = {"model": self.tokenizer} if self.tokenizer else {}
        extras = {} if workload.ignore_eos else {"extras": {"body": {"ignore_eos": False}}}  # its default is true
        slo = {name: limit for name, limit in workload.request_slos.items() if name in LIMITS}
        return {
            "backend": {
                "kind": "openai_http",
                "target": url,
                "model": workload.model,
                "request_format": ROUTES[workload.endpoint],
                "timeout": workload.request_timeout_s,
                **extras,
            },
            "tokenizer": {"kind": "hf_auto", **tokenizer},
            "data": [{"kind": "synthetic_text", **_lengths(workload)}],
            "profile": _profile(workload),
            "constraints": _constraints(workload),
            "seed": {"kind": "static", "value": workload.seed},
            "outputs": [{"kind": "json", "path": RESULT_FILE}],
            "metrics": {"kind": "generative", "sample_size": 0, **({"slo": slo} if slo else {})},
        }

    def read(self, directory: Path) -> Measurement:
        """The measurement in ``result.json``. BenchmarkParseError if there is none."""
        return read_result(directory / RESULT_FILE, "guidellm", lambda text: measurement(json.loads(text)))


def _lengths(workload: Workload) -> dict[str, int]:
    lengths = {"prompt_tokens": workload.input_tokens_mean, "output_tokens": workload.output_tokens_mean}
    spreads = {
        "prompt_tokens_stdev": workload.input_tokens_stddev,
        "output_tokens_stdev": workload.output_tokens_stddev,
    }
    return {name: round(value) for name, value in {**lengths, **spreads}.items() if round(value)}


def _profile(workload: Workload) -> dict[str, Any]:
    load, warmup = workload.load, workload.warmup_requests
    profile: dict[str, Any] = {"kind": "concurrent", "streams": load.concurrency}
    if load.request_rate is not None:
        profile = {"kind": load.arrivals, "rate": load.request_rate}
        profile |= {"max_concurrency": load.concurrency} if load.concurrency else {}
    return profile | ({"warmup": {"value": warmup, "mode": "requests"}} if warmup else {})


def _constraints(workload: Workload) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if workload.requests is not None:
        found.append({"kind": "max_requests", "count": workload.requests + workload.warmup_requests})
    if workload.duration_s is not None:
        found.append({"kind": "max_duration", "seconds": workload.duration_s})
    return found


def measurement(result: Mapping[str, Any]) -> Measurement:
    """The tool's result in our names. KeyError, ValueError or TypeError if it is not one, or if it holds several."""
    (benchmark,) = result["benchmarks"]
    theirs = benchmark["metrics"]
    totals = theirs["request_totals"]
    metrics = {
        "completed": totals["successful"],
        "failed": totals["errored"],
        "incomplete": totals["incomplete"],
        "duration_s": benchmark["duration"],
        "total_input_tokens": round(theirs["prompt_token_count"]["successful"]["total_sum"]),  # it adds with errors
        "total_output_tokens": round(theirs["output_token_count"]["successful"]["total_sum"]),
    }
    if theirs.get("request_goodput"):
        metrics["request_goodput"] = theirs["request_goodput"]["successful"]["mean"]
    for name, (ours, factor) in (SAMPLES | SCHEDULED).items():
        block = (theirs.get(name) or {}).get("successful")
        if block and block["count"]:
            metrics |= statistics_of(block, BASIC, ours, factor)
            metrics |= statistics_of(block["percentiles"], PERCENTILES, ours, factor)
    return measured(metrics, _load(benchmark["config"]["strategy"]))


def _load(strategy: Mapping[str, Any]) -> dict[str, float]:
    named = {"concurrency": strategy.get("streams"), "request_rate": strategy.get("rate")}
    if named["request_rate"] is not None:
        named["concurrency"] = strategy.get("max_concurrency")
    return {name: float(value) for name, value in named.items() if value is not None}
