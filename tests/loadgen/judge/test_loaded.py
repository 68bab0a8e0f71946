"""The rate while the load is on: exact where waves are exact, and unbiased where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from swarmtune.loadgen.judge.latencies import Columns
from swarmtune.loadgen.judge.loaded import loaded_rates
from swarmtune.loadgen.records import REQUEST, Outcome

NS = 1_000_000_000
START = 5 * NS


def columns(sent_s: Any, ended_s: Any, tokens: int = 10, **more: Any) -> Columns:
    """Requests by their times after the start, s."""
    rows = np.zeros(len(sent_s), REQUEST)
    rows["sent_ns"], rows["end_ns"] = np.asarray(sent_s) * NS + START, np.asarray(ended_s) * NS + START
    rows["output_tokens"], rows["outcome"] = tokens, Outcome.COMPLETED
    for name, values in more.items():
        rows[name] = values
    none = np.zeros(0, np.int64)
    return Columns(
        rows,
        none,
        none.astype(np.float32),
        none.astype(np.uint8),
        none.astype(np.int32),
        none,
        none,
        none,
        none,
        int(rows["end_ns"].max(initial=START)),
    )


def goodput(data: Columns, users: float | None, offered_s: float | None = None) -> float:
    found = loaded_rates(data, np.ones(len(data.rows), bool), START, users, offered_s)
    assert len(found["request_goodput"]) == 10
    assert np.mean(found["output_throughput"]) == pytest.approx(10 * np.mean(found["request_goodput"]))
    return float(np.mean(found["request_goodput"]))


def waves(rng: np.random.Generator, users: int, mean_s: float, until_s: float, spread: float) -> Columns:
    """A closed loop: each user sends again as soon as it has its answer, until the time is over."""
    sent, ended, now = [], [], np.zeros(users)
    while (busy := now < until_s).any():
        lasts = mean_s * np.exp(rng.normal(0, spread, users) - spread**2 / 2)
        sent.append(now[busy])
        ended.append((now + lasts)[busy])
        now = np.where(busy, now + lasts, now)
    return columns(np.concatenate(sent), np.concatenate(ended))


@pytest.mark.parametrize("until_s", [1.5, 2.0, 2.1, 3.9])
def test_exact_waves_give_the_exact_rate_wherever_the_end_cuts_them(until_s: float) -> None:
    """16 users with answers of 1 s: 16 a second. Answers by the time until the last one would give 16 to 11."""
    assert goodput(waves(np.random.default_rng(0), 16, 1.0, until_s, 0.0), 16, until_s) == pytest.approx(16)


def test_a_number_of_requests_ends_the_time_under_load_with_the_last_one_sent() -> None:
    sent = np.repeat(np.arange(4.0), 8)
    assert goodput(columns(sent, sent + 1), 8) == pytest.approx(8)
    sent, ended = np.array([0.0, 0.0, 1.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert goodput(columns(sent, ended), 2) == pytest.approx((1 + 1 + 1) / 3)


def test_sessions_of_several_turns_are_under_load_until_the_last_one_starts() -> None:
    sent = np.array([0.0, 0.0, 1.0, 1.0, 2.0, 3.0])
    data = columns(sent, sent + 1, turn=[0, 0, 1, 1, 0, 1])
    assert goodput(data, 2) == pytest.approx(2), "from 2 s on a single user is left"


@pytest.mark.parametrize("users", [1, 4, 64])
@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_the_mean_over_many_short_runs_is_users_by_mean_lifetime(users: int, spread: float) -> None:
    """But for the common start, half the squared variation by the number of waves, on both sides of a comparison."""
    rng = np.random.default_rng(users)
    runs = 3000 // users + 100
    mean = np.mean([goodput(waves(rng, users, 1.0, 8.0, spread), users, 8.0) for _ in range(runs)])
    start = (np.exp(spread**2) - 1) / 2 / 8
    assert mean == pytest.approx(users * (1 + start), rel=0.015)


def test_two_speeds_keep_their_ratio_in_runs_of_two_waves() -> None:
    """The answers by the time until the last one, on the same runs, are off by more than 10 %."""
    rng = np.random.default_rng(3)
    runs = [[waves(rng, 16, 1 / speed, 2.0, 0.05) for _ in range(200)] for speed in (1.0, 1.2)]
    ours = [np.mean([np.log(goodput(run, 16, 2.0)) for run in of]) for of in runs]
    counted = [np.mean([np.log(len(r.rows) / ((r.rows["end_ns"].max() - START) / NS)) for r in of]) for of in runs]
    assert np.exp(ours[1] - ours[0]) == pytest.approx(1.2, abs=0.005)
    assert np.exp(counted[1] - counted[0]) > 1.3


def test_what_broke_its_limits_or_failed_earns_nothing() -> None:
    sent = np.repeat(np.arange(4.0), 2)
    data = columns(sent, sent + 1, outcome=[Outcome.COMPLETED, Outcome.FAILED] * 4)
    kept = np.array([True, False] * 4)
    assert np.mean(loaded_rates(data, kept, START, 2, 4.0)["request_goodput"]) == pytest.approx(1)
    assert np.mean(loaded_rates(data, kept, START, 2, 4.0)["output_throughput"]) == pytest.approx(10)
    assert set(loaded_rates(data, None, START, 2, 4.0)) == {"output_throughput"}


def test_a_service_that_keeps_up_with_a_rate_answers_all_of_it_however_long_the_last_answer_takes() -> None:
    sent = np.arange(40) / 4
    slow, quick = columns(sent, sent + 5.0), columns(sent, sent + 0.5)
    assert goodput(slow, None, 10.0) == goodput(quick, None, 10.0) == pytest.approx(4)


def test_a_service_that_cannot_keep_up_is_as_fast_as_its_whole_run() -> None:
    sent = np.arange(40) / 4
    assert goodput(columns(sent, np.arange(1, 41) / 2), None, 10.0) == pytest.approx(2)
    assert goodput(columns(np.zeros(40), np.arange(1, 41) / 2), None) == pytest.approx(2), "all at once"


def test_a_single_wave_is_measured_as_a_whole() -> None:
    assert goodput(columns(np.zeros(8), np.full(8, 2.0)), 8) == pytest.approx(4)


@pytest.mark.parametrize("users", [None, 1.0, 8.0])
def test_nothing_sent_gives_nothing_and_no_time_no_rate(users: float | None) -> None:
    assert loaded_rates(columns([], []), None, START, users, 1.0) == {}
    dropped = columns([0.0], [0.0], outcome=Outcome.DROPPED)
    assert loaded_rates(dropped, None, START, users, 1.0) == {}
    at_once = columns([0.0], [0.0])
    assert loaded_rates(at_once, None, START, users, None) == {}
