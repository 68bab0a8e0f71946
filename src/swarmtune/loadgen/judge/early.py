"""Can the rest of a measurement still change what it is taken for? May be asked at any time, as often as one likes.

Three ways to be sure that it cannot, each wrong with probability at most ``1 - confidence``, split over what it looks at:

- ``promise_broken``: the share of requests within a limit is surely below the percentile of an SLO, or too many fail
  (decision.py). Requests of the first wave, sent before the first answer ended, meet an idle or an overrun service and
  are left out; those still running count as kept, so that long prompts, whose first token comes late, decide nothing.
- ``cannot_win``: the objective's rate surely stays below the value to beat. Ended requests are cut into blocks as long as
  the first wave; of amount - to_beat * duration per block the upper bound of an asymptotic confidence sequence
  (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, Ann. Stat. 52:2613, one-sided) is below 0.
- ``over_saturated``: under a request rate, both the requests in flight and the time to the first token rise by the test of
  Mann (1945) and Kendall on block medians, and the line through them breaks the SLO for twice the allowed share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarmtune.loadgen.judge.decision import LimitDecision, decide
from swarmtune.loadgen.judge.latencies import NS_PER_S, Columns, Floats, columns, request_samples
from swarmtune.loadgen.judge.metrics import keeps
from swarmtune.loadgen.records import Outcome, Records
from swarmtune.records import EarlyStop
from swarmtune.workload import StopRules

SLO_METRIC = re.compile(r"^(p\d+|max)_((?:ttft|tpot|e2el)_ms)$")  # of one sample per request
LEAST_BLOCKS = 12
LEAST_OF_WAVE = 8  # requests of a block
RHO = 0.75  # the confidence sequence is tightest at about 20 blocks
TREND_Z = 3.1  # one-sided p = 0.001
LEAST_FOR_TREND = 60  # requests


def slo_broken(data: Columns, rules: StopRules, running: int) -> str:
    """The first SLO that is surely broken, as a metric's name; "" if there is none yet."""
    samples = request_samples(data)
    completed, ended = data.outcome(Outcome.COMPLETED), data.outcome(Outcome.COMPLETED, Outcome.FAILED)
    steady = ~_first_wave(data)
    confidence = 1 - (1 - rules.confidence) / (len(rules.limits) + 1)
    for name, limit in rules.limits.items():
        match = SLO_METRIC.match(name)
        if match is None or match[2] not in samples:
            continue
        values = samples[match[2]]
        known = completed & ~np.isnan(values)
        if match[1] == "max":
            broken = bool((values[known] > limit).any())
        else:
            good = values[known & steady] <= limit
            broken = decide(good, running, int(match[1][1:]) / 100, confidence).answer is LimitDecision.BROKEN
        if broken:
            return name
    if rules.min_success_rate < 1:
        found = decide(completed[ended], running, rules.min_success_rate, confidence).answer
        return "success_rate" if found is LimitDecision.BROKEN else ""
    return "" if completed[ended].all() else "success_rate"


def _first_wave(data: Columns) -> NDArray[np.bool_]:
    """Sent before the first answer ended."""
    ends = data.rows["end_ns"][data.outcome(Outcome.COMPLETED, Outcome.FAILED)]
    return np.asarray(data.rows["sent_ns"] < ends.min(initial=np.iinfo(np.int64).max))


def highest_rate(amounts: Floats, ends_s: Floats, block: int, to_beat: float, confidence: float) -> float | None:
    """Upper bound of sum(amount) / time less ``to_beat``, per second; None below ``LEAST_BLOCKS`` blocks.

    ``amounts``: what each ended request adds; ``ends_s``: when, rising.
    """
    edges = np.arange(0, len(ends_s), block)
    count = len(edges) - 1
    if count < LEAST_BLOCKS:
        return None
    durations = np.diff(ends_s[edges])
    sums = np.add.reduceat(amounts[1 : edges[-1] + 1], edges[:-1])
    left = sums - to_beat * durations
    spread = count * RHO**2 + 1
    boundary = math.sqrt(2 * spread / (count * RHO) ** 2 * math.log1p(math.sqrt(spread) / (2 * (1 - confidence))))
    return float((left.mean() + left.std(ddof=1) * boundary) / durations.mean())


