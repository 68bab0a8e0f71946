"""Is the winner really better? Statistics of interleaved re-measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swarmtune.records import Score

# Two-sided 95 % quantiles of Student's t by degrees of freedom (standard table); beyond 30 the normal's is close.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


NO_GAIN = "no significant gain"
BASELINE_BREAKS = "the baseline breaks its promises, the winner keeps them"


@dataclass(frozen=True)
class Verdict:
    """How sure it is. ``gain_percent`` and ``ci95_percent`` are of the objective, positive = better, None = unknown."""

    significant: bool
    gain_percent: float | None
    ci95_percent: tuple[float, float] | None
    pairs: int
    reason: str


def compare(winner: Sequence[Score], baseline: Sequence[Score], direction: Literal["maximize", "minimize"]) -> Verdict:
    """Compare paired re-measurements, the i-th of each taken next to each other in time.

    The gain is the geometric mean of the paired ratios, with a t-interval on their logarithms (paired t, log-normal
    noise). It is significant when the winner kept its promises on average and either the 95 % interval of the gain lies
    above zero or the 95 % interval of the baseline's violation does.
    """
    pairs = [(w, b) for w, b in zip(winner, baseline, strict=False)]
    if not pairs:
        return Verdict(False, None, None, 0, "nothing was re-measured")
    if not keeps_promises(winner):
        return Verdict(False, None, None, len(pairs), "the winner broke its promises when it was measured again")
    broken = clearly_breaks(baseline)
    logs = [_log_gain(w, b, direction) for w, b in pairs]
    known = [g for g in logs if g is not None]
    if len(known) < len(pairs) or len(known) < 2:
        gain = math.expm1(known[0]) * 100 if len(known) == len(pairs) == 1 else None
        reason = BASELINE_BREAKS if broken else "too few re-measurements to tell"
        return Verdict(broken, gain, None, len(pairs), reason)
    mean = sum(known) / len(known)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in known) / (len(known) - 1))
    half = student_t95(len(known) - 1) * deviation / math.sqrt(len(known))
    interval = (math.expm1(mean - half) * 100, math.expm1(mean + half) * 100)
    if broken:
        return Verdict(True, math.expm1(mean) * 100, interval, len(pairs), BASELINE_BREAKS)
    significant = mean - half > 0
    reason = "the 95 % interval of the gain lies above zero" if significant else NO_GAIN
    return Verdict(significant, math.expm1(mean) * 100, interval, len(pairs), reason)


def keeps_promises(scores: Sequence[Score]) -> bool:
    """Is each promise kept on average over the re-measurements?"""
    names = {name for score in scores for name in score.violations}
    return bool(scores) and all(
        sum(score.violations.get(name, 0.0) for score in scores) / len(scores) <= 0 for name in names
    )


def clearly_breaks(scores: Sequence[Score]) -> bool:
    """Is the mean violation of some promise above zero with 95 % confidence? One measurement alone never tells."""
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


def student_t95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.96


def _log_gain(winner: Score, baseline: Score, direction: str) -> float | None:
    if winner.value is None or baseline.value is None or winner.value <= 0 or baseline.value <= 0:
        return None
    if not (math.isfinite(winner.value) and math.isfinite(baseline.value)):
        return None
    ratio = math.log(winner.value / baseline.value)
    return ratio if direction == "maximize" else -ratio
