"""Asks the nodes on which services will run for the installed engine and what it needs, before anything is started."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swarmtune.clock import RealClock
from swarmtune.devices import npu_smi, nvidia_smi
from swarmtune.engines.base import Engine
from swarmtune.engines.questions import Needed, Questions
from swarmtune.errors import ConfigurationError, SwarmTuneError
from swarmtune.execution.config import NodeConfig, ParallelConfig
from swarmtune.execution.executors import executor_class, executors_for
from swarmtune.execution.executors.base import Executor, Site
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.installed import HELP_S, Answer, Memory, Request, ask
from swarmtune.execution.reach import executor_of
from swarmtune.execution.service_group import with_rank
from swarmtune.records import Command, Group, Setting
from swarmtune.settings import BaseSections
from swarmtune.sources import section_name
from swarmtune.tuner.planning.installed import Installed, Reply, learn, missing, summary
from swarmtune.tuner.planning.parts import keyed

HERE = "this machine"
LOCAL = "local"
CHECK_S = 30.0  # for a program, while somebody waits for an answer and nothing is to be started
MOST_NODES = 16  # that are asked; the others are expected to be alike
TOOLS = (nvidia_smi.QUERY, npu_smi.COMMAND)
NO_COMMAND = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    OSError,
    RecursionError,
    SwarmTuneError,
)


@dataclass(frozen=True)
class Place:
    """A node on which services will run. ``node`` None: this machine, without [parallel]. ``devices``: all that are claimed
    there.
    """

    host: str
    group: Group
    node: NodeConfig | None
    devices: tuple[int, ...]
    executor: str

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for the same node."""
        return (self.host, self.node.ssh_port, self.node.username) if self.node else (self.host,)


class Inquiry:
    """Asks the masters of a plan's groups. The help of a program is kept on this machine for a day."""

    def __init__(
        self,
        report: Callable[[str], None] = lambda _: None,
        folder: Path | None = None,
        limit_s: float | None = None,
        preview: bool = False,
    ) -> None:
        """``report`` gets a sentence where an answer may take long, and after each third of that time. ``folder``: of the
        cache, by default the user's. ``preview``: nothing will be started, so that what is missing on a node is a notice and
        no mistake. ``limit_s``: seconds for all that one program is asked, by default CHECK_S of a preview, else HELP_S;
        where a mistake is known that no answer can take back, never more than CHECK_S.
        """
        self._preview = preview
        self._clock = RealClock()
        self._report = report
        self.limit_s = limit_s or (CHECK_S if preview else HELP_S)
        self._memory = Memory(folder or _cache(), self._clock)

    def make(
        self,
        settings: BaseSections,
        engine: Engine,
        parallel: ParallelConfig | None,
        groups: Sequence[Group],
        mistakes: list[str],
    ) -> Installed:
        """Ask, and let the engine take what its help says. In ``mistakes`` its own give way to those that it finds then;
        what is missing on a node is one more, unless the plan is only shown. A node that does not answer is a notice.
        """
        questions = engine.questions()
        places = _places(parallel, groups)
        for name in dict.fromkeys(place.executor for place in places):
            try:
                executor_class(name)
            except ConfigurationError as error:  # an extra that is not installed
                mistakes.append(f"parallel.executor: {error.message}")
                return Installed()
        mistakes += _unreachable(places[:MOST_NODES])
        if questions is None:
            here = any(place.executor == LOCAL for place in places)
            absent = [
                f"missing: {one.key}: there is no folder {one.path} on this machine"
                for one in _folders(settings, engine)
                if here and not Path(one.path).is_dir()
            ]
            return Installed((), tuple(absent))
        questions = replace(questions, needed=(*questions.needed, *_folders(settings, engine)))
        try:
            commands = [_command(settings, engine, questions, place) for place in places]
        except NO_COMMAND:  # which is a mistake already
            return Installed()
        if not places:
            return Installed()
        section = section_name(engine)
        before = {keyed(mistake, section) for mistake in engine.mistakes()}
        if not before.issuperset(mistakes):  # nothing will be started, whatever the help says
            self.limit_s = min(self.limit_s, CHECK_S)
        replies, keys = asyncio.run(self._all(parallel, places[:MOST_NODES], commands, questions, engine))
        findings = learn(engine, questions, replies)
        mistakes[:] = [mistake for mistake in mistakes if mistake not in before]
        mistakes += [keyed(mistake, section) for mistake in findings.mistakes]
        absent = missing(questions, replies)
        mistakes += [] if self._preview else absent
        for key, reply in zip(keys, replies, strict=True):
            answer = reply.answer
            if answer is not None and reply.host in findings.hosts and self._memory.read(key)[0] != answer.stamp:
                self._memory.keep(key, answer)
        further = len(places) - MOST_NODES
        rest = [f"not checked: {further} more nodes, as {MOST_NODES} were asked"] if further > 0 else []
        notices = (*findings.notices, *rest)
        return Installed(summary(engine, questions, replies, findings), notices, tuple(absent if self._preview else ()))

    async def _all(
        self,
        parallel: ParallelConfig | None,
        places: Sequence[Place],
        commands: Sequence[Command],
        questions: Questions,
        engine: Engine,
    ) -> tuple[list[Reply], list[str]]:
        """The reply of each place, and the key of its help in the cache."""
        memory = getattr(engine.config, "memory", None)
        tools = TOOLS if memory is not None or any(place.devices for place in places) else ()
        request = Request(
            tuple(need.path for need in questions.needed), questions.package, questions.help, questions.version, tools
        )
        keys = [_key(place, command, questions) for place, command in zip(places, commands, strict=False)]
        work = (self._one(parallel, *each, request) for each in zip(places, commands, keys, strict=False))
        return list(await asyncio.gather(*work)), keys

    async def _one(
        self, parallel: ParallelConfig | None, place: Place, command: Command, key: str, request: Request
    ) -> Reply:
        reply = Reply(place.host, place.group.name, place.devices, command.argv[0])
        if place.executor != LOCAL and executor_class(place.executor).reserves:
            return replace(reply, reason=f"{place.executor} reserves {place.host} only when the run begins")
        known = self._memory.read(key) if request.help else ("", "", "")
        if request.help and not known[2]:
            limit = f"this may take {self.limit_s:g} s, once"
            self._report(f"Asking {command.argv[0]} on {place.host} for its flags; {limit}.")
        try:
            answering = self._answer(parallel, place, command, request, known)
            return replace(reply, answer=await self._watched(answering, f"{command.argv[0]} on {place.host}"))
        except SwarmTuneError as error:
            return replace(reply, reason=f"{place.host} cannot be asked ({error.message[:300]})")
        except OSError as error:
            return replace(reply, reason=f"{place.host} cannot be asked ({error})")

    async def _watched(self, answering: Coroutine[None, None, Answer], what: str) -> Answer:
        """The answer; a report for each third of the time that passes before it."""
        waiting, passed_s = asyncio.ensure_future(answering), 0.0
        try:
            while not (await asyncio.wait({waiting}, timeout=self.limit_s / 3))[0]:
                passed_s += self.limit_s / 3
                self._report(f"{what} has not answered for {passed_s:g} s.")
            return waiting.result()
        finally:
            if waiting.cancel():
                await asyncio.wait({waiting})

    async def _answer(
        self,
        parallel: ParallelConfig | None,
        place: Place,
        command: Command,
        request: Request,
        known: tuple[str, str, str],
    ) -> Answer:
        python = sys.executable if place.executor == LOCAL else "python3"
        with tempfile.TemporaryDirectory(prefix="swarmtune-") as folder:
            executor: Executor
            if place.executor == LOCAL or parallel is None or place.node is None:
                executor = LocalExecutor(Path(folder) / "question", self._clock)
            else:
                site = Site(self._clock, (), f"question-{uuid.uuid4().hex[:12]}")
                (executor,) = executors_for(parallel, [place.node], site, place.executor)
            try:
                return await ask(
                    executor, command, request, self._clock, python=python, known=known, limit_s=self.limit_s
                )
            finally:
                await executor.close()


