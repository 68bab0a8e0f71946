"""Samples of the measured requests, one numpy column per latency: ms, NaN where it was not measured.

Only ``Phase.MEASURED`` counts. All latencies are of completed requests, with two exceptions for the time to the first
token: a request that was given up on (incomplete) counts with its own or, without a first token, with the time that it had
waited; a dropped one counts from its scheduled time, with the time that it had waited. Otherwise a service that answers
few of many requests would look fast. Cancelled requests ended on purpose and give no latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.loadgen.records import Outcome, Phase, Records

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NS_PER_MS = 1e6
NS_PER_S = 1e9


@dataclass(frozen=True)
class Columns:
    """The measured requests, in order of scheduling, with the stamps of their chunks (ns; 0: there is none)."""

    rows: NDArray[Any]  # of records.REQUEST
    chunk_ns: Ints  # all chunks of the run
    chunk_tokens: NDArray[np.int16]
    first_ns: Ints
    second_ns: Ints
    answer_ns: Ints  # first chunk that is not reasoning
    last_ns: Ints
    ended_ns: int  # the end of the measurement

    def outcome(self, *wanted: Outcome) -> Bools:
        """Which requests ended in one of these ways?"""
        ways = np.zeros(256, bool)
        ways[list(wanted)] = True
        found: Bools = ways[self.rows["outcome"]]
        return found


def columns(records: Records) -> Columns:
    """The measured requests of a run; raises nothing, whatever is missing."""
    measured = records.requests["phase"] == Phase.MEASURED
    rows = records.requests if measured.all() else records.requests[measured]
    chunk_ns = np.ascontiguousarray(records.chunks["ns"])
    first, count = rows["first_chunk"].copy(), rows["chunks"].copy()

    def stamp(position: NDArray[Any]) -> Ints:
        """The stamp of the chunk at this position of each request, 0 where the request has none there."""
        there = (position >= 0) & (position < count)
        found = np.zeros(len(rows), np.int64)
        found[there] = chunk_ns[(first + position)[there]]
        return found

    zero = np.zeros(len(rows), np.int64)
    return Columns(
        rows=rows,
        chunk_ns=chunk_ns,
        chunk_tokens=np.ascontiguousarray(records.chunks["tokens"]),
        first_ns=stamp(zero),
        second_ns=stamp(zero + 1),
        answer_ns=stamp(rows["first_answer"]),
        last_ns=stamp(count.astype(np.int64) - 1),
        ended_ns=records.ended_ns,
    )


def _between(start_ns: NDArray[Any], end_ns: NDArray[Any], where: Bools) -> Floats:
    """``end - start`` in ms where both happened and ``where`` says so, else NaN."""
    return np.where(where & (start_ns > 0) & (end_ns > 0), (end_ns - start_ns) / NS_PER_MS, np.nan)


def request_samples(data: Columns, *, streamed: bool = True) -> dict[str, Floats]:
    """One sample per request of every metric that has one per request (metrics.py says what each means).

    Not ``streamed``: an answer came in one piece, so that there is no time to the first token, and no time per token.
    """
    rows, completed = data.rows, data.outcome(Outcome.COMPLETED)
    sent, scheduled = rows["sent_ns"].copy(), rows["scheduled_ns"].copy()
    end = np.where(rows["chunks"] > 0, data.last_ns, rows["end_ns"])
    found = {
        "e2el_ms": _between(sent, end, completed),
        "scheduled_e2el_ms": _between(scheduled, end, completed),
        "send_lag_ms": _between(scheduled, sent, np.ones(len(rows), bool)),
        "connect_ms": np.where(rows["connect_ns"] > 0, rows["connect_ns"] / NS_PER_MS, np.nan),
        "isl": np.where(completed, rows["input_tokens"], np.nan),
        "osl": np.where(completed, rows["output_tokens"], np.nan),
        "reasoning_tokens": np.where(completed & (rows["reasoning_tokens"] >= 0), rows["reasoning_tokens"], np.nan),
        "osl_mismatch_pct": _mismatch_pct(rows, completed),
    }
    return found | _streamed_samples(data, completed) if streamed else found


def _streamed_samples(data: Columns, completed: Bools) -> dict[str, Floats]:
    rows = data.rows
    sent, scheduled, tokens = rows["sent_ns"].copy(), rows["scheduled_ns"].copy(), rows["output_tokens"].copy()
    waiting = data.outcome(Outcome.INCOMPLETE, Outcome.DROPPED)
    given_up_ns = np.where(rows["end_ns"] > 0, rows["end_ns"], data.ended_ns)
    first_or_given_up = np.where((data.first_ns == 0) & waiting, given_up_ns, data.first_ns)
    ttft = _between(sent, first_or_given_up, completed | waiting)
    own_ttft = _between(sent, data.first_ns, completed)
    decode = _between(data.first_ns, data.last_ns, completed & (tokens >= 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = decode / (tokens - 1)
        per_user = np.where(tpot > 0, 1000 / tpot, np.nan)
        prefill = np.where(own_ttft > 0, rows["input_tokens"] * 1000 / own_ttft, np.nan)
    return {
        "ttft_ms": ttft,
        "scheduled_ttft_ms": _between(scheduled, first_or_given_up, completed | waiting),
        "ttst_ms": _between(data.first_ns, data.second_ns, completed),
        "ttfo_ms": _between(sent, data.answer_ns, completed),
        "scheduled_ttfo_ms": _between(scheduled, data.answer_ns, completed),
        "tpot_ms": tpot,
        "output_throughput_per_user": per_user,
        "prefill_throughput_per_user": prefill,
    }


def _mismatch_pct(rows: NDArray[Any], completed: Bools) -> Floats:
    asked = rows["asked_output_tokens"]
    found = np.full(len(rows), np.nan)
    there = completed & (asked > 0)
    found[there] = (rows["output_tokens"][there] - asked[there]) * 100.0 / asked[there]
    return found


def ragged(starts: NDArray[Any], counts: NDArray[Any]) -> Ints:
    """The indices ``start, start + 1, ... start + count - 1`` of every row, one row after the other."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    index = np.repeat(starts.astype(np.int64) - ends + counts, counts)
    index += np.arange(total)
    return index


def gap_samples(data: Columns) -> tuple[Floats, Floats | None]:
    """Gaps between consecutive chunks of completed requests, ms, and how many tokens each gap brought.

    Tokens: what the server said of the later chunk; for a request where it did not say so of each, the tokens after the
    first evenly over the gaps, (output_tokens - 1) / (chunks - 1), at least 1. None: each gap brought exactly one.
    """
    several = data.outcome(Outcome.COMPLETED) & (data.rows["chunks"] >= 2)
    first, chunks, tokens_of = (data.rows[name][several] for name in ("first_chunk", "chunks", "output_tokens"))
    counts = chunks.astype(np.int64) - 1
    earlier = ragged(first, counts)
    gaps = np.diff(data.chunk_ns)[earlier] / NS_PER_MS
    even = np.maximum(1.0, (tokens_of - 1) / counts)
    if not len(gaps) or not data.chunk_tokens.any():
        return gaps, None if (even == 1.0).all() else np.repeat(even, counts)
    said = data.chunk_tokens[1:][earlier]
    silent = np.add.reduceat(said <= 0, np.cumsum(counts) - counts, dtype=np.int64) > 0
    tokens = np.where(np.repeat(silent, counts), np.repeat(even, counts), said)
    return gaps, None if (tokens == 1.0).all() else tokens
