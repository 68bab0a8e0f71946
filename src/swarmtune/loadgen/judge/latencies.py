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

from swarmtune.loadgen.read.counts import FASTEST
from swarmtune.loadgen.records import Outcome, Phase, Records

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NS_PER_MS = 1e6
NS_PER_S = 1e9
DOUBT_NS = 1_000_000  # a stamp that may be wrong by more is no evidence
MANY = 8  # events in each read, in the mean, of an answer that something has gathered,
SEVERAL, FEW = 4, 3  # or so many of an answer of few reads


@dataclass(frozen=True)
class Columns:
    """The measured requests, in order of scheduling, with the stamps of their chunks (ns; 0: there is none)."""

    rows: NDArray[Any]  # of records.REQUEST
    chunk_ns: Ints  # all chunks of the run
    chunk_tokens: NDArray[np.float32]
    chunk_choice: NDArray[np.uint8]
    chunk_doubt_ns: NDArray[np.int32]
    first_ns: Ints
    second_ns: Ints
    answer_ns: Ints  # first chunk that is not reasoning
    last_ns: Ints  # last event of the answer, with content or the end of it
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
        chunk_choice=np.ascontiguousarray(records.chunks["choice"]),
        chunk_doubt_ns=np.ascontiguousarray(records.chunks["doubt_ns"]),
        first_ns=stamp(zero),
        second_ns=stamp(zero + 1),
        answer_ns=stamp(rows["first_answer"]),
        last_ns=np.maximum(stamp(count.astype(np.int64) - 1), rows["last_ns"]),
        ended_ns=records.ended_ns,
    )


def _between(start_ns: NDArray[Any], end_ns: NDArray[Any], where: Bools) -> Floats:
    """``end - start`` in ms where both happened and ``where`` says so, else NaN."""
    return np.where(where & (start_ns > 0) & (end_ns > 0), (end_ns - start_ns) / NS_PER_MS, np.nan)


@dataclass(frozen=True)
class Gaps:
    """The times between arrivals of content in completed requests. Chunks of one choice that came in the same read are one
    arrival: what the read held came together.

    ``ms``: from one arrival to the next; ``tokens``: how many the later one brought; ``row``: of which request.
    ``tpot_ms``: per request, all its gaps / their tokens: its time per output token; NaN without a gap that brought tokens.
    ``in_one_piece``: completed requests of several tokens whose answer did not stream: all of it came at once, or faster
    than any service makes tokens, as when something on the way holds it back. ``in_few_pieces``: those whose events came
    many together, as when something gathers them. Both have no gaps.
    """

    ms: Floats
    tokens: Floats
    row: Ints
    tpot_ms: Floats
    in_one_piece: Bools
    in_few_pieces: Bools


def gaps_of(data: Columns) -> Gaps:
    """The gaps of all completed requests, by request, choice and time."""
    rows = data.rows
    several = np.flatnonzero(data.outcome(Outcome.COMPLETED) & (rows["chunks"] >= 1))
    counts, answers = rows["chunks"][several].astype(np.int64), rows["output_tokens"][several].astype(np.float64)
    chunk = ragged(rows["first_chunk"][several], counts)
    owner, choice = np.repeat(np.arange(len(several)), counts), data.chunk_choice[chunk]
    if choice.any():
        order = np.lexsort((choice, owner))  # stable: in time within a choice
        chunk, owner, choice = chunk[order], owner[order], choice[order]
    ns, begins = data.chunk_ns[chunk], np.ones(len(chunk), bool)  # of a choice
    begins[1:] = (owner[1:] != owner[:-1]) | (choice[1:] != choice[:-1])
    tokens = _tokens_of(data.chunk_tokens[chunk], owner, begins, counts, answers)
    arrives = begins.copy()
    arrives[1:] |= ns[1:] != ns[:-1]
    at = np.flatnonzero(arrives)
    brought = np.add.reduceat(tokens, at) if len(at) else tokens
    later = ~begins[at]
    few = _few(data, chunk, owner, begins, arrives, counts)
    ms = np.diff(ns[at], prepend=0)[later] / NS_PER_MS
    brought, owner = brought[later], owner[at][later]
    time, amount = (np.bincount(owner, weights, len(several)) for weights in (ms, brought))
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(amount > 0, time / amount, np.nan)
    slow = tpot >= 1000 / FASTEST
    streamed = (slow & ~few)[owner]
    found, whole, gathered = np.full(len(rows), np.nan), np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    found[several] = np.where(slow & ~few, tpot, np.nan)
    shown = answers - rows["hidden_tokens"][several]
    lasts = (data.last_ns[several] - data.first_ns[several]) / NS_PER_MS >= shown * 1000 / FASTEST
    whole[several] = ~slow & (shown > rows["choices"][several]) & (shown > 1) & ~((counts == 1) & lasts)
    gathered[several] = slow & few
    return Gaps(ms[streamed], brought[streamed], several[owner[streamed]], found, whole, gathered)


