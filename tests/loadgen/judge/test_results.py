"""Metrics of hand-made records, with values worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.judge.latencies import columns, gaps_of
from swarmtune.loadgen.judge.statistics import nearest_rank, statistics
from swarmtune.loadgen.judge.summary import results
from swarmtune.loadgen.records import CHUNK, REQUEST, Outcome, Phase, Records
from swarmtune.testing.fake_records import fake_records

MS = 1_000_000
BASE = 1_000 * MS


def run(*requests: dict[str, object], ended_ms: int = 0) -> Records:
    """Records of requests given in ms after the start: sent, scheduled, chunks (stamps), tokens (of each chunk), ..."""
    rows = np.zeros(len(requests), REQUEST)
    chunks: list[tuple[int, int, int, int]] = []
    for row, facts in zip(rows, requests, strict=True):
        stamps = list(facts.get("chunks", ()))  # type: ignore[call-overload]
        sent = facts.get("sent", 0)
        last = max([sent or 0, *stamps])
        row["phase"] = facts.get("phase", Phase.MEASURED)
        row["outcome"] = facts.get("outcome", Outcome.COMPLETED)
        row["sent_ns"] = 0 if sent is None else BASE + sent * MS
        row["scheduled_ns"] = BASE + facts.get("scheduled", sent or 0) * MS
        row["end_ns"] = BASE + facts.get("end", last) * MS
        row["first_chunk"], row["chunks"] = len(chunks), len(stamps)
        row["first_answer"] = facts.get("first_answer", 0 if stamps else -1)
        row["input_tokens"] = facts.get("input_tokens", 10)
        row["output_tokens"] = facts.get("output_tokens", len(stamps))
        row["asked_output_tokens"] = facts.get("asked", -1)
        row["cached_tokens"] = facts.get("cached", -1)
        row["reasoning_tokens"] = -1
        row["error"] = facts.get("error", -1)
        tokens = facts.get("tokens", [0] * len(stamps))
        chunks += [(BASE + at * MS, -1, 0, k, 0) for at, k in zip(stamps, tokens, strict=True)]  # type: ignore[call-overload]
    end = BASE + ended_ms * MS if ended_ms else int(rows["end_ns"].max(initial=BASE))
    return Records(rows, np.array(chunks, CHUNK), ["HTTP 500", "cut off"], [], BASE, end, 0)


SMALL = (
    {"sent": 0, "chunks": (50, 60, 80)},
    {"sent": 100, "chunks": (130, 140, 150, 160, 170)},
    {"sent": 200, "chunks": (260,)},
    {"sent": 0, "chunks": (10,), "outcome": Outcome.FAILED, "error": 1},
    {"sent": 300, "chunks": (500,), "outcome": Outcome.INCOMPLETE},
)


def test_every_metric_of_a_small_example() -> None:
    found = results(run(*SMALL), {"ttft_ms": 50, "tpot_ms": 12})
    flat = found.flat()
    assert [flat[n] for n in ("completed", "failed", "incomplete", "success_rate")] == [3, 1, 1, 0.75]
    assert flat["duration_s"] == 0.5
    assert (flat["total_input_tokens"], flat["total_output_tokens"]) == (30, 9)
    assert (flat["request_throughput"], flat["output_throughput"], flat["total_token_throughput"]) == (6.0, 18.0, 78.0)
    assert (flat["request_goodput"], flat["good_request_share"]) == (2.0, 0.25)
    assert (flat["min_ttft_ms"], flat["p50_ttft_ms"], flat["max_ttft_ms"]) == (30, 50, 200)
    assert flat["mean_ttft_ms"] == pytest.approx(85)
    assert flat["std_ttft_ms"] == pytest.approx(math.sqrt((35**2 + 55**2 + 25**2 + 115**2) / 4))
    assert (flat["min_tpot_ms"], flat["max_tpot_ms"]) == (10, 15)
    assert (flat["p50_icl_ms"], flat["p50_itl_ms"], flat["p99_itl_ms"]) == (10, 10, 20)
    assert (flat["p50_e2el_ms"], flat["p90_e2el_ms"]) == (70, 80)
    assert (flat["min_ttst_ms"], flat["max_ttst_ms"]) == (10, 10)
    assert flat["max_output_throughput_per_user"] == pytest.approx(100)
    assert flat["max_prefill_throughput_per_user"] == pytest.approx(10 / 0.03)
    assert found.errors == {"cut off": 1}
    # in flight: 80 + 70 + 60 + 10 + 200 ms of 500 ms; the answered ones alone 210 ms of it
    assert (flat["mean_concurrency"], flat["little_concurrency"]) == (pytest.approx(0.84), pytest.approx(0.42))
    assert flat["peak_concurrency"] == 2
    assert any("Little's law" in note for note in found.notes)


def test_requests_that_wait_for_ever_are_not_forgotten() -> None:
    """60 of 64 users got no first token in 13 s: that service is not fast."""
    quick = [{"sent": 0, "chunks": (100, 110)}] * 4
    waiting = [{"sent": 0, "end": 13_000, "outcome": Outcome.INCOMPLETE}] * 60
    dropped = {"sent": None, "scheduled": 3000, "end": 13_000, "outcome": Outcome.DROPPED}
    flat = results(run(*quick, *waiting, dropped)).flat()
    assert (flat["incomplete"], flat["dropped"]) == (60, 1)
    assert (flat["min_ttft_ms"], flat["p50_ttft_ms"], flat["p95_ttft_ms"]) == (100, 13_000, 13_000)
    assert flat["min_scheduled_ttft_ms"] == 100
    assert flat["mean_scheduled_ttft_ms"] == pytest.approx((4 * 100 + 60 * 13_000 + 10_000) / 65)


def test_latencies_from_the_scheduled_time_hold_what_the_queue_cost() -> None:
    late = {"sent": 40, "scheduled": 0, "chunks": (60, 70)}
    flat = results(run(late, {"sent": 100, "chunks": (120, 130)}), {"ttft_ms": 30}).flat()
    assert (flat["max_ttft_ms"], flat["max_scheduled_ttft_ms"], flat["max_scheduled_e2el_ms"]) == (20, 60, 70)
    assert (flat["late"], flat["max_send_lag_ms"], flat["min_send_lag_ms"]) == (1, 40, 0)
    assert flat["good_request_share"] == 1
    assert flat["scheduled_good_request_share"] == 0.5
    assert flat["scheduled_request_goodput"] == pytest.approx(flat["request_goodput"] / 2)


def test_a_dropped_request_is_no_good_one_from_the_scheduled_time() -> None:
    dropped = {"sent": None, "scheduled": 5, "end": 90, "outcome": Outcome.DROPPED}
    flat = results(run({"sent": 0, "chunks": (10,)}, dropped), {"ttft_ms": 30}).flat()
    assert (flat["good_request_share"], flat["scheduled_good_request_share"]) == (1.0, 0.5)


def test_warm_up_and_cancelled_requests_give_no_latency() -> None:
    records = run(
        {"sent": 0, "chunks": (900,), "phase": Phase.WARMUP},
        {"sent": 1000, "chunks": (1010, 1020)},
        {"sent": 1000, "chunks": (1900,), "outcome": Outcome.CANCELLED},
    )
    flat = results(records).flat()
    assert (flat["completed"], flat["cancelled"], flat["failed"]) == (1, 1, 0)
    assert (flat["max_ttft_ms"], flat["success_rate"]) == (10, 1.0)


def test_reasoning_comes_before_the_first_answer() -> None:
    flat = results(
        run({"sent": 0, "chunks": (10, 20, 35), "first_answer": 2}, {"sent": 0, "chunks": (5,), "first_answer": -1})
    ).flat()
    assert (flat["min_ttft_ms"], flat["min_ttfo_ms"], flat["max_ttfo_ms"]) == (5, 35, 35)


def test_a_gap_that_brought_k_tokens_is_k_samples() -> None:
    told = {"sent": 0, "chunks": (10, 40, 50), "tokens": [1, 3, 1], "output_tokens": 5}
    found = results(run(told))
    itl = found.statistics["itl_ms"]
    assert (itl.n, itl.mean, itl.min, itl.max) == (4, 10.0, 10.0, 10.0)
    assert found.statistics["icl_ms"].n == 2
    evenly = {"sent": 0, "chunks": (10, 40, 50), "output_tokens": 5}
    itl = results(run(evenly)).statistics["itl_ms"]
    assert (itl.n, itl.min, itl.max, itl.mean) == (4, 5.0, 15.0, 10.0)
    partly = {"sent": 0, "chunks": (10, 40, 50), "tokens": [1, 0, 1], "output_tokens": 5}
    assert results(run(partly)).statistics["itl_ms"] == itl


def test_gaps_follow_the_requests_and_not_the_order_of_the_chunks() -> None:
    records = run({"sent": 0, "chunks": (10, 20)}, {"sent": 5, "chunks": (40, 70)})
    records.chunks = records.chunks[[2, 3, 0, 1]]
    records.requests["first_chunk"] = [2, 0]
    gaps = gaps_of(columns(records))
    assert (gaps.ms.tolist(), gaps.tokens.tolist(), gaps.row.tolist()) == ([10.0, 30.0], [1.0, 1.0], [0, 1])


def test_tpot_uses_the_servers_token_count() -> None:
    assert results(run({"sent": 0, "chunks": (10, 30), "output_tokens": 5})).flat()["mean_tpot_ms"] == 5


def test_failures_are_infinite_in_the_adjusted_percentiles() -> None:
    good = [{"sent": 0, "chunks": (i, 100)} for i in range(1, 10)]
    found = results(run(*good, {"sent": 0, "outcome": Outcome.FAILED, "error": 0, "end": 3}))
    adjusted = found.statistics["ttft_ms"].adjusted
    assert (adjusted["p50"], adjusted["p90"], adjusted["p95"]) == (5, 9, math.inf)
    assert "adj_p95_ttft_ms" not in found.flat()
    assert found.flat()["adj_p90_ttft_ms"] == 9
    assert found.to_json()["statistics"]["ttft_ms"]["adjusted"]["p95"] == "inf"
    assert "adjusted" not in found.to_json()["statistics"]["icl_ms"]


def test_lengths_and_cache() -> None:
    flat = results(
        run(
            {"sent": 0, "chunks": (10, 20), "asked": 4, "cached": 5},
            {"sent": 0, "chunks": (10, 20), "asked": 2, "cached": -1},
        )
    ).flat()
    assert (flat["osl_mismatch_count"], flat["min_osl_mismatch_pct"]) == (1, -50)
    assert (flat["total_cached_tokens"], flat["cached_share"], flat["mean_isl"], flat["mean_osl"]) == (5, 0.5, 10, 2)


def test_an_answer_in_one_piece_has_an_end_and_no_tokens_over_time() -> None:
    flat = results(run({"sent": 0, "chunks": (), "end": 30}), {"e2el_ms": 30}).flat()
    assert (flat["max_e2el_ms"], flat["good_request_share"]) == (30, 1.0)
    flat = results(run({"sent": 0, "chunks": (30,), "output_tokens": 9}), streamed=False).flat()
    assert flat["max_e2el_ms"] == 30
    assert not [name for name in flat if "ttft" in name or "tpot" in name or "itl" in name]


def test_nothing_measured_means_absent_names_not_zeros() -> None:
    flat = results(run(), {"ttft_ms": 50}).flat()
    assert (flat["success_rate"], flat["completed"]) == (0.0, 0)
    assert not [name for name in flat if "ttft" in name or "throughput" in name or "goodput" in name or "share" in name]
    assert "request_goodput" not in results(run(*SMALL)).flat()


def test_only_failures_is_success_rate_zero() -> None:
    flat = results(run({"sent": 0, "outcome": Outcome.FAILED, "error": 0, "end": 5})).flat()
    assert (flat["success_rate"], flat["completed"], flat["failed"]) == (0.0, 0, 1)


def test_what_was_not_measured_keeps_no_limit() -> None:
    def share(slos: dict[str, float], **facts: object) -> float:
        return results(run({"sent": 0, **facts}), slos).flat()["good_request_share"]

    silent = {"chunks": (), "output_tokens": 3, "end": 5}
    assert share({"ttft_ms": 1e9}, **silent) == 0
    assert share({"tpot_ms": 1e9}, **silent) == 0
    assert share({"tpot_ms": 1.0, "ttst_ms": 1.0, "output_throughput_per_user": 1e9}, chunks=(5,)) == 1
    assert share({"ttft_ms": 5.0, "e2el_ms": 5.0}, chunks=(5,)) == 1
    assert share({"output_throughput_per_user": 100}, chunks=(5, 15)) == 1
    assert share({"output_throughput_per_user": 101}, chunks=(5, 15)) == 0


def test_an_unknown_limit_is_one_clear_error() -> None:
    with pytest.raises(ConfigValidationError, match=r"unknown limit 'tttft_ms'; the limits are ttft_ms"):
        results(run(*SMALL), {"tttft_ms": 1})


@pytest.mark.parametrize(("per_mille", "expected"), [(10, 1), (500, 5), (900, 9), (950, 10), (990, 10)])
def test_percentiles_are_order_statistics(per_mille: int, expected: int) -> None:
    assert nearest_rank(per_mille, 10) == expected


def test_the_highest_percentile_waits_for_enough_samples() -> None:
    few, many = statistics(np.arange(1.0, 1000.0)), statistics(np.arange(1.0, 1001.0))
    assert few is not None and few.percentiles["p99.9"] is None  # noqa: PT018 - for mypy
    assert many is not None and many.percentiles["p99.9"] == 999.0  # noqa: PT018


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=80))
def test_weights_are_repetitions(pairs: list[tuple[int, int]]) -> None:
    values = np.array([float(v) for v, _ in pairs])
    weights = np.array([float(w) for _, w in pairs])
    repeated = statistics(np.repeat(values, weights.astype(int)))
    weighted = statistics(values, weights)
    assert repeated is not None
    assert weighted is not None
    assert weighted.percentiles == repeated.percentiles
    assert (weighted.n, weighted.min, weighted.max) == (repeated.n, repeated.min, repeated.max)
    assert weighted.mean == pytest.approx(repeated.mean)
    assert weighted.std == pytest.approx(repeated.std, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_realistic_records_agree_with_a_plain_loop(seed: int) -> None:
    records = fake_records(seed=seed)
    found = results(records)
    ttft, gaps, e2el = [], [], []
    for row in records.requests[records.requests["phase"] == Phase.MEASURED]:
        stamps = records.chunks["ns"][row["first_chunk"] : row["first_chunk"] + row["chunks"]]
        if row["outcome"] == Outcome.COMPLETED:
            gaps += [float(b - a) / MS for a, b in pairwise(stamps)]
            e2el.append(float((stamps[-1] if len(stamps) else row["end_ns"]) - row["sent_ns"]) / MS)
        if (row["outcome"] == Outcome.COMPLETED and len(stamps)) or row["outcome"] == Outcome.INCOMPLETE:
            ttft.append(float((stamps[0] if len(stamps) else row["end_ns"]) - row["sent_ns"]) / MS)
    for name, values in (("ttft_ms", ttft), ("icl_ms", gaps), ("e2el_ms", e2el)):
        one = found.statistics[name]
        assert one.n == len(values)
        assert one.mean == pytest.approx(np.mean(values))
        assert one.percentiles["p95"] == sorted(values)[math.ceil(0.95 * len(values)) - 1]
    assert found.scalars["duration_s"] == pytest.approx((records.ended_ns - records.started_ns) / 1e9)
    assert sum(found.errors.values()) == found.scalars["failed"]
