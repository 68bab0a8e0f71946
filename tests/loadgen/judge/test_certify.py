"""The verdict, from records that are made up, and from a run that is starved on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from swarmtune.loadgen.judge.certify import certify, lateness, refused
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Records, WorkerFacts
from swarmtune.records import Measurement
from swarmtune.testing.fake_records import fake_records

RATE = LoadgenOptions(request_rate=50.0)
CLOSED = LoadgenOptions(concurrency=8)
MS = 1_000_000


def records(**facts: object) -> Records:
    """A run without any fault: sent at once, each chunk stamped."""
    made = fake_records(400, seed=1)
    sent = made.requests["sent_ns"] > 0
    made.requests["ready_ns"] = np.where(sent, made.requests["sent_ns"] - made.requests["connect_ns"], 0)
    made.chunks["doubt_ns"] = 0
    made.chunks["lag_ns"] = 50_000
    worker = WorkerFacts("worker-0", "native", True, cpu_share=0.2, cpu_share_max=0.3)
    return replace(made, workers=[replace(worker, **facts)])  # type: ignore[arg-type] # facts of WorkerFacts


@pytest.mark.parametrize("options", [RATE, CLOSED])
def test_without_a_fault_it_is_valid(options: LoadgenOptions) -> None:
    verdict = certify(records(), options)
    assert (verdict.level, verdict.reasons) == ("valid", ())


@pytest.mark.parametrize(("late_ms", "level"), [(1, "valid"), (10, "degraded"), (40, "invalid")])
def test_a_rate_that_is_sent_late(late_ms: int, level: str) -> None:
    made = records()
    made.requests["ready_ns"] -= late_ms * MS
    verdict = certify(made, RATE)
    assert verdict.level == level
    assert verdict.facts["client_send_lag_p99_ms"] == pytest.approx(late_ms)


def test_connecting_and_waiting_for_a_slot_are_not_our_lateness() -> None:
    made = records()
    made.requests["scheduled_ns"] -= 500 * MS
    made.requests["connect_ns"] += 300 * MS
    made.requests["ready_ns"] -= 300 * MS
    assert certify(made, RATE).level == "valid"


@pytest.mark.parametrize(("share", "level"), [(0.002, "valid"), (0.03, "degraded"), (0.2, "invalid")])
def test_a_closed_loop_that_leaves_its_users_idle(share: float, level: str) -> None:
    made = records()
    busy = made.requests["end_ns"] - made.requests["sent_ns"]
    sent = made.requests["sent_ns"] > 0
    made.requests["ready_ns"] -= np.where(sent, (busy * share / (1 - share)).astype(np.int64), 0)
    verdict = certify(made, CLOSED)
    assert verdict.level == level
    assert verdict.facts["client_idle_share"] == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(("share", "level"), [(0.005, "valid"), (0.03, "degraded"), (0.2, "invalid")])
def test_chunks_whose_stamps_are_unsure(share: float, level: str) -> None:
    made = records()
    made.chunks["doubt_ns"][: int(share * len(made.chunks))] = 2 * MS
    assert certify(made, CLOSED).level == level


def test_reading_late_is_no_fault_while_the_kernel_stamps() -> None:
    made = records()
    made.chunks["lag_ns"] = 400 * MS
    assert certify(made, CLOSED).level == "valid"
    assert lateness(made)["client_read_lag_p99_ms"] == 400


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"cpu_share_max": 0.99}, "degraded", "99% of a core"),
        ({"clock_steps": 1}, "degraded", "clock was set"),
        ({"clock_offset_error_ms": 0.2}, "valid", ""),
        ({"clock_offset_error_ms": 90.0}, "invalid", "clocks"),
        ({"notes": ["died in the measurement"]}, "invalid", "worker-0: died"),
    ],
)
def test_what_workers_say(facts: dict[str, object], level: str, words: str) -> None:
    verdict = certify(records(**facts), CLOSED)
    assert verdict.level == level
    assert words in " ".join(verdict.reasons)


@pytest.mark.parametrize(("flag", "words"), [("interrupted", "partial"), ("lost", "endpoint was lost")])
def test_a_run_that_was_cut_short(flag: str, words: str) -> None:
    verdict = certify(replace(records(), **{flag: True}), CLOSED)  # type: ignore[arg-type] # a flag of Records
    assert verdict.level == "invalid"
    assert words in verdict.reasons[0]


def test_if_nothing_was_completed_the_commonest_error_is_the_reason_and_nobody_else_is_blamed() -> None:
    made = records(cpu_share_max=1.0)
    made.requests["outcome"] = Outcome.FAILED
    made.requests["error"] = np.where(np.arange(len(made.requests)) % 4, 1, 0)
    made.requests["ready_ns"] -= 10**9  # requests that fail at once leave users idle
    made = replace(made, errors=["timed out", "HTTP 422: unexpected field stream_options"])
    certificate = certify(made, CLOSED)
    (reason,) = certificate.reasons
    assert certificate.level == "invalid"
    assert reason.startswith("not a single request was completed; ")
    assert reason.endswith("failed with: HTTP 422: unexpected field stream_options")


@pytest.mark.parametrize(("outcomes", "words"), [
    ([Outcome.CANCELLED], ("all 400 requests were cancelled, as request_cancellation_rate asks: no answer is whole, so "
     "there are no latencies")),
    ([Outcome.CANCELLED, Outcome.FAILED], "; 200 of 400 failed with: HTTP 500; 200 of 400 were cancelled as asked"),
    ([Outcome.INCOMPLETE], "; 400 of 400 had no answer before the end"),
])  # fmt: skip
def test_requests_that_were_given_up_on_purpose_are_no_failures(outcomes: list[Outcome], words: str) -> None:
    made = records()
    made.requests["outcome"] = np.resize(outcomes, len(made.requests))
    made.requests["error"] = np.resize([0, 1][: len(outcomes)], len(made.requests))
    made = replace(made, errors=["cancelled on purpose", "HTTP 500"])
    certificate = certify(made, CLOSED)
    (reason,) = certificate.reasons
    assert reason.endswith(words)
    measured = Measurement({"completed": 0.0, "answered": 400.0, "cancelled": 400.0}, valid=False)
    assert not refused(measured)


def test_a_run_without_anything_is_judged_all_the_same() -> None:
    made = records()
    empty = replace(made, requests=made.requests[:0], chunks=made.chunks[:0])
    assert certify(empty, RATE).level == "valid"


@pytest.mark.parametrize(("faults", "way_out"), [(3, "free core"), (400, "memory is short")])
def test_the_way_out_follows_what_the_worker_waited_for(faults: int, way_out: str) -> None:
    made = records(page_faults=faults)
    made.requests["ready_ns"] -= 40 * MS
    verdict = certify(made, RATE)
    assert verdict.level == "invalid"
    assert way_out in verdict.reasons[-1]
    assert verdict.facts["client_page_fault_count"] == faults
