"""One particle on one group: configure, start, wait until healthy, measure, always stop, keep what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import math
import shlex
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from swarmtune.clock import Clock, within
from swarmtune.errors import (
    BenchmarkExecutionError,
    CommunicationError,
    ConfigValidationError,
    Culprit,
    SimulatorHealthCheckError,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.execution.config import ServiceGroupConfig
from swarmtune.execution.executors.base import Executor, Handle, NotHeldError
from swarmtune.execution.service_group import ServiceGroup, of_rank, with_rank
from swarmtune.execution.supervisor import make_private
from swarmtune.fleet.turns import Turn, any_time
from swarmtune.records import Command, File, Value

FIRST_POLL_S, POLL_S = 0.02, 0.25
ASK_S = 10.0  # for one answer of the health URL
REACH_S = 30.0  # for a node to show that it is there
DYING_S = 1.0  # a service whose requests fail is given this long to be seen dead
STOP_SCRIPT_S = 60.0
LOG_LINES = 50
KILLED = {sign * number + base for number in (signal.SIGKILL, signal.SIGTERM) for sign, base in ((-1, 0), (1, 128))}
"""Exit codes of who was ended from outside, by the kernel or a person; a shell adds 128."""

Fitness = Callable[[Mapping[str, Value], str], float | Awaitable[float]]
"""Measures the service at a URL, which runs with these values: the cost, which is minimised."""


@dataclass(frozen=True)
class Script:
    """A start or stop script as a command: argv, and the file that is sent along."""

    argv: tuple[str, ...]
    files: tuple[File, ...] = ()

    @classmethod
    def read(cls, text: str) -> Script:
        """``./start.sh --fast`` is a file here, run by the program behind its #!; a name or absolute path is on the node.

        ConfigValidationError if it cannot be read.
        """
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ConfigValidationError([f"script {text!r}: {error}"]) from error
        if not words:
            raise ConfigValidationError([f"script {text!r}: names no program"])
        program, path = words[0], Path(words[0])
        if program.startswith("~"):
            raise ConfigValidationError([f"script {text!r}: '~' is not known on the node; write an absolute path"])
        if "/" not in program or path.is_absolute():
            return cls(tuple(words))
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            way_out = "write the absolute path of one that is on the nodes"
            raise ConfigValidationError([f"script {text!r}: cannot be sent along ({error}); {way_out}"]) from error
        first = content.partition("\n")[0]
        interpreter = first[2:].strip().split(None, 1) if first.startswith("#!") else ["/bin/sh"]
        return cls((*interpreter, f"./{path.name}", *words[1:]), (File(path.name, content),))


@dataclass(frozen=True)
class Job:
    """A particle for a group. ``place`` is its folder below work_dir on the nodes, ``folder`` the one for results here."""

    values: Mapping[str, Value]
    place: str
    folder: Path


@dataclass(frozen=True)
class Done:
    """``error``: why there is no cost. ``trouble``: it could not be ended; the cost counts, the group is suspect.

    ``waited_s``: how long others were measured first.
    """

    cost: float
    error: SwarmTuneError | None = None
    trouble: SwarmTuneError | None = None
    waited_s: float = 0.0

    @property
    def group_ok(self) -> bool:
        """Did the group do its part, whatever the particle was like?"""
        return self.trouble is None and (self.error is None or self.error.culprit is Culprit.SETTING)


class GroupEvaluator:
    """Measures particles on one group of nodes, one at a time."""

    def __init__(
        self,
        config: ServiceGroupConfig,
        executors: list[Executor],
        fitness: Fitness,
        timeout_s: float,
        http: aiohttp.ClientSession,
        clock: Clock,
        turn: Turn = any_time,
    ) -> None:
        """``executors``: one for each node, the master's first. ``turn`` is entered while a particle is measured.

        ConfigValidationError if a script cannot be read.
        """
        self.name = config.group_id
        self.proven = False
        """Was a service of this group ever healthy?"""
        self._config = config
        self.executors = tuple(executors)
        self._service = ServiceGroup(config.group, executors)
        self._fitness = fitness
        self._timeout_s = timeout_s
        self._http = http
        self._clock = clock
        self._turn = turn
        self._start = Script.read(config.start_script)
        self._stop = Script.read(config.stop_script) if config.stop_script else None

    async def evaluate(self, job: Job) -> Done:
        """Measure it. Nothing of the service is left afterwards, whatever happens."""
        try:
            if await self._answers():
                raise CommunicationError(f"something else answers at {self._config.health_url} already")
            handle = await self._service.start(self._commands(job))
        except SwarmTuneError as raised:
            return Done(math.inf, raised)
        cost, waited_s = math.inf, 0.0
        error: SwarmTuneError | None = None
        try:
            await self._until_healthy(handle)
            self.proven = True
            healthy = self._clock.monotonic()
            async with self._turn():
                waited_s = self._clock.monotonic() - healthy
                cost = await self._measure(handle, job.values)
        except SwarmTuneError as raised:
            error = raised
        except BaseException:
            await self._end(handle, job)
            raise
        return Done(cost, error, await self._end(handle, job), waited_s)

    async def keep(self, job: Job, result: Mapping[str, Any], remote: bool) -> str | None:
        """Leave ``result.json`` here and, with ``remote``, on the master, and bring the output of every rank here.

        Returned is why something could not be kept.
        """
        file = job.folder / "result.json"
        try:
            make_private(job.folder)
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            if not remote:
                return None
            await self._service.executors[0].put(file, f"{job.place}/result.json")
            for rank, executor in enumerate(self._service.executors):
                log = f"{of_rank(job.place, rank)}/output.log"
                await executor.get(log, job.folder / f"{of_rank('output', rank)}.log")
        except (SwarmTuneError, OSError) as error:
            return str(error)
        return None

    async def reachable(self) -> bool:
        """Can every node run a command right now? NotHeldError if nodes would have to be reserved for that."""
        try:
            await within(self._clock, REACH_S, self._service.answers())
        except NotHeldError:
            raise
        except (SwarmTuneError, TimeoutError):
            return False
        return True

    # --- steps -----------------------------------------------------------------------------------------------------

    def _commands(self, job: Job) -> list[Command]:
        path = self._config.config_path
        # What is at an absolute path belongs to somebody and comes back; a relative one is in a folder of our own.
        content = json.dumps(dict(job.values), indent=2) + "\n"
        files = (*self._start.files, File(path, content, restore=Path(path).is_absolute()))
        return [
            Command(self._start.argv, {"SWARMTUNE_CONFIG": path}, files, directory=of_rank(job.place, rank))
            for rank in range(len(self._service.executors))
        ]

    async def _until_healthy(self, handle: Handle) -> None:
        limit_s = self._config.health_check_timeout
        deadline = self._clock.monotonic() + limit_s
        pause = FIRST_POLL_S
        while not await self._answers():
            if (code := await handle.poll()) is not None:
                await self._check_nodes()
                text = await _with_log(f"the service ended with {code} before it was healthy", handle)
                # Killed: for lack of memory, or by somebody. Another try tells which.
                culprit = Culprit.INFRASTRUCTURE if code in KILLED else Culprit.SETTING
                raise SimulatorStartError(text, culprit=culprit)
            if self._clock.monotonic() >= deadline:
                await self._check_nodes()
                text = f"the service did not answer at {self._config.health_url} within {limit_s:g} s"
                raise SimulatorStartError(await _with_log(text, handle))
            await self._clock.sleep(pause)
            pause = min(POLL_S, 1.5 * pause)

    async def _answers(self) -> bool:
        try:
            async with self._http.get(self._config.health_url, timeout=aiohttp.ClientTimeout(total=ASK_S)) as answer:
                return answer.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def _check_nodes(self) -> None:
        """A rank whose peer was lost fails, too: that is no fault of the setting."""
        if len(self._service.executors) > 1 and not await self.reachable():
            raise CommunicationError(f"a node of {self.name} cannot be reached")

    async def _measure(self, handle: Handle, values: Mapping[str, Value]) -> float:
        work = asyncio.ensure_future(self._call(values))
        watch = asyncio.ensure_future(self._ended(handle))
        try:
            both = asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            await within(self._clock, self._timeout_s, both)
            if work.done() and work.exception() is not None and not watch.done():
                with contextlib.suppress(TimeoutError):
                    await within(self._clock, DYING_S, asyncio.wait({watch}))
            if watch.done() or (code := await handle.poll()) is not None:
                code = watch.result() if watch.done() else code
                text = await _with_log(f"a process of the service ended with {code} while it was measured", handle)
                raise SimulatorHealthCheckError(text, culprit=Culprit.INFRASTRUCTURE)
            return _cost(work.result())
        except TimeoutError as error:
            text = f"no result within evaluation_timeout, {self._timeout_s:g} s"
            raise BenchmarkExecutionError(text, culprit=Culprit.SETTING) from error
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _call(self, values: Mapping[str, Value]) -> Any:
        try:
            if inspect.iscoroutinefunction(self._fitness):
                return await self._fitness(values, self._service.group.url)
            result = await _in_thread(self._fitness, values, self._service.group.url)
            return await result if inspect.isawaitable(result) else result
        except SwarmTuneError:
            raise
        except Exception as error:
            text = f"fitness_func raised {type(error).__name__}: {error}"
            raise BenchmarkExecutionError(text, culprit=Culprit.SETTING) from error

    async def _ended(self, handle: Handle) -> int:
        while (code := await handle.poll()) is None:
            await self._clock.sleep(POLL_S)
        return code

    async def _end(self, handle: Handle, job: Job) -> SwarmTuneError | None:
        """Stop it; what is in the way is told, not raised."""
        try:
            try:
                if self._stop is not None:
                    await within(self._clock, STOP_SCRIPT_S, self._run_stop_script(self._stop, job))
            finally:
                await handle.stop()
        except SwarmTuneError as error:
            return error
        except TimeoutError:
            return CommunicationError(f"the stop script was not done within {STOP_SCRIPT_S:g} s")
        return None

    async def _run_stop_script(self, script: Script, job: Job) -> None:
        async def run(rank: int, executor: Executor) -> None:
            place = f"{of_rank(job.place, rank)}-stop"
            command = Command(script.argv, {"SWARMTUNE_CONFIG": self._config.config_path}, script.files, place)
            handle = await executor.start(with_rank(command, replace(self._service.group, rank=rank)))
            try:
                await self._ended(handle)
            finally:
                await handle.stop()

        await asyncio.gather(*(run(rank, executor) for rank, executor in enumerate(self._service.executors)))


async def _with_log(text: str, handle: Handle) -> str:
    """The text, with the last line that the service printed."""
    with contextlib.suppress(SwarmTuneError, OSError):
        lines = [line.strip() for line in (await handle.logs(LOG_LINES)).splitlines() if line.strip()]
        return f"{text}; the last it printed: {lines[-1][:500]}" if lines else text
    return text


def _cost(result: Any) -> float:
    try:
        cost = float(result)
    except (TypeError, ValueError):
        cost = math.nan
    if math.isnan(cost):
        text = f"fitness_func gave {str(result)[:100]!r}, which is no number"
        raise BenchmarkExecutionError(text, culprit=Culprit.SETTING)
    return cost


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Its result. A thread of its own that no exit waits for: a hung function can hold up nothing but itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def deliver(result: Any, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        try:
            outcome: tuple[Any, Exception | None] = (function(*arguments), None)
        except BaseException as error:  # noqa: BLE001 - also SystemExit must not end the dispatcher
            outcome = (None, RuntimeError(f"{type(error).__name__}: {error}"))
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name="fitness_func", daemon=True).start()
    return await done
