"""From settings to a plan: read all, check all, report all mistakes at once. Nothing is started here."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from swarmtune import registry
from swarmtune.engines.base import Engine
from swarmtune.engines.placement import LOAD_FIELDS
from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.execution.config import ParallelConfig
from swarmtune.loadgen.base import Benchmark
from swarmtune.objective import PROMISED, Objective, per_request_limits
from swarmtune.records import Group, Measurement, Setting, looks_secret
from swarmtune.search.base import Search
from swarmtune.search.load import LoadSearch
from swarmtune.search.swarm import SwarmOptions
from swarmtune.settings import BaseSections, expanded, section_name, without_effect
from swarmtune.space import Field, Space
from swarmtune.space.space import MAX_FIELDS
from swarmtune.tuner.planning import aims
from swarmtune.workload import Load, StopRules, Workload

DEFAULT_EVALUATIONS = 16
ADDED: frozenset[str] = frozenset()  # options of engines and load generators that studies of schema 1 may not know


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
    early_stop: StopRules | None = None
    finalists: int = 3
    accelerator_s: float | None = None
    warm_start: bool = False
    earlier: tuple[str, ...] | None = None  # folders and databases; None: the studies in ``output``
    parallel: ParallelConfig | None = None  # resolved; None: only this machine
    hostfile: ParallelConfig | None = None  # as it was given, to be read again when its hostfile changes

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
        cap = getattr(self.benchmark.config, "concurrency", None)  # the user's own, not a default number of users
        return replace(self.workload.load, request_rate=load, concurrency=cap)

    def load_value(self, measurement: Measurement) -> float:
        """The searched load variable of a measurement."""
        return float(measurement.load.get(self.load_variable, math.nan))

    def fingerprint(self) -> dict[str, Any]:
        """What must stay the same for two results to be comparable, as plain data (study/fingerprint.py)."""
        return {
            "engine": self.engine.name,
            "benchmark": self.benchmark.name,
            "model": self.engine.model,
            "fields": [_plain(f) for f in self.space.fields],
            "constraints": [c.text for c in self.space.constraints],
            "objective": self.objective.identity(),
            "workload": self.workload.identity(),
            "load_search": self.load_search.identity() if self.load_search else None,
            "sections": _digest(self.engine.config, self.benchmark.config),
        }

    def service(self) -> str:
        """A hash of how the service is run and loaded, whatever of it is searched."""
        return _digest(self.engine.config, self.benchmark.config, without="target_field")


def make_plan(settings: BaseSections) -> Plan:
    """Check everything that can be checked without starting a service; ConfigValidationError lists all mistakes."""
    o = settings.optimizer
    mistakes: list[str] = []
    engine, benchmark = _parts(settings, mistakes)
    _algorithm(o.algorithm, mistakes)
    output = _output(settings.output, mistakes)
    _study(o.study, mistakes)
    limits = aims.promises(settings, mistakes)
    mistakes += aims.mistakes_of(settings, benchmark)
    _earlier(o.earlier, mistakes)
    load_search = _load_search(settings, mistakes)
    space, notices = _space(settings, engine, load_search, mistakes) if engine else (None, [])
    users = _user_settings(o.user_settings, space, mistakes) if space else ()
    swarm = _swarm(settings, mistakes)
    if mistakes or engine is None or benchmark is None or space is None:
        raise ConfigValidationError(mistakes)
    workload = benchmark.workload(engine.model, o.seed, per_request_limits(limits))
    if settings.sample_size is not None:
        workload = replace(workload, requests=settings.sample_size)
    given = settings.parallel
    if given.port is None and engine.port:
        given = given.model_copy(update={"port": engine.port})
    parallel = given.resolved() if given.enabled else None
    groups = parallel.groups() if parallel else _groups(o.groups, engine)
    _runnable(engine, benchmark, space, workload, groups, _evaluation_timeout_s(settings))
    goal = aims.objective(settings, limits)
    if mistakes := aims.power_mistakes(goal, benchmark, groups):
        raise ConfigValidationError(mistakes)
    notices += [*registry.load_plugins(), *(parallel.notices if parallel else ())]
    notices += [f"{name} was read and has no effect here" for name in without_effect(settings)]
    if settings.early_stop.mode == "on" and not _can_stop(benchmark):
        notices.append("early_stop has no effect: only the benchmark swarmtune with workers_max = 1 can stop early")
    if load_search and any(PROMISED.match(name) for name in settings.objective.pareto):
        notices.append(
            "the load search drives latencies to their limits; to trade them off, set [load_search] enabled = false"
        )
    old_budget = settings.n_particles * settings.iters if settings.n_particles and settings.iters else None
    return Plan(
        engine=engine,
        benchmark=benchmark,
        space=space,
        objective=goal,
        workload=workload,
        load_search=load_search,
        load_variable=settings.load_search.variable,
        algorithm=o.algorithm,
        swarm=swarm,
        evaluations=o.evaluations or old_budget or DEFAULT_EVALUATIONS,
        timeout_s=o.timeout,
        accelerator_s=o.accelerator_seconds,
        warm_start=o.warm_start,
        earlier=None if o.earlier is None else tuple(o.earlier),
        seed=o.seed,
        confirm=o.confirm,
        finalists=o.finalists,
        groups=groups,
        user_settings=users,
        start_timeout_s=settings.wait_start_time,
        evaluation_timeout_s=_evaluation_timeout_s(settings),
        max_attempts=parallel.retry_count + 1 if parallel else o.max_attempts,
        parallel=parallel,
        hostfile=given if parallel and given.hostfile else None,
        backup=o.backup,
        output=output,
        study=o.study,
        notices=tuple(notices),
        early_stop=_early_stop(settings, limits, benchmark),
    )


def _parts(settings: BaseSections, mistakes: list[str]) -> tuple[Engine | None, Benchmark | None]:
    o = settings.optimizer
    engine_name = "simulated" if settings.simulate else o.engine
    engine = _part(settings, registry.engines, "optimizer.engine", engine_name, mistakes)
    return engine, _part(settings, registry.benchmarks, "optimizer.benchmark", o.benchmark, mistakes)


def _part(settings: BaseSections, known: registry.Registry, key: str, name: str, mistakes: list[str]) -> Any:
    """The engine or benchmark of this name with its table; None, and what is wrong, if there is none."""
    try:
        part = known.load(name)
    except ConfigurationError as error:
        mistakes.append(f"{key}: {error.message}")
        return None
    section = section_name(part)
    table = getattr(settings, section, None)
    if table is None:
        needed = ", ".join(n for n, field in part.Config.model_fields.items() if field.is_required())
        mistakes.append(f"{section}: the table [{section}] is needed, with at least {needed or 'its keys'}")
        return None
    if len(getattr(table, "target_field", ())) > MAX_FIELDS:
        mistakes.append(f"{section}.target_field: {len(table.target_field)} fields are too many; at most {MAX_FIELDS}")
        return None
    try:
        made = part(table)
        mistakes += [_keyed(m, section) for m in made.mistakes()]
    except ConfigurationError as error:
        mistakes += [_keyed(m, section) for m in getattr(error, "mistakes", [error.message])]
        return None
    return made


def _keyed(mistake: str, section: str) -> str:
    """The mistake with the table that it is about in front, unless it begins with it."""
    return mistake if mistake.startswith((f"{section}.", f"{section}:")) else f"{section}: {mistake}"


def _algorithm(name: str, mistakes: list[str]) -> None:
    try:
        registry.searches.load(name)
    except ConfigurationError as error:
        mistakes.append(f"optimizer.algorithm: {error.message}")


def _output(given: str, mistakes: list[str]) -> Path:
    try:
        path = expanded(given)
        taken = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)
    except (ConfigurationError, OSError) as error:
        mistakes.append(f"output: {error}")
        return Path(given)
    if taken is not None:
        mistakes.append(f"output: no folder can be made at {given[:200]!r}: {str(taken)[:200]!r} is a file")
    return path


def _study(url: str | None, mistakes: list[str]) -> None:
    """The address of a study may hold a password, so it is not repeated."""
    if url is None:
        return
    scheme, found, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if not url.strip():
        mistakes.append("optimizer.study: an empty text is no address; leave it out for a new folder")
    elif found and kind not in ("sqlite", "postgresql", "postgres"):
        mistakes.append(
            f"optimizer.study: {kind[:20]!r} is not supported; write a path, sqlite:///PATH or postgresql://USER@HOST/DB"
        )
    elif found and kind == "sqlite" and not rest.startswith("/"):
        mistakes.append(
            "optimizer.study: a SQLite address has three slashes or four: sqlite:///PATH, sqlite:////ROOT/PATH"
        )
    elif found and kind != "sqlite":
        try:
            reason = "" if urlsplit(url).port != 0 else "port 0"
        except ValueError as error:
            reason = str(error).partition(":")[0]
        if reason:
            mistakes.append(f"optimizer.study: not a database address ({reason}); write postgresql://USER@HOST:PORT/DB")


def _earlier(given: list[str] | None, mistakes: list[str]) -> None:
    """Folders and databases that are named must be there; servers are asked when the study starts."""
    for number, place in enumerate(given or (), 1):
        try:
            if "://" in place:
                from swarmtune.database.address import (
                    database_url,  # SQLAlchemy is slow to import, and few need it here
                )

                database_url(place)
            elif not (place.strip() and expanded(place).exists()):
                mistakes.append(f"optimizer.earlier.{number}: there is no file or folder {place[:200]!r}")
        except (ConfigurationError, OSError) as error:
            mistakes.append(f"optimizer.earlier.{number}: {getattr(error, 'strerror', None) or error}")


def _runnable(
    engine: Engine,
    benchmark: Benchmark,
    space: Space,
    workload: Workload,
    groups: tuple[Group, ...],
    time_out_s: float,
) -> None:
    """Can the baseline's commands be written, and can they end in time? ConfigValidationError if not."""
    mistakes = []
    ports = [g.port for g in groups if g.port > 65535]
    if ports:
        mistakes.append(f"optimizer.groups: the ports of {len(groups)} groups would end at {ports[-1]}, above 65535")
    several = [g.name for g in groups if len(g.nodes) > 1]
    if several and not engine.spans_nodes:
        mistakes.append(
            f"parallel: the groups {', '.join(several[:5])} have several nodes, and the engine {engine.name} runs on one; "
            'set mode = "single_node" or nodes_per_group = 1'
        )
    if workload.duration_s is not None and workload.duration_s >= time_out_s:
        mistakes.append(
            f"{section_name(benchmark)}.benchmark_duration: {workload.duration_s:g} s of load do not fit into one "
            f"evaluation (particles_time_out = {time_out_s:g})"
        )
    sections = (section_name(engine), section_name(benchmark))
    makers: tuple[Callable[[], Any], ...] = (
        lambda: engine.command(space.default(), groups[0]),
        lambda: benchmark.command(workload, "http://127.0.0.1:8000"),
    )
    for section, make in zip(sections, makers, strict=True):
        try:
            make()
        except ConfigurationError as error:
            mistakes += [_keyed(m, section) for m in getattr(error, "mistakes", [error.message])]
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            mistakes.append(f"{section}: no command can be made of these values: {error}")
    if mistakes or (mistakes := _shared_files(engine, space, groups)):
        raise ConfigValidationError(mistakes)


