"""Commands on a node that shares only a file system with us: an agent there reads them from a folder.

On the node: ``swarmtune node --shared FOLDER --name NODE``. The commands are those of the older tuner's two-machine mode
(init, start, check_success, process_poll, stop, backup, eof), and put.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, Culprit, IPCTimeoutError
from swarmtune.execution.executors.asking import ANSWER_S, AskingExecutor, raised_of
from swarmtune.execution.executors.base import Site
from swarmtune.execution.executors.local import copy
from swarmtune.execution.mailbox import POLL_S, Message, Pulse, Watch, distrust, read_message, write_message

if TYPE_CHECKING:
    from swarmtune.execution.config import NodeConfig, ParallelConfig


class SharedDirectoryExecutor(AskingExecutor):
    """Asks the agent of one node. ``folder`` is the node's own in the shared file system."""

    @classmethod
    def for_nodes(
        cls, config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site
    ) -> Sequence[SharedDirectoryExecutor]:
        """See Executor. ``work_dir`` is the shared folder, and the host's name that of the node's folder in it."""
        del config
        return [cls(Path(node.work_dir).expanduser() / node.host, site.clock) for node in nodes]

    def __init__(self, folder: Path, clock: Clock, lock_s: float = 60.0) -> None:
        """``lock_s``: seconds to wait for the agent to appear, or for another tuner to leave."""
        super().__init__()
        self.folder = folder.absolute()
        self._clock = clock
        self._lock_s = lock_s
        self._name = uuid.uuid4().hex
        self._pulse = Pulse(self.folder / "tuner.json", self._name, clock)
        self._watch = Watch(self.folder / "node.json", clock)
        self._numbers = itertools.count(1)
        self._beating: asyncio.Task[None] | None = None
        self._entering = asyncio.Lock()

    async def put(self, local: Path, remote: str) -> None:
        """See Executor: by way of the shared folder."""
        async with self._passage() as passage:
            await asyncio.to_thread(copy, local.resolve(), passage / "it")
            await self.ask("put", passage=passage.name, path=remote)

    async def get(self, remote: str, local: Path) -> None:
        """See Executor: by way of the shared folder."""
        async with self._passage() as passage:
            await self.ask("backup", passage=passage.name, path=remote)
            await asyncio.to_thread(copy, passage / "it", local)

    async def close(self) -> None:
        """See Executor. The agent keeps running and waits for the next tuner."""
        if self.last_codes is not None:
            return
        self.last_codes = {}
        if self._beating is None:
            return
        try:
            self.last_codes = raised_of(await self._exchange("eof", {}, ANSWER_S))["codes"]
        finally:
            self.let_go()

    async def ask(self, name: str, wait_s: float = ANSWER_S, **facts: Any) -> Message:
        """See AskingExecutor."""
        async with self._entering:
            if self._beating is None:
                await self._enter()
        try:
            answer = await self._exchange(name, facts, wait_s)
        except CommunicationError:  # the agent is gone: the next question begins anew
            self.let_go()
            raise
        if answer.get("details", {}).get("lost"):  # it has been started again
            self.let_go()
        return raised_of(answer)

    @property
    def entered(self) -> bool:
        """Is the agent ours?"""
        return self._beating is not None

    def let_go(self) -> None:
        """Leave the agent without a request; it ends our commands when it misses our heartbeat."""
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
        self._pulse.path.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _passage(self) -> AsyncIterator[Path]:
        """A temporary folder of the shared file system, through which a copy goes."""
        passage = self.folder / "files" / uuid.uuid4().hex
        try:
            passage.parent.mkdir(mode=0o700, exist_ok=True)
            yield passage
        finally:
            await asyncio.to_thread(shutil.rmtree, passage, ignore_errors=True)

    async def _enter(self) -> None:
        """Wait until the agent is there and no other tuner uses it; then take it. CommunicationError: others can write its
        folder.
        """
        deadline = self._clock.monotonic() + self._lock_s
        other = Watch(self._pulse.path, self._clock)
        while True:
            if doubt := distrust(self.folder) or distrust(self._watch.path):
                raise CommunicationError(doubt, culprit=Culprit.USER)
            agent, tuner = self._watch.name(), other.name()
            if agent is not None and tuner in (None, self._name):
                break
            if self._clock.monotonic() > deadline:
                trouble = f"the tuner {tuner} uses it" if agent else "no agent answers there"
                raise IPCTimeoutError(
                    f"{self.folder}: {trouble}. On the node, run: swarmtune node --shared {self.folder.parent} "
                    f"--name {self.folder.name}",
                    culprit=Culprit.USER,
                )
            await self._clock.sleep(POLL_S)
        self._pulse.beat()
        self._beating = asyncio.create_task(self._pulse.go_on())
        try:
            raised_of(await self._exchange("init", {}, self._lock_s))
        except BaseException:
            self.let_go()
            raise

    async def _exchange(self, name: str, facts: Message, wait_s: float) -> Message:
        identity = f"{next(self._numbers):06d}-{name}-{self._name[:8]}"
        command, answer = (self.folder / kind / f"{identity}.json" for kind in ("commands", "answers"))
        write_message(command, {"command": name, "tuner": self._name, **facts})
        deadline = self._clock.monotonic() + wait_s
        while (reply := read_message(answer)) is None:
            if self._watch.name() is None:
                command.unlink(missing_ok=True)
                raise CommunicationError(f"{self.folder}: the agent of the node is gone; start it again")
            if self._clock.monotonic() > deadline:
                command.unlink(missing_ok=True)
                raise IPCTimeoutError(f"{self.folder}: no answer to {name!r} within {wait_s:g} s")
            await self._clock.sleep(POLL_S)
        answer.unlink(missing_ok=True)
        return reply
