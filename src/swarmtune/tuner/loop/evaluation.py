"""The job of one attempt at a setting: the service that it needs, the loads it is measured at, and the score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swarmtune.clock import Clock
from swarmtune.errors import (
    BenchmarkExecutionError,
    BenchmarkParseError,
    CommunicationError,
    Culprit,
    SimulatorHealthCheckError,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.asking import http_session
from swarmtune.fleet.job import LOG_LINES, Job, Service
from swarmtune.fleet.load_place import LoadPlace
from swarmtune.loadgen.base import LoadedService
from swarmtune.loadgen.judge.certify import disturbed, refused
from swarmtune.objective.objectives import ACCELERATORS
from swarmtune.records import Attempt, Command, Group, Measurement, Score
from swarmtune.search.load import LoadPoint
from swarmtune.tuner.loop import live
from swarmtune.tuner.loop.loads import best_point, load_point, score_of
from swarmtune.tuner.loop.other_port import GIVEN, has_left, other_port, taken_by
from swarmtune.tuner.loop.probe import HttpProbe
from swarmtune.tuner.planning.plan import Plan
from swarmtune.workload import Workload

POLL_S = 0.05
DYING_S = 1.0  # the time in which a dying service is seen to end
INVALID_REPEATS = 2  # repetitions of a measurement that the load generator itself rejects

REFUSES_S = 60.0  # so long a service may refuse the completion that makes it ready, while its health answers 200
NOT_READY = "Correct the path, the name of the model, or the service."

Report = Callable[[str, Mapping[str, Any]], None]  # phase and facts, for the terminal
Keep = Callable[[Measurement], None]  # a load point, for the study


@dataclass(frozen=True)
class Loads:
    """The load at which a setting is measured: ``fixed``, or the highest that keeps the SLOs, searched from ``start``.

    ``thorough``: search until the bracket is as narrow as the tolerance, however many points that takes, so that the
    first setting, which has no earlier load to start from, is not judged at a lower load than later ones.
    ``may_stop``: measurements may end early; never those of the proof. ``to_beat``: the objective's best value so far.
    ``requests``: names the requests, so that several attempts get the same ones; each then has a service of its own, because
    a shared one would know them from its prefix cache. Empty: fresh ones for each attempt.
    """

    fixed: float | None = None
    start: float | None = None
    thorough: bool = False
    may_stop: bool = False
    to_beat: float | None = None
    requests: str = ""


ANY_LOAD = Loads()


@dataclass(frozen=True)
class Measured:
    """The result of an evaluation: the best load's measurement and score, out of ``load_points`` loads."""

    measurement: Measurement
    score: Score
    load_points: int = 1


@dataclass(frozen=True)
class Bench:
    """What all evaluations of a study share: the executor of the load generator, and the parent folder of all attempts.

    ``python``: see LoadPlace.
    """

    executor: Executor
    clock: Clock
    directory: Path
    python: str | None = None


