"""The groups of a run: made when it begins, released when it ends, and changed with the hostfile."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from swarmtune.clock import Clock
from swarmtune.errors import Culprit, SwarmTuneError
from swarmtune.execution.config import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.reach import Reach
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.dispatch import Dispatcher, Member
from swarmtune.fleet.health import HealthMonitor, RetryPolicy
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.fleet.service_run import START_S, ServiceRun
from swarmtune.fleet.turns import Turn, Turns, any_time
from swarmtune.records import Event
from swarmtune.tuner.loop.coordinator import Candidate
from swarmtune.tuner.loop.evaluation import Bench, Measured
from swarmtune.tuner.planning.plan import Plan

LOOK_AT_HOSTFILE_S = 5.0
NEVER = 10**9  # failures in a row that open the breaker of the only group: nothing else could take its work


class Groups:
    """Makes the groups of a plan and their executors."""

    def __init__(self, plan: Plan, folder: Path, clock: Clock, leftovers: Iterable[str]) -> None:
        """``folder``: the study's. ``leftovers``: tokens of commands that an earlier run may have left on the nodes."""
        self._plan = plan
        self._clock = clock
        self._reach = Reach(plan.parallel or ParallelConfig(), clock, lambda _: None, None, leftovers, folder.name)
        self._local = LocalExecutor(folder, clock)
        self.bench = Bench(self._local, clock, folder.resolve() / "attempts", plan.load_python)
        self._open: dict[str, ServiceRun[Measured]] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._waiters: dict[str, asyncio.Event] = {}  # set when a group that left the pool has ended its work
        self._turns = Turns()

    def dispatcher(self, listen: Callable[[Event], None]) -> Dispatcher[Candidate, Measured]:
        """A dispatcher for the groups of the plan."""
        plan = self._plan
        return dispatcher_of(plan, self._all(), self._clock, listen, self._gone)

    def of_nodes(self, config: ServiceGroupConfig) -> ServiceRun[Measured]:
        """A group on nodes; they are connected when they are first used. Their files are in a folder of this study."""
        parallel = self._plan.parallel
        assert parallel is not None  # noqa: S101 - such a config comes from there
        turn = self._turns.of(config.ranks) if parallel.in_turn else any_time
        return self._made(ServiceGroup(config.group, self._reach.of(config)), turn, parallel.start_s)

    async def retired(self, names: Iterable[str]) -> None:
        """Wait until these groups, which have left the pool, have ended their work and released their nodes."""
        for name in names:
            if name in self._open:
                await self._waiters.setdefault(name, asyncio.Event()).wait()
            if name in self._closing:
                await asyncio.gather(self._closing[name], return_exceptions=True)
        await self._reach.settled()

    async def close(self) -> None:
        """Stop all services and close all executors; the first error is raised after all have been tried.

        An infrastructure error of another machine is not raised, because it must not cost the report: commands on a lost
        machine end when their lease expires.
        """
        await asyncio.gather(*self._closing.values(), return_exceptions=True)
        stopped = await asyncio.gather(*(group.stop() for group in self._open.values()), return_exceptions=True)
        closed = await asyncio.gather(self._reach.close(), self._local.close(), return_exceptions=True)
        for result in (*stopped, *closed):
            nodes = self._plan.parallel is not None and isinstance(result, SwarmTuneError)
            if isinstance(result, BaseException) and not (nodes and _of_infrastructure(result)):
                raise result

    def _all(self) -> list[ServiceRun[Measured]]:
        if self._plan.parallel is None:
            return [self._made(ServiceGroup(group, [self._local] * len(group.nodes))) for group in self._plan.groups]
        return [self.of_nodes(config) for config in self._plan.parallel.service_groups]

    def _made(self, nodes: ServiceGroup, turn: Turn = any_time, start_s: float = START_S) -> ServiceRun[Measured]:
        made: ServiceRun[Measured] = ServiceRun(nodes, self._clock, turn, start_s)
        self._open[made.name] = made
        return made

    def _gone(self, member: Member[Measured]) -> None:
        """Stop the service of a group that has left the pool, and release its nodes, in the background."""
        group = self._open.pop(member.name)
        self._closing[group.name] = asyncio.create_task(self._release(group))
        if group.name in self._waiters:
            self._waiters.pop(group.name).set()

    async def _release(self, group: ServiceRun[Measured]) -> None:
        with contextlib.suppress(SwarmTuneError):
            await group.stop()
        self._reach.let_go([e for e in group.nodes.executors if e is not self._local])


