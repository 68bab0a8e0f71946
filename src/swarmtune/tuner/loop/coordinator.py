"""The loop: asks, leases, measures, tells. No barrier: every group gets its next setting as soon as it is free."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from swarmtune.clock import Clock
from swarmtune.errors import BenchmarkExecutionError, CommunicationError, Culprit, PSOConvergenceError, SwarmTuneError
from swarmtune.fleet.health import RetryPolicy
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.records import Attempt, Event, Group, Measurement, Score, Setting, Trial, TrialState
from swarmtune.records import AttemptResult as Outcome
from swarmtune.study.store import Store
from swarmtune.tuner.loop.budget import Budget
from swarmtune.tuner.loop.evaluate import ANY_LOAD, Keep, Loads, Report
from swarmtune.tuner.loop.restarts import Restarts, free_fields
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.warm_start.record import NOTHING, WarmStart

GIVE_UPS_IN_A_ROW = 2  # trials that could not be measured at all before the run says that something is wrong
NEVER = 10**9  # failures in a row that open the breaker of the only group: nothing else could take its work


class Evaluates(Protocol):
    """What the coordinator needs of a group."""

    @property
    def group(self) -> Group: ...

    async def evaluate(self, attempt: Attempt, report: Report, keep: Keep, loads: Loads = ANY_LOAD) -> Outcome: ...

    async def stop(self) -> None: ...

    async def answers(self) -> bool: ...


@dataclass
class _Work:
    """A trial that waits for a free group; number None: a new one."""

    setting: Setting
    number: int | None = None
    attempts: int = 0
    failed_on: frozenset[str] = frozenset()  # groups that lost it


class Coordinator:
    """Runs a plan on groups until the budget is spent. Everything that happens goes to the store first."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        groups: Sequence[Evaluates],
        clock: Clock,
        listen: Callable[[Event], None],
        warm: WarmStart = NOTHING,
    ) -> None:
        """``listen`` gets every event, after the store. ``warm``: what the study was started with."""
        self._plan = plan
        self._store = store
        self._clock = clock
        parallel = plan.parallel
        failures, open_s = (parallel.breaker_failures, parallel.breaker_recovery) if parallel else (NEVER, 0.0)
        self.pool: ServiceGroupPool[Evaluates] = ServiceGroupPool(groups, clock, _name, failures, open_s)
        """The groups; they may join and leave while the search runs."""
        pause_s = parallel.retry_delay if parallel else RetryPolicy.first_delay_s
        self._retry = RetryPolicy(plan.max_attempts, first_delay_s=pause_s)
        self._rng = random.Random(plan.seed)
        self._listen = listen
        self._search = plan.new_search()
        self._restarts = Restarts(free_fields(plan))
        self._warm = warm
        self._learned = False
        self.budget = Budget(clock)
        self._waiting: deque[_Work] = deque()
        self._pending: dict[str, Setting] = {}  # handed out and not told yet, by key
        self._lost: list[Setting] = []
        self._known: set[str] = set()
        self._opened = 0
        self._give_ups = 0
        self._exhausted = False
        self._best: Score | None = None
        self._best_load: float | None = None

    # --- the search ----------------------------------------------------------------------------------------------

    async def search(self, spent_s: float = 0.0, accelerator_s: float = 0.0) -> list[Trial]:
        """Measure until a budget is spent; ``spent_s`` and ``accelerator_s`` are what earlier runs of the study took.

        Returns all trials. Raises what the user must act on.
        """
        self._replay()
        self.budget = Budget(self._clock, self._plan.timeout_s, self._plan.accelerator_s, (spent_s, accelerator_s))
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                version = self.pool.version
                while (assigned := self._assign()) is not None:
                    running.add(asyncio.create_task(self._measure(*assigned)))
                if not running and not self._more:
                    return self._store.trials()
                done = await self._something(running, version)
                running -= done
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _something(self, running: set[asyncio.Task[None]], version: int) -> set[asyncio.Task[None]]:
        """Wait until a measurement has ended or the pool is not what it was; the measurements that have ended."""
        if not running and not self.pool.names:
            raise CommunicationError(
                "no group of nodes is left to measure on; nothing is lost: start it again with -lb"
            )
        change = asyncio.create_task(self.pool.changed(version))
        try:
            done, _ = await asyncio.wait({*running, change}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        return done - {change}

    @property
    def _more(self) -> bool:
        """Is there anything left to measure, as far as is known?"""
        return bool(self._waiting) or self._may_open

    @property
    def _may_open(self) -> bool:
        """May another setting be asked for?"""
        return not self._exhausted and self._opened < self._plan.evaluations

    def _assign(self) -> tuple[_Work, Evaluates] | None:
        """Work and a free group for it: what was lost before first, and not on the group that lost it."""
        for work in self._waiting:
            if (group := self.pool.try_acquire(work.failed_on)) is not None:
                self._waiting.remove(work)
                return work, group
        if not self._may_open or (group := self.pool.try_acquire()) is None:
            return None
        new = self._new(group.group.name)
        if new is None:
            self.pool.release(group, None)
            return None
        return new, group

    def _replay(self) -> None:
        """Tell the search what the store knows; what was running when the last tuner died is measured again."""
        trials = self._store.trials()
        for trial in sorted(trials, key=lambda t: t.times[1] if t.times else float("inf")):
            if trial.state is TrialState.FAILED:
                self._lost.append(replace(trial.setting, origin=""))
                continue  # a baseline or user's own setting that could not be measured gets another chance
            self._known.add(trial.setting.key)
            if trial.state is TrialState.COMPLETE and trial.score is not None:
                self._tell(trial.setting, trial.score, trial.measurement)
            else:
                self._waiting.append(_Work(trial.setting, trial.number))
                self._pending[trial.setting.key] = trial.setting
        self._opened = sum(1 for t in trials if t.state is not TrialState.FAILED)
        if trials:
            self._emit("resumed", {"trials": len(trials), "finished": len(trials) - len(self._waiting)})

    def _new(self, group: str) -> _Work | None:
        """A setting for this group that nobody has; None when nothing is left or allowed."""
        if self._opened > 0 and (spent := self.budget.exhausted()):
            self._exhausted = True
            self._emit("exhausted", {"message": f"{spent} after {self._opened} evaluations"})
            return None
        setting = next((s for s in self._given() if s.key not in self._known), None)
        if setting is None:
            self._search.see(self._restarts.on(group))
            try:
                setting = self._search.ask((*self._pending.values(), *self._lost))
            except PSOConvergenceError as error:
                self._exhausted = True
                self._emit("exhausted", {"message": error.message})
                return None
        self._known.add(setting.key)
        self._pending[setting.key] = setting
        self._opened += 1
        return _Work(setting)

    def _given(self) -> tuple[Setting, ...]:
        return (self._plan.baseline(), *self._plan.user_settings, *self._warm.first)

    async def _measure(self, work: _Work, group: Evaluates) -> None:
        """Measure it on this group, which is free again afterwards."""
        well: bool | None = None
        again: _Work | None = None
        try:
            again = await self._attempt(work, group)
            well = again is None
        finally:
            self.pool.release(group, well)
            if self._plan.parallel is not None:
                facts = {**asdict(self.pool.counts), "names": list(self.pool.names)}
                self._listen(Event("groups", self._clock.wall(), facts))
        if again is not None and again.setting.key in self._pending:
            await self._clock.sleep(self._retry.delay_s(max(1, again.attempts), self._rng))
            self._waiting.append(again)

    async def _attempt(self, work: _Work, group: Evaluates) -> _Work | None:
        """One try; what has to be tried again, as the group did not do its part."""
        attempt = self._store.open(work.setting, group.group.name, uuid.uuid4().hex, number=work.number)
        number = attempt.trial_number
        self.budget.begin(group.group)
        self._emit(
            "trial_started", {"trial": number, "origin": work.setting.origin, "group": group.group.name, **_facts(work)}
        )
        to_beat, begun = self._best.value if self._best else None, self._clock.monotonic()
        loads = Loads(start=self._best_load, thorough=self._best_load is None, may_stop=True, to_beat=to_beat)
        try:
            outcome = await group.evaluate(attempt, self._reporter(number, group), self._keeper(attempt), loads)
            tries = work.attempts + 1
        except SwarmTuneError as error:
            if not self._dismissed(group, error):
                raise
            outcome, tries = Outcome(failure=error.message), work.attempts  # no fault of the trial
        self.budget.end(group.group)
        runs = work.setting if outcome.measurement else None
        self._restarts.ended(group.group.name, runs, self._clock.monotonic() - begun, outcome.facts)
        self._keep_folder(attempt, outcome)
        again = _Work(work.setting, number, tries, work.failed_on | {group.group.name})
        if outcome.score is None and tries >= self._plan.max_attempts:
            self._give_up(attempt, outcome)
            return again
        self._store.close(attempt, outcome)
        if outcome.score is None:
            self._emit("trial_retried", {"trial": number, "attempt": tries, "failure": outcome.failure})
            return again
        self._give_ups = 0
        self._tell(work.setting, outcome.score, outcome.measurement)
        spent = {"accelerator_seconds": round(self.budget.accelerator_s, 3)}
        self._emit("trial_finished", {"trial": number, **_result(outcome), **spent})
        return None

    def _dismissed(self, group: Evaluates, error: SwarmTuneError) -> bool:
        """If its nodes need their user (an unknown host key, a missing model), the others go on without it; False if there
        are none, or it is no such error.
        """
        name = group.group.name
        others = any(other != name for other in self.pool.names)
        if self._plan.parallel is None or error.culprit is not Culprit.USER or not others:
            return False
        if name in self.pool.names:
            self.pool.leave(name)
        self._emit("groups", {"message": f"{name} is left out: {error.message}"})
        return True

    def _tell(self, setting: Setting, score: Score, measurement: Measurement | None) -> None:
        self._pending.pop(setting.key, None)
        if not self._learned and setting == self._plan.baseline():
            self._search.learn(self._warm.learned(score))  # now that there is a scale to put it on
            self._learned = True
        self._search.tell(setting, score)
        if measurement is not None and score.feasible and (self._best is None or score.rank < self._best.rank):
            self._best = score
            self._best_load = self._plan.load_value(measurement) if self._plan.load_search else None

    def _give_up(self, attempt: Attempt, outcome: Outcome) -> None:
        """The infrastructure failed too often: no score, unseen by the search, another setting takes its place."""
        self._store.close(attempt, replace(outcome, gave_up=True))
        self._emit("trial_failed", {"trial": attempt.trial_number, "failure": outcome.failure})
        self._pending.pop(attempt.setting.key, None)
        self._lost.append(replace(attempt.setting, origin=""))
        self._opened -= 1
        self._give_ups += 1
        if self._give_ups >= GIVE_UPS_IN_A_ROW or attempt.setting.origin == "baseline":
            raise BenchmarkExecutionError(
                f"{self._give_ups} setting(s) could not be measured in {self._plan.max_attempts} attempts each; the last "
                f"reason: {outcome.failure}",
                details=dict(outcome.facts),
            )

    # --- the proof -----------------------------------------------------------------------------------------------

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups that measure."""
        return self.pool.names

    def load_of(self, trial: Trial) -> float | None:
        """The load that a trial was scored at; None without load search."""
        return self._plan.load_value(trial.measurement) if self._plan.load_search and trial.measurement else None

    async def measure_again(
        self, trial: Trial, name: str, kind: str, load: float | None, said: Mapping[str, Any]
    ) -> Outcome:
        """Measure a finished trial again at this load on the group of this name; ``said`` goes out with the result.

        BenchmarkExecutionError if that group cannot.
        """
        failure: str | None = f"the group {name} has left"
        for _ in range(self._plan.max_attempts):
            if (group := self.pool.take(name)) is None:
                break
            well: bool | None = None
            try:
                outcome = await self._again(trial, group, kind, load)
                well = outcome.score is not None
            finally:
                self.pool.release(group, well)
            if outcome.score is not None:
                self._emit("remeasured", {"trial": trial.number, "value": outcome.score.value, **said})
                return outcome
            failure = outcome.failure
        self._emit("finalist_lost", {"trial": trial.number, "group": name, "failure": failure})
        raise BenchmarkExecutionError(f"Trial {trial.number} could not be measured again: {failure}")

    async def _again(self, trial: Trial, group: Evaluates, kind: str, load: float | None) -> Outcome:
        name = group.group.name
        attempt = self._store.open(trial.setting, name, uuid.uuid4().hex, number=trial.number, kind=kind)
        report, keep = self._reporter(trial.number, group), self._keeper(attempt)
        try:
            outcome = await group.evaluate(attempt, report, keep, Loads(fixed=load))
        except SwarmTuneError as error:
            if not self._dismissed(group, error):
                raise
            outcome = Outcome(failure=error.message)
        self._keep_folder(attempt, outcome)
        self._store.close(attempt, outcome)
        return outcome

    # --- events --------------------------------------------------------------------------------------------------

    def _reporter(self, number: int, group: Evaluates) -> Report:
        def report(phase: str, facts: dict[str, Any]) -> None:
            self._listen(Event(phase, self._clock.wall(), {"trial": number, "group": group.group.name, **facts}))

        return report

    def _keeper(self, attempt: Attempt) -> Keep:
        def keep(measurement: Measurement) -> None:
            self._store.append(measurement, attempt)
            facts = {"trial": attempt.trial_number, "load": dict(measurement.load)}
            self._listen(Event("load_point", self._clock.wall(), facts))

        return keep

    def _keep_folder(self, attempt: Attempt, outcome: Outcome) -> None:
        if "folder" in outcome.facts:
            self._store.append(("logs and load results", str(outcome.facts["folder"])), attempt)

    def _emit(self, kind: str, facts: dict[str, Any]) -> None:
        event = Event(kind, self._clock.wall(), facts)
        self._store.append(event)
        self._listen(event)


def _name(group: Evaluates) -> str:
    return group.group.name


def _facts(work: _Work) -> dict[str, Any]:
    return {"setting": dict(work.setting.values), "attempt": work.attempts + 1}


def _result(outcome: Outcome) -> dict[str, Any]:
    score = outcome.score
    return {
        "value": score.value if score else None,
        "feasible": bool(score and score.feasible),
        "violations": {k: v for k, v in score.violations.items() if v > 0} if score else {},
        "failure": outcome.failure,
        "load": dict(outcome.measurement.load) if outcome.measurement else {},
    }