def _places(parallel: ParallelConfig | None, groups: Sequence[Group]) -> list[Place]:
    """The masters of the groups, each once, with the devices that all its groups claim."""
    found: dict[tuple[object, ...], Place] = {}
    nodes = [group.ranks[0] for group in parallel.service_groups] if parallel else [None] * len(groups)
    for group, node in zip(groups, nodes, strict=True):
        name = LOCAL if parallel is None or node is None else executor_of(parallel, node.host, node.ssh_port)
        place = Place(node.host if node else HERE, group, node, group.nodes[0].devices, name)
        first = found.setdefault(place.identity, place)
        found[place.identity] = replace(first, devices=tuple(sorted({*first.devices, *place.devices})))
    return list(found.values())


def _unreachable(places: Sequence[Place]) -> list[str]:
    """A mistake where this machine's configuration leads to no connection with nodes."""
    hosts: dict[str, list[str]] = {}
    for place in places:
        if place.node and place.executor != LOCAL:
            hosts.setdefault(executor_class(place.executor).unreachable(place.node), []).append(place.host)
    return [f"{', '.join(named)} cannot be reached: {why}" for why, named in hosts.items() if why]


def _command(settings: BaseSections, engine: Engine, questions: Questions, place: Place) -> Command:
    """The command of the service there, without the values of a setting, or only its program where values are wrong.
    NO_COMMAND if that is not known either.
    """
    group = replace(place.group, rank=0)
    try:
        command = engine.command(Setting({}), group)
        if not command.argv or not command.argv[0]:
            raise ValueError("it names no program")
    except NO_COMMAND:
        if not questions.program:
            raise
        section = engine.config
        command = Command(
            (questions.program,), dict(getattr(section, "env", {})), cwd=getattr(section, "work_path", "")
        )
    return with_rank(settings.deploy.on_path(command), group)


def _folders(settings: BaseSections, engine: Engine) -> tuple[Needed, ...]:
    """The folder in which the service runs, and that whose programs come first, as whole paths."""
    section, table = section_name(engine), engine.config
    keys = [(f"{section}.{name}", getattr(table, name, "")) for name in ("cwd", "work_path")]
    named = next(((key, path) for key, path in keys if path), ("", ""))
    found = [Needed("folder", *named), Needed("folder", "deploy.path_prefix", settings.deploy.path_prefix)]
    return tuple(one for one in found if one.path.startswith("/"))


def _key(place: Place, command: Command, questions: Questions) -> str:
    """What the help depends on, beside the program itself."""
    ours = {k: v for k, v in command.env.items() if not k.startswith("SWARMTUNE_") and k not in command.secrets}
    return json.dumps(
        [place.executor, *place.identity, command.argv[0], questions.help, command.cwd, ours], sort_keys=True
    )


def _cache() -> Path:
    try:
        return Path.home() / ".cache" / "swarmtune" / "installed"
    except RuntimeError:  # no home: nothing can be kept
        return Path("/nonexistent")
