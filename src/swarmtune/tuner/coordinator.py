"""The loop: asks, leases, measures, tells. No barrier: every group gets its next setting as soon as it is free."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from swarmtune.clock import Clock
from swarmtune.errors import BenchmarkExecutionError, PSOConvergenceError
from swarmtune.records import Event, Group, Measurement, Score, Setting, Trial, TrialState
from swarmtune.tuner.budget import Budget
from swarmtune.tuner.evaluate import ANY_LOAD, Keep, Loads, Report
from swarmtune.tuner.plan import Plan
from swarmtune.tuner.store import Attempt, Outcome, Store
from swarmtune.tuner.warm_start import NOTHING, WarmStart

GIVE_UPS_IN_A_ROW = 2  # trials that could not be measured at all before the run says that something is wrong
RETRY_PAUSE_S = 1.0  # doubled with every attempt


class Evaluates(Protocol):
    """What the coordinator needs of a group."""

    @property
    def group(self) -> Group: ...

    async def evaluate(self, attempt: Attempt, report: Report, keep: Keep, loads: Loads = ANY_LOAD) -> Outcome: ...

    async def stop(self) -> None: ...


@dataclass
class _Work:
    """A trial that waits for a free group; number None: a new one."""

    setting: Setting
    number: int | None = None
    attempts: int = 0


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
        self._groups = list(groups)
        self._clock = clock
        self._listen = listen
        self._search = plan.new_search()
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
        free = deque(self._groups)
        running: dict[asyncio.Task[None], Evaluates] = {}
        try:
            while True:
                while free and (work := self._next()) is not None:
                    group = free.popleft()
                    running[asyncio.create_task(self._measure(work, group))] = group
                if not running:
                    return self._store.trials()
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    free.append(running.pop(task))
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

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

    def _next(self) -> _Work | None:
        """What to measure next; None when nothing is left or allowed."""
        if self._waiting:
            return self._waiting.popleft()
        if self._opened >= self._plan.evaluations or self._exhausted:
            return None
        if self._opened > 0 and (spent := self.budget.exhausted()):
            self._exhausted = True
            self._emit("exhausted", {"message": f"{spent} after {self._opened} evaluations"})
            return None
        setting = next((s for s in self._given() if s.key not in self._known), None)
        if setting is None:
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
        if work.attempts:
            await self._clock.sleep(RETRY_PAUSE_S * 2 ** (work.attempts - 1))
        attempt = self._store.open(work.setting, group.group.name, uuid.uuid4().hex, number=work.number)
        number = attempt.trial_number
        self.budget.begin(group.group)
        self._emit(
            "trial_started", {"trial": number, "origin": work.setting.origin, "group": group.group.name, **_facts(work)}
        )
        to_beat = self._best.value if self._best else None
        loads = Loads(start=self._best_load, thorough=self._best_load is None, may_stop=True, to_beat=to_beat)
        outcome = await group.evaluate(attempt, self._reporter(number, group), self._keeper(attempt), loads)
        self.budget.end(group.group)
        self._keep_folder(attempt, outcome)
        tries = work.attempts + 1
        if outcome.score is None and tries >= self._plan.max_attempts:
            self._give_up(attempt, outcome)
            return
        self._store.close(attempt, outcome)
        if outcome.score is None:
            self._emit("trial_retried", {"trial": number, "attempt": tries, "failure": outcome.failure})
            self._waiting.append(_Work(work.setting, number, tries))
            return
        self._give_ups = 0
        self._tell(work.setting, outcome.score, outcome.measurement)
        spent = {"accelerator_seconds": round(self.budget.accelerator_s, 3)}
        self._emit("trial_finished", {"trial": number, **_result(outcome), **spent})

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
        return tuple(group.group.name for group in self._groups)

    def load_of(self, trial: Trial) -> float | None:
        """The load that a trial was scored at; None without load search."""
        return self._plan.load_value(trial.measurement) if self._plan.load_search and trial.measurement else None

    async def measure_again(
        self, trial: Trial, place: int, kind: str, load: float | None, said: Mapping[str, Any]
    ) -> Outcome:
        """Measure a finished trial again at this load on the group at this place; ``said`` goes out with the result."""
        group = self._groups[place]
        failure: str | None = None
        for _ in range(self._plan.max_attempts):
            attempt = self._store.open(
                trial.setting, group.group.name, uuid.uuid4().hex, number=trial.number, kind=kind
            )
            report, keep = self._reporter(trial.number, group), self._keeper(attempt)
            outcome = await group.evaluate(attempt, report, keep, Loads(fixed=load))
            self._keep_folder(attempt, outcome)
            self._store.close(attempt, outcome)
            if outcome.score is not None:
                self._emit("remeasured", {"trial": trial.number, "value": outcome.score.value, **said})
                return outcome
            failure = outcome.failure
        self._emit("finalist_lost", {"trial": trial.number, "failure": failure})
        raise BenchmarkExecutionError(f"Trial {trial.number} could not be measured again: {failure}")

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
