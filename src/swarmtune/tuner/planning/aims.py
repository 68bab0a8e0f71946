"""From ``[objective]`` to an objective: what is wrong with the table, and what it means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from swarmtune.loadgen.base import Benchmark
from swarmtune.objective import (
    OBJECTIVES,
    SLO_NAME,
    Goodput,
    Latency,
    Objective,
    Per,
    Rate,
    Weighted,
    Weights,
    per_request_limits,
    slo_mistakes,
)
from swarmtune.objective.objectives import POWER_ADVICE
from swarmtune.records import Group
from swarmtune.settings import BaseSections
from swarmtune.workload import Workload

WEIGHTED_KEYS = (
    "ttft_penalty", "tpot_penalty", "success_rate_penalty", "success_rate_slo", "generate_speed_target",
)  # fmt: skip
DEFAULT_SLOS = {"p95_ttft_ms": 1000.0, "p95_tpot_ms": 50.0}
# Latencies and statistics by their names in [BENCHMARK.performance_config] of the older tuner.
LATENCIES = {"time_to_first_token": "ttft", "time_per_output_token": "tpot"}
STATISTICS = {"average": "mean", "mean": "mean", "max": "max"} | {name: name for name in ("p50", "p90", "p95", "p99")}


def leading(settings: BaseSections) -> str:
    """The objective by which settings are ranked and the winner is proven: the first of several."""
    return settings.objective.pareto[0] if settings.objective.pareto else settings.objective.name


def _kinds(settings: BaseSections) -> dict[str, type[Objective]]:
    """The objectives that are named, without latencies."""
    named = dict.fromkeys((leading(settings), *settings.objective.pareto))
    return {name: OBJECTIVES[name] for name in named if name in OBJECTIVES}


def that_can_be_measured(settings: BaseSections, benchmark: Benchmark | None) -> BaseSections:
    """The settings; where no objective is named and the benchmark does not count good requests, with throughput."""
    table = settings.objective
    if benchmark is None or table.pareto or "name" in table.model_fields_set or not benchmark.absent(Goodput.metric):
        return settings
    return settings.model_copy(update={"objective": table.model_copy(update={"name": "throughput"})})


def needs_slos(settings: BaseSections) -> bool:
    """Does that objective rest on SLOs? False: it weighs latencies itself."""
    kind = OBJECTIVES.get(leading(settings))  # None: a latency, which cannot lead and is refused elsewhere
    return kind is None or kind.needs_slos


def slos(settings: BaseSections, mistakes: list[str]) -> dict[str, float]:
    """The SLOs, in ms by metric: those of the table, else those of the older tuner's keys, else the usual ones."""
    given = settings.objective.slo
    if given is None:
        given = dict(DEFAULT_SLOS) if needs_slos(settings) else {}
        if given and settings.ttft_slo is not None:
            given["p95_ttft_ms"] = settings.ttft_slo * 1000
        if given and settings.tpot_slo is not None:
            given["p95_tpot_ms"] = settings.tpot_slo * 1000
    mistakes += slo_mistakes(given)
    counted = [name for name, kind in _kinds(settings).items() if kind.needs_request_slos]
    if counted and not per_request_limits(given):
        mistakes.append(
            f"objective.slo: {counted[0]} needs an SLO on ttft, tpot or e2el, for example p95_ttft_ms = 500"
        )
    return given


def mistakes_of(settings: BaseSections, benchmark: Benchmark | None) -> list[str]:
    """Mistakes in ``per``, the prices and ``pareto``, and metrics that the benchmark does not give, as sentences."""
    found = [*_price_mistakes(settings, benchmark), *_pareto_mistakes(settings)]
    return found if found or benchmark is None else _absent_mistakes(settings, benchmark)


