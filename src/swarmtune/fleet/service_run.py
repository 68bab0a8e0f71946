"""Runs one job on one service group: check the port, start, wait until ready, take turns, use, watch, stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import aiohttp

from swarmtune.clock import Clock, within
from swarmtune.devices.processes import since_boot
from swarmtune.errors import CommunicationError, Culprit, IPCTimeoutError, SwarmTuneError
from swarmtune.execution.executors.base import Handle, NotHeldError
from swarmtune.execution.service_group import ServiceGroup, of_rank
from swarmtune.fleet.asking import http_session
from swarmtune.fleet.job import LOG_LINES, Job, Report, RunResult, Service, Stage
from swarmtune.fleet.job import same_service as same
from swarmtune.fleet.turns import Turn, any_time
from swarmtune.records import Command, Group

R = TypeVar("R")
FIRST_POLL_S, POLL_S = 0.02, 0.25
LEAST_CHECK_S = 1.0  # that a check of readiness gets, however late it is
DYING_S = 1.0  # after a failed use, the time in which a dying service is seen to end
ANSWER_S = 30.0  # for the nodes to show that they answer
BEFORE_STOP_S = 60.0
START_S = 120.0  # for all nodes to start a command, once they are reserved
LOOK_S = 2.0
SERVICE_NICE = 5  # a third of the weight of the load generator, where both want a CPU: see docs/decisions/0037

Listening = Callable[[Group], Awaitable[bool]]
"""Does anything else answer already where the service of this group will?"""


@dataclass(frozen=True)
class _Running(Generic[R]):
    """The service that runs on the group, the job that started it, and that job's commands without our marks."""

    job: Job[R]
    commands: tuple[Command, ...]
    service: Service


