"""The scheduler keeps its limits whatever comes, and its settings have the effects they have in real engines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.simulator.batching import BatchLimits, Scheduler, Sequence, Step, StepCost, StepTimer

LIMITS = st.builds(
    BatchLimits,
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.integers(1, 64),
    kv_cache_tokens=st.integers(16, 256),
    block_size=st.integers(1, 16),
    enable_chunked_prefill=st.booleans(),
)
LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=25)


def check_step(scheduler: Scheduler, step: Step, limits: BatchLimits) -> None:
    tokens = [n for _, n in step.work]
    assert sum(tokens) <= limits.max_num_batched_tokens
    assert all(n >= 1 for n in tokens)
    assert len(scheduler.running) <= limits.max_num_seqs
    held = sum(s.blocks for s in [*scheduler.running, *scheduler.waiting])
    assert held + scheduler.free_blocks == limits.blocks
    assert scheduler.free_blocks >= 0
    assert all(math.ceil((s.computed + n) / limits.block_size) <= s.blocks for s, n in step.work)
    assert all(s.blocks == 0 for s in scheduler.waiting)
    if not limits.enable_chunked_prefill:
        assert all(s.computed + n == s.length for s, n in step.work)


@given(LIMITS, LENGTHS)
def test_limits_are_kept_and_every_request_finishes(limits: BatchLimits, lengths: list[tuple[int, int, int]]) -> None:
    scheduler = Scheduler(limits)
    arrivals = sorted(
        ((at, Sequence(p, o)) for p, o, at in lengths if p + o <= limits.longest_sequence), key=lambda item: item[0]
    )
    total = sum(s.prompt_tokens + s.output_tokens for _, s in arrivals)
    pending = list(arrivals)
    emitted = dict.fromkeys((s for _, s in arrivals), 0)
    for number in range(40 + 20 * total * (1 + len(arrivals))):
        while pending and pending[0][0] <= number:
            scheduler.add(pending.pop(0)[1])
        step = scheduler.schedule()
        check_step(scheduler, step, limits)
        assert step.work or not scheduler.busy
        for sequence in scheduler.complete(step):
            emitted[sequence] += 1
        if not pending and not scheduler.busy:
            break
    assert all(s.finished and emitted[s] == s.output_tokens for _, s in arrivals)
    assert scheduler.free_blocks == limits.blocks


def test_a_request_that_can_never_fit_is_refused() -> None:
    scheduler = Scheduler(BatchLimits(kv_cache_tokens=64))
    with pytest.raises(ValueError, match="maximum context length is 64 tokens"):
        scheduler.add(Sequence(60, 5))
    assert not scheduler.busy


def test_without_memory_the_youngest_is_preempted_and_computed_anew() -> None:
    scheduler = Scheduler(BatchLimits(max_num_seqs=2, kv_cache_tokens=32, block_size=1))
    old, young = Sequence(10, 20), Sequence(10, 20)
    scheduler.add(old)
    scheduler.add(young)
    finished: list[Sequence] = []
    while scheduler.busy:
        finished += [s for s in scheduler.complete(scheduler.schedule()) if s.finished]
    assert scheduler.preemptions > 0
    assert finished == [old, young]


def test_a_sequence_removed_in_the_middle_of_a_step_emits_nothing_and_leaves_nothing() -> None:
    scheduler = Scheduler(BatchLimits())
    gone, stays = Sequence(5, 5), Sequence(5, 5)
    scheduler.add(gone)
    scheduler.add(stays)
    step = scheduler.schedule()
    scheduler.remove(gone)
    scheduler.remove(gone)
    assert scheduler.complete(step) == [stays]
    scheduler.remove(stays)
    assert scheduler.free_blocks == scheduler.limits.blocks


def test_step_time_is_linear_up_to_the_knee_and_steeper_beyond() -> None:
    cost = StepCost(1.0, 0.1, 0.01, 0.0, knee_tokens=10, per_token_above_knee_s=1.0)
    prompt, decoding = Sequence(8, 2), Sequence(4, 3, computed=4, generated=1)
    assert cost.seconds(Step(((prompt, 8), (decoding, 1)))) == pytest.approx(1.0 + 0.8 + 0.01)
    assert cost.seconds(Step(((Sequence(15, 1), 15),))) == pytest.approx(1.0 + 1.5 + 5.0)


def test_noise_is_seeded_and_has_mean_one() -> None:
    cost, step = StepCost(base_s=1.0), Step()
    timers = [StepTimer(cost, 0.3, seed=5) for _ in range(2)]
    samples = [[timer.seconds(step) for _ in range(5000)] for timer in timers]
    assert samples[0] == samples[1]
    assert sum(samples[0]) / 5000 == pytest.approx(1.0, abs=0.02)
    assert StepTimer(cost).seconds(step) == 1.0


@dataclass
class Outcome:
    tokens_per_s: float
    mean_ttft_s: float
    mean_tpot_s: float


def closed_loop(limits: BatchLimits, users: int = 32, rounds: int = 3) -> Outcome:
    """Users with 64 + 32 tokens each, in virtual time."""
    scheduler, cost = Scheduler(limits), StepCost()
    born: dict[Sequence, float] = {}
    first: dict[Sequence, float] = {}
    ttft, tpot = list[float](), list[float]()
    now, left = 0.0, users * (rounds - 1)

    def arrive() -> None:
        sequence = Sequence(64, 32)
        born[sequence] = now
        scheduler.add(sequence)

    for _ in range(users):
        arrive()
    while scheduler.busy:
        step = scheduler.schedule()
        now += cost.seconds(step)
        for sequence in scheduler.complete(step):
            if sequence.generated == 1:
                first[sequence] = now
                ttft.append(now - born[sequence])
            if sequence.finished:
                tpot.append((now - first[sequence]) / 31)
                if left:
                    left -= 1
                    arrive()
    return Outcome(users * rounds * 32 / now, sum(ttft) / len(ttft), sum(tpot) / len(tpot))


def test_more_sequences_give_throughput_and_cost_tpot_and_too_few_make_requests_wait() -> None:
    few, many = closed_loop(BatchLimits(max_num_seqs=2)), closed_loop(BatchLimits(max_num_seqs=32))
    assert many.tokens_per_s > 3 * few.tokens_per_s
    assert many.mean_tpot_s > 1.3 * few.mean_tpot_s
    assert few.mean_ttft_s > 5 * many.mean_ttft_s


def test_a_small_token_budget_delays_prompts_and_a_big_one_stalls_decodes() -> None:
    small = closed_loop(BatchLimits(max_num_seqs=32, max_num_batched_tokens=48))
    big = closed_loop(BatchLimits(max_num_seqs=32, max_num_batched_tokens=2048))
    assert small.mean_ttft_s > 1.5 * big.mean_ttft_s
    assert small.tokens_per_s < big.tokens_per_s


def test_too_little_memory_costs_throughput() -> None:
    tight = closed_loop(BatchLimits(max_num_seqs=32, kv_cache_tokens=512))
    assert tight.tokens_per_s < 0.7 * closed_loop(BatchLimits(max_num_seqs=32)).tokens_per_s


def test_a_lower_limit_lets_those_that_run_go_on() -> None:
    scheduler = Scheduler(BatchLimits(max_num_seqs=3))
    for _ in range(4):
        scheduler.add(Sequence(4, 2))
    scheduler.complete(scheduler.schedule())
    assert (len(scheduler.running), len(scheduler.waiting)) == (3, 1)
    scheduler.set_max_num_seqs(1)
    scheduler.complete(scheduler.schedule())
    assert (len(scheduler.running), len(scheduler.waiting)) == (0, 1)
    scheduler.add(Sequence(4, 2))
    scheduler.complete(scheduler.schedule())
    assert (len(scheduler.running), len(scheduler.waiting)) == (1, 1)


@pytest.mark.parametrize("most", [0, -1, 513])
def test_limits_that_do_not_suit_the_others(most: int) -> None:
    scheduler = Scheduler(BatchLimits())
    with pytest.raises(ValueError, match="between 1 and max_num_batched_tokens"):
        scheduler.set_max_num_seqs(most)
    assert scheduler.limits == BatchLimits()