def _absent_mistakes(settings: BaseSections, benchmark: Benchmark) -> list[str]:
    """Metrics of the objective and of the SLOs that no measurement of this benchmark will have."""
    limits = slos(settings, [])
    if slo_mistakes(limits) or not (leading(settings) in OBJECTIVES or SLO_NAME.match(leading(settings))):
        return []
    needed = {name: benchmark.absent(name) for name in objective(settings, limits).needs}
    ways = "take another objective, SLO or benchmark"
    return [
        f"objective{f'.slo.{name}' if name in limits else ''}: it needs {name}, and {reason}; {ways}"
        for name, reason in needed.items()
        if reason
    ]


def objective(settings: BaseSections, limits: Mapping[str, float]) -> Objective:
    """The objective of a table without mistakes."""
    several = {name: _one(settings, name, limits) for name in settings.objective.pareto}
    return replace(_one(settings, leading(settings), limits), several=several)


def _one(settings: BaseSections, name: str, limits: Mapping[str, float]) -> Objective:
    least = settings.objective.min_success_rate
    kind = OBJECTIVES.get(name)
    if kind is None:
        return Latency(limits, least, name=name)
    if issubclass(kind, Weighted):
        return kind(limits, least, weights=_weights(settings))
    return kind(limits, least, per=_per(settings)) if issubclass(kind, Rate) else kind(limits, least)


def _per(settings: BaseSections) -> Per | None:
    table = settings.objective
    if table.per is None:
        return None
    price = table.group_dollars_per_hour or table.dollars_per_hour or 1.0
    return Per(table.per, price, of_group=table.group_dollars_per_hour is not None)


def _weights(settings: BaseSections) -> Weights:
    p = settings.objective
    return Weights(
        **p.weights,
        generate_speed_target=settings.generate_speed_target,
        ttft_slo=settings.ttft_slo or 0.5,
        tpot_slo=settings.tpot_slo or 0.05,
        success_rate_slo=settings.success_rate_slo,
        ttft_penalty=settings.ttft_penalty,
        tpot_penalty=settings.tpot_penalty,
        success_rate_penalty=settings.success_rate_penalty,
        ttft_statistic=_statistic(settings, "ttft"),
        tpot_statistic=_statistic(settings, "tpot"),
    )


def _statistic(settings: BaseSections, latency: str) -> str:
    """The statistic of a latency in the weighted cost: [objective]'s, else that of the older tuner's table."""
    key = f"{latency}_statistic"
    chosen = str(getattr(settings.objective, key))
    if key in settings.objective.model_fields_set:
        return chosen
    return STATISTICS.get(_algorithms(settings).get(latency, ""), chosen)


def _algorithms(settings: BaseSections) -> dict[str, str]:
    """What [BENCHMARK.performance_config] of the older tuner says of each latency, where it is given."""
    table = getattr(getattr(settings, settings.optimizer.benchmark, None), "performance_config", None)
    given = {latency: getattr(table, name, None) for name, latency in LATENCIES.items()}
    return {latency: one.algorithm for latency, one in given.items() if one and "algorithm" in one.model_fields_set}


def notes(settings: BaseSections, named: BaseSections) -> list[str]:
    """That another objective was taken than ``named`` has, and keys that the objectives do not use, as sentences."""
    found = []
    if settings.objective.name != named.objective.name:
        found.append(
            f"the objective is {settings.objective.name}, because the benchmark {settings.optimizer.benchmark} does not "
            "count the requests that keep the SLOs; [objective] name chooses another"
        )
    return found + _unused(settings)


