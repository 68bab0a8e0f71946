"""WHAT better means: one class per objective, chosen by name in ``[objective]``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from swarmtune.errors import FitnessCalculationError
from swarmtune.objective.slo import metric, violations
from swarmtune.records import Measurement, Score

ACCELERATORS = "accelerators"  # the metric that says how many devices the service took
POWER = "power_watts"  # the metric that says what they drew on average
POWER_ADVICE = (
    "Give the address of an exporter of the devices on each node, for example [loadgen] gpu_telemetry = "
    "[\"http://NODE:9400/metrics\"], or use per = 'accelerator' or 'dollar'."
)
NO_POWER = "power_watts is absent: "  # a load generator's reason begins with this


@dataclass(frozen=True)
class Per:
    """The denominator of a rate: accelerators used, watts drawn, or dollars spent.

    ``dollars_per_hour`` is the price of one accelerator, with ``of_group`` that of all, used or not.
    """

    what: Literal["accelerator", "watt", "dollar"]
    dollars_per_hour: float = 1.0
    of_group: bool = False

    def amount(self, measurement: Measurement) -> float:
        """Accelerators, watts, or dollars per second. FitnessCalculationError if the measurement cannot tell."""
        if self.what == "watt":
            if POWER not in measurement.metrics:
                raise _no_power(measurement)
            return metric(measurement, POWER, above=0)
        accelerators = 1.0 if self.of_group else metric(measurement, ACCELERATORS, above=0)
        return accelerators if self.what == "accelerator" else accelerators * self.dollars_per_hour / 3600

    def identity(self) -> dict[str, Any]:
        """What makes two values comparable, as plain data."""
        return {"what": self.what, "dollars_per_hour": self.dollars_per_hour, "of_group": self.of_group}

    def unit(self, rate: str) -> str:
        """The unit of a rate in things per second: a thing per second and watt is one per joule."""
        thing = rate.removesuffix("/s")
        return {"accelerator": f"{rate}/accelerator", "watt": f"{thing}/J", "dollar": f"{thing}/$"}[self.what]


def _no_power(measurement: Measurement) -> FitnessCalculationError:
    """The load generator's own reason, and the way out."""
    reason = next(
        (r.removeprefix(NO_POWER) for r in measurement.reasons if r.startswith(NO_POWER)),
        "the measurement has no power_watts",
    )
    return FitnessCalculationError(
        f"Nothing can be counted per watt: {reason}. {POWER_ADVICE}", details={"missing": POWER, "reason": reason}
    )


@dataclass(frozen=True)
class Objective(ABC):
    """Turns a measurement into a score. ``limits`` are hard SLOs (metric -> limit in ms).

    ``several``: the objectives of a Pareto set by name, of which this is the first. Their values go into the score, too.
    """

    limits: Mapping[str, float] = field(default_factory=dict)
    min_success_rate: float = 0.99
    unit: str = ""
    direction: Literal["maximize", "minimize"] = "maximize"
    several: Mapping[str, Objective] = field(default_factory=dict)
    kind: ClassVar[str] = ""  # its name in configurations and studies
    metric: ClassVar[str] = ""  # the metric that is the objective, where it is one
    needs_slos: ClassVar[bool] = True  # False: it weighs latencies itself, so no load is searched for
    needs_request_slos: ClassVar[bool] = False  # does it count requests that kept their SLOs?

    @abstractmethod
    def value(self, measurement: Measurement) -> float:
        """The objective in its own unit. FitnessCalculationError if a metric is missing."""

    def loss(self, measurement: Measurement) -> float:
        """The value, turned so that less is better."""
        return self.as_loss(self.value(measurement))

    @property
    def needs(self) -> tuple[str, ...]:
        """The metrics that every measurement must have: those of the values and of the SLOs."""
        values = (name for objective in self.several.values() for name in objective.values)
        return tuple(dict.fromkeys((*self.values, *values, *self.limits)))

    @property
    def values(self) -> tuple[str, ...]:
        """The metrics that the value is made of, accelerators and power apart."""
        return (self.metric,) if self.metric else ()

    @property
    def needs_power(self) -> bool:
        """Is something counted per watt?"""
        return any(objective.needs_power for objective in self.several.values())

    def as_loss(self, value: float) -> float:
        """A value as a loss, and a loss as a value."""
        return -value if self.direction == "maximize" else value

    def identity(self) -> dict[str, Any]:
        """What makes two scores comparable, as plain data under public names. Studies keep it: see study/fingerprint.py."""
        pareto = {"pareto": {name: objective.unit for name, objective in self.several.items()}} if self.several else {}
        kind = self.kind or f"{type(self).__module__}:{type(self).__qualname__}"
        return {"kind": kind, "slos": dict(self.limits), "min_success_rate": self.min_success_rate, **pareto}

    def score(self, measurement: Measurement) -> Score:
        """Value and SLOs of one measurement."""
        value = self.value(measurement)
        return Score(
            value=value,
            loss=self.as_loss(value),
            violations=violations(measurement, self.limits, self.min_success_rate),
            values={name: objective.loss(measurement) for name, objective in self.several.items()},
        )


