"""Commands on nodes that Slurm allots: one job for each service group, on each of its nodes an agent of ours runs commands.

Slurm allots the nodes; requests reach the agents (``node_agent.serve_allocation``) through the shared file system, as in
``shared_dir``. The job ends with the tuner; if the tuner dies, also before the job starts, the agents end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, Culprit
from swarmtune.execution.config import NodeConfig, ParallelConfig
from swarmtune.execution.executors.asking import ANSWER_S, AskingExecutor
from swarmtune.execution.executors.base import Site
from swarmtune.execution.executors.shared_dir import SharedDirectoryExecutor
from swarmtune.execution.executors.slurm_jobs import PROGRAMS, job_options, scancel, squeue, submit
from swarmtune.execution.mailbox import Message, Pulse, Watch

LOOK_S = 0.1  # between looks for the agents
ASK_S = (0.5, 15.0)  # between calls of squeue, first and longest: Slurm must not be called too often
AGENTS_S = 120.0  # for the agents to come, once the job runs
END_S = 30.0  # for a job to be gone


@dataclass(frozen=True)
class Allocation:
    """A job whose agents run. ``folder`` has one folder for each node, for its agent and its commands."""

    job: str
    folder: Path
    beating: asyncio.Task[None]


class SlurmReservation:
    """The nodes of a service group: reserved by one job at a time, until the last executor releases them."""

    def __init__(self, nodes: Sequence[NodeConfig], options: dict[str, Any], pending_s: float, clock: Clock) -> None:
        """``options``: see ``job_options``. ``pending_s``: how long a job may wait for its nodes."""
        self._hosts = [node.host for node in nodes]
        self._base = Path(nodes[0].work_dir).expanduser().absolute()
        self._options = options
        self._pending_s = pending_s
        self._clock = clock
        self._users = 0
        self._asked = False  # has a job ever been submitted?
        self._making: asyncio.Task[Allocation] | None = None
        self._jobs: list[Allocation] = []  # all jobs so far

    def use(self) -> None:
        """Count one more executor that uses the reservation."""
        self._users += 1

    @property
    def current(self) -> Allocation | None:
        """The current job, if there is one."""
        making = self._making
        made = making is not None and making.done() and not making.cancelled() and making.exception() is None
        return making.result() if making is not None and made else None

    async def allocation(self, anew: bool = True) -> Allocation:
        """The current job; submits one if there is none. A cancelled call leaves the job pending. Errors: see ``_reserve``.

        Without ``anew``: CommunicationError if an earlier job is over; no new one is submitted then.
        """
        if self._making is None or (self._making.done() and self.current is None):
            if self._asked and not anew:
                raise CommunicationError(f"the Slurm job for {', '.join(self._hosts)} is over")
            self._asked = True
            self._making = asyncio.create_task(self._reserve())
        return await asyncio.shield(self._making)

    async def lost(self, allocation: Allocation) -> None:
        """Give up a job of which a node does not answer; the next request submits another one."""
        if self.current is allocation:
            self._making = None
            await self._end(allocation)

    async def release(self) -> None:
        """Count one executor less; after the last, the job is ended and its files are removed."""
        self._users -= 1
        if self._users > 0:
            return
        if self._making is not None:
            await asyncio.gather(self._making, return_exceptions=True)
        for allocation in self._jobs:
            await self._end(allocation)
        deadline = self._clock.monotonic() + END_S
        for allocation in self._jobs:
            while await squeue(allocation.job) is not None and self._clock.monotonic() < deadline:
                await self._clock.sleep(ASK_S[0])
            await asyncio.to_thread(shutil.rmtree, allocation.folder, ignore_errors=True)

    async def _end(self, allocation: Allocation) -> None:
        """End a job. A failure is retried when the nodes are released; without our heartbeat the agents end anyway."""
        allocation.beating.cancel()
        with contextlib.suppress(OSError):
            (allocation.folder / "tuner.json").unlink(missing_ok=True)
        with contextlib.suppress(CommunicationError):
            await scancel(allocation.job)

    async def _reserve(self) -> Allocation:
        """Submit a job and wait for its agents. CommunicationError if Slurm refuses the job, keeps it waiting for too long,
        or ends it; the job is over then.
        """
        folder = self._base / f"slurm-{uuid.uuid4().hex[:12]}"
        job = await asyncio.to_thread(submit, folder, self._options)
        beating = asyncio.create_task(Pulse(folder / "tuner.json", uuid.uuid4().hex, self._clock).go_on())
        allocation = Allocation(job, folder, beating)
        self._jobs.append(allocation)
        try:
            await self._agents(allocation)
        except BaseException:
            await self._end(allocation)
            raise
        return allocation

    async def _agents(self, allocation: Allocation) -> None:
        """Wait for the agent of every node, and check the state of the job meanwhile."""
        what = f"the Slurm job {allocation.job} for {', '.join(self._hosts)}"
        watches = [Watch(allocation.folder / host / "node.json", self._clock) for host in self._hosts]
        every_s, running = ASK_S[0], False
        ask_at, deadline = self._clock.monotonic() + every_s, self._clock.monotonic() + self._pending_s
        state, reason = "PENDING", "not checked yet"
        while not all(watch.name() for watch in watches):
            now = self._clock.monotonic()
            if not self._users:
                raise CommunicationError(f"{what} is not needed any more")
            if now > min(ask_at, deadline):
                job_state = await squeue(allocation.job)
                if job_state is None:
                    raise CommunicationError(f"{what} is over before its agents came{_said(allocation)}")
                state, reason = job_state
                if state == "RUNNING" and not running:
                    running, deadline = True, now + AGENTS_S
                every_s = min(every_s * 1.5, ASK_S[1])
                ask_at = now + every_s
            if now > deadline:
                limit = f"no agent came in {AGENTS_S:g} s" if running else f"it waits for {self._pending_s:g} s already"
                raise CommunicationError(f"{what}: {limit} ({state}: {reason}); it is cancelled{_said(allocation)}")
            await self._clock.sleep(LOOK_S)


def _said(allocation: Allocation) -> str:
    """The last lines of the job's output, as the end of a message."""
    try:
        logs = sorted((allocation.folder / "job").glob("*.out"))
        lines = [line for log in logs for line in log.read_text(errors="replace").strip().splitlines()[-3:]]
    except OSError as error:
        return f". Its output cannot be read: {error}"
    return ". Its output: " + "; ".join(lines) if lines else ""


