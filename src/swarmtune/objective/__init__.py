"""WHAT better means: SLOs (latency limits) and objectives. Pure."""

from swarmtune.objective.objectives import Goodput, Latency, Objective, Per, Rate, Throughput, Weighted, Weights
from swarmtune.objective.slo import PROMISED, per_request_limits, promise_mistakes, violations

OBJECTIVES: dict[str, type[Objective]] = {"goodput": Goodput, "throughput": Throughput, "weighted": Weighted}

__all__ = [
    "OBJECTIVES",
    "PROMISED",
    "Goodput",
    "Latency",
    "Objective",
    "Per",
    "Rate",
    "Throughput",
    "Weighted",
    "Weights",
    "per_request_limits",
    "promise_mistakes",
    "violations",
]
