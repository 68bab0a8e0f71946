"""WHAT better means: SLOs (latency limits) and objectives. Pure."""

from swarmtune.objective.objectives import Goodput, Latency, Objective, Per, Rate, Throughput, Weighted, Weights
from swarmtune.objective.slo import SLO_NAME, per_request_limits, slo_mistakes, violations

OBJECTIVES: dict[str, type[Objective]] = {"goodput": Goodput, "throughput": Throughput, "weighted": Weighted}

__all__ = [
    "OBJECTIVES",
    "SLO_NAME",
    "Goodput",
    "Latency",
    "Objective",
    "Per",
    "Rate",
    "Throughput",
    "Weighted",
    "Weights",
    "per_request_limits",
    "slo_mistakes",
    "violations",
]
