"""Attempts at settings: recorded before anything starts, and closed with their result."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from swarmtune.errors import Culprit
from swarmtune.fleet.blame import Blame
from swarmtune.fleet.job import RunResult
from swarmtune.records import AttemptResult, Event, Group, Measurement, Score, Setting
from swarmtune.study.store import Store
from swarmtune.tuner.loop.backup import LIMIT_BYTES, back_up
from swarmtune.tuner.loop.evaluation import ANY_LOAD, Bench, Evaluation, Loads, Measured
from swarmtune.tuner.planning.plan import Plan


class Attempts:
    """Opens and closes attempts for the search loop and the proof. Events go to the study first, then to the listener."""

    def __init__(self, plan: Plan, store: Store, bench: Bench, listen: Callable[[Event], None]) -> None:
        self._plan, self.store, self._bench, self._listen = plan, store, bench, listen
        self.clock = bench.clock

    def begin(
        self,
        setting: Setting,
        group: Group,
        loads: Loads = ANY_LOAD,
        *,
        number: int | None = None,
        kind: str = "trial",
    ) -> Evaluation:
        """Record a new attempt, of a new trial or of trial ``number``, and return its job."""
        attempt = self.store.open(setting, group.name, uuid.uuid4().hex, number=number, kind=kind)

        def keep(measurement: Measurement) -> None:
            self.store.append(measurement, attempt)
            self.tell("load_point", {"trial": attempt.trial_number, "load": dict(measurement.load)})

        return Evaluation(self._plan, attempt, self._bench, self.tell, keep, loads)

    def outcome(self, work: Evaluation, run: RunResult[Measured], fault: Blame | None) -> AttemptResult:
        """The result of an attempt: a score, a failed score if the setting is to blame, or no score."""
        folder = {"folder": str(work.folder)}
        if run.result is not None:
            times = {
                "seconds": round(run.seconds, 3),
                "start_seconds": round(run.start_s, 3),
                "waited_seconds": round(run.waited_s, 3),
            }
            facts = {**folder, "load_points": run.result.load_points, **times}
            return AttemptResult(run.result.score, run.result.measurement, facts=facts)
        if run.error is None or fault is None:
            raise ValueError("a run without a result needs an error and a blame")
        score = Score.failed() if fault.culprit is Culprit.SETTING else None
        blamed = {"culprit": fault.culprit.value, "because": fault.because}
        facts = {**folder, "details": _plain(run.error.details), **blamed}
        return AttemptResult(score, failure=run.error.message, facts=facts)

    def close(self, work: Evaluation, group: Group, outcome: AttemptResult) -> None:
        """Record the end of an attempt, with its folder as an artefact; copies the folder if backups are on."""
        attempt = work.attempt
        if self._plan.backup:
            command = self._plan.commands(attempt.setting, group)[0]
            if not back_up(command, work.folder, work.folder.parent.parent / "backup" / work.folder.name):
                self.tell("backup_full", {"trial": attempt.trial_number, "limit_bytes": LIMIT_BYTES})
        self.store.append(("logs and load results", str(work.folder)), attempt)
        self.store.close(attempt, outcome)

    def emit(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Record an event in the study, then pass it to the listener."""
        event = Event(kind, self.clock.wall(), facts)
        self.store.append(event)
        self._listen(event)

    def tell(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Pass an event to the listener only."""
        self._listen(Event(kind, self.clock.wall(), facts))


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, (int, float, str, bool, type(None))) else str(v) for k, v in details.items()}