def _few(data: Columns, chunk: Ints, owner: Ints, begins: Bools, arrives: Bools, counts: Ints) -> Bools:
    """Which answers came in few pieces: many events of each choice in one read, and not because we read late?"""
    late = np.bincount(owner, ~arrives & (data.chunk_doubt_ns[chunk] > DOUBT_NS), len(counts)) > 0
    pieces, choices = np.bincount(owner, arrives, len(counts)), np.bincount(owner, begins, len(counts))
    gathered = (counts >= MANY * pieces) | ((counts >= SEVERAL * pieces) & (pieces <= FEW * choices))
    found: Bools = gathered & (pieces > choices) & ~late
    return found


def _tokens_of(stated: NDArray[Any], owner: Ints, begins: Bools, counts: Ints, answers: Floats) -> Floats:
    """The tokens of each chunk: as recorded; where a later chunk of an answer has none recorded, one for the first of each
    choice, and the others evenly over the rest."""
    silent = np.bincount(owner, ~begins & (stated <= 0), len(counts)) > 0
    if not silent.any():
        return stated.astype(np.float64)
    choices = np.bincount(owner, begins, len(counts))
    even = np.maximum(0, answers - choices) / np.maximum(1, counts - choices)
    return np.where(silent[owner], np.where(begins, 1.0, even[owner]), stated)


def request_samples(data: Columns, *, streamed: bool = True, gaps: Gaps | None = None) -> dict[str, Floats]:
    """One sample per request of every metric that has one per request (metrics.py says what each means).

    Not ``streamed``: an answer came in one piece, so that there is no time to the first token, and no time per token.
    ``gaps``: those of ``data``, where they are known already.
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
    return found | _streamed_samples(data, completed, gaps or gaps_of(data)) if streamed else found


def _streamed_samples(data: Columns, completed: Bools, gaps: Gaps) -> dict[str, Floats]:
    rows = data.rows
    sent, scheduled = rows["sent_ns"].copy(), rows["scheduled_ns"].copy()
    waiting = data.outcome(Outcome.INCOMPLETE, Outcome.DROPPED)
    given_up_ns = np.where(rows["end_ns"] > 0, rows["end_ns"], data.ended_ns)
    first_or_given_up = np.where((data.first_ns == 0) & waiting, given_up_ns, data.first_ns)
    own_ttft = _between(sent, data.first_ns, completed)
    apart = completed & ~gaps.in_one_piece & ~gaps.in_few_pieces & (data.second_ns > data.first_ns)
    with np.errstate(divide="ignore", invalid="ignore"):
        prefill = np.where(own_ttft > 0, rows["input_tokens"] * 1000 / own_ttft, np.nan)
    return {
        "ttft_ms": _between(sent, first_or_given_up, completed | waiting),
        "scheduled_ttft_ms": _between(scheduled, first_or_given_up, completed | waiting),
        "ttst_ms": _between(data.first_ns, data.second_ns, apart),
        "ttfo_ms": _between(sent, data.answer_ns, completed),
        "scheduled_ttfo_ms": _between(scheduled, data.answer_ns, completed),
        "tpot_ms": gaps.tpot_ms,
        "output_throughput_per_user": 1000 / gaps.tpot_ms,
        "prefill_throughput_per_user": prefill,
    }


def _mismatch_pct(rows: NDArray[Any], completed: Bools) -> Floats:
    asked = rows["asked_output_tokens"].astype(np.int64) * np.maximum(1, rows["choices"])
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
