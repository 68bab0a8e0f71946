"""WHAT better means: one class per objective, chosen by name in ``[objective]``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from swarmtune.objective.slo import metric, violations
from swarmtune.records import Measurement, Score


@dataclass(frozen=True)
class Objective(ABC):
    """Turns a measurement into a score. ``limits`` are hard promises (metric -> limit in ms)."""

    limits: Mapping[str, float] = field(default_factory=dict)
    min_success_rate: float = 0.99
    unit: str = ""
    direction: Literal["maximize", "minimize"] = "maximize"

    @abstractmethod
    def value(self, measurement: Measurement) -> float:
        """The objective in its own unit. FitnessCalculationError if a metric is missing."""

    def score(self, measurement: Measurement) -> Score:
        """Value and promises of one measurement."""
        value = self.value(measurement)
        loss = -value if self.direction == "maximize" else value
        return Score(value=value, loss=loss, violations=violations(measurement, self.limits, self.min_success_rate))


@dataclass(frozen=True)
class Goodput(Objective):
    """Requests per second that each kept the per-request limits (DistServe, OSDI 2024)."""

    unit: str = "req/s"

    def value(self, measurement: Measurement) -> float:
        return metric(measurement, "request_goodput")


@dataclass(frozen=True)
class Throughput(Objective):
    """Output tokens per second."""

    unit: str = "tok/s"

    def value(self, measurement: Measurement) -> float:
        return metric(measurement, "output_throughput")


@dataclass(frozen=True)
class Weights:
    """Weights, targets and exponent slopes of the older tuner's cost; times in seconds, speed in tokens per second."""

    generate_speed: float = 0.4
    time_to_first_token: float = 0.2
    time_per_output_token: float = 0.3
    success_rate: float = 0.1
    generate_speed_target: float = 5000.0
    ttft_slo: float = 0.5
    tpot_slo: float = 0.05
    success_rate_slo: float = 1.0
    ttft_penalty: float = 3.0
    tpot_penalty: float = 3.0
    success_rate_penalty: float = 5.0
    ttft_statistic: str = "mean"
    tpot_statistic: str = "mean"


@dataclass(frozen=True)
class Weighted(Objective):
    """The older tuner's cost, minimised (research: msserviceprofiler optimizer, MES 1.7):

    w1 target/speed + w2 exp(k2 (TTFT/slo - 1)) + w3 exp(k3 (TPOT/slo - 1)) + w4 exp(k4 (slo/success - 1)).

    Speed is output tokens per second. A missing metric is an error there and here no bonus; a cost that overflows, and a
    speed or success rate of zero, cost infinity.
    """

    unit: str = "cost"
    direction: Literal["maximize", "minimize"] = "minimize"
    weights: Weights = field(default_factory=Weights)

    def value(self, measurement: Measurement) -> float:
        w = self.weights
        speed = metric(measurement, "output_throughput")
        success = metric(measurement, "success_rate")
        if speed <= 0 or success <= 0:
            return math.inf
        ttft = metric(measurement, f"{w.ttft_statistic}_ttft_ms") / 1000.0
        tpot = metric(measurement, f"{w.tpot_statistic}_tpot_ms") / 1000.0
        try:
            return (
                w.generate_speed * w.generate_speed_target / speed
                + w.time_to_first_token * math.exp(w.ttft_penalty * (ttft / w.ttft_slo - 1))
                + w.time_per_output_token * math.exp(w.tpot_penalty * (tpot / w.tpot_slo - 1))
                + w.success_rate * math.exp(w.success_rate_penalty * (w.success_rate_slo / success - 1))
            )
        except OverflowError:
            return math.inf
