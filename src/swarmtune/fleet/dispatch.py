"""The dispatcher: gives each free group the next piece of work, and every piece exactly one end. No barrier."""

from __future__ import annotations

import asyncio
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
UNKNOWN_CAUSE = "crashed"  # the diagnosis of an engine that ended without a line that tells why


class Member(Protocol[R]):
    """What the dispatcher needs of a group; ``ServiceRun`` is one."""

    group: Group

    @property
    def name(self) -> str: ...

    async def run(self, job: Job[R], report: Report) -> RunResult[R]: ...

    async def stop(self) -> None: ...

    async def answers(self) -> bool: ...


@dataclass(eq=False)
class Work(Generic[W]):
    """A piece of work that waits for a group, and what became of it so far."""

    item: W
    tries: int = 0  # that count
    attempts: int = 0
    failed_on: set[str] = field(default_factory=set)  # groups that gave no result
    suspects: set[str] = field(default_factory=set)  # groups to blame if another one serves it
    refused: int = 0  # times that it failed to start on a group that had served
    crashes: int = 0  # of services that span nodes, while they were used
    held_back: bool = False  # not again where it failed, until a service has become ready somewhere


class Source(Protocol[W, R]):
    """Where work comes from, and where results go. Called between awaits; errors end the run."""

    @property
    def more(self) -> bool:
        """May ``take`` still give something?"""
        ...

    def take(self, group: str) -> Work[W] | None:
        """New work for this group, which is free now; None: nothing is left."""
        ...

    def expected_s(self, waiting: Sequence[Work[W]]) -> Sequence[float]:
        """How long each may take, where that is known; the longest goes first (Graham 1969)."""
        ...

    def begin(self, work: Work[W], group: Group) -> Job[R]:
        """An attempt at it begins on this group."""
        ...

    async def end(self, work: Work[W], group: Group, run: RunResult[R], verdict: Blame | None) -> bool:
        """The attempt has ended: ``verdict`` None with a result, else whose fault it is. True: it is to be tried again."""
        ...


