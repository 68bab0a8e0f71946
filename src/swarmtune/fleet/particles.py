"""``ParticleDispatcher``: measures particles on groups of nodes, with a start script and a cost function."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

from swarmtune.clock import Clock, RealClock
from swarmtune.errors import ConfigurationError, ConfigValidationError, Culprit, SwarmTuneError
from swarmtune.execution.config import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.reach import Reach
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.asking import http_session
from swarmtune.fleet.batch import Batch, Particle
from swarmtune.fleet.dispatch import Dispatcher, Member
from swarmtune.fleet.durations import Durations
from swarmtune.fleet.fitness import ByBenchmark, ByPerformance, ByUrl, Fitness, Measure, weighs_performance
from swarmtune.fleet.health import HealthMonitor, RetryPolicy
from swarmtune.fleet.history import SAME_FAILURES
from swarmtune.fleet.load_place import LoadPlace
from swarmtune.fleet.loop_thread import LoopThread
from swarmtune.fleet.particle_values import FieldLike, ParticleResults, decode, space_of
from swarmtune.fleet.performance import Meter
from swarmtune.fleet.pool import PoolCounts, ServiceGroupPool
from swarmtune.fleet.script_job import ScriptJob, ScriptService, answers_ok
from swarmtune.fleet.service_run import Listening, ServiceRun
from swarmtune.fleet.start_script import script_mistakes
from swarmtune.fleet.turns import Turns, any_time
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.records import Event, Group, Setting
from swarmtune.space import Field

T = TypeVar("T")


@dataclass(frozen=True)
class OlderArguments:
    """Further arguments of the older extension's dispatcher, in its order.

    ``evaluate_particles`` calls ``result_callback(fitness=...)`` for each particle when all have been measured.
    ``benchmark_func()`` measures in place of our load generator, for a ``fitness_func`` of one argument; it is not told
    which service. ``use_remote`` has no effect: [parallel] executor says how nodes are reached.
    """

    result_callback: Callable[..., Any] | None = None
    benchmark_func: Callable[[], Any] | None = None
    use_remote: bool = True


class ParticleDispatcher:
    """Measures particles on the groups of a ``ParallelConfig``.

    ``with ParticleDispatcher(config, target_field, fitness_func) as d: d.evaluate_particles(particles)``, or
    ``async with`` and ``await d.evaluate(particles)``.
    """

    def __init__(
        self,
        parallel_config: ParallelConfig,
        target_field: Sequence[Field | FieldLike | Mapping[str, Any]],
        fitness_func: Fitness,
        *older: Any,
        benchmark: LoadgenOptions | None = None,
        executors: Callable[[NodeConfig], Executor] | None = None,
        clock: Clock | None = None,
        listen: Callable[[Event], None] | None = None,
        **named: Any,
    ) -> None:
        """``fitness_func(values, url)`` measures the service at ``url`` and returns its cost. It is a coroutine function,
        or is run in a thread. ``fitness_func(performance)``, a function of one argument, gets what our own load generator
        measures (a ``Performance``), with the options of ``benchmark`` and the model that the service lists.

        ``executors`` replaces ``config.executor``: it makes the executor of a node. ``listen`` gets every event, in the
        thread of the dispatcher. ``older``, ``named``: see ``OlderArguments``. Raises ConfigValidationError with all
        mistakes in groups, scripts and fields.
        """
        self.config = parallel_config.resolved()
        self.space = space_of(target_field)
        check_scripts(self.config.service_groups)
        self._older = OlderArguments(*older, **named)
        self._by_performance = weighs_performance(fitness_func)
        self._fitness = fitness_func
        self._benchmark = benchmark or LoadgenOptions()
        self._clock = clock or RealClock()
        self._reach = Reach(
            self.config, self._clock, lambda text: self.emit("group_trouble", {"message": text}), executors
        )
        self._listen = listen or (lambda _: None)
        self.durations = Durations(self.space)
        self._turns = Turns()
        self._batches = itertools.count()
        self._services: dict[str, tuple[ScriptService, ServiceRun[float]]] = {}
        self._stack: contextlib.AsyncExitStack | None = None
        self._thread: LoopThread | None = None

    # --- as a context ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread = LoopThread()
        try:
            return self._thread.run(self.__aenter__())
        except BaseException:
            self._thread.close()
            raise

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            try:
                self._thread.run(self.__aexit__())
            finally:
                self._thread.close()
                self._thread = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._reach.close)
            connector = aiohttp.TCPConnector(limit=0, force_close=True)  # services come and go
            self._http = await stack.enter_async_context(http_session(connector=connector))
            self._run = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock.wall())) + f"-{uuid.uuid4().hex[:4]}"
            here = LocalExecutor(self.results_dir, self._clock)
            stack.push_async_callback(here.close)
            self._measure = self._measured_by(here)
            config = self.config
            self._pool: ServiceGroupPool[Member[float]] = ServiceGroupPool(
                [self._member(group) for group in config.service_groups],
                self._clock,
                lambda group: group.name,
                config.breaker_failures,
                config.breaker_recovery,
            )
            retry = RetryPolicy(config.retry_count + 1, config.retry_delay)
            self._dispatcher: Dispatcher[Particle, float] = Dispatcher(
                self._pool, self._clock, retry, self._forward, self._release_nodes
            )
            await stack.enter_async_context(HealthMonitor(self._pool, config.health_check_interval))
            stack.push_async_callback(self._dispatcher.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    def setup(self) -> bool:
        """Begin, without ``with``, as the older extension does; call ``cleanup`` in the end. Always True."""
        self.__enter__()
        return True

    def cleanup(self) -> None:
        """End what ``setup`` began; twice does no harm."""
        self.__exit__()

    # --- particles -------------------------------------------------------------------------------------------------

    def evaluate_particles(self, particles: Any) -> ParticleResults:
        """One result for each particle, in their order. ``particles``: see ``particle_values.decode``.

        ConfigValidationError if a particle does not fit the fields, before anything starts. If no group can work at all,
        an error with the culprit ``user``. An interrupted call has stopped its services; its results are lost, but the
        dispatcher can be used again.
        """
        if self._thread is None:
            raise ConfigurationError(
                "write `with ParticleDispatcher(...) as d:`; in a coroutine, `await d.evaluate(...)`"
            )
        results, callback = self._thread.run(self.evaluate(particles)), self._older.result_callback
        if callback is not None:
            for result in results:
                callback(fitness=result.cost)
        return results

    async def evaluate(self, particles: Any) -> ParticleResults:
        """``evaluate_particles`` for coroutines, inside ``async with``. A cancelled call has stopped its services."""
        if self._stack is None:
            raise ConfigurationError("write `async with ParticleDispatcher(...) as d:` around it")
        batch = Batch(next(self._batches), decode(self.space, particles), self)
        try:
            await self._dispatcher.run(batch)
        except SwarmTuneError as error:
            no_costs = error.culprit is Culprit.USER and not batch.costs
            few = "hopeless" in error.details and len(batch.results) < SAME_FAILURES  # they say nothing of the groups
            if error.culprit is Culprit.BUG or (no_costs and not few):
                raise
            batch.end_all(error)
        return batch.results

    def _measured_by(self, here: Executor) -> Measure:
        """How the cost of a running service is found; ``here`` runs a load generator."""
        if not self._by_performance:
            return ByUrl(self._fitness)
        if self._older.benchmark_func is not None:
            return ByBenchmark(self._fitness, self._older.benchmark_func)
        place = LoadPlace(here, self.config.load_python)
        return ByPerformance(self._fitness, Meter(self._benchmark, place, self._http, self._clock))

    # --- what a batch needs -------------------------------------------------------------------------------------------

    def job(self, tried: str, setting: Setting, group: str) -> ScriptJob:
        """The job of one attempt on this group; ``tried`` names the attempt, on the nodes and in ``results_dir``."""
        service, run = self._services[group]
        place = f"particles/{self._run}/{tried}"
        return ScriptJob(service, run.nodes, setting.values, place, self.results_dir / tried)

    def emit(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Pass an event to the listener."""
        self._listen(Event(kind, self._clock.wall(), facts))

    @property
    def counts(self) -> PoolCounts:
        """Groups by state."""
        return self._pool.counts

    # --- groups ----------------------------------------------------------------------------------------------------

    @property
    def results_dir(self) -> Path:
        """The folder of this run, with one folder for each attempt."""
        return Path(self.config.results_dir) / self._run

    def join(self, group: ServiceGroupConfig) -> None:
        """Add a group, also while particles are measured. ConfigValidationError if it does not fit the others; then
        the groups stay as they were.
        """
        config = self.config.model_copy(update={"service_groups": (*self.config.service_groups, group)}).resolved()
        new = config.service_groups[-1]
        check_scripts([new])

        def join() -> None:
            if new.group_id in self._services:
                raise ConfigurationError(f"group {new.group_id!r} has left and still ends its work; use another name")
            self._pool.join(self._member(new))
            self.config = config
            self.emit("group_joined", {"group": new.group_id})

        self._call(join)

    def leave(self, name: str) -> None:
        """Give a group no more particles; one that it is measuring still finishes. ConfigurationError if there is no
        such group.
        """
        self._call(lambda: self._dispatcher.leave(name, "asked to"))

    def _forward(self, event: Event) -> None:
        """Translate the dispatcher's event of a group that leaves."""
        name = event.facts.get("left")
        if name is not None:
            left = tuple(group for group in self.config.service_groups if group.group_id != name)
            self.config = self.config.model_copy(update={"service_groups": left})
            self.emit("group_left", {"group": name, "message": event.facts["reason"]})

    def _member(self, group: ServiceGroupConfig) -> ServiceRun[float]:
        turn = self._turns.of(group.ranks) if self.config.in_turn else any_time
        nodes = ServiceGroup(group.group, self._reach.of(group))
        member: ServiceRun[float] = ServiceRun(nodes, self._clock, turn, self.config.start_s, self._is_healthy(group))
        service = ScriptService.of(group, self._measure, self.config.evaluation_timeout, self._http, self._clock)
        self._services[group.group_id] = service, member
        return member

    def _release_nodes(self, member: Member[float]) -> None:
        """Release the nodes of a group that has left."""
        _, run = self._services.pop(member.name)
        self._reach.let_go(run.nodes.executors)

    def _is_healthy(self, config: ServiceGroupConfig) -> Listening:
        """The look before a start: does the health URL answer 200 already?"""

        async def look(_: Group) -> bool:
            return await answers_ok(self._http, config.health_url)

        return look

    def _call(self, action: Callable[[], T]) -> T:
        """Run an action in the thread of the pool."""
        if self._thread is None or self._thread.is_here:
            return action()

        async def call() -> T:
            return action()

        return self._thread.run(call())


def check_scripts(groups: Sequence[ServiceGroupConfig]) -> None:
    """Raise ConfigValidationError with every script that cannot be read."""
    if mistakes := script_mistakes(groups):
        raise ConfigValidationError(mistakes)
