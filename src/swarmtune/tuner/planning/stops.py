"""From ``[early_stop]`` to the rules by which measurements end early, and to the line that says what they do."""

from __future__ import annotations

from collections.abc import Mapping

from swarmtune.loadgen.base import Benchmark
from swarmtune.loadgen.judge.early import SLO_METRIC
from swarmtune.objective import OBJECTIVES
from swarmtune.settings import BaseSections
from swarmtune.tuner.planning.aims import leading
from swarmtune.workload import StopRules


def stop_rules(settings: BaseSections, limits: Mapping[str, float], benchmark: Benchmark) -> StopRules | None:
    """When a measurement may end early; None where that is off or the benchmark cannot do it."""
    section, objective = settings.early_stop, settings.objective
    if section.mode == "off" or benchmark.early_stop_obstacle:
        return None
    metric = OBJECTIVES[leading(settings)].metric
    return StopRules(
        act=section.mode == "on" or (section.mode == "auto" and not benchmark.early_stop_doubt),
        limits=limits,
        min_success_rate=objective.min_success_rate,
        metric="" if objective.per or objective.pareto else metric,
        margin=section.margin,
        confidence=section.confidence,
    )


def early_stop_text(settings: BaseSections, benchmark: Benchmark, rules: StopRules | None) -> str:
    """What early stopping does, in a line: what ends a measurement, or why nothing does."""
    mode = settings.early_stop.mode
    if rules is None:
        return "off" if mode == "off" else f"never: {benchmark.early_stop_obstacle}"
    if not rules.act:
        return f"only reported: {benchmark.early_stop_doubt}" if mode == "auto" else "only reported"
    slos = [name for name in rules.limits if SLO_METRIC.match(name)]
    behind = f", or {rules.metric} is {rules.margin:.0%} below the best so far" if rules.metric else ""
    return f"ends a measurement when {', '.join([*slos, 'success_rate'])} surely cannot be kept{behind}"


def stop_notes(settings: BaseSections, benchmark: Benchmark) -> list[str]:
    """Sentences where early stopping was asked for and cannot be had."""
    obstacle = benchmark.early_stop_obstacle
    return [f"early_stop has no effect: {obstacle}"] if settings.early_stop.mode == "on" and obstacle else []
