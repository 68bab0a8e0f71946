"""From settings to a plan: read all, check all, report all mistakes at once. Nothing is started here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swarmtune import registry
from swarmtune.engines.base import Engine
from swarmtune.engines.placement import LOAD_FIELDS
from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.loadgen.base import Benchmark
from swarmtune.objective import OBJECTIVES as KNOWN_OBJECTIVES
from swarmtune.objective import Objective, Weighted, Weights, per_request_limits, promise_mistakes
from swarmtune.records import Group, Measurement, Setting
from swarmtune.search.base import Search
from swarmtune.search.load import LoadSearch
from swarmtune.search.swarm import SwarmOptions
from swarmtune.settings import BaseSections, section_name, without_effect
from swarmtune.space import Field, Space
from swarmtune.workload import Load, Workload

DEFAULT_EVALUATIONS = 16
DEFAULT_PROMISES = {"p95_ttft_ms": 1000.0, "p95_tpot_ms": 50.0}


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs, checked. Times in seconds."""

    engine: Engine
    benchmark: Benchmark
    space: Space
    objective: Objective
    workload: Workload
    load_search: LoadSearch | None
    load_variable: str
    algorithm: str
    swarm: SwarmOptions
    evaluations: int
    timeout_s: float | None
    seed: int
    confirm: int
    groups: tuple[Group, ...]
    user_settings: tuple[Setting, ...]
    start_timeout_s: float
    evaluation_timeout_s: float
    max_attempts: int
    backup: bool
    output: Path
    study: str | None
    notices: tuple[str, ...] = ()

    def baseline(self) -> Setting:
        """What is measured first: the values that are in use today."""
        return replace(self.space.default(), origin="baseline")

    def new_search(self) -> Search:
        """A search that has been told nothing."""
        made: Search = registry.searches.load(self.algorithm)(self.space, self.seed, self.evaluations, self.swarm)
        return made

    def load_of(self, setting: Setting) -> Load:
        """The load of a setting when it is not searched for: the workload's, changed by the setting's load fields."""
        load = self.workload.load
        for name, value in setting.values.items():
            variable = LOAD_FIELDS.get(name.lower())
            if variable == "concurrency":
                load = replace(load, concurrency=max(1, int(value)))
            elif variable == "request_rate" and float(value) > 0:
                load = replace(load, request_rate=float(value))
        return load

    def at(self, load: float) -> Load:
        """The workload's load with the searched variable at this value."""
        if self.load_variable == "concurrency":
            return replace(self.workload.load, concurrency=int(load), request_rate=None)
        return replace(self.workload.load, request_rate=load)

    def load_value(self, measurement: Measurement) -> float:
        """The searched load variable of a measurement."""
        return float(measurement.load.get(self.load_variable, math.nan))

    def fingerprint(self) -> dict[str, Any]:
        """What must stay the same for two results to be comparable."""
        return {
            "engine": self.engine.name,
            "benchmark": self.benchmark.name,
            "model": self.engine.model,
            "fields": [_plain(f) for f in self.space.fields],
            "constraints": [c.text for c in self.space.constraints],
            "objective": repr(self.objective),
            "workload": repr(replace(self.workload, seed=0)),
            "load_search": repr(self.load_search),
        }


def make_plan(settings: BaseSections) -> Plan:
    """Check everything that can be checked without starting a service; ConfigValidationError lists all mistakes."""
    o = settings.optimizer
    mistakes: list[str] = []
    engine, benchmark = _parts(settings, mistakes)
    if o.algorithm not in registry.searches:
        mistakes.append(f"optimizer.algorithm: {o.algorithm!r} is not one of {', '.join(registry.searches)}")
    limits = _limits(settings, mistakes)
    load_search = _load_search(settings, mistakes)
    space, notices = _space(settings, engine, load_search, mistakes) if engine else (None, [])
    users = _user_settings(o.user_settings, space, mistakes) if space else ()
    swarm = _swarm(settings, mistakes)
    if mistakes or engine is None or benchmark is None or space is None:
        raise ConfigValidationError(mistakes)
    workload = benchmark.workload(engine.model, o.seed, per_request_limits(limits))
    if settings.sample_size is not None:
        workload = replace(workload, requests=settings.sample_size)
    notices += [f"{name} was read and has no effect here" for name in without_effect(settings)]
    old_budget = settings.n_particles * settings.iters if settings.n_particles and settings.iters else None
    return Plan(
        engine=engine,
        benchmark=benchmark,
        space=space,
        objective=_objective(settings, limits),
        workload=workload,
        load_search=load_search,
        load_variable=settings.load_search.variable,
        algorithm=o.algorithm,
        swarm=swarm,
        evaluations=o.evaluations or old_budget or DEFAULT_EVALUATIONS,
        timeout_s=o.timeout,
        seed=o.seed,
        confirm=o.confirm,
        groups=_groups(o.groups, engine),
        user_settings=users,
        start_timeout_s=settings.wait_start_time,
        evaluation_timeout_s=settings.particles_time_out,
        max_attempts=o.max_attempts,
        backup=o.backup,
        output=Path(settings.output).expanduser(),
        study=o.study,
        notices=tuple(notices),
    )