class Dispatcher(Generic[W, R]):
    """Work for the groups of a pool.

    What a group lost goes to another one first. A group that keeps failing is held back by its circuit breaker, which
    hears of starts and losses, not of scores. A group whose nodes need their user leaves, while there are others.
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
        """``listen`` gets the events "groups" (counts, or a message), and the phases of each run. ``gone`` gets a group
        that has left, when nothing of it goes on.
        """
        self.pool = pool
        self._clock = clock
        self.retry = retry
        self._listen = listen
        self._gone = gone
        self._left: set[Member[R]] = set()
        self._attempts: Counter[Member[R]] = Counter()  # that go on
        self._doubted: WeakSet[Work[W]] = WeakSet()  # work that waits for the second opinion of another group
        self._running: set[asyncio.Task[None]] = set()
        self._rng = rng or random.Random()
        self._history = History(clock)

    async def run(self, source: Source[W, R]) -> None:
        """Until the source has nothing more and everything has ended. A cancelled run leaves no service of its own.

        Raises what the user must act on: CommunicationError when no group is left, SimulatorStartError when no service
        can be started on any group.
        """
        waiting: list[Work[W]] = []
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                version = self.pool.version
                while (found := self._assignment(source, waiting)) is not None:
                    running.add(asyncio.create_task(self._attempt(*found, source, waiting)))
                    self._running |= running
                if not running and not waiting and not source.more:
                    return
                self._check_hope(running, waiting, source)
                done = await self._something(running, version)
                running -= done
                for task in done:
                    task.result()
                self._running -= done
        finally:
            await _end(running)
            self._running -= running

    async def close(self) -> None:
        """End everything that runs."""
        await _end(list(self._running))

    def leave(self, name: str, reason: str, *, how: str = "leaves") -> None:
        """A group gets no more work; what it does right now is still finished. ConfigurationError if there is none."""
        group = self.pool.leave(name)
        self._left.add(group)
        self._tell(f"{name} {how}: {reason}", left=name, reason=reason)
        self._let_go(group)

    async def run_on(self, name: str, work: Work[W], source: Source[W, R]) -> None:
        """One attempt on this very group, whatever its breaker says. CommunicationError if it is busy or has left."""
        group = self.pool.take(name)
        if group is None:
            raise CommunicationError(f"the group {name} is busy or has left")
        await self._attempt(work, group, source, [])

    # --- who gets what -------------------------------------------------------------------------------------------

    def _assignment(self, source: Source[W, R], waiting: list[Work[W]]) -> tuple[Work[W], Member[R]] | None:
        """Work and a free group for it: what was lost before comes first, and on another group."""
        for work in self._longest_first(source, waiting):
            avoid = work.failed_on
            strictly = work.held_back and not self._history.any_served(self.pool.names)
            if (group := self.pool.try_acquire(avoid, strictly=strictly)) is not None:
                waiting.remove(work)
                return work, group
        doubtful = {name for work in self._doubted for name in work.suspects}  # no new work before the second opinion
        if not source.more or (group := self.pool.try_acquire(doubtful, strictly=True)) is None:
            return None
        new = source.take(group.name)
        if new is None:
            self.pool.release(group, None)
            return None
        return new, group

    def _longest_first(self, source: Source[W, R], waiting: Sequence[Work[W]]) -> list[Work[W]]:
        if len(waiting) < 2:
            return list(waiting)
        expected = source.expected_s(waiting)
        return [waiting[i] for i in sorted(range(len(waiting)), key=lambda i: -expected[i])]

    async def _something(self, running: set[asyncio.Task[None]], version: int) -> set[asyncio.Task[None]]:
        """Wait until a run has ended or the pool has changed; the runs that have ended."""
        names = self.pool.names
        if not running and not names:
            raise CommunicationError(
                "no group of nodes is left to measure on; nothing is lost: start it again with -lb"
            )
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

    async def _attempt(self, work: Work[W], group: Member[R], source: Source[W, R], waiting: list[Work[W]]) -> None:
        """One try on this group, which is free again when it has done its part."""
        self._attempts[group] += 1
        try:
            again = await self._try(work, group, source)
        finally:
            self._attempts[group] -= 1
            self._let_go(group)
        if again is not None:
            if again.counts:
                await self._clock.sleep(self.retry.delay_s(max(1, work.tries), self._rng))
            waiting.append(work)

    async def _try(self, work: Work[W], group: Member[R], source: Source[W, R]) -> Blame | None:
        """What the work is to be tried again for; None if it has ended."""
        job = source.begin(work, group.group)
        ok: bool | None = None
        try:
            run = await group.run(job, self._reporter(group, job))
            verdict = self._judge(work, group, run)
            ok = _heard(run, verdict)
        finally:
            self.pool.release(group, ok)
        if verdict is not None and verdict.culprit is Culprit.BUG and run.error is not None:
            raise run.error
        again = await source.end(work, group.group, run, verdict)
        if not again:
            self._doubted.discard(work)
        self._tell_counts()
        if verdict is not None and verdict.culprit is Culprit.USER and run.error is not None:
            self._dismiss(group.name, run.error)
        return verdict if again else None

    def _judge(self, work: Work[W], group: Member[R], run: RunResult[R]) -> Blame | None:
        """Whose fault it is that the run gave no result; None if it gave one. What follows for the work is noted."""
        work.attempts += 1
        if run.served:
            self._history.serves(group.name)
        if run.error is None:
            for name in work.suspects - {group.name}:
                self.pool.suspect(name)
            return None
        if not run.served:
            self._history.failed(group.name, id(work.item), run.stage, run.error)
        others = [name for name in self.pool.names if name != group.name]
        served = self._history.has_served(group.name)
        cause = run.error.details.get("cause", UNKNOWN_CAUSE)
        crashed = run.died and len(group.group.nodes) > 1 and cause == UNKNOWN_CAUSE
        verdict = blame(
            Evidence(
                stage=run.stage,
                diagnosis=run.error.culprit,
                of_service=isinstance(run.error, SimulatorError),
                nodes_answer=False if run.trouble is not None else run.nodes_answer,
                group_served=served,
                others_served=self._history.any_served(others),
                failures_in_a_row=self._history.in_a_row(group.name),
                failed_before=work.refused > 0,
                several_crashed=crashed,
                crashed_before=work.crashes > 0,
                alone=not others,
            )
        )
        work.crashes += crashed
        work.refused += served and run.stage is Stage.READY
        work.tries += verdict.counts
        work.failed_on.add(group.name)
        work.held_back = verdict.holds_back
        if verdict.asks_another:
            work.suspects.add(group.name)
            self._doubted.add(work)
        return verdict

    def _dismiss(self, name: str, error: SwarmTuneError) -> None:
        """The group needs its user (an unknown host key, a missing model): the others go on without it."""
        if name in self.pool.names:
            if self.pool.names == (name,):
                raise error
            self.leave(name, error.message, how="is left out")

    def _let_go(self, group: Member[R]) -> None:
        if group in self._left and not self.pool.holds(group) and not self._attempts[group]:
            self._left.discard(group)
            self._gone(group)

    def _check_hope(self, running: Collection[Any], waiting: Sequence[Work[W]], source: Source[W, R]) -> None:
        """Raise, for the user, if no service can be started on any group."""
        names = self.pool.names
        last = self._history.hopeless(names)
        stuck = bool(waiting) and all(work.held_back for work in waiting) and not running and not source.more
        if not last and stuck and not self._history.any_served(names):
            last = self._history.latest(names)
        if last:
            raise hopeless(last)

    # --- events --------------------------------------------------------------------------------------------------

    def _reporter(self, group: Member[R], job: Job[R]) -> Report:
        def report(phase: str, facts: Mapping[str, Any]) -> None:
            self._listen(Event(phase, self._clock.wall(), {"group": group.name, **job.facts, **facts}))

        return report

    def _tell_counts(self) -> None:
        facts = {**asdict(self.pool.counts), "names": list(self.pool.names)}
        self._listen(Event("groups", self._clock.wall(), facts))

    def _tell(self, message: str, **facts: Any) -> None:
        self._listen(Event("groups", self._clock.wall(), {"message": message, **facts}))


def hopeless(last: Sequence[tuple[str, Failure]]) -> SwarmTuneError:
    """The error, for the user, when no service can be started on any group; ``last``: the latest failure of each."""
    reasons = dict.fromkeys(failure.error.message for _, failure in last)
    lines = [f"{', '.join(n for n, f in last if f.error.message == reason)}: {reason}" for reason in reasons]
    details = dict(last[-1][1].error.details)
    if all(failure.stage in (Stage.LOOK, Stage.START) for _, failure in last):
        text = "No group of nodes can be reached. Check host names, SSH access and ports; -lb goes on afterwards.\n"
        return CommunicationError(text + "\n".join(lines), details=details, culprit=Culprit.USER)
    text = (
        "No service has become ready on any group, with any setting so far, the baseline included. Start the service by "
        "hand as below until it works, then go on with -lb; nothing was stored as a failed setting.\n"
    )
    return SimulatorStartError(text + "\n".join(lines), details=details, culprit=Culprit.USER)


def _heard(run: RunResult[Any], verdict: Blame | None) -> bool | None:
    """What the group's breaker hears: starts and losses, not scores."""
    if run.trouble is not None:
        return False
    return True if verdict is None or (run.served and verdict.culprit is Culprit.SETTING) else verdict.group_ok


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        if not task.cancelling():  # a second time would break off its cleaning up
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
