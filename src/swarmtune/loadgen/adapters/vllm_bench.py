"""``vllm bench serve`` as a load generator.

Its percentiles interpolate between samples (numpy), ours are values that occurred; its TPOT is (e2e - TTFT) / (tokens - 1);
its ITL is the gap between chunks, which we call icl.
Source of the flags and keys: vLLM 0.32, vllm/benchmarks/serve.py.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from swarmtune.files import environment_names
from swarmtune.loadgen.adapters.tool import (
    DEFAULT_CONCURRENCY,
    DEFAULT_REQUESTS,
    local,
    measured,
    others_mistakes,
    program,
    read_result,
    request_count,
    tokenizer_in,
)
from swarmtune.loadgen.base import Benchmark
from swarmtune.records import Command, Measurement
from swarmtune.workload import Load, Workload

RESULT_FILE = "result.json"
PERCENTILES = "50,90,95,99"
PLACEHOLDERS = frozenset({"", "model", "model_path", "served_model_name", "model_name", "dataset_path"})
NEEDED = ("--result-dir", "--result-filename", "--percentile-metrics", "--metric-percentiles")
_LATENCY = re.compile(r"^(mean|std|p\d+)_(ttft|tpot|itl|e2el)_ms$")


class BenchCommand(BaseModel):
    """The table ``[vllm_benchmark.command]`` of the older tuner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("", description="read for older files; the service's own address is used")
    port: int | str = Field("", description="read for older files; the service's own address is used")
    model: str = Field("", description="path of the model, for its tokenizer; the engine's model name if empty")
    served_model_name: str = Field("", description="read for older files; the engine's model name is used")
    dataset_name: str = Field("random", description="random, sharegpt, sonnet, ... as vllm bench serve has them")
    dataset_path: str = Field("", description="file of the dataset, for those that need one")
    num_prompts: int | str = Field(DEFAULT_REQUESTS, description="requests to send")
    result_dir: str = Field("", description="read for older files; results are in the trial's directory")
    serving: str = Field("", description="read for older files; the tool is called as vllm bench serve")
    backend: str = Field("", description="read for older files; others may set --backend")
    others: str | tuple[str, ...] = Field("", description="further arguments; $CONCURRENCY and $REQUESTRATE are known")


class Metric(BaseModel):
    """Which statistic of a latency the older tuner's cost looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field("", description="name of the latency in the older tuner")
    algorithm: str = Field("average", description="average, p50, p90, p95 or p99")


class PerformanceConfig(BaseModel):
    """The table ``[vllm_benchmark.performance_config]`` of the older tuner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time_to_first_token: Metric = Field(default_factory=Metric, description="TTFT")
    time_per_output_token: Metric = Field(default_factory=Metric, description="TPOT")


