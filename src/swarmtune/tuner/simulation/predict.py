"""What a setting is predicted to do: the plan's own load search, objective and SLOs, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from swarmtune.errors import ConfigurationError, ConfigValidationError, FitnessCalculationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import Endpoint
from swarmtune.loadgen.judge.summary import Results, results
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.send.plan import concurrency_of, least_requests_of, mode_of
from swarmtune.records import Measurement, Score, Setting
from swarmtune.scheduling import Rules
from swarmtune.search.load import LoadPoint
from swarmtune.simulator.latency.model import Identity, LatencyModel, scaled
from swarmtune.simulator.latency.tables import CostTables, linear
from swarmtune.simulator.virtual.fleet import Fleet, Router
from swarmtune.simulator.virtual.replicas import Replica, make_replica
from swarmtune.tuner.loop.evaluation import seed_of
from swarmtune.tuner.loop.loads import load_point, score_of
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation.contents import Contents
from swarmtune.tuner.simulation.data import Remembered
from swarmtune.tuner.simulation.virtual_load import FrontEnd, VirtualLoad
from swarmtune.workload import Load, Workload


@dataclass(frozen=True)
class Service:
    """What is simulated: ``cost`` None: what the engine declares of itself; ``blocks``: KV blocks of each replica, None: as
    the engine's table of memory has it; ``multipliers``: of groups of terms of a step's cost (model.GROUPS).
    """

    cost: CostTables | None = None
    front: FrontEnd = field(default_factory=FrontEnd)
    replicas: int = 1
    router: Router = "round-robin"
    blocks: int | None = None
    rows: bool = False
    multipliers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictedLoad:
    """One load. ``rows``: the steps of each replica (STEP), if they are kept."""

    workload: Workload
    options: LoadgenOptions
    results: Results
    measurement: Measurement
    score: Score
    rules: Rules
    rows: tuple[NDArray[Any], ...] = ()
    preemptions: int = 0


class Predictor:
    """One plan and service; sessions are made once for all settings, so that settings differ and not their requests."""

    def __init__(
        self,
        plan: Plan,
        service: Service,
        progress: Callable[[str, int], None] | None = None,
        data: dict[tuple[int, bool], Remembered] | None = None,
    ) -> None:
        """``progress``: called with a load and its number of ended requests; ``data``: that of another predictor of the same
        workload, to share its sessions.
        """
        self.plan, self.service = plan, service
        self._progress = progress
        self.data = {} if data is None else data

    def loads(self, setting: Setting) -> list[PredictedLoad]:
        """The loads that the plan's search asks for, in their order. ConfigurationError: this engine, load generator or
        model cannot be simulated.
        """
        plan = self.plan
        rules, cost = rules_of(plan, setting, self.service), cost_of(plan, setting, self.service)
        search, done, points = plan.load_search, list[PredictedLoad](), list[LoadPoint]()
        while True:
            if search is None:
                workload = plan.workload.at(plan.load_of(setting))
            else:
                value = search.next(points)
                if value is None:
                    return done
                workload = plan.workload.at(plan.at(value))
            workload = replace(workload, seed=seed_of(plan.seed, "predicted", len(done)))
            made = self._load(workload, rules, cost)
            done.append(made)
            points.append(load_point(plan, made.measurement, made.score))
            if search is None:
                return done

    def at(self, setting: Setting, load: Load) -> PredictedLoad:
        """One load; errors as of ``loads``."""
        workload = replace(self.plan.workload.at(load), seed=seed_of(self.plan.seed, "predicted", 0))
        return self._load(
            workload, rules_of(self.plan, setting, self.service), cost_of(self.plan, setting, self.service)
        )

    def refuse(self) -> None:
        """ConfigurationError if the baseline or the plan's workload cannot be simulated; nothing is."""
        baseline = self.plan.baseline()
        rules_of(self.plan, baseline, self.service)
        cost_of(self.plan, baseline, self.service)
        self._options(self.plan.workload)

    def _options(self, workload: Workload) -> tuple[LoadgenOptions, Endpoint]:
        benchmark = self.plan.benchmark
        if not isinstance(benchmark, SwarmtuneBenchmark):
            told = f"The load of {benchmark.name} cannot be simulated; that of swarmtune can (-b swarmtune)."
            raise ConfigurationError(told)
        options = benchmark.options(workload)
        endpoint = make_endpoint(workload.model, options)
        if not endpoint.produces_tokens:
            told = f"loadgen.endpoint_type: {options.endpoint_type} generates no text to be simulated"
            raise ConfigValidationError([told])
        return options, endpoint

    def _load(self, workload: Workload, rules: Rules, cost: CostTables) -> PredictedLoad:
        """One load, by the metrics of the load generator."""
        service = self.service
        options, endpoint = self._options(workload)
        firsts = options.prefill_concurrency is not None
        replicas: list[Replica] = [
            make_replica(rules, cost, rows=service.rows, firsts=firsts) for _ in range(service.replicas)
        ]
        told_ = self._progress
        progress = None if told_ is None else (lambda ended: told_(_named(workload), ended))
        fleet = Fleet(replicas, service.router)
        contents = Contents(options, rules)
        dataset = self._dataset(options, workload.seed, texts=contents.wanted)
        records = VirtualLoad(options, dataset, workload.seed, fleet, rules, contents, service.front, progress).run()
        found = results(
            records,
            workload.request_slos,
            confidence=options.confidence_level,
            target_concurrency=concurrency_of(options),
            closed=mode_of(options) == "closed",
            offered_s=None if least_requests_of(options) else options.benchmark_duration,
            streamed=endpoint.streams,
        )
        asked = {"concurrency": options.concurrency, "request_rate": options.request_rate}
        load = {name: float(value) for name, value in asked.items() if value is not None}
        measurement = Measurement(found.flat(), load, source="predicted", blocks=found.blocks)
        return PredictedLoad(
            workload,
            options,
            found,
            measurement,
            self._score(workload, measurement),
            rules,
            tuple(replica.rows for replica in replicas) if service.rows else (),
            sum(replica.preemptions for replica in replicas),
        )

    def _score(self, workload: Workload, measurement: Measurement) -> Score:
        try:
            return score_of(self.plan.objective, measurement)
        except FitnessCalculationError as error:
            if measurement.metrics.get("completed"):
                raise
            told = f"No simulated request of {_named(workload)} was answered whole, so there is nothing to predict."
            raise ConfigurationError(f"{told} Look at --kv-blocks, the lengths, and what is cancelled.") from error

    def _dataset(self, options: LoadgenOptions, seed: int, *, texts: bool) -> Remembered:
        if (seed, texts) not in self.data:
            made = make_dataset(options, seed)
            self.data[seed, texts] = Remembered(made if texts else made.without_texts())
        return self.data[seed, texts]


