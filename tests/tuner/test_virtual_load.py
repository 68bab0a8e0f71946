"""A load in virtual time: the load generator's own timing and metrics, on simulated replicas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from swarmtune.errors import ConfigurationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.judge.summary import results
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Phase, Records
from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.tables import linear
from swarmtune.simulator.virtual.fleet import Fleet, Router
from swarmtune.simulator.virtual.plain import PlainReplica
from swarmtune.simulator.virtual.replicas import make_replica
from swarmtune.tuner.simulation.contents import Contents
from swarmtune.tuner.simulation.virtual_load import REFUSED, TIMED_OUT, FrontEnd, VirtualLoad

STEP_S = 0.01
FLAT = linear(STEP_S, 0.0, 0.0, 0.0, 1024, 0.0)  # every step takes as long
SLOWER = linear(0.002, 20e-6, 50e-6, 1e-7, 1024, 0.0)
AMPLE = Rules(64, 2048, 10_000, 16)


def run(
    rules: Rules = AMPLE,
    *,
    cost: Any = FLAT,
    replicas: int = 1,
    router: Router = "round-robin",
    front: FrontEnd | None = None,
    seed: int = 1,
    plain: bool = False,
    **given: Any,
) -> Records:
    options = LoadgenOptions(**{"isl": 20, "osl": 10, **given})
    firsts = options.prefill_concurrency is not None
    made = [
        PlainReplica(rules, cost, firsts=firsts) if plain else make_replica(rules, cost, firsts=firsts)
        for _ in range(replicas)
    ]
    load = VirtualLoad(
        options,
        make_dataset(options, seed),
        seed,
        Fleet(made, router),
        rules,
        Contents(options, rules),
        front or FrontEnd(),
    )
    return load.run()


def ms(records: Records, name: str, closed: bool = True) -> float:
    return results(records, closed=closed).flat()[name]


def test_each_user_sends_when_its_answer_has_come() -> None:
    records = run(concurrency=4, request_count=40)
    rows = records.requests
    assert (rows["outcome"] == Outcome.COMPLETED).all()
    assert (rows["output_tokens"] == 10).all()
    assert ms(records, "mean_tpot_ms") == pytest.approx(10.0)
    assert ms(records, "mean_ttft_ms") == pytest.approx(10.0)
    assert ms(records, "request_throughput") == pytest.approx(4 / (10 * STEP_S))
    assert ms(records, "mean_concurrency") == pytest.approx(4.0)
    assert len(records.chunks) == 400


@pytest.mark.parametrize(
    "given",
    [
        {"concurrency": 7, "request_count": 50},
        {"request_rate": 30.0, "request_count": 60},
        {"request_rate": 200.0, "concurrency": 3, "benchmark_duration": 1.0, "benchmark_grace_period": 0.5},
        {"concurrency": 5, "request_count": 40, "conversation_turn_mean": 3, "conversation_turn_delay_mean": 40},
        {"concurrency": 6, "request_count": 40, "prefill_concurrency": 2},
        {"concurrency": 8, "request_count": 40, "concurrency_ramp_duration": 0.5},
        {"concurrency": 4, "request_count": 40, "request_cancellation_rate": 30, "request_cancellation_delay": 0.02},
        {"concurrency": 4, "request_count": 40, "warmup_until_steady": True},
        {"concurrency": 4, "request_count": 40, "shared_system_prompt_length": 64},
    ],
)
def test_in_c_and_in_python_the_same_records(given: dict[str, Any]) -> None:
    rules = Rules(4, 128, 60, 8, prefix_caching=True, asynchronous=True)
    left, right = (run(rules, cost=SLOWER, plain=plain, **given) for plain in (True, False))
    assert left.requests.tobytes() == right.requests.tobytes()
    assert left.chunks.tobytes() == right.chunks.tobytes()
    assert len(left.requests) >= 30


def test_a_rate_keeps_its_schedule_and_a_ceiling_drops() -> None:
    records = run(request_rate=20.0, request_count=100, arrival_pattern="constant")
    sent = np.diff(records.requests["sent_ns"])
    assert sent.min() == sent.max() == 50_000_000
    records = run(
        Rules(1, 2048, 1000, 16), request_rate=100.0, concurrency=2, benchmark_duration=2.0, benchmark_grace_period=1.0
    )
    outcomes = records.requests["outcome"]
    assert (outcomes == Outcome.DROPPED).sum() > 100
    assert (outcomes == Outcome.COMPLETED).sum() >= 19
    assert ms(records, "peak_concurrency", closed=False) <= 2


def test_a_user_waits_between_turns_and_the_prompt_grows() -> None:
    given = {"conversation_turn_mean": 3, "conversation_turn_delay_mean": 500, "concurrency": 1, "conversation_num": 4}
    rows = run(**given).requests
    first, second, third = (rows[rows["turn"] == turn] for turn in range(3))
    assert (second["sent_ns"] - first["end_ns"] == 500_000_000).all()
    assert (first["input_tokens"] == 20).all()
    assert (second["input_tokens"] == 20 + 10 + 20).all()
    assert (third["input_tokens"] == 20 + 10 + 20 + 10 + 20).all()


def test_a_prefix_that_is_shared_is_computed_once() -> None:
    rules = Rules(4, 2048, 1000, 16, prefix_caching=True)
    shared = run(rules, concurrency=2, request_count=20, shared_system_prompt_length=64).requests
    assert (shared["cached_tokens"][2:] == 64).all()
    apart = run(rules, concurrency=2, request_count=20).requests
    assert (apart["cached_tokens"] == 0).all()


def test_requests_beyond_a_context_are_refused_and_the_others_go_on() -> None:
    rules = Rules(4, 2048, 1000, 16, max_model_len=40)
    records = run(rules, concurrency=2, request_count=60, isl=25, isl_stddev=10)
    failed = records.requests[records.requests["outcome"] == Outcome.FAILED]
    assert 0 < len(failed) < 60
    assert (failed["input_tokens"] + 10 > 40).all()
    assert {records.errors[row["error"]] for row in failed} == {REFUSED}


def test_a_request_that_takes_too_long_is_given_up() -> None:
    records = run(Rules(1, 2048, 1000, 16), concurrency=30, request_count=60, request_timeout_seconds=1)
    failed = records.requests[records.requests["outcome"] == Outcome.FAILED]
    assert len(failed) > 0
    assert {records.errors[row["error"]] for row in failed} == {TIMED_OUT}
    assert (failed["end_ns"] - failed["sent_ns"] == 1_000_000_000).all()


def test_the_front_end_is_a_queue_of_its_own() -> None:
    front = FrontEnd(request_s=0.004, prompt_token_s=0.0001, token_s=0.002)
    records = run(concurrency=1, request_count=10, front=front)
    assert ms(records, "mean_ttft_ms") == pytest.approx(4 + 20 * 0.1 + 10 + 2)
    assert ms(records, "mean_tpot_ms") == pytest.approx(10.0)
    crowd = run(concurrency=10, request_count=10, front=front, osl=1)
    assert ms(crowd, "max_ttft_ms") > 10 * 6


def test_the_warm_up_hands_over_and_is_left_out() -> None:
    records = run(concurrency=8, request_count=50, warmup_until_steady=True)
    phases = records.requests["phase"]
    assert (phases == Phase.WARMUP).sum() >= 8
    assert results(records).scalars["completed"] == 50


@pytest.mark.parametrize("router", ["round-robin", "least-loaded", "prefix"])
def test_more_replicas_bear_more(router: Router) -> None:
    one = run(Rules(4, 2048, 1000, 16), cost=SLOWER, concurrency=32, request_count=200)
    four = run(Rules(4, 2048, 1000, 16), cost=SLOWER, concurrency=32, request_count=200, replicas=4, router=router)
    assert ms(four, "request_throughput") > 3 * ms(one, "request_throughput")
    assert (four.requests["outcome"] == Outcome.COMPLETED).all()


def test_a_prefix_router_keeps_conversations_where_their_prefix_is() -> None:
    rules = Rules(8, 2048, 400, 16, prefix_caching=True)
    given: dict[str, Any] = {
        "concurrency": 8,
        "request_count": 150,
        "prompt_prefix_pool_size": 12,
        "prompt_prefix_length": 256,
    }
    shares = {}
    for router in ("round-robin", "prefix"):
        rows = run(rules, replicas=4, router=router, **given).requests
        shares[router] = rows["cached_tokens"].sum() / rows["input_tokens"].sum()
    assert shares["prefix"] > shares["round-robin"] + 0.02


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    given = {"request_rate": 50.0, "request_count": 80, "isl_stddev": 8, "osl_stddev": 4}
    first, again, other = run(**given), run(**given), run(seed=2, **given)
    assert first.requests.tobytes() == again.requests.tobytes()
    assert first.requests.tobytes() != other.requests.tobytes()


def test_requests_that_wait_for_ever_end_the_simulation_with_the_reason() -> None:
    options = LoadgenOptions(concurrency=2, request_count=4, isl=200, osl=2)
    small = make_replica(Rules(4, 2048, 4, 16), FLAT)
    load = VirtualLoad(options, make_dataset(options, 1), 1, Fleet([small]), AMPLE, Contents(options, AMPLE))
    with pytest.raises(ConfigurationError, match=r"makes no progress: 2 requests are in the engine.* more KV blocks"):
        load.run()