def cannot_win(data: Columns, rules: StopRules, request_slos: dict[str, float]) -> float | None:
    """The most that the objective can still come to, if that is below the value to beat."""
    if rules.to_beat is None or rules.metric not in ("request_goodput", "output_throughput"):
        return None
    ended = data.outcome(Outcome.COMPLETED, Outcome.FAILED)
    order = np.argsort(data.rows["end_ns"][ended], kind="stable")
    rows = data.rows[ended][order]
    if rules.metric == "request_goodput":
        amounts = keeps(data, request_samples(data), request_slos)[ended][order].astype(float)
    else:
        amounts = np.where(rows["outcome"] == Outcome.COMPLETED, rows["output_tokens"], 0).astype(float)
    block = max(LEAST_OF_WAVE, int(np.count_nonzero(_first_wave(data))))
    least = rules.to_beat * (1 - rules.margin)
    above = highest_rate(amounts, rows["end_ns"] / NS_PER_S, block, least, rules.confidence)
    return None if above is None or above >= 0 else max(0.0, least + above)


def rising(values: Floats) -> bool:
    """Mann-Kendall on the medians of ``LEAST_BLOCKS`` blocks of values in order of time, one-sided, p < 0.001."""
    medians = [float(np.median(part)) for part in np.array_split(values, LEAST_BLOCKS)]
    n = len(medians)
    score = sum(np.sign(later - earlier) for i, earlier in enumerate(medians) for later in medians[i + 1 :])
    return bool((score - 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18) > TREND_Z)


def over_saturated(data: Columns, rules: StopRules, in_flight: Sequence[int], run_s: float) -> str:
    """The SLO on TTFT that a growing queue will break; "" if there is none. ``run_s``: length of the whole run.

    ``in_flight``: the number of running requests at even intervals since the beginning.
    """
    chosen = data.outcome(Outcome.COMPLETED) & ~_first_wave(data) & (data.first_ns > 0)
    if np.count_nonzero(chosen) < LEAST_FOR_TREND or len(in_flight) < 4 * LEAST_BLOCKS:
        return ""
    sent = data.rows["sent_ns"]
    at_s = (sent[chosen] - sent[data.rows["sent_ns"] > 0].min()) / NS_PER_S
    ttft_ms = (data.first_ns[chosen] - sent[chosen]) / 1e6
    later = in_flight[len(in_flight) // 4 :]  # the service fills at first
    if not rising(ttft_ms) or not rising(np.asarray(later, float)):
        return ""
    slope, start = np.polyfit(at_s, ttft_ms, 1)
    for name, limit in rules.limits.items():
        match = SLO_METRIC.match(name)
        if match and match[2] == "ttft_ms" and match[1] != "max" and slope > 0:
            share = (run_s - (limit - start) / slope) / run_s
            if share > 2 * (1 - int(match[1][1:]) / 100):
                return name
    return ""


def early_stop(
    records: Records, rules: StopRules, request_slos: dict[str, float], in_flight: Sequence[int], run_s: float | None
) -> EarlyStop | None:
    """What is sure by now; None if the rest may still matter. ``run_s``: expected length of a run at a request rate."""
    data = columns(records)
    sent = data.rows["sent_ns"][data.rows["sent_ns"] > 0]
    if not len(sent):
        return None
    after_s = float((data.rows["end_ns"].max() - sent.min()) / NS_PER_S)
    if name := slo_broken(data, rules, in_flight[-1] if in_flight else 0):
        return EarlyStop("promise_broken", name, after_s, rules.act)
    if run_s is not None and (name := over_saturated(data, rules, in_flight, run_s)):
        return EarlyStop("over_saturated", name, after_s, rules.act)
    if (most := cannot_win(data, rules, request_slos)) is not None:
        return EarlyStop("cannot_win", rules.metric, after_s, rules.act, most, rules.to_beat)
    return None
