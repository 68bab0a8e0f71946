"""Step functions, values per second, and the steady window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.judge.series import concurrency, series, steady_window, steps
from swarmtune.loadgen.judge.summary import results
from swarmtune.testing.fake_records import fake_records

S = 1_000_000_000
SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=40)


@given(SPANS)
def test_the_sweep_counts_what_is_under_way(spans: list[tuple[int, int]]) -> None:
    starts = np.array([a for a, _ in spans])
    ends = starts + np.array([d for _, d in spans])
    found = steps(starts, ends)
    for at, value in zip(found.times_ns, found.values, strict=True):
        assert value == np.count_nonzero((starts <= at) & (at < ends))
    total = found.means(np.array([-1, 100]))[0] * 101
    assert total == pytest.approx(float((ends - starts).sum()))


def test_time_weighted_means_and_the_peak() -> None:
    found = steps(np.array([0, 1 * S]), np.array([4 * S, 2 * S]))
    assert found.means(np.array([0, 4 * S])).tolist() == [1.25]
    assert found.means(np.array([0, 1 * S, 2 * S, 8 * S])).tolist() == [1.0, 2.0, pytest.approx(2 / 6)]
    assert (found.peak(0, 4 * S), found.peak(3 * S, 4 * S)) == (2.0, 1.0)


def test_per_second_values_add_up_to_the_totals() -> None:
    records = fake_records(600, warmup=0)
    found, scalars = series(records), results(records).scalars
    assert found.completed.sum() == scalars["completed"]
    assert found.failed.sum() == scalars["failed"]
    assert found.sent.sum() == len(records.requests) - scalars["dropped"]
    silent = records.requests[(records.requests["outcome"] == 0) & (records.requests["chunks"] == 0)]
    assert found.output_tokens.sum() == pytest.approx(scalars["total_output_tokens"] - silent["output_tokens"].sum())
    assert np.isfinite(found.concurrency).all()
    assert len(series(records, most=3).start_s) == 3


def closed_loop(users: int = 8, requests: int = 50) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Each user's requests take 100 ms, with 1 ms between them; the users begin 50 ms apart."""
    begin = (np.arange(users)[:, None] * 50 + np.arange(requests)[None, :] * 101).ravel() * 1_000_000
    return begin, begin + 100_000_000


def test_the_steady_window_leaves_out_ramp_and_drain() -> None:
    starts, ends = closed_loop()
    found = steady_window(steps(starts, ends), 0, int(ends.max()), target=8)
    assert found is not None
    assert 0.3 <= found.start_s <= 0.4
    assert 4.9 <= found.end_s <= 5.1
    assert (found.warning, found.target_concurrency) == ("", 8)


def test_a_short_steady_window_is_warned_of_and_none_is_none() -> None:
    starts, ends = closed_loop(requests=4)
    found = steady_window(steps(starts, ends), 0, int(ends.max()) * 4, target=8)
    assert found is not None
    assert "measure longer" in found.warning
    by_peak = steady_window(steps(starts, ends), 0, int(ends.max()) * 4)
    assert by_peak is not None
    assert (by_peak.start_s, by_peak.asked, by_peak.warning) == (found.start_s, False, "")
    assert steady_window(steps(starts, ends), 0, int(ends.max()), target=100) is None
    assert steady_window(steps(starts[:0], ends[:0]), 0, S) is None


def test_concurrency_holds_requests_of_the_warm_up() -> None:
    records = fake_records(50, warmup=50)
    assert concurrency(records).times_ns[0] == records.requests["sent_ns"][records.requests["sent_ns"] > 0].min()
