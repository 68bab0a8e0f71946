"""The loop: ask the search, have the setting measured, record, tell. No barrier: a free group gets the next setting."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from swarmtune.errors import BenchmarkExecutionError, Culprit, PluginError, PSOConvergenceError
from swarmtune.fleet.blame import Blame
from swarmtune.fleet.dispatch import Dispatcher, Work
from swarmtune.fleet.job import RunResult
from swarmtune.loadgen.judge.certify import refused
from swarmtune.records import (
    AttemptResult,
    Group,
    Measurement,
    Score,
    Setting,
    Trial,
    TrialFailedFacts,
    TrialFinishedFacts,
    TrialRetriedFacts,
    TrialStartedFacts,
    TrialState,
)
from swarmtune.search.base import Search
from swarmtune.tuner.loop.attempts import Attempts
from swarmtune.tuner.loop.budget import Budget
from swarmtune.tuner.loop.evaluation import Evaluation, Loads, Measured
from swarmtune.tuner.loop.restarts import Restarts, free_fields
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.warm_start.record import NOTHING, WarmStart

Foresee = Callable[[], Awaitable[Search]]

NEVER_REFUSED = -1  # some service has completed requests
REFUSED_SETTINGS = 3  # whose service completes not a single request before the run fails, if no other has completed any
GIVE_UPS_IN_A_ROW = 2  # consecutive trials that could not be measured at all before the run fails


@dataclass(eq=False)
class Candidate:
    """A setting on its way to becoming a trial, and its latest attempt; number None: the trial is not recorded yet."""

    setting: Setting
    number: int | None = None
    evaluation: Evaluation | None = None


class Coordinator:
    """Search and study as the dispatcher's source of work. Everything that happens goes to the study first."""

    def __init__(
        self, plan: Plan, attempts: Attempts, dispatcher: Dispatcher[Candidate, Measured], warm: WarmStart = NOTHING
    ) -> None:
        """``warm``: what the study learned from earlier ones."""
        self._plan = plan
        self._attempts = attempts
        self._store = attempts.store
        self._dispatcher = dispatcher
        self._search = plan.new_search()
        self._told: list[tuple[Setting, Score]] = []
        self._only_given = False
        self._restarts = Restarts(free_fields(plan))
        self._warm = warm
        self._learned = False
        self.budget = Budget(attempts.clock)
        self._unfinished: deque[Candidate] = deque()  # trials of an earlier run
        self._pending: dict[str, Setting] = {}  # handed out, without a result yet, by key
        self._lost: list[Setting] = []
        self._known: set[str] = set()
        self._opened = 0
        self._give_ups = 0
        self._exhausted = False
        self._measured = False
        self._refused = 0
        self._best: Score | None = None
        self._best_load: float | None = None

    # --- the search ----------------------------------------------------------------------------------------------

    async def search(
        self, spent_s: float = 0.0, accelerator_s: float = 0.0, foresee: Foresee | None = None
    ) -> list[Trial]:
        """Measure until a budget is spent; ``spent_s`` and ``accelerator_s``: the spending of earlier runs of the study.
        ``foresee``: makes the search of predictions, once the settings that are given are measured, and again where
        measurements disagree with them.

        Returns all trials. Raises errors that the user must act on. After a cancelled or failed call all results so far
        are in the study, and running attempts have ended; a service kept for the next setting stops with its group.
        """
        self._replay()
        self.budget = Budget(
            self._attempts.clock, self._plan.timeout_s, self._plan.accelerator_s, (spent_s, accelerator_s)
        )
        self._only_given = foresee is not None
        await self._dispatcher.run(self)
        while foresee is not None and self._may_go_on and (self._only_given or self._search.outdated):
            self._only_given = False
            self._search = await foresee()
            for setting, score in self._told:
                self._search.tell(setting, score)
            await self._dispatcher.run(self)
        return self._store.trials()

    def _replay(self) -> None:
        """Tell the search all results of the study; trials that were running when the last tuner died are repeated."""
        trials = self._store.trials()
        for trial in sorted(trials, key=lambda t: t.times[1] if t.times else float("inf")):
            if trial.state is TrialState.FAILED:
                self._lost.append(replace(trial.setting, origin=""))
                continue  # a baseline or a user's setting that could not be measured is tried again
            self._known.add(trial.setting.key)
            if trial.state is TrialState.COMPLETE and trial.score is not None:
                self._tell(trial.setting, trial.score, trial.measurement)
            else:
                self._unfinished.append(Candidate(trial.setting, trial.number))
                self._pending[trial.setting.key] = trial.setting
        self._opened = sum(1 for t in trials if t.state is not TrialState.FAILED)
        if trials:
            self._attempts.emit("resumed", {"trials": len(trials), "finished": len(trials) - len(self._unfinished)})

    # --- the dispatcher's source ---------------------------------------------------------------------------------

    @property
    def has_results(self) -> bool:
        """Has the study any measurement?"""
        return self._measured

    @property
    def more(self) -> bool:
        """May there be anything left to measure?"""
        if self._unfinished:
            return True
        if not self._may_go_on or self._search.outdated:
            return False
        return not self._only_given or self._next_given() is not None

    @property
    def _may_go_on(self) -> bool:
        return not self._exhausted and self._opened < self._plan.evaluations

    def take(self, group: str) -> Work[Candidate] | None:
        """A new setting for this group; None when the search or a budget is exhausted."""
        if self._unfinished:
            return Work(self._unfinished.popleft())
        if self._opened > 0 and (spent := self.budget.exhausted()):
            self._exhausted = True
            self._attempts.emit("exhausted", {"message": f"{spent} after {self._opened} evaluations"})
            return None
        setting = self._next_given()
        if setting is None and self._only_given:
            return None
        if setting is None:
            self._search.see(self._restarts.on(group))
            try:
                setting = self._legal(self._search.ask((*self._pending.values(), *self._lost)))
            except PSOConvergenceError as error:
                self._exhausted = True
                self._attempts.emit("exhausted", {"message": error.message})
                return None
        self._known.add(setting.key)
        self._pending[setting.key] = setting
        self._opened += 1
        return Work(Candidate(setting))

    def expected_s(self, waiting: Sequence[Work[Candidate]]) -> Sequence[float]:
        """Lost trials are repeated in the order they were lost: no duration is known."""
        return [0.0] * len(waiting)

    def begin(self, work: Work[Candidate], group: Group) -> Evaluation:
        """Record the attempt in the study before anything starts."""
        candidate, best = work.item, self._best
        to_beat = best.value if best else None
        loads = Loads(start=self._best_load, thorough=self._best_load is None, may_stop=True, to_beat=to_beat)
        evaluation = self._attempts.begin(candidate.setting, group, loads, number=candidate.number)
        candidate.evaluation, candidate.number = evaluation, evaluation.attempt.trial_number
        self.budget.begin(group)
        facts: TrialStartedFacts = {
            "trial": evaluation.attempt.trial_number,
            "origin": candidate.setting.origin,
            "group": group.name,
            "setting": dict(candidate.setting.values),
            "attempt": work.attempts + 1,
        }
        self._attempts.emit("trial_started", facts)
        return evaluation

    async def end(self, work: Work[Candidate], group: Group, run: RunResult[Measured], fault: Blame | None) -> bool:
        """Record the result in the study, then tell the search, then the listener."""
        candidate, evaluation = work.item, work.item.evaluation
        assert evaluation is not None  # noqa: S101 - it has begun
        self.budget.end(group)
        outcome = self._attempts.outcome(evaluation, run, fault)
        runs = candidate.setting if run.result is not None else None
        self._restarts.ended(group.name, runs, run.seconds + run.waited_s, outcome.facts)
        gave_up = outcome.score is None and work.tries >= self._plan.max_attempts
        self._attempts.close(evaluation, group, replace(outcome, gave_up=gave_up))
        if gave_up:
            self._give_up(candidate, evaluation.attempt.trial_number, outcome)
            return False
        number = evaluation.attempt.trial_number
        if outcome.score is None:
            retried: TrialRetriedFacts = {
                "trial": number, "attempt": work.attempts, "failure": outcome.failure, "group": group.name
            }  # fmt: skip
            self._attempts.emit("trial_retried", retried)
            return candidate.setting.key in self._pending
        self._give_ups = 0
        self._tell(candidate.setting, outcome.score, outcome.measurement)
        self._attempts.emit("trial_finished", _finished(number, outcome, self.budget.accelerator_s))
        self._check_refused(outcome.measurement)
        return False

    def _next_given(self) -> Setting | None:
        given = (self._plan.baseline(), *self._plan.user_settings, *self._warm.first)
        return next((setting for setting in given if setting.key not in self._known), None)

    def _legal(self, setting: Setting) -> Setting:
        """What the search asks for; PluginError if it is no setting of the space."""
        space = self._plan.space
        names = sorted({field.name for field in space.fields} ^ setting.values.keys())
        wrong = (
            f"the fields {', '.join(names)} are not those of the space" if names else ", ".join(space.broken(setting))
        )
        if wrong:
            told = f"The search algorithm {self._plan.algorithm!r}: ask() returned an illegal setting: {wrong}"
            raise PluginError(f"{told}; its author must mend that (docs/plugins.md).")
        return setting

    def _tell(self, setting: Setting, score: Score, measurement: Measurement | None) -> None:
        self._pending.pop(setting.key, None)
        if not self._learned and setting == self._plan.baseline():
            self._search.learn(self._warm.learned(score))  # now that there is a scale to put it on
            self._learned = True
        self._search.tell(setting, score)
        self._told.append((setting, score))
        self._measured = self._measured or measurement is not None
        if measurement is not None and self._refused >= 0:
            self._refused = self._refused + 1 if refused(measurement) else NEVER_REFUSED
        if measurement is not None and score.feasible and (self._best is None or score.rank < self._best.rank):
            self._best = score
            self._best_load = self._plan.load_value(measurement) if self._plan.load_search else None

    def _check_refused(self, measurement: Measurement | None) -> None:
        """Raise, for the user, if services are up and complete not a single request, whatever the setting."""
        if self._refused < REFUSED_SETTINGS or measurement is None or not refused(measurement):
            return
        raise BenchmarkExecutionError(
            f"The services of {self._refused} settings, the baseline included, have started and not completed a single "
            f"request: {'; '.join(measurement.reasons)}. Check that the requests fit the service (endpoint_type, model "
            "name, extra fields); `swarmtune bench` sends the same ones.",
            culprit=Culprit.USER,
        )

    def _give_up(self, candidate: Candidate, number: int, outcome: AttemptResult) -> None:
        """Give up a trial after too many infrastructure failures: no score; another setting takes its place."""
        setting = candidate.setting
        facts: TrialFailedFacts = {"trial": number, "failure": outcome.failure}
        self._attempts.emit("trial_failed", facts)
        self._pending.pop(setting.key, None)
        self._lost.append(replace(setting, origin=""))
        self._opened -= 1
        self._give_ups += 1
        if self._give_ups >= GIVE_UPS_IN_A_ROW or setting.origin == "baseline":
            raise BenchmarkExecutionError(
                f"{self._give_ups} setting(s) could not be measured in {self._plan.max_attempts} attempts each; the last "
                f"reason: {outcome.failure}",
                details=dict(outcome.facts),
            )


def _finished(number: int, outcome: AttemptResult, accelerator_s: float) -> TrialFinishedFacts:
    score = outcome.score
    return {
        "trial": number,
        "value": score.value if score else None,
        "feasible": bool(score and score.feasible),
        "violations": {k: v for k, v in score.violations.items() if v > 0} if score else {},
        "failure": outcome.failure,
        "load": dict(outcome.measurement.load) if outcome.measurement else {},
        "accelerator_seconds": round(accelerator_s, 3),
    }
