"""The dispatcher: gives each free group the next piece of work, without a barrier. Every piece ends exactly once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError, Culprit, SimulatorError, SimulatorStartError, SwarmTuneError
from swarmtune.fleet.blame import Blame, Evidence, blame
from swarmtune.fleet.health import RetryPolicy
from swarmtune.fleet.history import Failure, History
from swarmtune.fleet.job import Job, Report, RunResult, Stage
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.records import Event, Group

W = TypeVar("W")
R = TypeVar("R")
UNKNOWN_CAUSE = "crashed"  # the diagnosis of an engine that ended without a known error in its log


class Member(Protocol[R]):
    """What the dispatcher needs from a group; ``ServiceRun`` is one."""

    group: Group

    @property
    def name(self) -> str: ...

    async def run(self, job: Job[R], report: Report) -> RunResult[R]: ...

    async def stop(self) -> None: ...

    async def answers(self) -> bool: ...


@dataclass(eq=False)
class Work(Generic[W]):
    """A piece of work that waits for a group, and the history of its attempts."""

    item: W
    serial: int = field(default_factory=itertools.count().__next__)
    tries: int = 0  # attempts that count against the retry limit
    attempts: int = 0
    failed_on: set[str] = field(default_factory=set)  # groups that gave no result
    suspects: set[str] = field(default_factory=set)  # groups to blame if another group serves this work
    refused: int = 0  # failed starts on groups that had served
    crashes: int = 0  # crashes of services on several nodes, during use
    held_back: bool = False  # not tried again where it failed, until a service has become ready somewhere


class Source(Protocol[W, R]):
    """Where work comes from, and where results go. An error that a method raises ends the run.

    For each ``begin`` there is one ``end``, unless the run is cancelled or fails first: then ``end`` is not called.
    """

    @property
    def more(self) -> bool:
        """May ``take`` still return work?"""
        ...

    @property
    def has_results(self) -> bool:
        """Has anything been measured before this run, or in it?"""
        ...

    def take(self, group: str) -> Work[W] | None:
        """New work for this group, which is free; None when no work is left."""
        ...

    def expected_s(self, waiting: Sequence[Work[W]]) -> Sequence[float]:
        """Expected seconds of each piece; the longest goes first (Graham 1969). Equal values keep the order."""
        ...

    def begin(self, work: Work[W], group: Group) -> Job[R]:
        """Begin an attempt at this work on this group; returns its job."""
        ...

    async def end(self, work: Work[W], group: Group, run: RunResult[R], fault: Blame | None) -> bool:
        """Record the end of an attempt; ``fault`` is None if there is a result. Returns whether to try again."""
        ...


class Dispatcher(Generic[W, R]):
    """Assigns work to the groups of a pool.

    Work that a group lost goes to another group first. A group that keeps failing is held back by its circuit breaker,
    which counts failed starts and losses, not scores. A group whose nodes only the user can repair leaves the pool, as
    long as there are others.
    """

    def __init__(
        self,
        pool: ServiceGroupPool[Member[R]],
        clock: Clock,
        retry: RetryPolicy,
        listen: Callable[[Event], None],
        gone: Callable[[Member[R]], None] = lambda _: None,
        rng: random.Random | None = None,
    ) -> None:
        """``listen`` gets the events "groups" (counts, or a message), and the phases of each run. ``gone`` is called with
        a group that has left the pool, once its last attempt has ended.
        """
        self.pool = pool
        self._clock = clock
        self.retry = retry
        self._listen = listen
        self._gone = gone
        self._leaving: set[Member[R]] = set()
        self._attempts: Counter[Member[R]] = Counter()  # running attempts of each group
        self._doubted: WeakSet[Work[W]] = WeakSet()  # work whose failed start another group is to confirm
        self._running: set[asyncio.Task[None]] = set()
        self._rng = rng or random.Random()
        self._history = History(clock)

    async def run(self, source: Source[W, R]) -> None:
        """Return when the source has no more work and all attempts have ended.

        Raises errors that the user must act on: CommunicationError when no group is left, SimulatorStartError when no
        service can be started on any group. A cancelled or failed run has ended its attempts, with the services that
        they used, before it returns; services that were kept for a next job go on until their groups stop them.
        """
        waiting: list[Work[W]] = []
        running: set[asyncio.Task[None]] = set()
        if not self._running:
            self._history.forget_failures()  # of earlier runs: what was broken then may work now
        try:
            while True:
                version = self.pool.version
                self._check_hope(source)
                while (assignment := self._assignment(source, waiting)) is not None:
                    work, lease = assignment
                    task = asyncio.create_task(self._attempt(work, lease, source, waiting))
                    task.add_done_callback(lease.task_ended)
                    running.add(task)
                    self._running.add(task)
                if not running and not waiting and not source.more:
                    return
                self._check_stuck(running, waiting, source)
                done = await self._wait_for_change(running, version)
                running -= done
                self._running -= done
                errors = [error for task in done if (error := task.exception()) is not None]
                if errors:
                    raise errors[0]
        finally:
            await _end(running)
            self._running -= running

    async def close(self) -> None:
        """Cancel all running attempts and wait until they have stopped their services."""
        await _end(list(self._running))

    def leave(self, name: str, reason: str, *, how: str = "leaves") -> None:
        """Give a group no more work; a running attempt still finishes. ConfigurationError if there is no such group."""
        group = self.pool.leave(name)
        self._leaving.add(group)
        self._emit(f"{name} {how}: {reason}", left=name, reason=reason)
        self._finish_leaving(group)

    async def run_on(self, name: str, work: Work[W], source: Source[W, R]) -> None:
        """Make one attempt on this group, even if its breaker is open. CommunicationError if it is busy or has left.

        A cancelled call stops the service that it used, and gives the group back.
        """
        group = self.pool.take(name)
        if group is None:
            raise CommunicationError(f"the group {name} is busy or has left")
        await self._attempt(work, _Lease(self.pool, group), source, [])

    # --- assignment ----------------------------------------------------------------------------------------------

    def _assignment(self, source: Source[W, R], waiting: list[Work[W]]) -> tuple[Work[W], _Lease[R]] | None:
        """A piece of work and a free group for it: lost work comes first, on another group if possible."""
        for work in self._longest_first(source, waiting):
            avoid = work.failed_on
            strictly = work.held_back and not self._history.any_served(self.pool.names)
            if (group := self.pool.try_acquire(avoid, strictly=strictly)) is not None:
                waiting.remove(work)
                return work, _Lease(self.pool, group)
        doubtful = {name for work in self._doubted for name in work.suspects}  # no new work while in doubt
        if not source.more or (group := self.pool.try_acquire(doubtful, strictly=True)) is None:
            return None
        lease = _Lease(self.pool, group)
        try:
            new = source.take(group.name)
        except BaseException:
            lease.release(None)
            raise
        if new is None:
            lease.release(None)
            return None
        return new, lease

    def _longest_first(self, source: Source[W, R], waiting: Sequence[Work[W]]) -> list[Work[W]]:
        if len(waiting) < 2:
            return list(waiting)
        expected = source.expected_s(waiting)
        return [waiting[i] for i in sorted(range(len(waiting)), key=lambda i: -expected[i])]

    async def _wait_for_change(self, running: set[asyncio.Task[None]], version: int) -> set[asyncio.Task[None]]:
        """Wait until an attempt has ended or the pool has changed; returns the attempts that have ended."""
        names = self.pool.names
        if not running and not names:
            raise CommunicationError("no group of nodes is left to measure on; nothing is lost: resume with -lb")
        waits = {asyncio.create_task(self.pool.changed(version))}
        if (wait_s := self._history.hopeless_in(names)) is not None:
            waits.add(asyncio.create_task(self._clock.sleep(wait_s)))
        try:
            done, _ = await asyncio.wait({*running, *waits}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return done - waits

    # --- one attempt ---------------------------------------------------------------------------------------------

    async def _attempt(self, work: Work[W], lease: _Lease[R], source: Source[W, R], waiting: list[Work[W]]) -> None:
        """Make one attempt on this group; work that is to be tried again joins ``waiting``, after a pause."""
        group = lease.group
        self._attempts[group] += 1
        try:
            again = await self._try(work, lease, source)
        finally:
            self._attempts[group] -= 1
            self._finish_leaving(group)
        if again is not None:
            if again.counts:
                await self._clock.sleep(self.retry.delay_s(max(1, work.tries), self._rng))
            waiting.append(work)

    async def _try(self, work: Work[W], lease: _Lease[R], source: Source[W, R]) -> Blame | None:
        """Run one attempt; returns the blame if the work is to be tried again, None if it has ended."""
        group = lease.group
        ok: bool | None = None
        try:
            job = source.begin(work, group.group)
            run = await group.run(job, self._reporter(group, job))
            fault = self._judge(work, group, run)
            ok = _group_ok(run, fault)
        finally:
            lease.release(ok)
        if fault is not None and fault.culprit is Culprit.BUG and run.error is not None:
            raise run.error
        again = await source.end(work, group.group, run, fault)
        if not again:
            self._doubted.discard(work)
        self._emit_counts()
        self._check_hope(source)
        if fault is not None and fault.culprit is Culprit.USER and run.error is not None:
            self._dismiss(group.name, run.error)
        elif run.trouble is not None and run.trouble.culprit is Culprit.USER:
            self._dismiss(group.name, run.trouble)
        return fault if again else None

    def _judge(self, work: Work[W], group: Member[R], run: RunResult[R]) -> Blame | None:
        """The blame for a run without a result, None for one with a result. Updates the work's counters."""
        work.attempts += 1
        if run.served:
            self._history.serves(group.name)
        if run.error is None:
            for name in work.suspects - {group.name}:
                self.pool.suspect(name)
            return None
        if not run.served:
            self._history.failed(group.name, work.serial, run.stage, run.error)
        others = [name for name in self.pool.names if name != group.name]
        served = self._history.has_served(group.name)
        lost = run.trouble is not None and run.trouble.culprit is Culprit.INFRASTRUCTURE
        nodes_answer = False if lost else run.nodes_answer
        cause = run.error.details.get("cause", UNKNOWN_CAUSE)
        crashed = run.died and len(group.group.nodes) > 1 and cause == UNKNOWN_CAUSE
        fault = blame(
            Evidence(
                stage=run.stage,
                diagnosis=run.error.culprit,
                of_service=isinstance(run.error, SimulatorError),
                nodes_answer=nodes_answer,
                group_served=served,
                others_served=self._history.any_served(others),
                failures_in_a_row=self._history.in_a_row(group.name),
                failed_before=work.refused > 0,
                several_crashed=crashed,
                crashed_before=work.crashes > 0,
                alone=not others,
                hopeless=bool(self._history.hopeless(self.pool.names)),
            )
        )
        work.crashes += crashed
        suspected = run.stage is Stage.READY and run.error.culprit is Culprit.SETTING and nodes_answer is not False
        work.refused += served and suspected
        again = group.name in work.failed_on and not fault.holds_back
        work.tries += fault.counts or again  # so that no work goes round for ever
        work.failed_on.add(group.name)
        work.held_back = work.held_back or fault.holds_back
        if fault.asks_another:
            work.suspects.add(group.name)
            self._doubted.add(work)
        return fault

    def _dismiss(self, name: str, error: SwarmTuneError) -> None:
        """Let a group leave that only the user can repair (unknown host key, missing model); raise if it is the last."""
        if name in self.pool.names:
            if self.pool.names == (name,):
                raise error
            self.leave(name, error.message, how="is left out")

    def _finish_leaving(self, group: Member[R]) -> None:
        if group in self._leaving and not self.pool.holds(group) and not self._attempts[group]:
            self._leaving.discard(group)
            self._history.forget(group.name)
            self._gone(group)

    def _check_hope(self, source: Source[W, R]) -> None:
        """Raise an error for the user if no service can be started on any group."""
        if last := self._history.hopeless(self.pool.names):
            raise hopeless(last, resumed=source.has_results)

    def _check_stuck(self, running: Collection[Any], waiting: Sequence[Work[W]], source: Source[W, R]) -> None:
        """If only work is left that failed before any service became ready, nothing can tell whose fault it is.

        Where the source has results of earlier runs, the groups are believed to serve; else the user must act.
        """
        names = self.pool.names
        stuck = bool(waiting) and all(work.held_back for work in waiting) and not running and not source.more
        if not stuck or self._history.any_served(names):
            return
        if source.has_results:
            for name in names:
                self._history.serves(name)
            self.pool.poke()
        elif last := self._history.latest(names):
            raise hopeless(last)

    # --- events --------------------------------------------------------------------------------------------------

    def _reporter(self, group: Member[R], job: Job[R]) -> Report:
        def report(phase: str, facts: Mapping[str, Any]) -> None:
            self._listen(Event(phase, self._clock.wall(), {"group": group.name, **job.facts, **facts}))

        return report

    def _emit_counts(self) -> None:
        facts = {**asdict(self.pool.counts), "names": list(self.pool.names)}
        self._listen(Event("groups", self._clock.wall(), facts))

    def _emit(self, message: str, **facts: Any) -> None:
        self._listen(Event("groups", self._clock.wall(), {"message": message, **facts}))


