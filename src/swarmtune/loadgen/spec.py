"""What one run of the load generator is told, as the JSON file that its command line names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.loadgen.client import Endpoint
from swarmtune.workload import Workload

SLO_NAMES = ("ttft_ms", "tpot_ms", "e2el_ms")


class Limits(BaseModel):
    """When the load generator no longer trusts itself, and how long it waits for late answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_loop_lag_ms: float = Field(
        50.0, gt=0, description="p99 of the client's own event-loop lag above which a run is invalid, ms"
    )
    max_cpu_share: float = Field(
        0.9, gt=0, le=1, description="client's own CPU use above which a run is invalid, share of one core"
    )
    drain_grace_s: float = Field(
        10.0, ge=0, description="wait for running requests after the duration's end, s; then incomplete"
    )


class Spec(BaseModel):
    """A whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    workload: Workload
    limits: Limits = Limits()

    @property
    def endpoint(self) -> Endpoint:
        """Where the requests go."""
        return Endpoint.parse(self.url, self.workload.endpoint)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        workload, load = self.workload, self.workload.load
        Endpoint.parse(self.url, workload.endpoint)
        rules = (
            (workload.requests is not None or workload.duration_s is not None, "requests or duration_s must be given"),
            (workload.requests is None or workload.requests >= 1, "requests must be at least 1"),
            (workload.duration_s is None or workload.duration_s > 0, "duration_s must be above 0"),
            (workload.warmup_requests >= 0, "warmup_requests must not be negative"),
            (load.concurrency is not None or load.request_rate is not None, "load needs concurrency or request_rate"),
            (load.concurrency is None or load.concurrency >= 1, "concurrency must be at least 1"),
            (load.request_rate is None or load.request_rate > 0, "request_rate must be above 0"),
            (workload.input_tokens_mean >= 1 and workload.output_tokens_mean >= 1, "token means must be at least 1"),
            (
                min(workload.input_tokens_stddev, workload.output_tokens_stddev) >= 0,
                "token stddevs must not be negative",
            ),
            (workload.request_timeout_s > 0, "request_timeout_s must be above 0"),
            (set(workload.request_slos) <= set(SLO_NAMES), f"request_slos knows only {', '.join(SLO_NAMES)}"),
        )
        broken = [message for kept, message in rules if not kept]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def to_json(self) -> str:
        """The text of the spec file."""
        return SPEC.dump_json(self, indent=1).decode()

    @classmethod
    def read(cls, path: Path) -> Spec:
        """The spec in this file; ConfigPathError or ConfigValidationError say what is wrong with it."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigPathError(f"The spec file {path} cannot be read: {error.strerror}.") from error
        try:
            return SPEC.validate_json(text)
        except ValidationError as error:
            raise ConfigValidationError([f"{path}: {_where(e)}{e['msg']}" for e in error.errors()]) from error


def _where(mistake: Any) -> str:
    place = ".".join(str(part) for part in mistake["loc"])
    return f"{place}: " if place else ""


SPEC = TypeAdapter(Spec)