def _shared_files(engine: Engine, space: Space, groups: tuple[Group, ...]) -> list[str]:
    """Files at an absolute path, such as MindIE's config.json, that several services on one machine would write at once."""
    services = Counter(node.host for group in groups for node in group.nodes)
    writers: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        if all(services[node.host] == 1 for node in group.nodes):
            continue
        for node, command in zip(group.nodes, engine.commands(space.default(), group), strict=True):
            for file in command.files:
                if Path(file.path).is_absolute():
                    writers.setdefault((node.host, file.path), []).append(group.name)
    return [
        f"{path} on {host} would be written by the groups {', '.join(names)}; only one group can be on that machine"
        for (host, path), names in writers.items()
        if len(names) > 1
    ]


def _load_search(settings: BaseSections, mistakes: list[str]) -> LoadSearch | None:
    section = settings.load_search
    if not section.enabled or aims.leading(settings) == "weighted":
        return None
    whole = section.variable == "concurrency"
    if not section.low <= section.start <= section.high:
        mistakes.append(
            f"load_search: start {section.start:g} must lie between low {section.low:g} and high {section.high:g}"
        )
    if whole and any(v != int(v) for v in (section.low, section.high, section.start)):
        mistakes.append("load_search: concurrency is a whole number; low, high and start must be, too")
    return LoadSearch(section.low, section.high, section.start, section.points, section.tolerance, whole)


