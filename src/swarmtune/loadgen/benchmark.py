"""Our own load generator as a benchmark: one command like any other."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.base import Benchmark
from swarmtune.loadgen.export import MEASUREMENT_FILE
from swarmtune.loadgen.spec import Limits, Spec
from swarmtune.records import Command, File, Measurement
from swarmtune.workload import Load, Workload

SPEC_FILE = "spec.json"
DEFAULT_REQUESTS = 100  # when neither a count nor a duration is given
DEFAULT_CONCURRENCY = 8  # when neither users nor a rate are given


class LoadgenConfig(Limits):
    """The section ``[loadgen]``. Lengths in tokens, times in seconds."""

    endpoint: Literal["chat", "completions"] = Field("completions", description="OpenAI API to call")
    input_tokens_mean: float = Field(64, ge=1, description="mean prompt length, tokens")
    input_tokens_stddev: float = Field(0, ge=0, description="standard deviation of the prompt length, tokens")
    output_tokens_mean: float = Field(32, ge=1, description="mean answer length, tokens")
    output_tokens_stddev: float = Field(0, ge=0, description="standard deviation of the answer length, tokens")
    ignore_eos: bool = Field(True, description="ask for answers of exactly the drawn length")
    requests: int | None = Field(None, ge=1, description="requests to measure; 100 if no duration is given either")
    duration_s: float | None = Field(None, gt=0, description="length of the measurement, s")
    warmup_requests: int = Field(0, ge=0, description="requests sent before, not counted")
    concurrency: int | None = Field(
        None, ge=1, description="users at a time, or the cap of a rate; 8 if no rate is given either"
    )
    request_rate: float | None = Field(None, gt=0, description="arrivals per second")
    arrivals: Literal["poisson", "constant"] = Field("poisson", description="shape of the arrivals of a rate")
    request_timeout_s: float = Field(120.0, gt=0, description="a request without its whole answer by then failed, s")


class SwarmtuneBenchmark(Benchmark):
    """``python -m swarmtune.loadgen``, on the machine's own Python."""

    name = "swarmtune"
    section = "loadgen"
    config: LoadgenConfig
    Config = LoadgenConfig

    def workload(self, model: str, seed: int, request_slos: Mapping[str, float]) -> Workload:
        """What the section asks for, on this model."""
        config = self.config
        requests, concurrency = config.requests, config.concurrency
        if requests is None and config.duration_s is None:
            requests = DEFAULT_REQUESTS
        if concurrency is None and config.request_rate is None:
            concurrency = DEFAULT_CONCURRENCY
        return Workload(
            model=model,
            load=Load(concurrency, config.request_rate, config.arrivals),
            endpoint=config.endpoint,
            requests=requests,
            duration_s=config.duration_s,
            warmup_requests=config.warmup_requests,
            input_tokens_mean=config.input_tokens_mean,
            input_tokens_stddev=config.input_tokens_stddev,
            output_tokens_mean=config.output_tokens_mean,
            output_tokens_stddev=config.output_tokens_stddev,
            ignore_eos=config.ignore_eos,
            seed=seed,
            request_timeout_s=config.request_timeout_s,
            request_slos=dict(request_slos),
        )

    def command(self, workload: Workload, url: str) -> Command:
        """``python -P -m swarmtune.loadgen spec.json``; the spec travels with the command."""
        limits = Limits(**{name: getattr(self.config, name) for name in Limits.model_fields})
        spec = Spec(url=url, workload=workload, limits=limits)
        return Command(
            argv=(sys.executable, "-P", "-m", "swarmtune.loadgen", SPEC_FILE),
            files=(File(SPEC_FILE, spec.to_json()),),
        )

    def read(self, directory: Path) -> Measurement:
        """The measurement in ``measurement.json``."""
        path = directory / MEASUREMENT_FILE
        try:
            measurement = Measurement.from_json(json.loads(path.read_text()))
            strange = [name for name, value in measurement.metrics.items() if not math.isfinite(value)]
        except OSError as error:
            raise BenchmarkParseError(
                f"The load generator left no {path}: {error.strerror}. Its output says why."
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BenchmarkParseError(f"{path} does not hold a measurement: {error!r}") from error
        if strange:
            raise BenchmarkParseError(f"{path} holds values that are no numbers: {', '.join(strange)}")
        return measurement
