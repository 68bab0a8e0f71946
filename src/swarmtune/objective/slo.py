"""SLOs (latency limits): limits on metrics of a measurement, hard by default."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from swarmtune.errors import FitnessCalculationError
from swarmtune.records import Measurement

# Latency metrics that an SLO may bound, e.g. p95_ttft_ms: the loadgen gives them for every workload.
LATENCIES = ("ttft", "tpot", "itl", "icl", "e2el")
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
SLO_NAME = re.compile(rf"^({'|'.join(STATISTICS)})_({'|'.join(LATENCIES)})_ms$")


def slo_mistakes(limits: Mapping[str, float]) -> list[str]:
    """Mistakes in a table of SLOs, as sentences."""
    form = f"{'|'.join(STATISTICS)}_{'|'.join(LATENCIES)}_ms"
    return [
        f"objective.slo.{name}: not an SLO; write {form}, for example p95_ttft_ms = 500"
        for name in limits
        if not SLO_NAME.match(name)
    ] + [
        f"objective.slo.{name}: the limit must be above 0 ms, not {limit}"
        for name, limit in limits.items()
        if not limit > 0
    ]


def per_request_limits(limits: Mapping[str, float]) -> dict[str, float]:
    """The limits that one request must keep to count for goodput: the tightest SLO per latency, {"ttft_ms": 500}."""
    limits_of_requests: dict[str, float] = {}
    for name, limit in limits.items():
        match = SLO_NAME.match(name)
        if match and match[2] not in ("itl", "icl"):
            key = f"{match[2]}_ms"
            limits_of_requests[key] = min(limit, limits_of_requests.get(key, limit))
    return limits_of_requests


def violations(measurement: Measurement, limits: Mapping[str, float], min_success_rate: float) -> dict[str, float]:
    """How far each SLO is broken, relative to its limit (<= 0: kept).

    When not a single request completed there is no latency to judge, and each SLO counts as broken by its full
    limit; otherwise a missing metric is a FitnessCalculationError, never a kept SLO.
    """
    result = {"success_rate": 1.0 - metric(measurement, "success_rate") / min_success_rate}
    nothing_completed = measurement.metrics.get("completed") == 0
    for name, limit in limits.items():
        if nothing_completed:
            result[name] = 1.0
        else:
            result[name] = metric(measurement, name) / limit - 1.0
    return result


def metric(measurement: Measurement, name: str, above: float = -math.inf) -> float:
    """A metric that the objective needs. FitnessCalculationError if it is missing or not above ``above``."""
    if name not in measurement.metrics:
        have = f"It has: {', '.join(sorted(measurement.metrics)) or 'none'}."
        said = f"The load generator says: {'; '.join(measurement.reasons)}." if measurement.reasons else have
        raise FitnessCalculationError(
            f"The measurement has no {name}, which the objective needs. {said}",
            details={"missing": name, "metrics": sorted(measurement.metrics)},
        )
    value = measurement.metrics[name]
    if not value > above:
        raise FitnessCalculationError(f"The measurement has {name} = {value:g}; it must be above {above:g}.")
    return value
