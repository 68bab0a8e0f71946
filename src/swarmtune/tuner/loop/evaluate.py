"""One setting on one group: start the service, wait until it is ready, put load on it, score what came back."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp

from swarmtune.clock import Clock, within
from swarmtune.errors import (
    BenchmarkExecutionError,
    BenchmarkParseError,
    CommunicationError,
    Culprit,
    IPCTimeoutError,
    SimulatorHealthCheckError,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.execution.executors.base import Executor, Handle
from swarmtune.execution.service_group import ServiceGroup, of_rank
from swarmtune.fleet.turns import Turn, any_time
from swarmtune.objective.objectives import ACCELERATORS
from swarmtune.records import Attempt, Command, Group, Measurement, Score
from swarmtune.records import AttemptResult as Outcome
from swarmtune.search.load import LoadPoint
from swarmtune.tuner.loop.backup import LIMIT_BYTES, back_up
from swarmtune.tuner.loop.loads import best_point, load_point, score_of
from swarmtune.tuner.loop.probe import HttpProbe
from swarmtune.tuner.planning.plan import Plan
from swarmtune.workload import Workload

POLL_S = 0.05
READY_POLL_S = 0.25
DYING_S = 1.0  # a dying process is given this long to be gone
INVALID_REPEATS = 2  # a measurement that its own load generator rejects is repeated so often
ANSWER_S = 30.0  # for a node to show that it is there
START_S = 120.0  # for all nodes to start a command; how long the service takes then is another matter
LOG_LINES = 400  # vLLM names the cause of its death far above its last line

Report = Callable[[str, dict[str, Any]], None]  # phase and facts, for the terminal
Keep = Callable[[Measurement], None]  # a load point, for the ledger


@dataclass(frozen=True)
class Loads:
    """At what load a setting is measured: at ``fixed``, or at the highest that keeps the promises, from ``start`` on.

    ``thorough``: search until the bracket is as narrow as the tolerance, however many points that takes; so that the
    first setting, which has nobody's load to start from, is not judged at a lower load than those that follow it.
    ``may_stop``: measurements may end early; never those of the proof. ``to_beat``: the objective's best value so far.
    """

    fixed: float | None = None
    start: float | None = None
    thorough: bool = False
    may_stop: bool = False
    to_beat: float | None = None


ANY_LOAD = Loads()


@dataclass(frozen=True)
class _Running:
    """The service that a group runs right now: a command for each node, and the folder that we gave it, if we did."""

    commands: tuple[Command, ...]
    handle: Handle
    folder: str


class Evaluator:
    """Measures settings on one group, one at a time. A setting that needs no other process gets no restart (C7)."""

    def __init__(
        self,
        plan: Plan,
        nodes: ServiceGroup,
        executor: Executor,
        clock: Clock,
        directory: Path,
        turn: Turn = any_time,
    ) -> None:
        """The service runs on ``nodes``, the load generator on ``executor``; ``directory`` has one folder per attempt.

        ``turn`` is entered while it is measured.
        """
        self.group = nodes.group
        self._plan = plan
        self.nodes = nodes
        self._executor = executor
        self._clock = clock
        self._directory = directory
        self._turn = turn
        self._running: _Running | None = None
        self._served = False  # was a service of this plan ever ready?

    async def evaluate(self, attempt: Attempt, report: Report, keep: Keep, loads: Loads = ANY_LOAD) -> Outcome:
        """The outcome of one attempt at the load, or the highest of the loads, that ``loads`` asks for.

        Errors that are the setting's fault become a failed score, those of the infrastructure an outcome without a
        score. Errors that the user must act on, and bugs, are raised.
        """
        started = self._clock.monotonic()
        folder = self._directory / f"{attempt.trial_number:04d}-{attempt.id}"
        place = {"folder": str(folder)}
        try:
            start_s = self._clock.monotonic() - started if await self._serve(attempt, folder, report) else 0.0
            ready = self._clock.monotonic()
            if self._plan.parallel is not None and self._plan.parallel.in_turn:
                report("waiting", {})
            async with self._turn():
                waited_s = self._clock.monotonic() - ready
                started += waited_s  # a turn that others take costs no time
                points = await self._measure_loads(attempt, folder, report, keep, loads, started)
        except SwarmTuneError as error:
            trouble = await self._ended()
            if error.culprit not in (Culprit.SETTING, Culprit.INFRASTRUCTURE):
                raise
            blamed = error.culprit is Culprit.SETTING and trouble is None and await self._nodes_are_there()
            score = Score.failed() if blamed else None
            return Outcome(score=score, failure=error.message, facts={**place, "details": _plain(error.details)})
        except BaseException:
            await self.stop()
            raise
        finally:
            if self._plan.backup:
                self._back_up(attempt, folder, report)
        measurement, score = best_point(self._plan, [m for m, _ in points])
        times = {"start_seconds": round(start_s, 3), "waited_seconds": round(waited_s, 3)}
        return Outcome(score, measurement, facts={**place, "load_points": len(points), **times})

    async def _ended(self) -> SwarmTuneError | None:
        """Stop the service; what is in the way. On a lost node it ends by its lease, and is swept when the node is back."""
        try:
            await self.stop()
        except SwarmTuneError as trouble:
            if trouble.culprit is not Culprit.INFRASTRUCTURE:
                raise
            return trouble
        return None

    async def _nodes_are_there(self) -> bool:
        """A service fails also when one of its machines has gone, and that is no fault of the setting."""
        if self._plan.parallel is None:
            return True
        try:
            return await within(self._clock, ANSWER_S, self.answers())
        except (SwarmTuneError, TimeoutError):
            return False

    def _back_up(self, attempt: Attempt, folder: Path, report: Report) -> None:
        command = self._plan.engine.command(attempt.setting, self.group)
        if not back_up(command, folder, self._directory.parent / "backup" / folder.name):
            report("backup_full", {"limit_bytes": LIMIT_BYTES})

    async def answers(self) -> bool:
        """Can commands be started on every node?"""
        return await self.nodes.answers()

    async def stop(self) -> None:
        """End the service of this group, if one runs."""
        running, self._running = self._running, None
        if running is None:
            return
        await running.handle.stop()
        if running.folder:
            with contextlib.suppress(CommunicationError):  # a node that is lost keeps its log
                await self.nodes.get(running.folder, self._directory.parent / running.folder)

    # --- the service ---------------------------------------------------------------------------------------------

    async def _serve(self, attempt: Attempt, folder: Path, report: Report) -> bool:
        """Have the setting served; did that need a start?"""
        commands = self._plan.engine.commands(attempt.setting, self._with_port())
        if await self._serves(commands):
            return False
        await self.stop()
        if not self._plan.engine.port:
            self.group = self.nodes.group
            commands = self._plan.engine.commands(attempt.setting, self._with_port())
        if self._plan.parallel is not None and await self._answered_by_another():
            raise CommunicationError(f"something answers at {self.group.url} already, and it is no service of ours")
        report("starting", {"setting": dict(attempt.setting.values)})
        own = "" if commands[0].directory else f"{self._directory.name}/{folder.name}/service"
        marked = [
            replace(
                command,
                directory=command.directory or of_rank(own, rank),
                env={**command.env, "SWARMTUNE_TOKEN": of_rank(attempt.token, rank)},
            )
            for rank, command in enumerate(commands)
        ]
        limit_s = START_S + (self._plan.parallel.reservation_s if self._plan.parallel else 0.0)
        try:
            handle = await within(self._clock, limit_s, self.nodes.start(marked, self.group.port))
        except TimeoutError as error:
            text = f"the nodes of {self.group.name} did not start a command within {limit_s:g} s"
            raise IPCTimeoutError(text) from error
        self._running = _Running(commands, handle, own)
        await self._wait_ready(handle)
        self._served = True
        report("ready", {})
        return True

    async def _answered_by_another(self) -> bool:
        timeout = aiohttp.ClientTimeout(total=2.0)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.group.url):
                return True
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def _serves(self, commands: tuple[Command, ...]) -> bool:
        """Does the very service run that these commands would start?"""
        running = self._running
        if running is None or not all(map(Command.same_process, commands, running.commands)):
            return False
        return await running.handle.poll() is None

    async def _wait_ready(self, handle: Handle) -> None:
        deadline = self._clock.monotonic() + self._plan.start_timeout_s
        async with aiohttp.ClientSession() as session:
            probe = HttpProbe(self.group.url, handle, session)
            while True:
                code = await handle.poll()
                if code is not None:
                    raise self._diagnosed(code, await handle.logs(LOG_LINES))
                if await self._plan.engine.ready(probe):
                    return
                if self._clock.monotonic() > deadline:
                    error = self._diagnosed(None, await handle.logs(LOG_LINES))
                    waited = f"not ready after {self._plan.start_timeout_s:g} s (wait_start_time). "
                    raise SimulatorStartError(waited + error.message, details=error.details, culprit=error.culprit)
                await self._clock.sleep(READY_POLL_S)

    def _with_port(self) -> Group:
        if not self.group.port:
            self.group = replace(self.group, port=free_port())
        return self.group

    # --- the load ------------------------------------------------------------------------------------------------

    async def _measure_loads(
        self, attempt: Attempt, folder: Path, report: Report, keep: Keep, loads: Loads, started: float
    ) -> list[tuple[Measurement, Score]]:
        plan = self._plan
        search = plan.load_search.starting_at(loads.start, loads.thorough) if plan.load_search else None
        found: list[tuple[Measurement, Score]] = []
        tried: list[LoadPoint] = []
        while True:
            if search is None:
                wanted = plan.workload.at(plan.load_of(attempt.setting))
            else:
                value = loads.fixed if loads.fixed is not None else search.next(tried)
                if value is None:
                    return found
                wanted = plan.workload.at(plan.at(value))
            report("load", dict(wanted.load.to_json()))
            last = search is None or len(tried) + 1 >= search.points  # else a higher load may still win
            rules = plan.early_stop if loads.may_stop else None
            rules = rules and replace(rules, to_beat=loads.to_beat if last else None)
            workload = replace(wanted, seed=seed_of(plan.seed, attempt.id, len(found)), early_stop=rules)
            left = plan.evaluation_timeout_s - (self._clock.monotonic() - started)
            measurement = await self._measure(workload, folder, attempt, len(found), left)
            score = score_of(plan.objective, measurement)
            keep(measurement)
            found.append((measurement, score))
            tried.append(load_point(plan, measurement, score))
            if search is None or loads.fixed is not None:
                return found

    async def _measure(
        self, workload: Workload, folder: Path, attempt: Attempt, number: int, timeout_s: float
    ) -> Measurement:
        """One valid measurement; an invalid one is repeated, never used."""
        reasons = ""
        for repeat in range(1 + INVALID_REPEATS):
            directory = folder / (f"load-{number}" if repeat == 0 else f"load-{number}-again-{repeat}")
            measurement = await self._benchmark(workload, directory, attempt, timeout_s)
            if measurement.valid:
                taken = float(self._plan.engine.accelerators(attempt.setting, self.group))
                return replace(
                    measurement,
                    load={**workload.load.to_json(), **measurement.load},
                    metrics={**measurement.metrics, ACCELERATORS: taken},
                )
            reasons = "; ".join(measurement.reasons)
        raise BenchmarkExecutionError(
            f"The load generator rejected its own measurement {1 + INVALID_REPEATS} times: {reasons}. "
            "Give it more CPU, or put less load on this machine.",
            details={"reasons": reasons},
        )

    async def _benchmark(self, workload: Workload, directory: Path, attempt: Attempt, timeout_s: float) -> Measurement:
        command = self._plan.benchmark.command(workload, self.group.url)
        deadline = self._clock.monotonic() + max(1.0, timeout_s)
        environment = {**command.env, "SWARMTUNE_TOKEN": f"{attempt.token}-load"}
        handle = await self._executor.start(replace(command, directory=str(directory), env=environment))
        try:
            while (code := await handle.poll()) is None:
                await self._check_alive()
                if self._clock.monotonic() > deadline:
                    raise SimulatorHealthCheckError(
                        f"The load did not end within particles_time_out = {self._plan.evaluation_timeout_s:g} s: the "
                        "service is far too slow with this setting.",
                        details={"cause": "timeout"},
                    )
                await self._clock.sleep(POLL_S)
            await self._check_alive()
            if code != 0:
                await self._check_answers()
                raise BenchmarkExecutionError(
                    f"The load generator {self._plan.benchmark.name} ended with code {code}: {await handle.logs(LOG_LINES)}",
                    details={"exit_code": code},
                )
        finally:
            await handle.stop(grace_s=2.0)
        return self._read(directory)

    def _read(self, directory: Path) -> Measurement:
        path = self._directory / directory if not directory.is_absolute() else directory
        try:
            return self._plan.benchmark.read(path)
        except OSError as error:
            raise BenchmarkParseError(f"{path}: the result cannot be read: {error}") from error

    async def _check_alive(self) -> None:
        if self._running is None:
            return
        code = await self._running.handle.poll()
        if code is None:
            return
        error = self._diagnosed(code, await self._running.handle.logs(LOG_LINES))
        raise SimulatorHealthCheckError(
            f"The service died while it was measured. {error.message}", details=error.details, culprit=error.culprit
        )

    async def _check_answers(self) -> None:
        """A service that was ready and answers no more is the setting's fault, not the load generator's."""
        if self._running is None:
            return
        await self._clock.sleep(DYING_S)
        await self._check_alive()
        async with aiohttp.ClientSession() as session:
            if await self._plan.engine.ready(HttpProbe(self.group.url, self._running.handle, session)):
                return
        raise SimulatorHealthCheckError(
            "The service still runs but answers no more after it was measured.", details={"cause": "hang"}
        )

    def _diagnosed(self, code: int | None, log: str) -> SwarmTuneError:
        """The engine's diagnosis; what worked for one setting (the model is there) is not the user's fault in another."""
        error = self._plan.engine.diagnose(code, log)
        if self._served and error.culprit is Culprit.USER:
            error.culprit = Culprit.SETTING
        return error


def free_port() -> int:
    """A port of the loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seed_of(seed: int, attempt: int, point: int) -> int:
    """A seed for the requests of one load point: fresh prompts every time, the same in a repetition of the run."""
    return int.from_bytes(sha256(f"{seed}:{attempt}:{point}".encode()).digest()[:4], "big") // 2


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, (int, float, str, bool, type(None))) else str(v) for k, v in details.items()}