class VllmBenchmarkConfig(BaseModel):
    """The section ``[vllm_benchmark]``. Lengths in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    executable: str = Field("vllm", min_length=1, description="the vllm program: a name on the PATH or a path")
    command: BenchCommand = Field(default_factory=BenchCommand, description="what to send")
    performance_config: PerformanceConfig = Field(
        default_factory=PerformanceConfig, description="statistics for the older tuner's cost"
    )
    tokenizer: str = Field("", description="name or path of the tokenizer; the model's if empty")
    input_tokens: int = Field(64, ge=1, description="prompt length of the random dataset, tokens")
    output_tokens: int = Field(32, ge=1, description="answer length of the random dataset, tokens")
    concurrency: int | None = Field(None, ge=1, description="users at a time; 8 if no rate is given either")
    request_rate: float | None = Field(None, gt=0, description="arrivals per second")
    warmup_requests: int = Field(0, ge=0, description="requests sent before, not counted")
    ignore_eos: bool = Field(True, description="ask for answers of exactly the given length")
    env: Annotated[dict[str, str], AfterValidator(environment_names)] = Field(
        default_factory=dict, description="environment variables of the load generator"
    )
    process_name: str = Field("", description="read for older files; every process of the tool is known and ended")
    output_path: str = Field("", description="read for older files; results are in the trial's directory")
    target_field: tuple[dict[str, Any], ...] = Field(
        (), description="read for older files; [load_search] finds the load"
    )


class VllmBenchmark(Benchmark):
    """One run is one load; the result file is the tool's own JSON."""

    name = "vllm_benchmark"
    config: VllmBenchmarkConfig
    Config = VllmBenchmarkConfig
    statistics = ("mean", "std", *(f"p{percent}" for percent in PERCENTILES.split(",")))
    samples = ("ttft_ms", "tpot_ms", "icl_ms", "e2el_ms")
    scalars = ("request_goodput",)

    def mistakes(self) -> list[str]:
        """Placeholders that were never filled in, and arguments that cannot be split or take the results away."""
        section, found = self.config.command, []
        prompts = str(section.num_prompts)
        if not (prompts.isascii() and prompts.isdigit() and int(prompts)):
            found.append(f"vllm_benchmark.command.num_prompts: {prompts!r} is not a whole number above 0")
        return found + others_mistakes("vllm_benchmark.command.others", lambda: _arguments(section.others, {}), NEEDED)

    def workload(self, model: str, seed: int, request_slos: Mapping[str, float]) -> Workload:
        """What the section asks for, on this model."""
        config = self.config
        concurrency = config.concurrency
        if concurrency is None and config.request_rate is None:
            concurrency = DEFAULT_CONCURRENCY
        prompts = str(config.command.num_prompts)
        return Workload(
            model=model,
            load=Load(concurrency, config.request_rate),
            requests=int(prompts) if prompts.isascii() and prompts.isdigit() and int(prompts) else DEFAULT_REQUESTS,
            warmup_requests=config.warmup_requests,
            input_tokens_mean=config.input_tokens,
            output_tokens_mean=config.output_tokens,
            ignore_eos=config.ignore_eos,
            seed=seed,
            request_slos=dict(request_slos),
        )

    def command(self, workload: Workload, url: str) -> Command:
        """``vllm bench serve --base-url URL ...``; a duration becomes as many requests as the rate sends in it."""
        config = self.config
        values = {
            "CONCURRENCY": "" if workload.load.concurrency is None else str(workload.load.concurrency),
            "REQUESTRATE": "inf" if workload.load.request_rate is None else f"{workload.load.request_rate:g}",
        }
        others = _arguments(config.command.others, values)
        chat = workload.endpoint == "chat"
        flags: dict[str, str | None] = {
            "--backend": "openai-chat" if chat else "openai",
            "--base-url": url,
            "--endpoint": "/v1/chat/completions" if chat else "/v1/completions",
            "--model": workload.model,
            "--served-model-name": workload.model,
            "--tokenizer": self._tokenizer() or None,
            "--dataset-name": config.command.dataset_name or "random",
            "--dataset-path": local(_given(config.command.dataset_path)) or None,
            "--num-prompts": str(request_count(workload)),
            "--num-warmups": str(workload.warmup_requests) if workload.warmup_requests else None,
            "--max-concurrency": values["CONCURRENCY"] or None,
            "--request-rate": values["REQUESTRATE"],
            "--seed": str(workload.seed),
            "--percentile-metrics": "ttft,tpot,itl,e2el",
            "--metric-percentiles": PERCENTILES,
            "--result-dir": ".",
            "--result-filename": RESULT_FILE,
            **self._shape(workload),
        }
        written = {argument.partition("=")[0] for argument in others}
        argv = [program(config.executable), "bench", "serve"]
        for flag, value in flags.items():
            if value is not None and flag not in written:
                argv += [flag, value]
        argv += [f for f in ("--save-result", "--disable-tqdm") if f not in written]
        argv += ["--ignore-eos"] if workload.ignore_eos and "--ignore-eos" not in written else []
        goodput = [f"{name.removesuffix('_ms')}:{limit:g}" for name, limit in sorted(workload.request_slos.items())]
        argv += ["--goodput", *goodput] if goodput and "--goodput" not in written else []
        return Command(argv=(*argv, *others), env=config.env)

    def _tokenizer(self) -> str:
        """As configured, else the folder of the model where it holds one; empty: the tool looks up the model's."""
        given = _given(self.config.tokenizer) or _given(self.config.command.model)
        return local(given) or tokenizer_in(self.model_folder)

    def _shape(self, workload: Workload) -> dict[str, str | None]:
        if (self.config.command.dataset_name or "random") != "random":
            return {}
        shape: dict[str, str | None] = {
            "--random-input-len": str(round(workload.input_tokens_mean)),
            "--random-output-len": str(round(workload.output_tokens_mean)),
        }
        if workload.load.request_rate is not None and workload.load.arrivals == "constant":
            shape["--burstiness"] = "1e6"  # a gamma distribution this narrow is constant
        return shape

    def read(self, directory: Path) -> Measurement:
        """The measurement in ``result.json``. BenchmarkParseError if there is none."""
        tool = "vllm bench serve"
        return read_result(directory / RESULT_FILE, tool, lambda text: measurement(json.loads(text)))


def measurement(result: Mapping[str, Any]) -> Measurement:
    """The tool's result in our names. KeyError, ValueError or TypeError if it is not one.

    It writes 0 for a latency that was not measured. Its max_... keys are no latencies.
    """
    metrics = {
        "completed": int(result["completed"]),
        "failed": int(result.get("failed", 0)),
        "duration_s": float(result["duration"]),
        "total_input_tokens": float(result["total_input_tokens"]),
        "total_output_tokens": float(result["total_output_tokens"]),
    }
    if result.get("request_goodput") is not None:
        metrics["request_goodput"] = float(result["request_goodput"])
    latencies = {name: value for name, value in result.items() if _LATENCY.match(name) and value is not None}
    metrics |= {name.replace("_itl_", "_icl_"): float(value) for name, value in latencies.items()}
    return measured(metrics, _load(result))


def _load(result: Mapping[str, Any]) -> dict[str, float]:
    load: dict[str, float] = {}
    if result.get("max_concurrency"):
        load["concurrency"] = result["max_concurrency"]
    rate = result.get("request_rate", "inf")
    if rate not in ("inf", None) and math.isfinite(float(rate)):
        load["request_rate"] = float(rate)
    return load


def _given(text: str) -> str:
    return "" if text in PLACEHOLDERS else text


def _arguments(others: str | tuple[str, ...], values: Mapping[str, str]) -> list[str]:
    words = shlex.split(others) if isinstance(others, str) else list(others)
    replaced = (re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), word) for word in words)
    return [word for word in replaced if word]