_METRICS = {"goodput": "request_goodput", "throughput": "output_throughput"}


def _early_stop(settings: BaseSections, limits: dict[str, float], benchmark: Benchmark) -> StopRules | None:
    """The rules, where the benchmark can follow them."""
    section, objective = settings.early_stop, settings.objective
    if section.mode == "off" or not _can_stop(benchmark):
        return None
    return StopRules(
        act=section.mode == "on",
        limits=limits,
        min_success_rate=objective.min_success_rate,
        metric="" if objective.per or objective.pareto else _METRICS.get(objective.name, ""),
        margin=section.margin,
        confidence=section.confidence,
    )


def _can_stop(benchmark: Benchmark) -> bool:
    return benchmark.name == "swarmtune" and getattr(benchmark.config, "workers_max", 1) == 1


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
        section = section_name(engine)
        for text in getattr(error, "mistakes", [error.message]):
            if text.startswith("constraint "):
                mistakes.append(f"constraints: {text.removeprefix('constraint ')}")
            elif not any(m.endswith(text) for m in mistakes):
                mistakes.append(f"{section}.target_field: {text}")
        return None, []
    if not space.dimensions:
        if not fields and not notices:
            return None, []  # the engine has said so
        key = f"{section_name(engine)}.target_field"
        mistakes.append(f"{key}: no parameter is left to search; every one is constant or derived")
        return None, []
    broken = space.broken(space.default())
    mistakes += [
        f"constraints: {text!r}: the baseline breaks it; change the rule or the fields' value" for text in broken
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
    if settings.n_particles == 1 and settings.optimizer.algorithm in ("swarm", "pso", "auto"):
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


def _evaluation_timeout_s(settings: BaseSections) -> float:
    """The older extension's key, where it was given."""
    given = settings.parallel.enabled and "evaluation_timeout" in settings.parallel.model_fields_set
    return settings.parallel.evaluation_timeout if given else settings.particles_time_out


def _groups(count: int, engine: Engine) -> tuple[Group, ...]:
    port = engine.port
    return tuple(Group(f"local-{i}" if count > 1 else "local", port=port + i if port else 0) for i in range(count))


def _plain(field: Field) -> dict[str, Any]:
    """Without defaults, so that an attribute which fields get later changes no study."""
    defaults = {f.name: f.default for f in dataclass_fields(field)}
    return {name: value for name, value in vars(field).items() if value != defaults[name] and value is not None}


def _digest(*sections: BaseModel, without: str = "") -> str:
    """A hash of the tables of engine and benchmark, without what looks secret: a new token does not change a service.

    Options that were added after the first studies count only where they are set, so that those studies go on.
    """
    tables = [
        {k: v for k, v in s.model_dump(mode="json").items() if k != without and (k not in ADDED or _set(s, k))}
        for s in sections
    ]
    plain = json.dumps([_known(table) for table in tables], sort_keys=True)
    return sha256(plain.encode()).hexdigest()


def _set(section: BaseModel, option: str) -> bool:
    return bool(getattr(section, option) != type(section).model_fields[option].default)


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items() if not looks_secret(str(k))}
    return [_known(v) for v in value] if isinstance(value, list) else value
