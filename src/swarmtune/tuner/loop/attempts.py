"""Attempts at settings: written down before anything starts, and closed with what came of them."""

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
    """What the search loop and the proof share: the study, the bench, and the listener, who hears after the study."""

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
        """The work of an attempt that is in the study from now on: of a new trial, or of trial ``number``."""
        attempt = self.store.open(setting, group.name, uuid.uuid4().hex, number=number, kind=kind)

        def keep(measurement: Measurement) -> None:
            self.store.append(measurement, attempt)
            self.tell("load_point", {"trial": attempt.trial_number, "load": dict(measurement.load)})

        return Evaluation(self._plan, attempt, self._bench, self.tell, keep, loads)

    def outcome(self, work: Evaluation, run: RunResult[Measured], verdict: Blame | None) -> AttemptResult:
        """What a run came to: a score, a failed score that is the setting's fault, or none."""
        folder = {"folder": str(work.folder)}
        if run.result is not None:
            times = {"start_seconds": round(run.start_s, 3), "waited_seconds": round(run.waited_s, 3)}
            facts = {**folder, "load_points": run.result.load_points, **times}
            return AttemptResult(run.result.score, run.result.measurement, facts=facts)
        if run.error is None or verdict is None:
            raise ValueError("a run without a result has an error, and somebody to blame")
        score = Score.failed() if verdict.culprit is Culprit.SETTING else None
        blamed = {"culprit": verdict.culprit.value, "because": verdict.because}
        facts = {**folder, "details": _plain(run.error.details), **blamed}
        return AttemptResult(score, failure=run.error.message, facts=facts)

    def close(self, work: Evaluation, group: Group, outcome: AttemptResult) -> None:
        """The attempt has ended; its folder is an artefact, and is copied where backups are wanted."""
        attempt = work.attempt
        if self._plan.backup:
            command = self._plan.engine.command(attempt.setting, group)
            if not back_up(command, work.folder, work.folder.parent.parent / "backup" / work.folder.name):
                self.tell("backup_full", {"trial": attempt.trial_number, "limit_bytes": LIMIT_BYTES})
        self.store.append(("logs and load results", str(work.folder)), attempt)
        self.store.close(attempt, outcome)

    def emit(self, kind: str, facts: Mapping[str, Any]) -> None:
        """An event for the study, then for people."""
        event = Event(kind, self.clock.wall(), facts)
        self.store.append(event)
        self._listen(event)

    def tell(self, kind: str, facts: Mapping[str, Any]) -> None:
        """An event for people alone."""
        self._listen(Event(kind, self.clock.wall(), facts))


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, (int, float, str, bool, type(None))) else str(v) for k, v in details.items()}