class Evaluation(Job[Measured]):
    """One attempt at a setting. The service of the search is kept for a next setting that needs the very same one (C7)."""

    def __init__(
        self,
        plan: Plan,
        attempt: Attempt,
        bench: Bench,
        report: Report,
        keep: Keep,
        loads: Loads = ANY_LOAD,
    ) -> None:
        """``report`` is called before each load, ``keep`` with each measurement."""
        self.plan, self.attempt, self.loads, self.keep = plan, attempt, loads, keep
        self._bench, self._report = bench, report
        self.folder = bench.directory / f"{attempt.trial_number:04d}-{attempt.id}"
        self.place = (
            f"{bench.directory.name}/{self.folder.name}/service"  # below the study's folder, on the nodes and here
        )
        self._fetches = True
        self.keeps_service = not loads.requests
        self.token = attempt.token
        self.ready_s = plan.start_timeout_s
        self.facts = {"trial": attempt.trial_number}
        self._probe: HttpProbe | None = None
        self._elsewhere = ""
        self._refused_since: float | None = None

    # --- the service ---------------------------------------------------------------------------------------------

    def commands(self, group: Group) -> tuple[Command, ...]:
        """The plan's commands for this setting."""
        commands = self.plan.commands(self.attempt.setting, group)
        self._fetches = not commands[0].directory
        return commands

    async def ready(self, service: Service) -> bool:
        """The plan's check. SimulatorStartError if the service is healthy and has refused the check for ``REFUSES_S``;
        CommunicationError if what answers is not the service.
        """
        async with http_session() as session:
            self._probe = probe = HttpProbe(service.url, service.handle, session)
            ready = await self.plan.ready(probe, service.group)
        now = self._bench.clock.monotonic()
        self._refused_since = (self._refused_since or now) if not ready and probe.refused else None
        if self._refused_since is not None and now - self._refused_since >= REFUSES_S:
            told = f"The service is up and refuses the request that must succeed: {probe.told}. {NOT_READY}"
            raise SimulatorStartError(told, details={"cause": "refused"}, culprit=Culprit.SETTING)
        if ready and (taken := await taken_by(service)):
            raise CommunicationError(taken)
        return ready

    async def overdue(self, service: Service) -> None:
        """Look whether it listens on another port than the one on which it was checked."""
        if self._probe is not None and (address := self._probe.unreached):
            port = urlsplit(f"//{address}").port or service.group.port
            self._elsewhere = await other_port(service.token, replace(service.group, port=port))

    def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
        """The engine's diagnosis; of a service that still runs, with the time-out and what it answered last."""
        error = self._diagnosed(exit_code, log)
        if exit_code is not None:
            return error
        limit = "parallel.health_check_timeout" if self.plan.scripts else "wait_start_time"
        seen = [f"not ready after {self.ready_s:g} s ({limit}).", *self._seen()]
        if error.details.get("cause") == "hang" and (advice := self._advice(log)):
            seen.append(advice)
        text = " ".join([*seen, error.message])
        return SimulatorStartError(text, details=error.details, culprit=error.culprit)

    def _seen(self) -> list[str]:
        """What the last check saw of a service that was not ready in time, as sentences."""
        probe = self._probe
        if probe is None:
            return []
        if probe.told:
            return [f"It answers, but not as a service that is ready: {probe.told}.", NOT_READY]
        if probe.unreached:
            guess = f"It still loads, or it does not listen on {GIVEN}."
            return [probe.silence, self._elsewhere or guess]
        return [probe.silence] if probe.silence else []

    def _advice(self, log: str) -> str:
        """To wait for longer, unless what was seen speaks against it."""
        probe = self._probe
        if probe is not None and (not probe.may_load or self._elsewhere or (probe.closes and not log.strip())):
            return ""
        progress = "the lines below show progress" if log.strip() else "it loads for longer"
        return f"Raise the start timeout if {progress}."

    def died(self, exit_code: int, log: str) -> SwarmTuneError:
        """The engine's diagnosis of a service that was ready before."""
        error = self._diagnosed(exit_code, log)
        text = f"The service died while it was measured. {error.message}"
        return SimulatorHealthCheckError(text, details=error.details, culprit=error.culprit)

    def _diagnosed(self, exit_code: int | None, log: str) -> SwarmTuneError:
        """The engine's diagnosis, unless a text of the user shows another cause."""
        return self.plan.health_check.of_service(self.plan.engine.diagnose(exit_code, log), log)

    async def before_stop(self, service: Service) -> None:
        """Run the stop script of the group, if it has one."""
        if self.plan.scripts is not None and service.nodes is not None:
            scripts = self.plan.scripts.of(service.group.name)
            await scripts.run_stop(service.nodes, service.group, self.place, self._bench.clock)

    async def after_stop(self, nodes: ServiceGroup) -> None:
        """Fetch the folder of the service; the log on a lost node is not fetched."""
        if self._fetches:
            with contextlib.suppress(CommunicationError):
                await nodes.get(self.place, self._bench.directory.parent / self.place)

    # --- the load ------------------------------------------------------------------------------------------------

    async def use(self, service: Service) -> Measured:
        """The best of the loads that ``loads`` asks for, each kept as soon as it is measured."""
        plan, loads = self.plan, self.loads
        await live.apply(plan.engine.live_requests(self.attempt.setting), service.url, self._bench.clock)
        search = plan.load_search.starting_at(loads.start, loads.thorough) if plan.load_search else None
        measured: list[Measurement] = []
        points: list[LoadPoint] = []
        while True:
            if search is None:
                wanted = plan.workload.at(plan.load_of(self.attempt.setting))
            else:
                value = loads.fixed if loads.fixed is not None else search.next(points)
                if value is None:
                    break
                wanted = plan.workload.at(plan.at(value))
            self._report("load", {**self.facts, "group": service.group.name, **wanted.load.to_json()})
            last = search is None or len(points) + 1 >= search.points  # else a higher load may still win
            rules = plan.early_stop if loads.may_stop else None
            rules = rules and replace(rules, to_beat=loads.to_beat if last else None)
            seed = seed_of(plan.seed, loads.requests or self.attempt.id, len(measured))
            left_s = plan.evaluation_timeout_s - (self._bench.clock.monotonic() - self.started_at)
            workload = replace(wanted, seed=seed, early_stop=rules)
            measurement = await self._valid(service, workload, len(measured), left_s)
            self.keep(measurement)
            measured.append(measurement)
            points.append(load_point(plan, measurement, score_of(plan.objective, measurement)))
            if search is None or loads.fixed is not None:
                break
        return Measured(*best_point(plan, measured), load_points=len(measured))

    async def _valid(self, service: Service, workload: Workload, number: int, timeout_s: float) -> Measurement:
        """One valid measurement; an invalid one is repeated, never used.

        If the service has answered and not completed a single request, that is a result: its success rate is 0.
        """
        reasons, completed, starved = "", False, False
        for repeat in range(1 + INVALID_REPEATS):
            directory = self.folder / (f"load-{number}" if repeat == 0 else f"load-{number}-again-{repeat}")
            fresh = replace(workload, seed=workload.seed + repeat)  # the service may remember the prompts
            measurement = await self._measure(service, fresh, directory, timeout_s)
            if measurement.valid or refused(measurement):
                taken = float(self.plan.engine.accelerators(self.attempt.setting, service.group))
                return replace(
                    measurement,
                    valid=True,
                    load={**workload.load.to_json(), **measurement.load},
                    metrics={**measurement.metrics, ACCELERATORS: taken},
                )
            reasons = "; ".join(measurement.reasons)
            if starved := disturbed(measurement.reasons):
                continue
            completed = bool(measurement.metrics.get("completed"))
        if starved:
            raise BenchmarkExecutionError(
                f"The service was disturbed in each of {1 + INVALID_REPEATS} measurements: {reasons}. A busier machine is "
                "accepted with a higher loadgen.max_contended_cpu_share or max_other_device_share.",
                details={"reasons": reasons, "cause": "disturbed"},
            )
        if not completed:
            await self._check_answers(service)
        raise BenchmarkExecutionError(
            f"The load generator rejected its own measurement {1 + INVALID_REPEATS} times: {reasons}.",
            details={"reasons": reasons},
        )

    async def _measure(self, service: Service, workload: Workload, directory: Path, timeout_s: float) -> Measurement:
        clock, benchmark = self._bench.clock, self.plan.benchmark
        place = LoadPlace(self._bench.executor, self._bench.python)
        command = benchmark.command_for(workload, self._loaded(service))
        deadline = clock.monotonic() + max(1.0, timeout_s)
        environment = {**command.env, "SWARMTUNE_TOKEN": f"{self.attempt.token}-load"}
        handle = await place.start(replace(command, env=environment), service, directory, benchmark.reads)
        try:
            while (code := await handle.poll()) is None:
                if clock.monotonic() > deadline:
                    raise SimulatorHealthCheckError(
                        f"The load did not end within particles_time_out = {self.plan.evaluation_timeout_s:g} s: the "
                        "service is far too slow with this setting.",
                        details={"cause": "timeout"},
                    )
                await clock.sleep(POLL_S)
            if taken := await taken_by(service):
                raise CommunicationError(taken)
            if code != 0 or has_left(service):
                await self._check_answers(service)
            if code != 0:
                log = await handle.logs(LOG_LINES)
                error = place.failed(service, f"The load generator {benchmark.name}", code, log)
                raise self.plan.health_check.of_benchmark(error, log)
        finally:
            await handle.stop(grace_s=2.0)
        await place.fetch(service, directory)
        try:
            return benchmark.read(directory)
        except OSError as error:
            raise BenchmarkParseError(f"{directory}: the result cannot be read: {error}") from error

    def _loaded(self, service: Service) -> LoadedService:
        """What the load generator may know of the service."""
        group, engine = service.group, self.plan.engine
        needs_power = self.plan.objective.needs_power
        return LoadedService(service.url, group.nodes, engine.metrics_url(group), needs_power, service.token)

    async def _check_answers(self, service: Service) -> None:
        """Blame the setting, not the load generator, if a service that was ready no longer answers."""
        await self._bench.clock.sleep(DYING_S)  # a service that dies is noticed by its watcher
        if not await self.ready(service):
            raise SimulatorHealthCheckError(
                "The service still runs but no longer answers after the measurement.", details={"cause": "hang"}
            )


def seed_of(seed: int, requests: int | str, point: int) -> int:
    """A seed for the requests of one load point: fresh prompts every time, the same in a repetition of the run.

    ``requests``: the attempt, or what several attempts share.
    """
    return int.from_bytes(sha256(f"{seed}:{requests}:{point}".encode()).digest()[:4], "big") // 2
