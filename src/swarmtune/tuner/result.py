"""The result of a run. Its sentences and files are in ``report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarmtune.records import AttemptResult, Trial, TrialState
from swarmtune.tuner.loop.loads import Savings
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.confirm import Proof, Significance
from swarmtune.tuner.simulation.foresee import Foresight
from swarmtune.tuner.warm_start.record import NOTHING, WarmStart


@dataclass(frozen=True)
class Spent:
    """Cost of all runs of a study: wall seconds of the search, accelerator-seconds of search and proof."""

    wall_s: float = 0.0
    accelerator_s: float = 0.0
    proof_accelerator_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """A finished run. With a ``proof_failure`` the best is the search's favourite, and nothing is proven.

    ``wall_seconds``: of all runs of the study.
    """

    study: str
    plan: Plan
    trials: tuple[Trial, ...]
    baseline: Trial | None
    proof: Proof
    remeasured: Mapping[int, Sequence[AttemptResult]]
    wall_seconds: float
    savings: Savings | None = None  # of early stopping
    spent: Spent = Spent()
    warm_start: WarmStart = NOTHING
    proof_failure: str | None = None
    foresights: tuple[Foresight, ...] = ()  # empty: nothing was predicted

    @property
    def best(self) -> Trial | None:
        """The trial whose setting is recommended; None when no setting kept the SLOs."""
        return next((t for t in self.trials if t.number == self.proof.best), None)

    @property
    def compared(self) -> Trial | None:
        """The trial that stands beside the baseline: the recommended one, or the finalist that the proof did not confirm."""
        number = self.proof.candidate if self.best in (None, self.baseline) else self.proof.best
        return next((t for t in self.trials if t.number == number), None)

    @property
    def verdict(self) -> Significance:
        """The significance of the gain."""
        return self.proof.verdict

    @property
    def tied(self) -> list[Trial]:
        """The trials whose settings are statistically tied with the best."""
        return [t for t in self.trials if t.number in self.proof.tied]

    @property
    def evaluations(self) -> int:
        """Number of settings that have a result."""
        return sum(1 for t in self.trials if t.state is TrialState.COMPLETE)

    @property
    def failures(self) -> int:
        """Number of settings that could not be started or measured."""
        return sum(
            1 for t in self.trials if t.state is TrialState.FAILED or (t.score is not None and t.score.value is None)
        )