class SlurmExecutor(AskingExecutor):
    """One node of a reservation."""

    reserves = True

    @classmethod
    def for_nodes(cls, config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site) -> Sequence[SlurmExecutor]:
        """Executors for the nodes of one group, by rank. CommunicationError, for the user, if there is no Slurm here."""
        if lacking := [program for program in PROGRAMS if not shutil.which(program)]:
            raise CommunicationError(
                f"there is no Slurm here: {', '.join(lacking)} cannot be found. Run this on a machine that submits jobs, "
                "or use another executor",
                culprit=Culprit.USER,
            )
        reservation = SlurmReservation(nodes, job_options(config, nodes), config.slurm_pending_timeout, site.clock)
        return [cls(reservation, node.host, site.clock) for node in nodes]

    def __init__(self, reservation: SlurmReservation, host: str, clock: Clock) -> None:
        super().__init__()
        reservation.use()
        self._reservation = reservation
        self._host = host
        self._clock = clock
        self._agent: SharedDirectoryExecutor | None = None
        self._entering = asyncio.Lock()
        self._homes: dict[str, Allocation | None] = {}  # where each command runs

    @property
    def held(self) -> bool:
        """See Executor."""
        return self._reservation.current is not None

    async def put(self, local: Path, remote: str) -> None:
        """See Executor: by way of the shared file system. CommunicationError if there was a job, which is over."""
        async with self._asked(anew=False) as agent:
            await agent.put(local, remote)

    async def get(self, remote: str, local: Path) -> None:
        """See Executor: by way of the shared file system. CommunicationError if there was a job, which is over."""
        async with self._asked(anew=False) as agent:
            await agent.get(remote, local)

    async def close(self) -> None:
        """See Executor. The last executor of the group also ends the job."""
        if self.last_codes is not None:
            return
        self.last_codes = {}
        agent, self._agent = self._agent, None
        try:
            if agent is not None and self._is_current(agent):
                await agent.close()
                self.last_codes = agent.last_codes or {}
            elif agent is not None:
                agent.let_go()
        finally:
            await self._reservation.release()

    async def ask(self, name: str, wait_s: float = ANSWER_S, **facts: Any) -> Message:
        """See AskingExecutor. CommunicationError if the command's job is over; only a new command reserves anew."""
        number = facts.get("handle")
        if name != "start" and number is not None:
            home = self._homes.get(number)
            if home is None or home is not self._reservation.current:
                raise CommunicationError(f"{self._host}: the Slurm job of this command is over")
        async with self._asked(anew=name == "start") as agent:
            if name == "start":
                now = self._reservation.current
                self._homes = {n: home for n, home in self._homes.items() if home is now} | {str(number): now}
            return await agent.ask(name, wait_s, **facts)

    def _is_current(self, agent: SharedDirectoryExecutor) -> bool:
        now = self._reservation.current
        return now is not None and agent.folder.parent == now.folder

    @contextlib.asynccontextmanager
    async def _asked(self, anew: bool) -> AsyncIterator[SharedDirectoryExecutor]:
        """The node's agent; if it turns out to be gone, the job is given up."""
        async with self._entering:
            allocation = await self._reservation.allocation(anew)
            if self._agent is None or not self._is_current(self._agent):
                if self._agent is not None:
                    self._agent.let_go()
                self._agent = SharedDirectoryExecutor(allocation.folder / self._host, self._clock)
            agent = self._agent
        try:
            yield agent
        except CommunicationError as error:
            if agent.entered:  # it answers: something else was wrong
                raise
            await self._reservation.lost(allocation)
            text = f"{self._host}: the Slurm job {allocation.job} is lost: {error.message}"
            raise CommunicationError(text) from error