def _unused(settings: BaseSections) -> list[str]:
    given = [name for name in WEIGHTED_KEYS if name in settings.model_fields_set]
    table = ("weights", "ttft_statistic", "tpot_statistic")
    given += [f"objective.{name}" for name in table if name in settings.objective.model_fields_set]
    given += [f"{settings.optimizer.benchmark}.performance_config"] if _algorithms(settings) else []
    if not given:
        return []
    if any(issubclass(kind, Weighted) for kind in _kinds(settings).values()):
        return [
            f"{settings.optimizer.benchmark}.performance_config: {algorithm!r} is no statistic here, so the cost takes the "
            f"{_statistic(settings, latency)} {latency.upper()}; [objective] {latency}_statistic = one of mean, p50, p90, "
            "p95, p99, max chooses another"
            for latency, algorithm in _algorithms(settings).items()
            if algorithm not in STATISTICS
        ]
    text = f"only the weighted objective uses {', '.join(given)}, and the objective is {leading(settings)}"
    return [f'{text}; [objective] name = "weighted" takes the older tuner\'s cost']


def _price_mistakes(settings: BaseSections, benchmark: Benchmark | None) -> list[str]:
    table, found = settings.objective, []
    prices = [p for p in (table.dollars_per_hour, table.group_dollars_per_hour) if p is not None]
    if table.per and not any(issubclass(kind, Rate) for kind in _kinds(settings).values()):
        rates = " and ".join(name for name, kind in OBJECTIVES.items() if issubclass(kind, Rate))
        found.append(f"objective.per: only {rates} are counted per something; leave it out")
    if table.per == "watt" and benchmark is not None and not benchmark.measures_power:
        found.append(
            f"objective.per: the benchmark {benchmark.name} does not measure power, so nothing can be counted per watt; "
            "take a benchmark that does, such as swarmtune, or per = 'accelerator' or 'dollar'"
        )
    if table.per == "dollar" and len(prices) != 1:
        found.append(
            "objective.per: 'dollar' needs one price: dollars_per_hour of an accelerator, or group_dollars_per_hour of all"
        )
    if table.per != "dollar" and prices:
        found.append("objective: a price has no effect without per = 'dollar'; add that, or leave the price out")
    return found


def power_mistakes(objective: Objective, benchmark: Benchmark, groups: Sequence[Group]) -> list[str]:
    """Why nothing can be counted per watt on these groups, as sentences."""
    if not objective.needs_power:
        return []
    nodes = [node for group in groups for node in group.nodes]
    several = Counter(node.host for node in nodes)
    shared = sorted({node.host for node in nodes if several[node.host] > 1 and not node.devices})
    reason = f"several groups share {', '.join(shared)} without devices of their own" if shared else ""
    for group in groups:
        reason = reason or benchmark.no_power(group.nodes)
    return [f"objective.per: nothing can be counted per watt: {reason}. {POWER_ADVICE}"] if reason else []


def one_token_mistakes(goal: Objective, workload: Workload) -> list[str]:
    """Metrics of the time between tokens that answers of a single token do not have, as sentences."""
    if workload.output_tokens_mean > 1 or workload.output_tokens_stddev:
        return []
    between = [name for name in goal.needs if re.search(r"_(tpot|itl)_ms$", name)]
    ways = "ask for longer answers (osl), or set SLOs on ttft or e2el alone"
    return [f"objective.slo.{name}: answers of one token have no time between tokens; {ways}" for name in between]


def _pareto_mistakes(settings: BaseSections) -> list[str]:
    names, found = settings.objective.pareto, []
    if not names:
        return []
    known = ", ".join(OBJECTIVES)
    found += [
        f"objective.pareto: {name!r} is neither an objective ({known}) nor a latency such as p95_ttft_ms"
        for name in names
        if name not in OBJECTIVES and not SLO_NAME.match(name)
    ]
    if len(names) < 2 or len(set(names)) < len(names):
        found.append("objective.pareto: give two or three different objectives, or leave it out")
    if names[0] not in OBJECTIVES:
        found.append(f"objective.pareto: the first one ranks the settings and is proven; put {known} there")
    elif "name" in settings.objective.model_fields_set and settings.objective.name != names[0]:
        found.append(
            f"objective.name: {settings.objective.name!r} and the first of pareto, {names[0]!r}, are not the same; "
            "leave name out"
        )
    return found