@dataclass(eq=False)
class _Lease(Generic[R]):
    """A group that an attempt has from the pool, until it is released; a second release does nothing."""

    pool: ServiceGroupPool[Member[R]]
    group: Member[R]
    released: bool = False

    def task_ended(self, _: asyncio.Task[None]) -> None:
        """The attempt has ended, perhaps cancelled before it began."""
        self.release(None)

    def release(self, ok: bool | None) -> None:
        """Give the group back; ``ok``: see ``ServiceGroupPool.release``."""
        if not self.released:
            self.released = True
            self.pool.release(self.group, ok)


def hopeless(last: Sequence[tuple[str, Failure]], *, resumed: bool = False) -> SwarmTuneError:
    """The error for the user when no service can be started on any group; ``last``: the latest failure of each.

    Its details say ``hopeless``. ``resumed``: earlier runs have results.
    """
    reasons = dict.fromkeys(failure.error.message for _, failure in last)
    lines = [f"{', '.join(n for n, f in last if f.error.message == reason)}: {reason}" for reason in reasons]
    details = {**last[-1][1].error.details, "hopeless": True}
    if all(failure.stage in (Stage.LOOK, Stage.START) for _, failure in last):
        text = "No group of nodes can be reached. Check host names, SSH access and ports; then resume with -lb.\n"
        return CommunicationError(text + "\n".join(lines), details=details, culprit=Culprit.USER)
    which = "since the study was resumed" if resumed else "with any setting so far, the baseline included"
    text = (
        f"No service has become ready on any group, {which}. Start the service by "
        "hand, with the command that `swarmtune check` shows, until it works, then resume with -lb; nothing was stored as a "
        "failed setting. The reason:\n"
    )
    return SimulatorStartError(text + "\n".join(lines), details=details, culprit=Culprit.USER)


def _group_ok(run: RunResult[Any], fault: Blame | None) -> bool | None:
    """The report to the group's breaker, about starts and losses, not scores. None: nothing to report."""
    if run.trouble is not None:
        return False
    return True if fault is None or (run.served and fault.culprit is Culprit.SETTING) else fault.group_ok


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        if not task.cancelling():  # a second cancellation would interrupt its clean-up
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
