"""From settings to a plan: read all, check all, report all mistakes at once. No service is started here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from swarmtune import registry
from swarmtune.engines.base import Engine
from swarmtune.engines.model_files import model_troubles
from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.execution.config import ParallelConfig
from swarmtune.execution.executors import executor_class
from swarmtune.execution.reach import executor_of
from swarmtune.fleet.load_place import too_large
from swarmtune.loadgen.base import Benchmark
from swarmtune.objective import SLO_NAME, Objective, per_request_limits, slo_mistakes
from swarmtune.records import Group
from swarmtune.search.base import Search
from swarmtune.search.load import LoadSearch
from swarmtune.search.swarm import SwarmOptions
from swarmtune.settings import BaseSections
from swarmtune.sources import section_name
from swarmtune.tuner.planning import aims
from swarmtune.tuner.planning.idle import idle_notes, read_only_notes
from swarmtune.tuner.planning.inquiry import Inquiry
from swarmtune.tuner.planning.installed import Installed
from swarmtune.tuner.planning.parts import engine_and_benchmark, part_notes, search_class, tell, tell_of_part
from swarmtune.tuner.planning.places import check_earlier, check_study, output_folder
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.planning.runnable import not_measurable, not_runnable
from swarmtune.tuner.planning.scripts import script_notes, start_scripts
from swarmtune.tuner.planning.simulation import simulation_of, without_use
from swarmtune.tuner.planning.spaces import Searched, searched, user_settings
from swarmtune.tuner.planning.stops import early_stop_text, stop_notes, stop_rules
from swarmtune.workload import Workload

DEFAULT_EVALUATIONS = 16


def make_plan(settings: BaseSections, inquiry: Inquiry | None = None, engine_known: bool = True) -> Plan:
    """Check everything that can be checked without starting a service, also what ``inquiry`` finds on the nodes;
    ConfigValidationError lists all mistakes. ``engine_known`` False: it is not known which engine is meant, and only the
    mistakes of all else are wanted.
    """
    o = settings.optimizer
    mistakes: list[str] = []
    engine, benchmark = engine_and_benchmark(settings, mistakes, engine_known)
    named, settings = settings, aims.that_can_be_measured(settings, benchmark)
    search = search_class(o.algorithm, mistakes)
    output = output_folder(settings.output, mistakes)
    check_study(o.study, mistakes)
    limits = aims.slos(settings, mistakes)
    mistakes += aims.mistakes_of(settings, benchmark) + _place_mistakes(settings.parallel, benchmark)
    check_earlier(o.earlier, mistakes)
    load_search = _load_search(settings, mistakes)
    given, parallel, groups = _places(settings, engine, mistakes)
    scripts = start_scripts(given, parallel, mistakes)
    ranked = () if scripts else groups  # a script may start as many ranks as it likes
    asks = inquiry if engine and not scripts else None
    installed = asks.make(settings, engine, parallel, groups, mistakes) if asks and engine else Installed()
    found = searched(settings, engine, load_search, ranked, mistakes) if engine else Searched()
    users = user_settings(o.user_settings, found, mistakes)
    swarm, simulation = _swarm(settings, search, mistakes), simulation_of(settings, mistakes)
    workload = _workload(settings, engine, benchmark, limits, mistakes) if benchmark else None
    if engine and found.part:
        not_runnable(engine, found.part, groups, mistakes, scripts)
    goal = _goal(settings, limits, benchmark, groups, mistakes)
    mistakes += aims.one_token_mistakes(goal, workload) if goal and workload else []
    if mistakes or engine is None or benchmark is None or found.space is None or workload is None or goal is None:
        raise ConfigValidationError([*mistakes, *installed.missing])
    notices = [*found.notices, *(f"missing: {sentence}" for sentence in installed.missing), *installed.notices]
    notices += [f"model: {trouble}" for trouble in model_troubles(engine.model_folder, engine.model_reader)]
    notices += [*engine.notes(), *registry.load_plugins(), *(parallel.notices if parallel else ())]
    notices += benchmark.guesses() if settings.sample_size is None else []
    notices += _unused(settings)
    notices += [*stop_notes(settings, benchmark), *_load_notes(settings, load_search, engine, workload)]
    notices += idle_notes(settings, benchmark, search, load_search)
    notices += [*part_notes(settings, engine), *aims.notes(settings, named), *script_notes(given, scripts)]
    early_stop = stop_rules(settings, limits, benchmark)
    evaluations = _evaluations(settings)
    notices += search.notes(found.space, evaluations) if search else []
    return Plan(
        engine=engine,
        benchmark=benchmark,
        space=found.space,
        objective=goal,
        workload=workload,
        load_search=load_search,
        load_variable=settings.load_search.variable,
        algorithm=o.algorithm,
        swarm=swarm,
        evaluations=evaluations,
        timeout_s=o.timeout,
        accelerator_s=o.accelerator_seconds,
        warm_start=o.warm_start,
        earlier=None if o.earlier is None else tuple(o.earlier),
        seed=o.seed,
        confirm=o.confirm,
        proof_s=o.proof_seconds,
        finalists=o.finalists,
        groups=groups,
        user_settings=users,
        start_timeout_s=scripts.ready_s if scripts else settings.wait_start_time,
        evaluation_timeout_s=_evaluation_timeout_s(settings),
        max_attempts=parallel.retry_count + 1 if parallel else o.max_attempts,
        parallel=parallel,
        hostfile=given if parallel and given.hostfile else None,
        backup=o.backup,
        output=output,
        study=o.study,
        notices=tuple(notices),
        early_stop=early_stop,
        early_stop_text=early_stop_text(settings, benchmark, early_stop),
        health_check=settings.health_check,
        deploy=settings.deploy,
        scripts=scripts,
        installed=installed.facts,
        simulation=simulation,
    )


def _unused(settings: BaseSections) -> list[str]:
    """What was read and has no effect."""
    return [*read_only_notes(settings), *without_use(settings)]


def _evaluations(settings: BaseSections) -> int:
    older = settings.n_particles * settings.iters if settings.n_particles and settings.iters else None
    return settings.optimizer.evaluations or older or DEFAULT_EVALUATIONS


def _workload(
    settings: BaseSections,
    engine: Engine | None,
    benchmark: Benchmark,
    limits: Mapping[str, float],
    mistakes: list[str],
) -> Workload | None:
    """The load that is asked for; None, or one that cannot be measured, and the reasons in ``mistakes``."""
    model = "model"
    try:
        model = engine.model if engine else model
    except ConfigurationError as error:
        tell_of_part(error, mistakes, section_name(engine))
    usable = {} if slo_mistakes(limits) else per_request_limits(limits)
    try:
        workload = benchmark.workload(model, settings.optimizer.seed, usable)
    except ConfigurationError as error:
        tell(error, mistakes, section_name(benchmark))
        return None
    if settings.sample_size is not None:
        workload = replace(workload, requests=settings.sample_size)
    not_measurable(benchmark, workload, _evaluation_timeout_s(settings), mistakes)
    return workload


def _goal(
    settings: BaseSections,
    limits: Mapping[str, float],
    benchmark: Benchmark | None,
    groups: Sequence[Group],
    mistakes: list[str],
) -> Objective | None:
    """The objective of a table without mistakes, which can be measured on these groups; else None."""
    if any(mistake.startswith("objective") for mistake in mistakes):
        return None
    goal = aims.objective(settings, limits)
    mistakes += aims.power_mistakes(goal, benchmark, groups) if benchmark and groups else []
    return goal


def _load_notes(
    settings: BaseSections, load_search: LoadSearch | None, engine: Engine, workload: Workload
) -> list[str]:
    """Sentences on a load that the service cannot answer, and on one that takes the choice between objectives away."""
    notes = []
    tokens, longest = workload.input_tokens_mean + workload.output_tokens_mean, engine.longest_request
    if longest is not None and tokens > longest:
        notes.append(
            f"most requests will be refused: prompts of {workload.input_tokens_mean:g} and answers of "
            f"{workload.output_tokens_mean:g} tokens are more than the {longest} that the service takes in a request"
        )
    prompt, answer = engine.longest_prompt, engine.longest_answer
    if prompt is not None and workload.input_tokens_mean > prompt:
        notes.append(
            f"most requests will be refused: prompts of {workload.input_tokens_mean:g} tokens are more than the {prompt} "
            "that the service takes"
        )
    if answer is not None and workload.output_tokens_mean > answer:
        notes.append(
            f"answers of {workload.output_tokens_mean:g} tokens are asked for, and the service cuts them off at {answer}: "
            "shorter ones would be measured"
        )
    if load_search is not None and any(SLO_NAME.match(name) for name in settings.objective.pareto):
        notes.append(
            "the load search drives latencies to their SLOs; to trade them off, set [load_search] enabled = false"
        )
    return notes


def _place_mistakes(parallel: ParallelConfig, benchmark: Benchmark | None) -> list[str]:
    """That this load generator cannot run on the masters, or its files cannot be copied there."""
    if not parallel.enabled or parallel.load_python is None or benchmark is None:
        return []
    if benchmark.runs_anywhere:
        return [f"parallel.benchmark_on: {mistake}" for mistake in too_large(benchmark.reads)]
    text = f"the load generator {benchmark.name} runs only on the tuner's machine"
    return [f'parallel.benchmark_on: {text}; take -b swarmtune, or benchmark_on = "tuner"']


def _places(
    settings: BaseSections, engine: Engine | None, mistakes: list[str]
) -> tuple[ParallelConfig, ParallelConfig | None, tuple[Group, ...]]:
    """``[parallel]`` as given, with the engine's port, and spelled out; and the groups, none where there are mistakes."""
    given, port = settings.parallel, 0
    try:
        port = engine.port if engine else 0
    except ConfigurationError as error:
        tell_of_part(error, mistakes, section_name(engine))
    if given.port is None and port:
        given = given.model_copy(update={"port": port})
    try:
        parallel = _resolved(given) if given.enabled else None
    except ConfigurationError as error:
        tell(error, mistakes, "parallel")
        return given, None, ()
    return given, parallel, parallel.groups() if parallel else _groups(settings.optimizer.groups, port)