def _parts(settings: BaseSections, mistakes: list[str]) -> tuple[Engine | None, Benchmark | None]:
    made: list[Any] = []
    engine_name = "simulated" if settings.simulate else settings.optimizer.engine
    for known, name in ((registry.engines, engine_name), (registry.benchmarks, settings.optimizer.benchmark)):
        try:
            part = known.load(name)
            made.append(part(getattr(settings, section_name(part))))
            mistakes += made[-1].mistakes()
        except ConfigurationError as error:
            mistakes += getattr(error, "mistakes", [error.message])
            made.append(None)
    return made[0], made[1]


def _limits(settings: BaseSections, mistakes: list[str]) -> dict[str, float]:
    given = settings.objective.slo
    if given is None:
        given = {} if settings.objective.name == "weighted" else dict(DEFAULT_PROMISES)
        if given and settings.ttft_slo is not None:
            given["p95_ttft_ms"] = settings.ttft_slo * 1000
        if given and settings.tpot_slo is not None:
            given["p95_tpot_ms"] = settings.tpot_slo * 1000
    mistakes += promise_mistakes(given)
    if settings.objective.name == "goodput" and not per_request_limits(given):
        mistakes.append("objective.slo: goodput needs a promise on ttft, tpot or e2el, for example p95_ttft_ms = 500")
    return given


def _objective(settings: BaseSections, limits: dict[str, float]) -> Objective:
    p = settings.objective
    kind = KNOWN_OBJECTIVES[p.name]
    if not issubclass(kind, Weighted):
        return kind(limits=limits, min_success_rate=p.min_success_rate)
    weights = Weights(
        **p.weights,
        generate_speed_target=settings.generate_speed_target,
        ttft_slo=settings.ttft_slo or 0.5,
        tpot_slo=settings.tpot_slo or 0.05,
        success_rate_slo=settings.success_rate_slo,
        ttft_penalty=settings.ttft_penalty,
        tpot_penalty=settings.tpot_penalty,
        success_rate_penalty=settings.success_rate_penalty,
        ttft_statistic=p.ttft_statistic,
        tpot_statistic=p.tpot_statistic,
    )
    return kind(limits=limits, min_success_rate=p.min_success_rate, weights=weights)


def _load_search(settings: BaseSections, mistakes: list[str]) -> LoadSearch | None:
    section = settings.load_search
    if not section.enabled or settings.objective.name == "weighted":
        return None
    whole = section.variable == "concurrency"
    if not section.low <= section.start <= section.high:
        mistakes.append(
            f"load_search: start {section.start:g} must lie between low {section.low:g} and high {section.high:g}"
        )
    if whole and any(v != int(v) for v in (section.low, section.high, section.start)):
        mistakes.append("load_search: concurrency is a whole number; low, high and start must be, too")
    return LoadSearch(section.low, section.high, section.start, section.points, section.tolerance, whole)


def _space(
    settings: BaseSections, engine: Engine, load_search: LoadSearch | None, mistakes: list[str]
) -> tuple[Space | None, list[str]]:
    fields: Sequence[Field] = ()
    try:
        fields = engine.fields()
        notices = []
        if load_search is not None:
            loads = [f.name for f in fields if f.name.lower() in LOAD_FIELDS]
            fields = [f for f in fields if f.name not in loads]
            notices = [
                f"{name} is left to the load search ([load_search] enabled = false turns it off)" for name in loads
            ]
        space = Space(fields, (*engine.constraints(), *settings.constraints))
    except ConfigurationError as error:
        mistakes += [f"{engine.name}: {m}" for m in getattr(error, "mistakes", [error.message])]
        return None, []
    if not space.dimensions:
        mistakes.append(f"{engine.name}: no parameter is left to search; every target_field is constant or derived")
        return None, []
    broken = space.broken(space.default())
    mistakes += [
        f"constraint {text!r}: the baseline breaks it; change the rule or the fields' value" for text in broken
    ]
    return space, notices


def _user_settings(given: list[dict[str, Any]], space: Space, mistakes: list[str]) -> tuple[Setting, ...]:
    made = []
    for number, values in enumerate(given, 1):
        try:
            setting = space.setting(values, f"user:{number}")
        except ConfigValidationError as error:
            mistakes += [f"optimizer.user_settings.{number}: {m}" for m in error.mistakes]
            continue
        mistakes += [f"optimizer.user_settings.{number}: breaks the rule {text!r}" for text in space.broken(setting)]
        made.append(setting)
    return tuple(made)


def _swarm(settings: BaseSections, mistakes: list[str]) -> SwarmOptions:
    if settings.n_particles == 1 and settings.optimizer.algorithm == "swarm":
        mistakes.append("n_particles: a swarm needs at least 2 particles")
        return SwarmOptions()
    options, strategy = settings.pso_options, settings.pso_strategy
    return SwarmOptions(
        n_particles=settings.n_particles if settings.n_particles != 1 else None,
        c1=options.c1,
        c2=options.c2,
        w=options.w,
        c1_strategy=strategy.c1,
        c2_strategy=strategy.c2,
        w_strategy=strategy.w,
        topology=options.topology,
    )


def _groups(count: int, engine: Engine) -> tuple[Group, ...]:
    port = engine.port
    return tuple(Group(f"local-{i}" if count > 1 else "local", port=port + i if port else 0) for i in range(count))


def _plain(field: Field) -> dict[str, Any]:
    return {name: value for name, value in vars(field).items() if value is not None}