def best(loads: list[PredictedLoad]) -> PredictedLoad:
    """The load that the objective likes most."""
    return min(loads, key=lambda one: one.score.rank)


def rules_of(plan: Plan, setting: Setting, service: Service) -> Rules:
    """What the setting means for the scheduler. ConfigurationError if that is not modelled."""
    rules = plan.engine.scheduling(setting) if plan.scripts is None else None
    if rules is None:
        what = "a start script" if plan.scripts else f"the engine {plan.engine.name}"
        raise ConfigurationError(
            f"The scheduler of {what} is not modelled; vllm and simulated are (docs/simulation.md)."
        )
    return rules if service.blocks is None else replace(rules, blocks=service.blocks)


def cost_of(plan: Plan, setting: Setting, service: Service) -> CostTables:
    """How long a step takes. ConfigurationError where nothing says it."""
    if service.cost is not None:
        return scaled(service.cost, service.multipliers)
    declared = plan.engine.declared_cost(setting)
    if not declared:
        raise ConfigurationError(
            f"Nothing says how long a step of {plan.engine.name} takes: give a model of it, --model FILE, which "
            "`swarmtune train` makes of measured steps."
        )
    return scaled(linear(**declared), service.multipliers)


def refuse_of_another(model: LatencyModel, plan: Plan) -> None:
    """ConfigurationError if what is known of the model's service and of the plan's differs."""
    ranks = plan.engine.ranks()
    tp, pp, dp = (_whole(ranks.get(f"{name}_parallel_size")) for name in ("tensor", "pipeline", "data"))
    engine = plan.engine.name if model.identity.engine not in ("", "kernels") else ""
    if differing := model.identity.against(Identity(engine, tp=tp, pp=pp, dp=dp)):
        raise ConfigurationError(
            f"The model was trained on another service ({'; '.join(differing)}): its steps say nothing about this one. "
            "Train one on steps of this service."
        )


def _whole(value: object) -> int:
    return int(str(value)) if str(value).isdecimal() else 0


def _named(workload: Workload) -> str:
    """The load in a word or two."""
    load = workload.load
    return f"concurrency {load.concurrency}" if load.request_rate is None else f"{load.request_rate:g} requests/s"