def _resolved(given: ParallelConfig) -> ParallelConfig:
    """The groups spelled out; ConfigValidationError, each mistake with the key that gave the hosts, or the executor that
    cannot reach them.
    """
    key = next((name for name in ("hostfile", "node_string") if getattr(given, name)), "service_groups")
    parallel, mistakes = None, list[str]()
    try:
        parallel = given.resolved()
    except ConfigValidationError as error:
        mistakes += [m if m.startswith("parallel") else f"parallel.{key}: {m}" for m in error.mistakes]
    nodes = [node for group in parallel.service_groups for node in group.nodes] if parallel else []
    names = [executor_of(parallel, node.host, node.ssh_port) for node in nodes] if parallel else [given.executor]
    for name in dict.fromkeys(names):
        try:
            if not registry.executors.is_ours(name):
                executor_class(name)
        except ConfigurationError as error:
            mistakes.append(f"parallel.executor: {error.message}")
    if mistakes or parallel is None:
        raise ConfigValidationError(mistakes)
    return parallel


def _load_search(settings: BaseSections, mistakes: list[str]) -> LoadSearch | None:
    section = settings.load_search
    if not section.enabled or not aims.needs_slos(settings):
        return None
    whole = section.variable == "concurrency"
    if not section.low <= section.start <= section.high:
        mistakes.append(
            f"load_search: start {section.start:g} must lie between low {section.low:g} and high {section.high:g}"
        )
    if whole and any(v != int(v) for v in (section.low, section.high, section.start)):
        mistakes.append("load_search: concurrency is a whole number; low, high and start must be, too")
    return LoadSearch(section.low, section.high, section.start, section.points, section.tolerance, whole)


def _swarm(settings: BaseSections, search: type[Search] | None, mistakes: list[str]) -> SwarmOptions:
    if settings.n_particles == 1 and search is not None and search.uses_particles:
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
    """Seconds that one evaluation may take: ``particles_time_out``, or the older extension's key where that is given."""
    given = settings.parallel.enabled and "evaluation_timeout" in settings.parallel.model_fields_set
    return settings.parallel.evaluation_timeout if given else settings.particles_time_out


def _groups(count: int, port: int) -> tuple[Group, ...]:
    return tuple(Group(f"local-{i}" if count > 1 else "local", port=port + i if port else 0) for i in range(count))
