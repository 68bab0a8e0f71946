"""WHAT users send: requests, their lengths, and how they arrive. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Load:
    """How hard the service is pushed: a closed loop of ``concurrency`` users, or ``request_rate`` arrivals per second.

    With both, the rate is capped by the concurrency. ``arrivals`` shapes the rate: "poisson" or "constant".
    """

    concurrency: int | None = None
    request_rate: float | None = None
    arrivals: Literal["poisson", "constant"] = "poisson"

    def to_json(self) -> dict[str, float]:
        """The part that a Measurement records."""
        values = {"concurrency": self.concurrency, "request_rate": self.request_rate}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class StopRules:
    """Rules for ending a measurement early: loadgen/judge/early.py. ``act``: end it; else only report the decision.

    ``limits`` are the SLOs ({"p95_ttft_ms": 500}), ``metric`` what is maximised ("request_goodput",
    "output_throughput"). A measurement cannot win when it surely stays below ``to_beat`` by more than ``margin``
    (relative), since two runs differ by more than their intervals show; None: there is no value to beat.
    """

    act: bool
    limits: Mapping[str, float] = field(default_factory=dict)
    min_success_rate: float = 0.99
    metric: str = ""
    to_beat: float | None = None
    margin: float = 0.1
    confidence: float = 0.99


@dataclass(frozen=True)
class Workload:
    """One load test: which requests, how many, how fast.

    It ends after ``requests`` requests or ``duration_s`` seconds of measurement, whichever comes first (at least one is
    given). ``warmup_requests`` are sent before and not counted. Lengths are in tokens, drawn from a normal distribution
    cut off at 1. ``request_slos`` are the SLOs that a single request must keep to count for goodput:
    {"ttft_ms": 500, "tpot_ms": 50, "e2el_ms": ...}. ``early_stop``: the rules for ending it early. The same seed gives the
    same requests and the same arrivals.
    """

    model: str
    load: Load = field(default_factory=lambda: Load(concurrency=1))
    endpoint: Literal["chat", "completions"] = "completions"
    requests: int | None = None
    duration_s: float | None = None
    warmup_requests: int = 0
    input_tokens_mean: float = 64
    input_tokens_stddev: float = 0
    output_tokens_mean: float = 32
    output_tokens_stddev: float = 0
    ignore_eos: bool = True
    seed: int = 0
    request_timeout_s: float = 120.0
    request_slos: Mapping[str, float] = field(default_factory=dict)
    early_stop: StopRules | None = None  # not part of what is measured

    def identity(self) -> dict[str, Any]:
        """What is sent, as plain data under public names, without the seed. Studies keep it: see study/fingerprint.py."""
        load = self.load
        return {
            "model": self.model,
            "load": {"concurrency": load.concurrency, "request_rate": load.request_rate, "arrivals": load.arrivals},
            "endpoint": self.endpoint,
            "requests": self.requests,
            "duration_s": self.duration_s,
            "warmup_requests": self.warmup_requests,
            "input_tokens_mean": self.input_tokens_mean,
            "input_tokens_stddev": self.input_tokens_stddev,
            "output_tokens_mean": self.output_tokens_mean,
            "output_tokens_stddev": self.output_tokens_stddev,
            "ignore_eos": self.ignore_eos,
            "request_timeout_s": self.request_timeout_s,
            "request_slos": dict(self.request_slos),
        }

    def at(self, load: Load) -> Workload:
        """The same requests under another load."""
        return replace(self, load=load)
