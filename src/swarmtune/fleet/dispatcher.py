"""Many particles on many groups of nodes at once: every free group takes the next one, and each gets exactly one result."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

from swarmtune.clock import Clock, RealClock
from swarmtune.errors import (
    CommunicationError,
    ConfigurationError,
    ConfigValidationError,
    Culprit,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.execution.config import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.reach import Reach
from swarmtune.fleet.evaluation import Fitness, GroupEvaluator, Job, Script
from swarmtune.fleet.health import HealthMonitor, RetryPolicy
from swarmtune.fleet.longest_first import Durations, Row
from swarmtune.fleet.particles import FieldLike, ParticleResult, decode, space_of
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.fleet.progress import Progress
from swarmtune.fleet.turns import Turns, any_time
from swarmtune.records import Event, Setting
from swarmtune.space import Field

T = TypeVar("T")


class ParticleDispatcher:
    """Measures particles on the groups of a ``ParallelConfig``.

    ``with ParticleDispatcher(config, target_field, fitness_func) as d: d.evaluate_particles(particles)``, or
    ``async with`` and ``await d.evaluate(particles)``.
    """

    def __init__(
        self,
        config: ParallelConfig,
        target_field: Sequence[Field | FieldLike | Mapping[str, Any]],
        fitness_func: Fitness,
        *,
        executors: Callable[[NodeConfig], Executor] | None = None,
        clock: Clock | None = None,
        listen: Callable[[Event], None] | None = None,
    ) -> None:
        """``fitness_func(values, url)`` measures the service at ``url``: its cost. A coroutine, or run in a thread.

        ``executors`` reaches a node in another way than ``config.executor``. ``listen`` gets every event, in the thread of
        the dispatcher. Raises ConfigValidationError with what is wrong with the groups, scripts or fields.
        """
        self.config = config.resolved()
        self.space = space_of(target_field)
        check_scripts(self.config.service_groups)
        if not callable(fitness_func):
            raise ConfigurationError(f"fitness_func must be a function of values and url, not {fitness_func!r}")
        self._fitness = fitness_func
        self._clock = clock or RealClock()
        self._reach = Reach(self.config, self._clock, self._trouble, executors)
        self._listen = listen or (lambda _: None)
        self._policy = RetryPolicy(config.retry_count + 1, config.retry_delay)
        self._durations = Durations(self.space)
        self._turns = Turns()
        self._rng = random.Random()
        self._batches = itertools.count()
        self._working: set[asyncio.Task[ParticleResult]] = set()
        self._attempts: Counter[GroupEvaluator] = Counter()  # that go on
        self._left: set[GroupEvaluator] = set()  # whose nodes are still to be let go
        self._refused: SwarmTuneError | None = None  # why the last group had to leave
        self._stack: contextlib.AsyncExitStack | None = None
        self._thread: _LoopThread | None = None

    # --- as a context ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread = _LoopThread()
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
            self._http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            self._pool: ServiceGroupPool[GroupEvaluator] = ServiceGroupPool(
                [self._evaluator(group) for group in self.config.service_groups],
                self._clock,
                lambda group: group.name,
                self.config.breaker_failures,
                self.config.breaker_recovery,
            )
            every_s = self.config.health_check_interval
            await stack.enter_async_context(
                HealthMonitor(self._pool, lambda group: group.reachable(), self._clock, every_s)
            )
            self._row = Row(self._durations, self._pool.acquire, lambda group: self._pool.release(group, None))
            stack.push_async_callback(self._row.close)
            stack.push_async_callback(self._cancel)
            self._run = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock.wall())) + f"-{uuid.uuid4().hex[:4]}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    # --- particles -------------------------------------------------------------------------------------------------

    def evaluate_particles(self, particles: Any) -> list[ParticleResult]:
        """One result for each particle, in their order. ``particles``: see ``particles.decode``.

        ConfigValidationError if one is no particle of these fields; what the user must act on, if no group can work at all.
        """
        if self._thread is None:
            raise ConfigurationError(
                "write `with ParticleDispatcher(...) as d:`; in a coroutine, `await d.evaluate(...)`"
            )
        return self._thread.run(self.evaluate(particles))

    async def evaluate(self, particles: Any) -> list[ParticleResult]:
        """``evaluate_particles`` for coroutines, after ``async with``."""
        if self._stack is None:
            raise ConfigurationError("write `async with ParticleDispatcher(...) as d:` around it")
        settings = decode(self.space, particles)
        batch, progress = next(self._batches), Progress(len(settings))
        tasks = [
            asyncio.create_task(self._one(f"{batch:03d}-{number:05d}", setting, progress))
            for number, setting in enumerate(settings)
        ]
        self._working |= set(tasks)
        try:
            results = list(await asyncio.gather(*tasks))
        finally:
            await _end(tasks)
            self._working -= set(tasks)
        if self._refused is not None and not self._pool.names and all(result.failure for result in results):
            raise self._refused
        return results

    async def _one(self, name: str, setting: Setting, progress: Progress) -> ParticleResult:
        """Try until it has a result. What the infrastructure lost is tried again, on another group first."""
        lost_on: list[str] = []
        result = ParticleResult(math.inf, setting.values, None, 0.0, 0)
        while True:
            try:
                group = await self._acquire(setting, lost_on)
            except CommunicationError as error:  # nobody is left
                failure = result.failure or (self._refused or error).message
                return self._finish(name, replace(result, failure=failure), progress)
            culprit, result = await self._attempt(group, name, setting, result.attempts + 1)
            if culprit is Culprit.INFRASTRUCTURE:
                lost_on.append(group.name)
            if culprit in (None, Culprit.SETTING) or len(lost_on) >= self._policy.attempts:
                return self._finish(name, result, progress)
            self._emit("particle_retried", {"particle": name, **_facts(result)})
            if culprit is Culprit.INFRASTRUCTURE:
                await self._clock.sleep(self._policy.delay_s(len(lost_on), self._rng))

    async def _acquire(self, setting: Setting, lost_on: Sequence[str]) -> GroupEvaluator:
        """Who tries again does not stand in the row."""
        return await self._pool.acquire(lost_on) if lost_on else await self._row.member(setting)

    async def _attempt(
        self, group: GroupEvaluator, name: str, setting: Setting, attempt: int
    ) -> tuple[Culprit | None, ParticleResult]:
        """One try on one group, and who is to blame that it gave no cost."""
        self._attempts[group] += 1
        try:
            return await self._try(group, name, setting, attempt)
        finally:
            self._attempts[group] -= 1
            self._let_go(group)

    async def _try(
        self, group: GroupEvaluator, name: str, setting: Setting, attempt: int
    ) -> tuple[Culprit | None, ParticleResult]:
        job = Job(setting.values, f"particles/{self._run}/{name}-{attempt}", self.results_dir / f"{name}-{attempt}")
        started = self._clock.monotonic()
        self._emit("particle_started", {"particle": name, "group": group.name, "attempt": attempt})
        ok: bool | None = None
        try:
            done = await group.evaluate(job)
            if isinstance(done.error, SimulatorStartError) and not group.proven and len(self._pool.names) > 1:
                done.error.culprit = Culprit.INFRASTRUCTURE  # who never served is not believed that it was the setting
            ok = done.group_ok
        finally:
            self._pool.release(group, ok)
        seconds = self._clock.monotonic() - started
        error = done.error
        if error is not None and error.culprit is Culprit.BUG:
            raise error
        result = ParticleResult(
            done.cost, setting.values, group.name, seconds, attempt, error.message if error else None
        )
        if error is None:
            self._durations.add(setting, seconds - done.waited_s)
        blamed = [e for e in (error, done.trouble) if e is not None and e.culprit is Culprit.USER]
        if blamed:
            self._dismiss(group.name, blamed[0])
        kept = await group.keep(job, {**_facts(result), "values": dict(setting.values)}, remote=done.group_ok)
        for trouble in (done.trouble.message if done.trouble else None, kept):
            if trouble is not None:
                self._emit("group_trouble", {"particle": name, "group": group.name, "message": trouble})
        return error.culprit if error else None, result

    def _finish(self, name: str, result: ParticleResult, progress: Progress) -> ParticleResult:
        progress.add(result.seconds, result.failure is not None)
        self._emit("particle_finished", {"particle": name, **_facts(result), **progress.facts(self._pool.counts)})
        return result

    # --- groups ----------------------------------------------------------------------------------------------------

    @property
    def results_dir(self) -> Path:
        """Where this run leaves a folder for each attempt."""
        return Path(self.config.results_dir) / self._run

    def join(self, group: ServiceGroupConfig) -> None:
        """One more group, also while particles are measured. ConfigValidationError if it does not fit to the others."""
        config = self.config.model_copy(update={"service_groups": (*self.config.service_groups, group)}).resolved()
        new = config.service_groups[-1]
        check_scripts([new])

        def join() -> None:
            self._pool.join(self._evaluator(new))
            self.config = config
            self._emit("group_joined", {"group": new.group_id})

        self._call(join)

    def leave(self, name: str) -> None:
        """A group gets no more particles; one that it measures right now is still finished."""
        self._call(lambda: self._leave(name))

    def _leave(self, name: str, reason: str = "asked to") -> None:
        gone = self._pool.leave(name)
        self._left.add(gone)
        left = tuple(group for group in self.config.service_groups if group.group_id != name)
        self.config = self.config.model_copy(update={"service_groups": left})
        self._emit("group_left", {"group": name, "message": reason})
        self._let_go(gone)

    def _dismiss(self, name: str, error: SwarmTuneError) -> None:
        """Its machines need their user (an unknown host key, a missing program): trying again would not help."""
        self._refused = error
        if name in self._pool.names:
            self._leave(name, error.message)

    def _evaluator(self, group: ServiceGroupConfig) -> GroupEvaluator:
        turn = self._turns.of(group.ranks) if self.config.in_turn else any_time
        timeout_s = self.config.evaluation_timeout
        executors = self._reach.of(group)
        return GroupEvaluator(group, executors, self._fitness, timeout_s, self._http, self._clock, turn)

    def _let_go(self, group: GroupEvaluator) -> None:
        """Of the nodes of a group that has left, as soon as nothing of it goes on."""
        if group in self._left and not self._pool.holds(group) and not self._attempts[group]:
            self._left.discard(group)
            self._reach.let_go(group.executors)

    async def _cancel(self) -> None:
        await _end(list(self._working))

    def _call(self, action: Callable[[], T]) -> T:
        """Do it where the pool lives."""
        if self._thread is None or self._thread.is_here:
            return action()

        async def call() -> T:
            return action()

        return self._thread.run(call())

    def _trouble(self, message: str) -> None:
        self._emit("group_trouble", {"message": message})

    def _emit(self, kind: str, facts: dict[str, Any]) -> None:
        self._listen(Event(kind, self._clock.wall(), facts))


class _LoopThread:
    """An event loop in a thread, for callers that have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dispatcher", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Is this the thread itself?"""
        return threading.current_thread() is self._thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result; if the caller is interrupted, the work is cancelled."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def check_scripts(groups: Sequence[ServiceGroupConfig]) -> None:
    """ConfigValidationError with every script that cannot be read."""
    mistakes: list[str] = []
    for text in dict.fromkeys(t for group in groups for t in (group.start_script, group.stop_script) if t):
        try:
            Script.read(text)
        except ConfigValidationError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigValidationError(mistakes)


def _facts(result: ParticleResult) -> dict[str, Any]:
    return {
        "cost": result.cost if math.isfinite(result.cost) else None,
        "failure": result.failure,
        "group": result.group,
        "seconds": round(result.seconds, 3),
        "attempts": result.attempts,
    }


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        if not task.cancelling():  # a second time would break off its cleaning up
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
