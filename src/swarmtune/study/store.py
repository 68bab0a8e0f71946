"""The contract of a study for the loop: attempts begin and end, facts are added, trials are read. Nodes never touch it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from swarmtune.records import Attempt, AttemptResult, Event, Measurement, Setting, Trial, TrialState

MEASURED = "measured"  # the source of a measurement that may be a result


@dataclass(frozen=True)
class Remeasured:
    """A finished re-measurement of a trial: its kind (``proof_of``, ``fair_load_of``), and the group that measured it."""

    kind: str
    trial_number: int
    group: str
    outcome: AttemptResult


def proof_of(contenders: Iterable[int], number: int, stage: str, rounds: int, repeat: int = 0) -> str:
    """The kind of attempts that re-measure these trials side by side in a round (from 0) of a stage of their proof.

    A proof of another number of rounds is another proof: rounds that are added after a look at the result prove nothing.
    """
    text = ",".join(str(n) for n in sorted(contenders))
    again = f":{repeat}" if repeat else ""
    return f"{stage}:{sha256(f'{text};{rounds}'.encode()).hexdigest()[:8]}:{number}{again}"


def fair_load_of(winner: int, load: float) -> str:
    """The kind of the attempt that tries the baseline at this load of this trial."""
    return f"fair-load:{winner}:{load:g}"


class Store(ABC):
    """A study that the loop writes. Calls do not wait, so none can be cancelled half-way.

    A call that fails raises StoreError, or StudyBusyError if another tuner has taken the study over; it has written all of
    its record or nothing, but for what ``close`` says.
    """

    @abstractmethod
    def open(
        self, setting: Setting, group: str, token: str, *, number: int | None = None, kind: str = "trial"
    ) -> Attempt:
        """Begin an attempt, leased to this tuner, of a new trial or of trial ``number``. If it fails, a new trial may remain
        without an attempt.
        """

    @abstractmethod
    def close(self, attempt: Attempt, outcome: AttemptResult) -> None:
        """End an attempt; ValueError if its measurement is a predicted one. With a score and kind "trial" the trial is
        finished, and cannot be lost any more: if this fails after the attempt was written, opening the study again completes
        it.
        """

    @abstractmethod
    def append(self, record: Event | Measurement | tuple[str, str], attempt: Attempt | None = None) -> None:
        """Add a fact: an event, a load point of an attempt, or an artefact (name, path) of an attempt."""

    @abstractmethod
    def trials(self) -> list[Trial]:
        """All trials by number, as they stand."""


def refuse_predicted(outcome: AttemptResult) -> None:
    """ValueError if the outcome was not measured."""
    if outcome.measurement is not None and outcome.measurement.source != MEASURED:
        raise ValueError(f"a result that is {outcome.measurement.source} is no result of an attempt")


def as_trial(
    number: int, setting: Setting, outcomes: Sequence[AttemptResult | None], times: tuple[float, float] | None = None
) -> Trial:
    """A trial from the results of its attempts (None: still running or lost); times: last start and end."""
    scored = next((o for o in outcomes if o is not None and o.score is not None), None)
    if scored is None:
        failed = next((o for o in reversed(outcomes) if o is not None), None)
        failure = failed.failure if failed else None
        state = TrialState.FAILED if failed is not None and failed.gave_up else TrialState.RUNNING
        return Trial(number, setting, state, failure=failure, attempts=len(outcomes), times=times)
    return Trial(
        number, setting, TrialState.COMPLETE, scored.score, scored.measurement, scored.failure, len(outcomes), times
    )
