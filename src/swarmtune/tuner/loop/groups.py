"""The groups that a run measures on: reached when it begins, let go when it ends, and changed with the hostfile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from swarmtune.clock import Clock
from swarmtune.errors import Culprit, SwarmTuneError
from swarmtune.execution.config import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.reach import Reach
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.health import HealthMonitor
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.fleet.turns import Turn, Turns, any_time
from swarmtune.records import Event
from swarmtune.tuner.loop.coordinator import Evaluates
from swarmtune.tuner.loop.evaluate import Evaluator
from swarmtune.tuner.planning.plan import Plan

LOOK_AT_HOSTFILE_S = 5.0


class Groups:
    """Makes the groups of a plan, and reaches their nodes."""

    def __init__(self, plan: Plan, folder: Path, clock: Clock, leftovers: Iterable[str]) -> None:
        """``folder``: the study's. ``leftovers``: tokens of commands that an earlier run may have left on the nodes."""
        self._plan = plan
        self._folder = folder
        self._clock = clock
        self._reach = Reach(plan.parallel or ParallelConfig(), clock, lambda _: None, None, leftovers, folder.name)
        self._local = LocalExecutor(folder, clock)
        self._open: list[Evaluator] = []
        self._turns = Turns()

    def all(self) -> list[Evaluator]:
        """Those that the plan names."""
        if self._plan.parallel is None:
            return [self._made(ServiceGroup(group, [self._local] * len(group.nodes))) for group in self._plan.groups]
        return [self.of_nodes(config) for config in self._plan.parallel.service_groups]

    def of_nodes(self, config: ServiceGroupConfig) -> Evaluator:
        """One on nodes; they are connected when they are first used. Their files are in a folder of this study."""
        assert self._plan.parallel is not None  # noqa: S101 - who has such a config has that
        turn = self._turns.of(config.ranks) if self._plan.parallel.in_turn else any_time
        return self._made(ServiceGroup(config.group, self._reach.of(config)), turn)

    async def retired(self, names: Iterable[str], pool: ServiceGroupPool[Evaluates]) -> None:
        """Wait until these groups have finished what they do, and let go of their nodes."""
        wanted = set(names)
        for group in [g for g in self._open if g.group.name in wanted]:
            while pool.holds(group):
                await pool.changed(pool.version)
            self._open.remove(group)
            with contextlib.suppress(SwarmTuneError):
                await group.stop()
            self._reach.let_go(group.nodes.executors)
        await self._reach.settled()

    async def close(self) -> None:
        """End everything on all of them; the first trouble is raised when all have been.

        Of other machines it is not raised: it must not cost the report. What runs on a lost one ends by its lease.
        """
        stopped = await asyncio.gather(*(group.stop() for group in self._open), return_exceptions=True)
        closed = await asyncio.gather(self._reach.close(), self._local.close(), return_exceptions=True)
        for result in (*stopped, *closed):
            nodes = self._plan.parallel is not None and isinstance(result, SwarmTuneError)
            if isinstance(result, BaseException) and not (nodes and _of_infrastructure(result)):
                raise result

    def _made(self, nodes: ServiceGroup, turn: Turn = any_time) -> Evaluator:
        made = Evaluator(self._plan, nodes, self._local, self._clock, self._folder.resolve() / "attempts", turn)
        self._open.append(made)
        return made


@contextlib.asynccontextmanager
async def looked_after(
    plan: Plan, groups: Groups, pool: ServiceGroupPool[Evaluates], clock: Clock, listen: Callable[[Event], None]
) -> AsyncIterator[None]:
    """While the body runs, idle groups are looked at, and who comes and goes in the hostfile joins and leaves."""
    parallel = plan.parallel
    if parallel is None:
        yield
        return
    async with HealthMonitor(pool, lambda group: group.answers(), clock, parallel.health_check_interval):
        watching = asyncio.create_task(_follow(plan.hostfile, parallel, groups, pool, clock, listen))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _follow(
    hostfile: ParallelConfig | None,
    known: ParallelConfig,
    groups: Groups,
    pool: ServiceGroupPool[Evaluates],
    clock: Clock,
    listen: Callable[[Event], None],
) -> None:
    if hostfile is None or hostfile.hostfile is None:
        return
    path = Path(hostfile.hostfile).expanduser()
    there = {place: g.group_id for place, g in by_place(known.service_groups).items()}
    stamp, serial = _stamp(path), len(there)
    while True:
        await clock.sleep(LOOK_AT_HOSTFILE_S)
        if (now := _stamp(path)) == stamp:
            continue
        stamp = now
        try:
            wanted = by_place(hostfile.resolved().service_groups)
        except SwarmTuneError as error:
            listen(Event("groups", clock.wall(), {"message": f"the hostfile is left as it was: {error.message}"}))
            continue
        left = {place: there.pop(place) for place in there.keys() - wanted.keys()}
        hosts = {node.host for ranks, _ in left for node in ranks}
        new = {place: any(node.host in hosts for node in place[0]) for place in wanted if place not in there}
        for name in left.values():
            if name in pool.names:  # else it was left out before
                pool.leave(name)
            listen(Event("groups", clock.wall(), {"message": f"{name} leaves"}))
        # Who takes over a machine comes when its group has let go of it.
        for place, takes_over in sorted(new.items(), key=lambda item: item[1]):
            if takes_over:
                await groups.retired(left.values(), pool)
            name = f"group{serial}"
            serial += 1
            there[place] = name
            pool.join(groups.of_nodes(wanted[place].model_copy(update={"group_id": name})))
            hosts_of = ", ".join(node.host for node in place[0])
            listen(Event("groups", clock.wall(), {"message": f"{name} joins: {hosts_of}"}))
        await groups.retired(left.values(), pool)


def by_place(groups: Iterable[ServiceGroupConfig]) -> dict[tuple[tuple[NodeConfig, ...], int], ServiceGroupConfig]:
    """The groups by their nodes, and which of those that share the same ones it is."""
    found: dict[tuple[tuple[NodeConfig, ...], int], ServiceGroupConfig] = {}
    for group in groups:
        found[group.ranks, sum(ranks == group.ranks for ranks, _ in found)] = group
    return found


def _of_infrastructure(error: BaseException) -> bool:
    return isinstance(error, SwarmTuneError) and error.culprit is Culprit.INFRASTRUCTURE


def _stamp(path: Path) -> tuple[int, int]:
    try:
        info = path.stat()
    except OSError:
        return (0, 0)
    return info.st_mtime_ns, info.st_size
