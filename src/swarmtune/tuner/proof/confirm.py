"""The verdict on the winner's gain: a qualifying round chooses one finalist, and rounds of its own judge it.

The two stages share no measurement, so the gain of the chosen one is not inflated by the choice, and needs no correction for
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from swarmtune.records import Score
from swarmtune.tuner.proof.paired import Difference, difference, percent, student_t95

Direction = Literal["maximize", "minimize"]

NO_GAIN = "no significant gain"
BASELINE_BREAKS = "the baseline breaks its SLOs, the winner keeps them"
ABOVE_ZERO = "the 95 % interval of the gain lies above zero"
TOO_FEW = "too few re-measurements to tell"
NO_VALUE = "in at least one round one of the two had nothing to compare"
BROKEN = "the best finalist (trial {}) broke its SLOs when measured again"


@dataclass(frozen=True)
class Observed:
    """One re-measurement. ``correction``: the objective while the load was on, each answer's credit spread over its own
    lifetime, relative to the objective of the whole run (loadgen/judge/loaded.py); 1 where that is unknown.
    """

    score: Score
    correction: float = 1.0

    @property
    def value(self) -> float | None:
        """The objective that is compared; None if the service failed."""
        return None if self.score.value is None else self.score.value * self.correction


Round = Mapping[int, Observed]  # by trial number: all on one group, within one stretch of time, with the same requests


@dataclass(frozen=True)
class Significance:
    """Is the gain significant, and why? ``gain_percent`` and ``ci95_percent`` are of the objective, positive = better,
    None = unknown. ``noise_percent``: standard deviation of one round's gain.
    """

    significant: bool
    gain_percent: float | None
    ci95_percent: tuple[float, float] | None
    rounds: int
    reason: str
    noise_percent: float | None = None


@dataclass(frozen=True)
class Standing:
    """A finalist in the proof. ``over_baseline``: its gain, of the winner over the rounds, of others in the qualifying
    round; ``against_best``: its difference from the recommended setting in the qualifying round.

    ``tied``: its difference from the recommended one lies within the noise of the rounds, which does not prove that the two
    are equal.
    """

    trial: int
    keeps_slos: bool
    over_baseline: Difference
    against_best: Difference
    tied: bool


@dataclass(frozen=True)
class Proof:
    """The result of the proof: the trial to deploy (None: none can be recommended), the significance, and the finalists.

    ``round_s``: seconds of a round, None if unknown. ``candidate``: the finalist that the verdict is about. ``rejected``:
    finalists that broke their SLOs in rounds of their own before.
    """

    best: int | None
    verdict: Significance
    finalists: tuple[Standing, ...] = ()
    groups: int = 0  # service groups that measured
    group_effects_percent: Mapping[str, float] = field(default_factory=dict)  # speed of each beside the mean of all
    round_s: float | None = None
    candidate: int | None = None
    rejected: tuple[int, ...] = ()

    @property
    def tied(self) -> list[int]:
        """The trials that are not told apart from the recommended one."""
        return [s.trial for s in self.finalists if s.tied]


def unproven(best: int | None, reason: str) -> Proof:
    """A proof without re-measurements."""
    return Proof(best, Significance(False, None, None, 0, reason))


def qualified(qualifying: Round, finalists: Sequence[int], direction: Direction) -> int | None:
    """The finalist to prove: the best that kept its SLOs in the qualifying round, else the one that broke them least; None
    if none was measured.
    """
    measured = [n for n in finalists if n in qualifying and qualifying[n].score.value is not None]
    if not measured:
        return None

    def rank(number: int) -> tuple[float, float]:
        broken = sum(max(0.0, violation) for violation in qualifying[number].score.violations.values())
        return broken, -level([qualifying], number, direction)

    return min(measured, key=rank)


def judge(
    qualifying: Round,
    rounds: Sequence[Round],
    baseline: int,
    winner: int,
    finalists: Sequence[int],
    direction: Direction,
    groups: int = 1,
    rejected: Sequence[int] = (),
) -> Proof:
    """The verdict on the ``winner`` from the ``rounds`` alone; a winner that is not better gives way to the baseline.

    ``rejected``: finalists that broke their SLOs in rounds of their own.
    """
    gain = compare(rounds, winner, baseline, direction)
    best: int | None = winner
    verdict = _verdict(gain, rounds, baseline)
    if not keeps_slos(scores(rounds, winner)):
        best = baseline if keeps_slos(scores(rounds, baseline)) else None
        verdict = replace(verdict, significant=False, reason=BROKEN.format(winner))
    elif gain.gain_percent is not None and gain.gain_percent <= 0 and not clearly_breaks(scores(rounds, baseline)):
        worse = f"{-gain.gain_percent:.1f} % worse than" if gain.gain_percent < 0 else "no better than"
        reason = f"the best finalist (trial {winner}) came out {worse} the baseline"
        best, verdict = baseline, replace(verdict, significant=False, reason=reason)
    standings = _standings(qualifying, rounds, baseline, winner, finalists, direction, best == winner)
    standings = tuple(replace(s, keeps_slos=False, tied=False) if s.trial in rejected else s for s in standings)
    return Proof(best, verdict, standings, groups, candidate=winner, rejected=tuple(rejected))


def compare(rounds: Sequence[Round], first: int, second: int, direction: Direction) -> Difference:
    """The first trial against the second, over the rounds that measured both."""
    pairs = [(r[first], r[second]) for r in rounds if first in r and second in r]
    logs = [_log(a, direction) - _log(b, direction) for a, b in pairs]
    return difference(logs) if all(math.isfinite(g) for g in logs) else Difference(len(pairs))


def group_effects(rounds: Sequence[Round], groups: Sequence[str], direction: Direction) -> dict[str, float]:
    """How much better each group measures than the mean of all, in percent; empty with one group.

    ``groups``: the one of each round. Least squares of log value = trial + group. Gains need no correction for it: they are
    differences within rounds.
    """
    names = sorted({group for measured, group in zip(rounds, groups, strict=True) if measured})
    trials = sorted({n for r in rounds for n in r})
    rows, values = [], []
    for measured, group in zip(rounds, groups, strict=True):
        for trial, observed in sorted(measured.items()):
            if math.isfinite(value := _log(observed, direction)):
                rows.append([trial == t for t in trials] + [group == g for g in names])
                values.append(value)
    if len(names) < 2 or not rows:
        return {}
    effects = np.linalg.lstsq(np.array(rows, dtype=float), np.array(values), rcond=None)[0][len(trials) :]
    return {
        name: 100.0 * math.expm1(float(effect)) for name, effect in zip(names, effects - effects.mean(), strict=True)
    }


def level(rounds: Sequence[Round], trial: int, direction: Direction) -> float:
    """How good a trial was over its rounds: the mean logarithm of its value, greater = better."""
    logs = [_log(r[trial], direction) for r in rounds if trial in r]
    return sum(logs) / len(logs) if all(math.isfinite(g) for g in logs) and logs else -math.inf


def scores(rounds: Sequence[Round], trial: int) -> list[Score]:
    """The scores of a trial in its rounds."""
    return [r[trial].score for r in rounds if trial in r]


def keeps_slos(scores: Sequence[Score]) -> bool:
    """Is each SLO kept on average over the re-measurements?"""
    names = {name for score in scores for name in score.violations}
    return bool(scores) and all(
        sum(score.violations.get(name, 0.0) for score in scores) / len(scores) <= 0 for name in names
    )


def clearly_breaks(scores: Sequence[Score]) -> bool:
    """Is the mean violation of an SLO above zero with 95 % confidence? A single measurement is never enough."""
    names = {name for score in scores for name in score.violations}
    count = len(scores)
    if count < 2:
        return False
    for name in names:
        values = [score.violations.get(name, 0.0) for score in scores]
        mean = sum(values) / count
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1))
        if mean - student_t95(count - 1) * deviation / math.sqrt(count) > 0:
            return True
    return False


def _verdict(gain: Difference, rounds: Sequence[Round], baseline: int) -> Significance:
    if clearly_breaks(scores(rounds, baseline)):
        significant, reason = True, BASELINE_BREAKS
    elif gain.ci95_percent is None:
        significant, reason = False, TOO_FEW if gain.rounds < 2 else NO_VALUE
    else:
        significant = gain.ci95_percent[0] > 0
        reason = ABOVE_ZERO if significant else NO_GAIN
    return Significance(significant, gain.gain_percent, gain.ci95_percent, gain.rounds, reason, gain.noise_percent)


def _standings(
    qualifying: Round,
    rounds: Sequence[Round],
    baseline: int,
    winner: int,
    finalists: Sequence[int],
    direction: Direction,
    recommended: bool,
) -> tuple[Standing, ...]:
    """``recommended``: the winner is; else no finalist is told apart from anything."""
    over = compare(rounds, winner, baseline, direction)
    apart = _apart(over)

    def standing(number: int) -> Standing:
        if number == winner:
            return Standing(number, keeps_slos(scores(rounds, number)), over, Difference(0), False)
        against = compare([qualifying], number, winner, direction)
        kept = keeps_slos(scores([qualifying], number))
        tied = recommended and kept and against.gain_percent is not None and abs(against.gain_percent) <= apart
        return Standing(number, kept, compare([qualifying], number, baseline, direction), against, tied)

    return tuple(standing(number) for number in finalists)


def _apart(over: Difference) -> float:
    """The difference in percent above which one round tells two settings apart: noise of a round times Student's t."""
    if over.noise_percent is None:
        return math.inf
    return percent(student_t95(over.rounds - 1) * math.log1p(over.noise_percent / 100))


def _log(observed: Observed, direction: Direction) -> float:
    """The logarithm of the value, turned so that greater is better; minus infinity if there is none."""
    value = observed.value
    if value is None or value <= 0 or not math.isfinite(value):
        return -math.inf
    return math.log(value) if direction == "maximize" else -math.log(value)
