"""Is the share of good requests surely above or below a target? May be asked after every request, as often as one likes.

The test is the mixture martingale of Robbins (1970, Ann. Math. Stat. 41:1397) for a share p with a Beta(1/2, 1/2) mixture:
after s good and f bad requests

    M = B(s + 1/2, f + 1/2) / B(1/2, 1/2) / (p^s (1 - p)^f)

exceeds 1 / alpha at any time with probability at most alpha if the true share is p (Ville's inequality; Howard, Ramdas,
McAuliffe & Sekhon 2021, Ann. Stat. 49:1055). So no number of looks has to be planned and no alpha to be spent. Dependence
between neighbouring requests is met as in intervals.py: s and f are divided by tau.

Requests still running are taken as bad when the question is "kept?" and as good when it is "broken?" (unless they already
broke a limit): quick answers come first, and must not decide alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.judge.intervals import tau
from swarmtune.loadgen.judge.latencies import Bools, columns, request_samples
from swarmtune.loadgen.judge.metrics import SCHEDULED_TWIN, keeps
from swarmtune.loadgen.records import Outcome, Records


class LimitDecision(StrEnum):
    """Whether enough requests keep the limits: surely, surely not, or still open."""

    KEPT = "kept"
    BROKEN = "broken"
    OPEN = "open"


@dataclass(frozen=True)
class Decision:
    """``share``: of the judged requests that are good; ``running``: not yet judged; ``n_eff``: see intervals.py."""

    answer: LimitDecision
    share: float
    judged: int
    running: int
    n_eff: float


def log_evidence(good: float, bad: float, share: float) -> float:
    """log M against a true share of ``share``, 0 < share < 1."""
    mixture = math.lgamma(good + 0.5) + math.lgamma(bad + 0.5) - math.lgamma(good + bad + 1) - math.log(math.pi)
    return mixture - good * math.log(share) - bad * math.log1p(-share)


def decide(good: Bools, running: int, share: float, confidence: float = 0.95) -> Decision:
    """From the judged requests in order of time, and the number of those still running.

    KEPT: the true share is surely (with this confidence) above ``share``; BROKEN: surely below.
    """
    if not 0 < share < 1:
        raise ConfigValidationError([f"the share of good requests must be between 0 and 1, not {share:g}"])
    judged = len(good)
    kept = int(np.count_nonzero(good))
    rate = kept / judged if judged else 0.0
    inefficiency = tau(good, None, rate, rate * (1 - rate), judged) if judged else 1.0
    needed = -math.log(1 - confidence)
    answer = LimitDecision.OPEN
    for candidate, s, f in (
        (LimitDecision.KEPT, kept, judged - kept + running),
        (LimitDecision.BROKEN, kept + running, judged - kept),
    ):
        side = s > share * (s + f) if candidate is LimitDecision.KEPT else s < share * (s + f)
        if side and log_evidence(s / inefficiency, f / inefficiency, share) >= needed:
            answer = candidate
    return Decision(answer, rate, judged, running, judged / inefficiency)


def decided(
    records: Records,
    request_slos: Mapping[str, float],
    *,
    share: float = 0.95,
    confidence: float = 0.95,
    scheduled: bool = False,
) -> Decision:
    """From the records so far. Failed requests are bad, dropped ones too if ``scheduled``; cancelled ones do not count."""
    data = columns(records)
    samples = request_samples(data)
    good = keeps(data, samples, request_slos, scheduled=scheduled)
    running = data.outcome(Outcome.INCOMPLETE)
    waited = samples[SCHEDULED_TWIN["ttft_ms"] if scheduled else "ttft_ms"]
    broken = running & (waited > request_slos.get("ttft_ms", math.inf))
    bad = (Outcome.FAILED, Outcome.DROPPED) if scheduled else (Outcome.FAILED,)
    judged = data.outcome(Outcome.COMPLETED, *bad) | broken
    return decide(good[judged], int(np.count_nonzero(running & ~broken)), share, confidence)