def dispatcher_of(
    plan: Plan,
    groups: Iterable[Member[Measured]],
    clock: Clock,
    listen: Callable[[Event], None],
    gone: Callable[[Member[Measured]], None] = lambda _: None,
) -> Dispatcher[Candidate, Measured]:
    """A dispatcher for these groups, with the breakers and retries of the plan."""
    parallel = plan.parallel
    failures, open_s = (parallel.breaker_failures, parallel.breaker_recovery) if parallel else (NEVER, 0.0)
    pool: ServiceGroupPool[Member[Measured]] = ServiceGroupPool(groups, clock, lambda g: g.name, failures, open_s)
    pause_s = parallel.retry_delay if parallel else RetryPolicy.first_delay_s
    retry = RetryPolicy(plan.max_attempts, first_delay_s=pause_s)
    return Dispatcher(pool, clock, retry, listen, gone, random.Random(plan.seed))


@contextlib.asynccontextmanager
async def looked_after(
    plan: Plan,
    groups: Groups,
    dispatcher: Dispatcher[Candidate, Measured],
    clock: Clock,
    listen: Callable[[Event], None],
) -> AsyncIterator[None]:
    """While the body runs, idle groups are checked, and groups join and leave as the hostfile changes."""
    parallel = plan.parallel
    if parallel is None:
        yield
        return
    async with HealthMonitor(dispatcher.pool, parallel.health_check_interval):
        watching = asyncio.create_task(_follow(plan.hostfile, parallel, groups, dispatcher, clock, listen))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _follow(
    hostfile: ParallelConfig | None,
    current: ParallelConfig,
    groups: Groups,
    dispatcher: Dispatcher[Candidate, Measured],
    clock: Clock,
    listen: Callable[[Event], None],
) -> None:
    if hostfile is None or hostfile.hostfile is None:
        return
    path, pool = Path(hostfile.hostfile).expanduser(), dispatcher.pool
    there = {place: g.group_id for place, g in by_place(current.service_groups).items()}
    stamp, serial = _stamp(path), len(there)
    while True:
        await clock.sleep(LOOK_AT_HOSTFILE_S)
        if (now := _stamp(path)) == stamp:
            continue
        stamp = now
        try:
            wanted = by_place(hostfile.resolved().service_groups)
        except SwarmTuneError as error:
            listen(
                Event("groups", clock.wall(), {"message": f"the change of the hostfile is ignored: {error.message}"})
            )
            continue
        removed = {place: there.pop(place) for place in there.keys() - wanted.keys()}
        hosts = {node.host for ranks, _ in removed for node in ranks}
        new = {place: any(node.host in hosts for node in place[0]) for place in wanted if place not in there}
        for name in removed.values():
            if name in pool.names:  # else it was dismissed before
                dispatcher.leave(name, "it is no longer in the hostfile")
        # A group that takes over a machine joins after the machine has been released.
        for place, takes_over in sorted(new.items(), key=lambda item: item[1]):
            if takes_over:
                await groups.retired(removed.values())
            name = f"group{serial}"
            serial += 1
            there[place] = name
            pool.join(groups.of_nodes(wanted[place].model_copy(update={"group_id": name})))
            hosts_of = ", ".join(node.host for node in place[0])
            listen(Event("groups", clock.wall(), {"message": f"{name} joins: {hosts_of}"}))
        await groups.retired(removed.values())


def by_place(groups: Iterable[ServiceGroupConfig]) -> dict[tuple[tuple[NodeConfig, ...], int], ServiceGroupConfig]:
    """The groups by their nodes and their index among the groups on the same nodes."""
    places: dict[tuple[tuple[NodeConfig, ...], int], ServiceGroupConfig] = {}
    for group in groups:
        places[group.ranks, sum(ranks == group.ranks for ranks, _ in places)] = group
    return places


def _of_infrastructure(error: BaseException) -> bool:
    return isinstance(error, SwarmTuneError) and error.culprit is Culprit.INFRASTRUCTURE


def _stamp(path: Path) -> tuple[int, int]:
    try:
        info = path.stat()
    except OSError:
        return (0, 0)
    return info.st_mtime_ns, info.st_size