class ServiceRun(Generic[R]):
    """Runs jobs on one service group, one at a time.

    A job that needs the running service gets it without a restart. After an error or a cancellation no service is left
    running; on a node that cannot be reached it ends when its lease expires.
    """

    def __init__(
        self,
        nodes: ServiceGroup,
        clock: Clock,
        turn: Turn = any_time,
        start_s: float = START_S,
        listening: Listening | None = None,
    ) -> None:
        """``turn`` is held while the service is used. ``start_s``: seconds for the nodes to start a command.

        ``listening`` checks the port before a start; by default it tries to connect.
        """
        self.nodes = nodes
        self.group = nodes.group
        self._clock = clock
        self._turn = turn
        self._start_s = start_s
        self._listening = listening or is_taken
        self._running: _Running[R] | None = None

    @property
    def name(self) -> str:
        """The name of the group."""
        return self.nodes.group.name

    async def run(self, job: Job[R], report: Report) -> RunResult[R]:
        """Start the job's service unless it is running, use it, and return the result; ``seconds`` exclude the wait for
        a turn.

        A SwarmTuneError becomes part of the result. After an error or a cancellation the service has been stopped.
        """
        began = self._clock.monotonic()
        stage, job.started_at = _Progress(), began
        try:
            return await self._run(job, report, stage)
        except BaseException:  # cancelled, or a bug: also in the middle of a stop
            await self._end()
            raise

    async def _run(self, job: Job[R], report: Report, stage: _Progress) -> RunResult[R]:
        began, waited_s, start_s = job.started_at, 0.0, 0.0
        try:
            if not await self._is_running(job):
                await self._start(job, report, stage)
                start_s = self._clock.monotonic() - began
            stage.reached = Stage.USE
            service = self._service
            ready = self._clock.monotonic()
            if self._turn is not any_time:
                report("waiting", {})
            async with self._turn():
                waited_s = self._clock.monotonic() - ready
                job.started_at += waited_s
                result = await self._use(job, service, stage)
        except SwarmTuneError as error:
            trouble = await self._end()
            answer = await self._nodes_answer(error)
            times = {"start_s": start_s, "waited_s": waited_s, "seconds": self._clock.monotonic() - began - waited_s}
            return RunResult(None, error, stage.reached, stage.died, trouble, answer, **times)
        seconds = self._clock.monotonic() - began - waited_s
        trouble = None if job.keeps_service else await self._end()
        return RunResult(result, trouble=trouble, start_s=start_s, waited_s=waited_s, seconds=seconds)

    async def stop(self) -> None:
        """Stop the service of this group, if one runs. SwarmTuneError says what could not be stopped; the next job starts
        a new service all the same.
        """
        running = self._running
        if running is None:
            return
        try:
            await within(self._clock, BEFORE_STOP_S, running.job.before_stop(running.service))
        except TimeoutError as error:
            raise CommunicationError(f"the stop script did not end within {BEFORE_STOP_S:g} s") from error
        finally:
            try:
                await running.service.handle.stop()
            except SwarmTuneError:
                self._running = None
                raise
            self._running = None  # a cancelled stop leaves it, so that the next one ends it
        await running.job.after_stop(self.nodes)

    async def answers(self) -> bool:
        """Does every node start a command? NotHeldError if the nodes would have to be reserved first."""
        return await self.nodes.answers()

    # --- steps ---------------------------------------------------------------------------------------------------

    @property
    def _service(self) -> Service:
        assert self._running is not None  # noqa: S101 - it has just been started
        return self._running.service

    async def _is_running(self, job: Job[R]) -> bool:
        """Is the service that this job needs running?"""
        running = self._running
        if running is None or not job.keeps_service or not same(job.commands(self._with_port()), running.commands):
            return False
        return await running.service.handle.poll() is None

    async def _start(self, job: Job[R], report: Report, stage: _Progress) -> None:
        stage.reached = Stage.LOOK
        await self.stop()
        self.group = self.nodes.group  # a group without a configured port gets a new one for each start
        group = self._with_port()
        commands = job.commands(group)
        if await self._listening(group):
            raise CommunicationError(f"another service already answers at {group.url}, on the port of this one")
        report("starting", {})
        since = since_boot()
        stage.reached = Stage.START
        marked = [_marked(command, job, rank) for rank, command in enumerate(commands)]
        try:
            handle = await within(self._clock, self._start_s, self.nodes.start(marked, group.port))
        except TimeoutError as error:
            text = f"the nodes of {self.name} did not start a command within {self._start_s:g} s"
            raise IPCTimeoutError(text) from error
        self._running = _Running(job, commands, Service(group, handle, job.token, self.nodes, since))
        stage.reached = Stage.READY
        await self._until_ready(job, self._running.service)
        report("ready", {})

    async def _until_ready(self, job: Job[R], service: Service) -> None:
        deadline = self._clock.monotonic() + job.ready_s
        pause = FIRST_POLL_S
        while True:
            if (code := await service.handle.poll()) is not None:
                raise job.diagnose(code, await service.handle.logs(LOG_LINES))
            with contextlib.suppress(TimeoutError):
                if await within(
                    self._clock, max(LEAST_CHECK_S, deadline - self._clock.monotonic()), job.ready(service)
                ):
                    return
            if self._clock.monotonic() > deadline:
                await job.overdue(service)
                raise job.diagnose(None, await service.handle.logs(LOG_LINES))
            await self._clock.sleep(pause)
            pause = min(POLL_S, 1.5 * pause)

    async def _use(self, job: Job[R], service: Service, stage: _Progress) -> R:
        """The job's result; if the service ends first, the job is cancelled and the reason raised."""
        work = asyncio.ensure_future(job.use(service))
        watch = asyncio.ensure_future(self._until_end(service.handle))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            failed = work.done() and work.exception() is not None
            if failed and not watch.done():
                with contextlib.suppress(TimeoutError):
                    await within(self._clock, DYING_S, asyncio.wait({watch}))
            code = watch.result() if watch.done() else await service.handle.poll()
            if code is not None:
                stage.died = True
                raise job.died(code, await service.handle.logs(LOG_LINES))
            return work.result()
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _until_end(self, handle: Handle) -> int:
        while (code := await handle.poll()) is None:
            await self._clock.sleep(POLL_S)
        return code

    async def _end(self) -> SwarmTuneError | None:
        """Stop the service; the reason if it could not be stopped."""
        try:
            await self.stop()
        except SwarmTuneError as trouble:
            return trouble
        return None

    async def _nodes_answer(self, error: SwarmTuneError) -> bool | None:
        """Do the nodes answer? Checked only if the setting is suspected: a lost machine also makes a service fail."""
        if error.culprit is not Culprit.SETTING:
            return None
        try:
            return await within(self._clock, ANSWER_S, self.answers())
        except NotHeldError:
            return None
        except (SwarmTuneError, TimeoutError):
            return False

    def _with_port(self) -> Group:
        if not self.group.port:
            self.group = replace(self.group, port=free_port())
        return self.group


@dataclass
class _Progress:
    """Progress of the current run."""

    reached: Stage = Stage.LOOK
    died: bool = False


async def is_taken(group: Group) -> bool:
    """Does another program take connections at the group's address? It counts whatever it answers, or if it is silent.

    One that closes each connection at once does not count: a tunnel does so when no service is behind it.
    """
    taken = False
    try:
        async with asyncio.timeout(LOOK_S):
            reader, writer = await asyncio.open_connection(group.master, group.port)
            taken = True
            with contextlib.closing(writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return bool(await reader.read(1))
    except TimeoutError:
        return taken
    except (OSError, ValueError):  # a name that no host can have is a ValueError
        return False


async def answers_http(group: Group) -> bool:
    """Does anything answer HTTP at the group's address? Whatever it says, it is not ours."""
    timeout = aiohttp.ClientTimeout(total=LOOK_S)
    try:
        async with http_session(timeout=timeout) as session, session.get(group.url, allow_redirects=False):
            return True
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _marked(command: Command, job: Job[Any], rank: int) -> Command:
    """The command with its rank's folder and the job's mark, giving way to the load generator."""
    mark = {"SWARMTUNE_TOKEN": of_rank(job.token, rank)} if job.token else {}
    place = command.directory or of_rank(job.place, rank)
    return replace(command, directory=place, env={**command.env, **mark}, nice=command.nice or SERVICE_NICE)
