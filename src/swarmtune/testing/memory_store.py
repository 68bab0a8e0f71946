"""A study in memory, for tests and benchmarks of the loop."""

from __future__ import annotations

from typing import Any

from swarmtune.records import Attempt, AttemptResult, Event, Measurement, Setting, Trial, TrialState
from swarmtune.study.store import Remeasured, Store, as_trial, refuse_predicted


class MemoryStore(Store):
    """Keeps everything until it is dropped."""

    def __init__(self) -> None:
        self.attempts: list[tuple[Attempt, AttemptResult | None]] = []
        self.records: list[tuple[Event | Measurement | tuple[str, str], Attempt | None]] = []
        self._trials: dict[int, Trial] = {}

    def open(
        self, setting: Setting, group: str, token: str, *, number: int | None = None, kind: str = "trial"
    ) -> Attempt:
        if number is None:
            number = len(self._trials)
            self._trials[number] = Trial(number, setting, TrialState.RUNNING)
        attempt = Attempt(len(self.attempts), number, self._trials[number].setting, group, token, kind)
        self.attempts.append((attempt, None))
        return attempt

    def close(self, attempt: Attempt, outcome: AttemptResult) -> None:
        refuse_predicted(outcome)
        self.attempts[attempt.id] = (attempt, outcome)
        if attempt.kind == "trial":
            self._trials[attempt.trial_number] = as_trial(
                attempt.trial_number,
                attempt.setting,
                [o for a, o in self.attempts if a.trial_number == attempt.trial_number],
            )

    def append(self, record: Event | Measurement | tuple[str, str], attempt: Attempt | None = None) -> None:
        self.records.append((record, attempt))

    def trials(self) -> list[Trial]:
        return [self._trials[n] for n in sorted(self._trials)]

    def measurements_of(self, trial: int) -> list[Measurement]:
        """As ``StudyWriter.measurements_of``."""
        of_trial = [(r, a) for r, a in self.records if a is not None and a.trial_number == trial and a.kind == "trial"]
        return [record for record, _ in of_trial if isinstance(record, Measurement)]

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """As ``StudyWriter.recorded``."""
        return [dict(r.facts) for r, _ in self.records if isinstance(r, Event) and r.kind == kind]

    def search_seconds(self) -> float:
        """It has no clock: 0."""
        return 0.0

    def confirmations(self) -> list[Remeasured]:
        """As ``StudyWriter.confirmations``."""
        return [
            Remeasured(a.kind, a.trial_number, a.group, o)
            for a, o in self.attempts
            if a.kind != "trial" and o is not None and o.score
        ]
