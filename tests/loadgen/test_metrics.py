"""Metrics of hand-made rows, with values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from swarmtune.loadgen.metrics import keeps, metrics, nearest_rank
from swarmtune.loadgen.rows import Outcome, Row

MS = 1_000_000


def row(
    sent_ms: int, tokens_ms: tuple[int, ...], outcome: Outcome = Outcome.COMPLETED, output_tokens: int | None = None
) -> Row:
    return Row(
        id="r",
        scheduled_ns=sent_ms * MS,
        sent_ns=sent_ms * MS,
        token_ns=tuple(t * MS for t in tokens_ms),
        end_ns=max((sent_ms, *tokens_ms)) * MS,
        input_tokens=10,
        output_tokens=len(tokens_ms) if output_tokens is None else output_tokens,
        outcome=outcome,
    )


ROWS = [row(0, (50, 60, 80)), row(100, (130, 140, 150, 160, 170)), row(200, (260,)), row(0, (10,), Outcome.FAILED)]


def test_every_metric_of_a_small_example() -> None:
    found = metrics([*ROWS, row(300, (500,), Outcome.INCOMPLETE)], 0, {"ttft_ms": 50, "tpot_ms": 12})
    assert (found["completed"], found["failed"], found["incomplete"], found["success_rate"]) == (3, 1, 1, 0.75)
    assert found["duration_s"] == 0.5
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (30, 9)
    assert (found["request_throughput"], found["output_throughput"]) == (6.0, 18.0)
    assert found["total_token_throughput"] == 78.0
    assert found["request_goodput"] == 2.0
    assert (found["min_ttft_ms"], found["p50_ttft_ms"], found["max_ttft_ms"]) == (30, 50, 200)
    assert found["mean_ttft_ms"] == pytest.approx(340 / 4)
    assert found["std_ttft_ms"] == pytest.approx(
        math.sqrt(((50 - 85) ** 2 + (30 - 85) ** 2 + (60 - 85) ** 2 + 115**2) / 4)
    )
    assert (found["min_tpot_ms"], found["max_tpot_ms"]) == (10, 15)
    assert (found["p50_itl_ms"], found["p99_itl_ms"]) == (10, 20)
    assert (found["p50_e2el_ms"], found["p90_e2el_ms"]) == (70, 80)


def test_requests_that_wait_for_ever_are_not_forgotten() -> None:
    """60 of 64 users got no first token in 13 s: that service is not fast."""
    quick = [row(0, (100, 110)) for _ in range(4)]
    waiting = [replace(row(0, (), Outcome.INCOMPLETE), end_ns=13_000 * MS) for _ in range(60)]
    unsent = replace(row(0, (), Outcome.INCOMPLETE), sent_ns=None, end_ns=13_000 * MS)
    found = metrics([*quick, *waiting, unsent], 0, {})
    assert found["incomplete"] == 61
    assert (found["min_ttft_ms"], found["p50_ttft_ms"], found["p95_ttft_ms"]) == (100, 13_000, 13_000)


def test_tpot_uses_the_servers_token_count() -> None:
    assert row(0, (10, 30), output_tokens=5).tpot_ms == 5
    assert row(0, (10,)).tpot_ms is None


def test_nothing_measured_means_absent_names_not_zeros() -> None:
    found = metrics([], 0, {"ttft_ms": 50})
    assert found["success_rate"] == 0.0
    assert not [name for name in found if "ttft" in name or "throughput" in name or "goodput" in name]
    assert "request_goodput" not in metrics(ROWS, 0, {})


def test_only_failures_is_success_rate_zero() -> None:
    found = metrics([row(0, (), Outcome.FAILED)], -1000, {})
    assert (found["success_rate"], found["completed"], found["failed"]) == (0.0, 0, 1)


def test_what_was_not_measured_keeps_no_limit() -> None:
    silent = row(0, (), output_tokens=3)
    assert not keeps(silent, {"ttft_ms": 1e9})
    assert not keeps(silent, {"tpot_ms": 1e9})
    assert keeps(row(0, (5,)), {"tpot_ms": 1.0})
    assert keeps(row(0, (5,)), {"ttft_ms": 5.0, "e2el_ms": 5.0})


@pytest.mark.parametrize(("percentile", "expected"), [(1, 1), (50, 5), (90, 9), (95, 10), (99, 10), (100, 10)])
def test_percentiles_are_order_statistics(percentile: int, expected: int) -> None:
    assert nearest_rank(range(1, 11), percentile) == expected


def test_rows_survive_storage() -> None:
    assert Row.from_json(ROWS[0].to_json()) == ROWS[0]
    assert ROWS[0].to_json()["ok"] is True
    assert ROWS[3].to_json()["ok"] is False