@dataclass(frozen=True)
class Rate(Objective):
    """A metric in things per second, as it is or per accelerator, watt or dollar."""

    per: Per | None = None

    def __post_init__(self) -> None:
        if self.per:
            object.__setattr__(self, "unit", self.per.unit(type(self).unit))  # replace() calls this again

    @property
    def needs_power(self) -> bool:
        return (self.per is not None and self.per.what == "watt") or super().needs_power

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), **({"per": self.per.identity()} if self.per else {})}

    def value(self, measurement: Measurement) -> float:
        rate = metric(measurement, self.metric)
        return rate / self.per.amount(measurement) if self.per else rate


@dataclass(frozen=True)
class Goodput(Rate):
    """Requests per second that each kept the per-request limits (DistServe, OSDI 2024)."""

    unit: str = "req/s"
    kind: ClassVar[str] = "goodput"
    metric: ClassVar[str] = "request_goodput"
    needs_request_slos: ClassVar[bool] = True


@dataclass(frozen=True)
class Throughput(Rate):
    """Output tokens per second."""

    unit: str = "tok/s"
    kind: ClassVar[str] = "throughput"
    metric: ClassVar[str] = "output_throughput"


@dataclass(frozen=True)
class Latency(Objective):
    """A latency that an SLO could bound (``p95_ttft_ms``), minimised: the second of a Pareto set.

    When not a single request completed there is none, and it is infinite.
    """

    unit: str = "ms"
    direction: Literal["maximize", "minimize"] = "minimize"
    kind: ClassVar[str] = "latency"
    name: str = ""

    @property
    def values(self) -> tuple[str, ...]:
        return (self.name,)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "name": self.name}

    def value(self, measurement: Measurement) -> float:
        return math.inf if measurement.metrics.get("completed") == 0 else metric(measurement, self.name)


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

    Speed is output tokens per second. A missing metric is an error, as there; a cost that overflows, and a speed or success
    rate of zero, cost infinity.
    """

    unit: str = "cost"
    direction: Literal["maximize", "minimize"] = "minimize"
    kind: ClassVar[str] = "weighted"
    needs_slos: ClassVar[bool] = False
    weights: Weights = field(default_factory=Weights)

    @property
    def values(self) -> tuple[str, ...]:
        w = self.weights
        return ("output_throughput", "success_rate", f"{w.ttft_statistic}_ttft_ms", f"{w.tpot_statistic}_tpot_ms")

    def identity(self) -> dict[str, Any]:
        w = self.weights
        weights = {
            "generate_speed": w.generate_speed,
            "time_to_first_token": w.time_to_first_token,
            "time_per_output_token": w.time_per_output_token,
            "success_rate": w.success_rate,
            "generate_speed_target": w.generate_speed_target,
            "ttft_slo": w.ttft_slo,
            "tpot_slo": w.tpot_slo,
            "success_rate_slo": w.success_rate_slo,
            "ttft_penalty": w.ttft_penalty,
            "tpot_penalty": w.tpot_penalty,
            "success_rate_penalty": w.success_rate_penalty,
            "ttft_statistic": w.ttft_statistic,
            "tpot_statistic": w.tpot_statistic,
        }
        return {**super().identity(), "weights": weights}

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
