"""Significance of the winner's gain, from rounds in which finalists and baseline were re-measured side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from swarmtune.records import Score
from swarmtune.tuner.proof.paired import Blocks, Difference, difference, hochberg, holm, student_t95

Direction = Literal["maximize", "minimize"]

NO_GAIN = "no significant gain"
BASELINE_BREAKS = "the baseline breaks its SLOs, the winner keeps them"
ABOVE_ZERO = "the 95 % interval of the gain lies above zero"
BY_CHANCE = f"{ABOVE_ZERO}, but the best of several finalists may lie there by chance"
ALPHA = 0.05


@dataclass(frozen=True)
class Observed:
    """One re-measurement; ``blocks``: its objective in equal stretches of the measured time, where they are known."""

    score: Score
    blocks: Sequence[float] = ()


Round = Mapping[int, Observed]  # by trial number: all on one group, within one stretch of time


@dataclass(frozen=True)
class Significance:
    """Is the gain significant, and why? ``gain_percent`` and ``ci95_percent`` are of the objective, positive = better,
    None = unknown.
    """

    significant: bool
    gain_percent: float | None
    ci95_percent: tuple[float, float] | None
    rounds: int
    reason: str


@dataclass(frozen=True)
class Standing:
    """A finalist in the proof. ``over_baseline``: its gain; ``against_best``: its difference from the recommended setting.

    ``tied``: not distinguishable from the recommended one (Holm-corrected over the finalists), never failed to start, and
    does not clearly break an SLO.
    """

    trial: int
    keeps_slos: bool
    over_baseline: Difference
    against_best: Difference
    tied: bool


@dataclass(frozen=True)
class Proof:
    """The result of the proof: the trial to deploy (None: none can be recommended), the significance, and the finalists."""

    best: int | None
    verdict: Significance
    finalists: tuple[Standing, ...] = ()
    groups: int = 0  # service groups that measured
    group_effects_percent: Mapping[str, float] = field(default_factory=dict)  # speed of each beside the mean of all

    @property
    def tied(self) -> list[int]:
        """The trials that are statistically tied with the recommended one."""
        return [s.trial for s in self.finalists if s.tied]


def unproven(best: int | None, reason: str) -> Proof:
    """A proof without re-measurements."""
    return Proof(best, Significance(False, None, None, 0, reason))


def judge(
    rounds: Sequence[Round], baseline: int, finalists: Sequence[int], direction: Direction, groups: int = 1
) -> Proof:
    """The best finalist of those that keep their SLOs on average; the baseline if that finalist is no better.

    A finalist that was dropped on the way was clearly worse, so finalists in all rounds come first.
    """
    keepers = [n for n in finalists if keeps_slos(scores(rounds, n))]
    over = {n: compare(rounds, n, baseline, direction) for n in finalists}
    best: int | None
    if keepers:
        whole = [n for n in keepers if all(n in r for r in rounds)] or keepers
        best = max(whole, key=lambda n: level(rounds, n, direction))
        verdict = _verdict(over[best], hochberg([over[n].p for n in keepers])[keepers.index(best)], rounds, baseline)
        gain = verdict.gain_percent
        if gain is not None and gain <= 0 and not clearly_breaks(scores(rounds, baseline)):
            reason = f"the best finalist (trial {best}) came out {-gain:.1f} % worse than the baseline"
            best, verdict = baseline, Significance(False, None, None, verdict.rounds, reason)
    else:
        best = baseline if keeps_slos(scores(rounds, baseline)) else None
        verdict = Significance(False, None, None, len(rounds), "the finalists broke their SLOs when measured again")
    return Proof(best, verdict, _standings(rounds, finalists, best, over, direction), groups)


def still_open(rounds: Sequence[Round], contenders: Sequence[int], baseline: int, direction: Direction) -> list[int]:
    """The contenders for another round: without those that clearly break an SLO or are clearly worse than the best
    (95 %). The baseline always stays, because all gains are relative to it.
    """
    candidates = [n for n in contenders if n == baseline or not clearly_breaks(scores(rounds, n))]
    keepers = [n for n in candidates if keeps_slos(scores(rounds, n))]
    if not keepers:
        return candidates
    best = max(keepers, key=lambda n: level(rounds, n, direction))
    return [n for n in candidates if n == baseline or not compare(rounds, n, best, direction).worse]


def compare(rounds: Sequence[Round], first: int, second: int, direction: Direction) -> Difference:
    """The first trial against the second, over the rounds that measured both."""
    pairs = [(r[first], r[second]) for r in rounds if first in r and second in r]
    logs = [_log(a.score, direction) - _log(b.score, direction) for a, b in pairs]
    if not all(math.isfinite(g) for g in logs):
        return Difference(len(pairs))
    blocks: list[Blocks] = [(a.blocks, b.blocks) for a, b in pairs]
    return difference(logs, blocks)


def group_effects(rounds: Sequence[Round], groups: Sequence[str], direction: Direction) -> dict[str, float]:
    """How much better each group measures than the mean of all, in percent; empty with one group.

    ``groups``: the one of each round. Least squares of log value = trial + group. Gains need no correction for it: they are
    differences within rounds.
    """
    names = sorted({group for measured, group in zip(rounds, groups, strict=True) if measured})
    trials = sorted({n for r in rounds for n in r})
    rows, values = [], []
    for measured, group in zip(rounds, groups, strict=True):
        for trial, observed in measured.items():
            if math.isfinite(value := _log(observed.score, direction)):
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
    logs = [_log(score, direction) for score in scores(rounds, trial)]
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


def _verdict(gain: Difference, p: float, rounds: Sequence[Round], baseline: int) -> Significance:
    """``p`` is corrected for the choice of the winner among the finalists, on these same rounds."""
    above = gain.ci95_percent is not None and gain.ci95_percent[0] > 0
    if clearly_breaks(scores(rounds, baseline)):
        significant, reason = True, BASELINE_BREAKS
    elif gain.ci95_percent is None:
        significant, reason = False, "too few re-measurements to tell"
    elif above:
        significant, reason = (True, ABOVE_ZERO) if p < ALPHA else (False, BY_CHANCE)
    else:
        significant, reason = False, NO_GAIN
    return Significance(significant, gain.gain_percent, gain.ci95_percent, gain.rounds, reason)


def _standings(
    rounds: Sequence[Round],
    finalists: Sequence[int],
    best: int | None,
    over: Mapping[int, Difference],
    direction: Direction,
) -> tuple[Standing, ...]:
    against = {n: Difference(0) if best is None else compare(rounds, n, best, direction) for n in finalists}
    others = [n for n in finalists if n != best]
    adjusted = dict(zip(others, holm([against[n].p for n in others]), strict=True))

    def tied(n: int) -> bool:
        seen = scores(rounds, n)
        works = all(score.value is not None for score in seen) and not clearly_breaks(seen)
        return n in adjusted and best is not None and adjusted[n] >= ALPHA and works

    return tuple(Standing(n, keeps_slos(scores(rounds, n)), over[n], against[n], tied(n)) for n in finalists)


def _log(score: Score, direction: Direction) -> float:
    """The logarithm of the value, turned so that greater is better; minus infinity if there is none."""
    if score.value is None or score.value <= 0 or not math.isfinite(score.value):
        return -math.inf
    return math.log(score.value) if direction == "maximize" else -math.log(score.value)
