"""All results of a run in one object."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from swarmtune.loadgen.judge.latencies import (
    NS_PER_S,
    Columns,
    Floats,
    Gaps,
    columns,
    gaps_of,
    request_samples,
)
from swarmtune.loadgen.judge.loaded import loaded_rates
from swarmtune.loadgen.judge.metrics import (
    ADJUSTED,
    BASIC_STATISTICS,
    check_limits,
    counts,
    goodput,
    keeps,
    totals,
    unmeasured,
)
from swarmtune.loadgen.judge.series import SteadyWindow, Steps, concurrency, steady_window
from swarmtune.loadgen.judge.statistics import PERCENTILES, Statistics, statistics
from swarmtune.loadgen.records import Outcome, Records

STEADY_STATISTICS = ("ttft_ms", "tpot_ms", "e2el_ms")
LITTLE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Steady:
    """The steady window, and what was measured in it: latencies of requests sent in it, answers that ended in it."""

    window: SteadyWindow
    request_throughput: float
    output_throughput: float
    mean_concurrency: float
    statistics: dict[str, Statistics]


@dataclass(frozen=True)
class Results:
    """``scalars``: one number per name; ``statistics``: by sample name (metrics.py has both tables).

    ``errors``: how often each error made a measured request fail; ``notes``: what a reader should know;
    ``blocks``: some rates in equal stretches of the time in which the load was on (loaded.py).
    """

    scalars: dict[str, float]
    statistics: dict[str, Statistics]
    errors: dict[str, int]
    confidence: float
    steady: Steady | None = None
    notes: tuple[str, ...] = ()
    blocks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """All finite values by their full names: ``completed``, ``p99_ttft_ms``, ``adj_p99_ttft_ms``, ..."""
        found = dict(self.scalars)
        for name, sample in self.statistics.items():
            for statistic in (*BASIC_STATISTICS, *PERCENTILES):
                value = sample.value(statistic)
                if value is not None:
                    found[f"{statistic}_{name}"] = value
            if name in ADJUSTED:
                found |= {f"adj_{p}_{name}": value for p, value in sample.adjusted.items()}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """Plain data with sample sizes and intervals; an infinite value is the text "inf"."""
        return {
            "metrics": self.scalars,
            "statistics": {name: statistics_json(name, sample) for name, sample in self.statistics.items()},
            "errors": self.errors,
            "confidence": self.confidence,
            "steady": None if self.steady is None else _steady_json(self.steady),
            "notes": list(self.notes),
        }


def statistics_json(name: str, sample: Statistics) -> dict[str, Any]:
    """Plain data of one sample."""
    found = asdict(sample)
    adjusted = found.pop("adjusted")
    if name in ADJUSTED:
        found["adjusted"] = {p: value if math.isfinite(value) else "inf" for p, value in adjusted.items()}
    else:
        del found["failed"]
    return found


def _steady_json(steady: Steady) -> dict[str, Any]:
    return {
        "window": {**asdict(steady.window), "duration_s": steady.window.duration_s},
        "request_throughput": steady.request_throughput,
        "output_throughput": steady.output_throughput,
        "mean_concurrency": steady.mean_concurrency,
        "statistics": {name: statistics_json(name, sample) for name, sample in steady.statistics.items()},
    }


def results(
    records: Records,
    request_slos: Mapping[str, float] | None = None,
    *,
    confidence: float = 0.95,
    target_concurrency: float | None = None,
    closed: bool = True,
    offered_s: float | None = None,
    streamed: bool = True,
    tokenizer: str = "the built-in tokenizer",
) -> Results:
    """Everything of metrics.py, from the records of a run.

    ``request_slos``: limits of a single request, {"ttft_ms": 500}. ``target_concurrency``: what was asked for, if a
    concurrency was; ``closed``: as many users, each with one request at a time, else a ceiling of a rate. ``offered_s``:
    the time in which requests were to be sent, s; None: until their number was reached. ``streamed``: did the answers
    come token by token? ``tokenizer``: what estimated tokens, for a note. ConfigValidationError on an unknown limit.
    """
    slos = request_slos or {}
    check_limits(slos)
    data = columns(records)
    gaps = gaps_of(data)
    samples = request_samples(data, streamed=streamed, gaps=gaps)
    scalars = counts(data, samples) | totals(data, records.started_ns)
    scalars |= goodput(data, samples, slos, scalars["duration_s"])
    failed = int(scalars["failed"])
    found = {
        name: one
        for name, values in samples.items()
        if (one := statistics(values[~np.isnan(values)], failed=failed, confidence=confidence)) is not None
    }
    found |= _gap_statistics(gaps, confidence) if streamed else {}
    flight = concurrency(records)
    end_ns = records.started_ns + round(scalars["duration_s"] * NS_PER_S)
    scalars |= _littles_law(flight, records.started_ns, end_ns, scalars, found)
    steady = _steady(records, data, samples, flight, target_concurrency, confidence)
    kept = keeps(data, samples, slos) if slos else None
    users = (target_concurrency or scalars.get("peak_concurrency", 1.0)) if closed else None
    stretches = loaded_rates(data, kept, records.started_ns, users, offered_s)
    errors, notes = _errors(data, records.errors), _notes(scalars, steady, found, tokenizer)
    notes += tuple(
        f"{amount:,} of {round(scalars['completed']):,} completed requests have no {name}: it was not measured, and they "
        "count as not good"
        for name, amount in unmeasured(data, samples, slos).items()
    )
    return Results(scalars, found, errors, confidence, steady, notes, stretches)


def _gap_statistics(gaps: Gaps, confidence: float) -> dict[str, Statistics]:
    icl = statistics(gaps.ms, confidence=confidence)
    if icl is None:
        return {}
    there = gaps.tokens > 0
    ms, tokens = gaps.ms[there], gaps.tokens[there]
    itl = icl if (gaps.tokens == 1.0).all() else statistics(ms / tokens, tokens, confidence=confidence)
    return {"icl_ms": icl, **({"itl_ms": itl} if itl else {})}


def _littles_law(
    flight: Steps, start_ns: int, end_ns: int, scalars: Mapping[str, float], found: Mapping[str, Statistics]
) -> dict[str, float]:
    if end_ns <= start_ns:
        return {}
    mean = float(flight.means(np.array([start_ns, end_ns]))[0])
    law = {"mean_concurrency": mean, "peak_concurrency": flight.peak(start_ns, end_ns)}
    if "e2el_ms" in found and "request_throughput" in scalars:
        law["little_concurrency"] = scalars["request_throughput"] * found["e2el_ms"].mean / 1000
    return law


def _steady(
    records: Records,
    data: Columns,
    samples: Mapping[str, Floats],
    flight: Steps,
    target: float | None,
    confidence: float,
) -> Steady | None:
    window = steady_window(flight, records.started_ns, records.ended_ns, target)
    if window is None:
        return None
    first = records.started_ns + round(window.start_s * NS_PER_S)
    last = records.started_ns + round(window.end_s * NS_PER_S)
    rows = data.rows
    inside = (rows["sent_ns"] >= first) & (rows["sent_ns"] < last)
    ended = data.outcome(Outcome.COMPLETED) & (rows["end_ns"] >= first) & (rows["end_ns"] < last)
    found: dict[str, Statistics] = {}
    for name in STEADY_STATISTICS:
        if name in samples:
            values = samples[name][inside]
            one = statistics(values[~np.isnan(values)], confidence=confidence)
            found |= {} if one is None else {name: one}
    seconds = window.duration_s
    tokens = float(rows["output_tokens"][ended].sum(dtype=np.int64))
    mean = float(flight.means(np.array([first, last]))[0])
    return Steady(window, float(np.count_nonzero(ended)) / seconds, tokens / seconds, mean, found)


def _errors(data: Columns, texts: list[str]) -> dict[str, int]:
    index = data.rows["error"][data.outcome(Outcome.FAILED)]
    amounts = np.bincount(index[index >= 0], minlength=len(texts))
    found: Counter[str] = Counter()
    for text, amount in zip(texts, amounts, strict=True):
        found[text] += int(amount)
    return {text: amount for text, amount in found.most_common() if amount}


def _notes(
    scalars: Mapping[str, float], steady: Steady | None, found: Mapping[str, Statistics], tokenizer: str
) -> tuple[str, ...]:
    notes = []
    if steady is not None and steady.window.warning:
        notes.append(steady.window.warning)
    mean, little = scalars.get("mean_concurrency", 0.0), scalars.get("little_concurrency", 0.0)
    if mean > 0 and little > 0 and abs(little / mean - 1) > LITTLE_TOLERANCE:
        notes.append(
            f"Little's law: {little:.3g} requests in flight follow from throughput and latency of the answered ones, "
            f"{mean:.3g} were: the rest gave no whole answer, or answers ended long after their last token"
        )
    if cancelled := round(scalars.get("cancelled", 0)):
        notes.append(
            f"{cancelled:,} requests were cancelled, as request_cancellation_rate asks: they count neither as completed nor "
            "as failed, and give no latencies"
        )
    if guessed := round(scalars.get("estimated_count", 0)):
        notes.append(
            f"the service stated no token counts that can be true in {guessed:,} of {round(scalars['completed']):,} "
            f"answers: their output tokens are estimated by {tokenizer}"
        )
    if "ttft_ms" in found and found["ttft_ms"].percentiles["p99.9"] is None:
        notes.append(f"p99.9 needs more than 1000 samples; there are {found['ttft_ms'].n}")
    return tuple(notes)
