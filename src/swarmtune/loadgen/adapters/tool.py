"""What the adapters share: the keys of their sections, the workload these ask for, and reading a file the tool left."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.base import Benchmark
from swarmtune.records import Measurement
from swarmtune.workload import Load, Workload

DEFAULT_REQUESTS = 100
DEFAULT_CONCURRENCY = 8


class ToolConfig(BaseModel):
    """Keys that every section of a foreign load generator has. Lengths in tokens, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer: str = Field("", description="name or path of the tokenizer; empty: the tool looks up the model's")
    endpoint: Literal["completions", "chat"] = Field("completions", description="which OpenAI API is called")
    concurrency: int | None = Field(None, ge=1, description="users at a time; 8 if no rate is given either")
    request_rate: float | None = Field(None, gt=0, le=1e6, description="arrivals per second")
    arrivals: Literal["poisson", "constant"] = Field("poisson", description="gaps between arrivals at a request_rate")
    warmup_requests: int = Field(0, ge=0, description="requests sent before, not counted")
    input_tokens: int = Field(64, ge=1, description="prompt length, tokens")
    input_tokens_stddev: int = Field(0, ge=0, description="standard deviation of the prompt length, tokens")
    output_tokens: int = Field(32, ge=1, description="answer length, tokens")
    output_tokens_stddev: int = Field(0, ge=0, description="standard deviation of the answer length, tokens")
    ignore_eos: bool = Field(True, description="ask for answers of exactly the given length")
    others: str | tuple[str, ...] = Field("", description="further arguments of the tool")
    env: dict[str, str] = Field(default_factory=dict, description="environment variables of the load generator")


class ToolBenchmark(Benchmark):
    """A load generator of others that is driven by a ``ToolConfig``."""

    config: ToolConfig

    def mistakes(self) -> list[str]:
        """Arguments that cannot be split."""
        try:
            arguments(self.config.others)
        except ValueError as error:
            return [f"{self.name}.others: cannot be split into arguments: {error}"]
        return []

    def workload(self, model: str, seed: int, request_slos: Mapping[str, float]) -> Workload:
        """What the section asks for, on this model."""
        config = self.config
        concurrency = config.concurrency
        if concurrency is None and config.request_rate is None:
            concurrency = DEFAULT_CONCURRENCY
        duration_s = getattr(config, "duration_s", None)
        requests = getattr(config, "requests", None)
        return Workload(
            model=model,
            load=Load(concurrency, config.request_rate, config.arrivals),
            endpoint=config.endpoint,
            requests=DEFAULT_REQUESTS if requests is None and duration_s is None else requests,
            duration_s=duration_s,
            warmup_requests=config.warmup_requests,
            input_tokens_mean=config.input_tokens,
            input_tokens_stddev=config.input_tokens_stddev,
            output_tokens_mean=config.output_tokens,
            output_tokens_stddev=config.output_tokens_stddev,
            ignore_eos=config.ignore_eos,
            seed=seed,
            request_timeout_s=getattr(config, "request_timeout_s", Workload.request_timeout_s),
            request_slos=dict(request_slos),
        )


def arguments(others: str | tuple[str, ...]) -> list[str]:
    """Further arguments as words; ValueError if a quotation does not end."""
    return [word for word in (shlex.split(others) if isinstance(others, str) else others) if word]


def program(executable: str) -> str:
    """A name is looked up on the PATH; a path is made absolute, because tools run in the trial's directory."""
    return str(Path(executable).absolute()) if "/" in executable else executable


def local(path: str) -> str:
    """What exists here is made absolute, for the same reason; names of models stay."""
    return str(Path(path).absolute()) if path and Path(path).exists() else path


def request_count(workload: Workload) -> int:
    """How many requests to send: as asked, else what the rate sends in the duration."""
    if workload.requests is not None:
        return workload.requests
    rate, seconds = workload.load.request_rate, workload.duration_s
    return max(1, math.ceil(rate * seconds)) if rate and seconds else DEFAULT_REQUESTS


def read_json(path: Path, tool: str) -> Any:
    """The content of a result file. BenchmarkParseError if there is none, or if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{tool} left no {path}: {error.strerror}. Its output says why."
        raise BenchmarkParseError(message) from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkParseError(f"{path} is not a result of {tool}: {error!r}") from error


def measured(metrics: Mapping[str, float], load: Mapping[str, float], reasons: tuple[str, ...] = ()) -> Measurement:
    """A measurement with what follows from the counts by definition (docs/loadgen.md): rates, throughputs.

    ``metrics`` holds completed, failed, duration_s, total_input_tokens and total_output_tokens at least. Without a
    completed request there is no latency. ValueError if a value is not a finite number, or if requests took no time.
    """
    found = {name: float(value) for name, value in metrics.items()}
    if wrong := [name for name, value in found.items() if not math.isfinite(value)]:
        raise ValueError(f"no numbers: {', '.join(sorted(wrong))}")
    completed, ended, seconds = found["completed"], found["completed"] + found["failed"], found["duration_s"]
    if completed and seconds <= 0:
        raise ValueError(f"{completed:g} requests in {seconds} s")
    if not completed:
        found = {name: value for name, value in found.items() if not name.endswith("_ms")}
        seconds = max(seconds, 1e-9)
    found["success_rate"] = completed / ended if ended else 0.0
    found["request_throughput"] = completed / seconds
    found["output_throughput"] = found["total_output_tokens"] / seconds
    found["total_token_throughput"] = (found["total_input_tokens"] + found["total_output_tokens"]) / seconds
    reasons = reasons if ended else (*reasons, "no request was sent")
    return Measurement(found, load, valid=not reasons, reasons=reasons)
