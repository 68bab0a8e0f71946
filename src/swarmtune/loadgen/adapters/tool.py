"""What the adapters share: the keys of their sections, the workload these ask for, and reading what a tool left.

What a tool tells of a latency is held against what can be: tools write 0 where nothing was measured, and divide the moment
in which a held-back stream arrives by its tokens. Such a latency is absent, and a rate of good requests that rests on it.
"""

from __future__ import annotations

import csv
import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from swarmtune.errors import BenchmarkParseError
from swarmtune.files import environment_names, text_of
from swarmtune.loadgen.base import Benchmark
from swarmtune.loadgen.read.counts import FASTEST
from swarmtune.records import Measurement
from swarmtune.workload import Load, Workload

DEFAULT_REQUESTS = 100
DEFAULT_CONCURRENCY = 8
MOST_BYTES = 64 * 2**20  # of a result file: a hundred times what a tool writes
MOST_SAID = 300  # characters of what is wrong with one
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, csv.Error)
BETWEEN_TOKENS = 1000 / FASTEST  # ms: no service is faster
# The latencies of services, ms: one was measured only if its mean and its median are above this.
NOTHING_MS = dict.fromkeys(("ttft_ms", "ttfo_ms", "e2el_ms", "scheduled_e2el_ms"), 0.0) | {"tpot_ms": BETWEEN_TOKENS}
MEANS_MS = dict.fromkeys(("icl_ms", "ttst_ms"), BETWEEN_TOKENS)  # and one of these if its mean is: events come in pairs
COUNTED = ("completed", "failed", "duration_s", "total_input_tokens", "total_output_tokens")


class ToolConfig(BaseModel):
    """Keys that every section of a foreign load generator has. Lengths in tokens, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer: str = Field(
        "", description="name or path of the tokenizer; empty: that in the model's folder, else the tool's way"
    )
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
    env: Annotated[dict[str, str], AfterValidator(environment_names)] = Field(
        default_factory=dict, description="environment variables of the load generator"
    )


class ToolBenchmark(Benchmark):
    """A load generator of others that is driven by a ``ToolConfig``."""

    config: ToolConfig
    needed: tuple[str, ...] = ()  # arguments of the tool on which its results rest, so that ``others`` cannot have them

    def mistakes(self) -> list[str]:
        """Arguments that cannot be split, or that take the results away."""
        return others_mistakes(f"{self.name}.others", lambda: arguments(self.config.others), self.needed)

    @property
    def tokenizer(self) -> str:
        """As configured, else the folder of the model where it holds one; empty: the tool looks one up."""
        return local(self.config.tokenizer) or tokenizer_in(self.model_folder)

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


def others_mistakes(key: str, split: Callable[[], Iterable[str]], needed: Iterable[str]) -> list[str]:
    """Sentences on further arguments that cannot be split, or that are among those that the results rest on."""
    try:
        written = {argument.partition("=")[0] for argument in split()}
    except ValueError as error:
        return [f"{key}: cannot be split into arguments: {error}"]
    taken = [flag for flag in needed if flag in written]
    return [f"{key}: leave {', '.join(taken)} out: SwarmTune needs its own to read the result"] if taken else []


def tokenizer_in(folder: str | None) -> str:
    """The folder, whole, if it holds a tokenizer; else nothing."""
    try:
        held = bool(folder) and any((Path(str(folder)) / name).is_file() for name in TOKENIZER_FILES)
    except OSError:  # a name that is too long, a folder that nobody may read
        held = False
    return str(Path(str(folder)).absolute()) if held else ""


def read_result(path: Path, tool: str, understand: Callable[[str], Measurement]) -> Measurement:
    """What ``understand`` makes of the text of a result file. BenchmarkParseError if there is none, or no sense in it."""
    try:
        return understand(text_of(path, MOST_BYTES).removeprefix("\ufeff"))
    except OSError as error:
        message = f"{tool} left no {path}: {error.strerror}. Its output says why."
        raise BenchmarkParseError(message) from error
    except MALFORMED as error:
        raise BenchmarkParseError(f"{path} is not a result of {tool}: {repr(error)[:MOST_SAID]}") from error


def statistics_of(
    block: Mapping[str, Any], names: Mapping[str, str], sample: str, factor: float = 1.0
) -> dict[str, float]:
    """The statistics of a sample in our names, which ``names`` gives by the tool's; one without a value is left out."""
    given = {ours: block.get(theirs) for theirs, ours in names.items()}
    return {f"{ours}_{sample}": float(value) * factor for ours, value in given.items() if value is not None}


def measured(metrics: Mapping[str, float], load: Mapping[str, float], reasons: tuple[str, ...] = ()) -> Measurement:
    """A measurement with what follows from the counts by definition (docs/loadgen.md): rates, throughputs.

    ``metrics`` holds completed, failed, duration_s, total_input_tokens and total_output_tokens at least. A latency that was
    not measured is left out: 0, no finite number, faster than any service. A run without a completed request is not valid.
    ValueError if another value is not a finite number, if a count is below 0, or if requests took no time.
    """
    found = _believed({name: float(value) for name, value in metrics.items()})
    if wrong := [name for name, value in found.items() if not math.isfinite(value)]:
        raise ValueError(f"no numbers: {', '.join(sorted(wrong))}")
    if below := [name for name in COUNTED if found[name] < 0]:
        raise ValueError(f"below 0: {', '.join(below)}")
    completed, ended, seconds = found["completed"], found["completed"] + found["failed"], found["duration_s"]
    if completed and seconds <= 0:
        raise ValueError(f"{completed:g} requests in {seconds} s")
    if not completed:
        found = {name: value for name, value in found.items() if not name.endswith("_ms")}
        seconds = max(seconds, 1e-9)
        reasons = (*reasons, f"all {ended:g} requests failed" if ended else "no request was sent")
    found["success_rate"] = completed / ended if ended else 0.0
    found["request_throughput"] = completed / seconds
    found["output_throughput"] = found["total_output_tokens"] / seconds
    found["total_token_throughput"] = (found["total_input_tokens"] + found["total_output_tokens"]) / seconds
    return Measurement(found, load, valid=not reasons, reasons=reasons)


def _believed(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without latencies that were not measured, and without what rests on them."""
    samples: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in metrics.items():
        statistic, _, sample = name.partition("_")
        samples[sample][statistic] = value
    absent = {sample for sample, values in samples.items() if _not_measured(sample, values)}
    one_each = metrics["total_output_tokens"] <= metrics["completed"]  # then there is no tpot to be good
    doubted = absent & {"ttft_ms", "e2el_ms"} or (absent & {"tpot_ms"} and not one_each)
    rests = {"output_throughput_per_user", "goodput"} if doubted else set()
    return {
        name: value
        for name, value in metrics.items()
        if (sample := name.partition("_")[2]) not in absent | rests
        and (math.isfinite(value) or not sample.endswith("_ms"))
    }


def _not_measured(sample: str, values: Mapping[str, float]) -> bool:
    """Are these statistics of a latency those of nothing?"""
    least = {**NOTHING_MS, **MEANS_MS}.get(sample)
    if least is None:
        return False
    typical = [values[name] for name in ("mean", "p50") if name in values and (name == "mean" or sample in NOTHING_MS)]
    return not all(value > least for value in typical) or any(value < 0 for value in values.values())
