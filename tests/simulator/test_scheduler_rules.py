"""The scheduler keeps its limits whatever comes, and its settings have the effects they have in real engines."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator import scheduler_cases

from swarmtune.scheduling import Rules
from swarmtune.simulator.scheduling.scheduler import Request, Scheduler, State, Step
from swarmtune.simulator.step_time import StepCost, StepTimer

RULES = st.builds(
    Rules,
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.integers(1, 64),
    blocks=st.integers(2, 40),
    block_size=st.integers(1, 16),
    chunked_prefill=st.booleans(),
    prefix_caching=st.booleans(),
    by_priority=st.booleans(),
    long_prefill_token_threshold=st.integers(0, 9),
    adaptive_threshold=st.booleans(),
    whole_prompt=st.booleans(),
    watermark=st.sampled_from([0.0, 0.1, 0.5]),
    asynchronous=st.booleans(),
    pipeline=st.integers(1, 3),
    version=st.sampled_from([(0, 19), (0, 30), (0, 31), (0, 32), (0, 33)]),
)
LENGTHS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(0, 40), st.integers(0, 2), st.integers(0, 5)),
    min_size=1,
    max_size=25,
)


def check_step(scheduler: Scheduler, step: Step, rules: Rules) -> None:
    tokens = [n for _, n in step.work]
    assert sum(tokens) <= rules.max_num_batched_tokens
    assert all(n >= 1 for n in tokens)
    assert step.tokens == sum(tokens)
    assert step.decodes + step.prefills == len(tokens)
    assert len(scheduler.running) <= rules.max_num_seqs
    held = {block for request in scheduler.running for block in request.blocks}
    assert len(held) + scheduler.blocks.free == rules.usable_blocks
    assert 0 not in held
    assert all(
        math.ceil(r.computed / rules.block_size) <= len(r.blocks) for r, _ in step.work if r.state == State.RUNNING
    )
    if not rules.prefix_caching:
        assert sum(len(request.blocks) for request in scheduler.running) == len(held)
    if not rules.chunked_prefill and not rules.long_prefill_token_threshold and rules.batches == 1:
        assert all(request.computed == request.length for request, _ in step.work)


@given(RULES, LENGTHS)
def test_limits_are_kept_and_every_request_finishes(rules: Rules, given: list[tuple[int, int, int, int, int]]) -> None:
    scheduler = Scheduler(rules)
    pending = []
    for number, (prompt, output, at, priority, family) in enumerate(sorted(given, key=lambda one: one[2])):
        contents = tuple(100 * family + n for n in range(prompt // rules.block_size))
        if prompt + output <= rules.longest:
            pending.append((at, Request(prompt, output, priority, contents, arrival=float(number))))
    requests = [request for _, request in pending]
    emitted = dict.fromkeys(requests, 0)
    total = sum(request.prompt_tokens + request.output_tokens for request in requests)
    running: deque[Step] = deque()
    for number in range(40 + 40 * total * (1 + len(requests))):
        while pending and pending[0][0] <= number:
            scheduler.add(pending.pop(0)[1])
        step = scheduler.schedule()
        check_step(scheduler, step, rules)
        if step.work:
            running.append(step)
        if running and (len(running) == rules.batches or not step.work):
            for request in scheduler.complete(running.popleft()):
                emitted[request] += 1
        if not pending and not scheduler.busy and not running:
            break
    assert all(request.finished and emitted[request] == request.output_tokens for request in requests)
    assert scheduler.blocks.free == rules.usable_blocks


@pytest.mark.parametrize("version", scheduler_cases.VERSIONS)
def test_the_batches_are_those_of_vllm(version: tuple[int, int]) -> None:
    kept = json.loads(scheduler_cases.KEPT.read_text())[".".join(map(str, version))]
    cases = scheduler_cases.cases(version)
    ours = [scheduler_cases.digest(scheduler_cases.run(case, version)) for case in cases]
    assert [seed for seed, (a, b) in enumerate(zip(ours, kept, strict=True)) if a != b] == []


def test_the_workloads_reach_what_is_hard() -> None:
    seen: Counter[str] = Counter()
    for case in scheduler_cases.cases((0, 32)):
        preempted, cached = scheduler_cases.events(case)
        rules = case["rules"]
        seen["preempted"] += preempted > 0
        seen["preempted, asynchronous"] += preempted > 0 and rules["asynchronous"]
        seen["preempted by priority"] += preempted > 0 and rules["by_priority"]
        seen["cached"] += cached > 0
        seen["cached and preempted"] += cached > 0 and preempted > 0
    assert min(seen.values()) >= 5, seen


def test_a_request_that_can_never_fit_is_refused() -> None:
    scheduler = Scheduler(Rules(blocks=5))
    with pytest.raises(ValueError, match="maximum context length is 64 tokens"):
        scheduler.add(Request(60, 5))
    assert not scheduler.busy


def test_without_memory_the_youngest_is_preempted_and_computed_anew() -> None:
    scheduler = Scheduler(Rules(max_num_seqs=2, blocks=33, block_size=1, whole_prompt=False))
    old, young = Request(10, 20), Request(10, 20)
    scheduler.add(old)
    scheduler.add(young)
    finished: list[Request] = []
    while scheduler.busy:
        finished += [s for s in scheduler.complete(scheduler.schedule()) if s.finished]
    assert scheduler.preemptions > 0
    assert finished == [old, young]


def test_a_sequence_removed_in_the_middle_of_a_step_emits_nothing_and_leaves_nothing() -> None:
    scheduler = Scheduler(Rules())
    gone, stays = Request(5, 5), Request(5, 5)
    scheduler.add(gone)
    scheduler.add(stays)
    step = scheduler.schedule()
    scheduler.remove(gone)
    scheduler.remove(gone)
    assert scheduler.complete(step) == [stays]
    scheduler.remove(stays)
    assert scheduler.blocks.free == scheduler.rules.usable_blocks


def test_step_time_is_linear_up_to_the_knee_and_steeper_beyond() -> None:
    cost = StepCost(1.0, 0.1, 0.01, 0.0, knee_tokens=10, per_token_above_knee_s=1.0)
    assert cost.seconds(Step(tokens=9, decodes=1)) == pytest.approx(1.0 + 0.8 + 0.01)
    assert cost.seconds(Step(tokens=15)) == pytest.approx(1.0 + 1.5 + 5.0)


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


def closed_loop(rules: Rules, users: int = 32, rounds: int = 3) -> Outcome:
    """Users with 64 + 32 tokens each, in virtual time."""
    scheduler, cost = Scheduler(rules), StepCost()
    born: dict[Request, float] = {}
    first: dict[Request, float] = {}
    ttft, tpot = list[float](), list[float]()
    now, left = 0.0, users * (rounds - 1)

    def arrive() -> None:
        sequence = Request(64, 32)
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
    few, many = closed_loop(Rules(max_num_seqs=2)), closed_loop(Rules(max_num_seqs=32))
    assert many.tokens_per_s > 3 * few.tokens_per_s
    assert many.mean_tpot_s > 1.3 * few.mean_tpot_s
    assert few.mean_ttft_s > 5 * many.mean_ttft_s


def test_a_small_token_budget_delays_prompts_and_a_big_one_stalls_decodes() -> None:
    small = closed_loop(Rules(max_num_seqs=32, max_num_batched_tokens=48))
    big = closed_loop(Rules(max_num_seqs=32, max_num_batched_tokens=2048))
    assert small.mean_ttft_s > 1.5 * big.mean_ttft_s
    assert small.tokens_per_s < big.tokens_per_s


def test_too_little_memory_costs_throughput() -> None:
    tight = closed_loop(Rules(max_num_seqs=32, blocks=33))
    assert tight.tokens_per_s < 0.7 * closed_loop(Rules(max_num_seqs=32)).tokens_per_s


def test_a_lower_limit_lets_those_that_run_go_on() -> None:
    scheduler = Scheduler(Rules(max_num_seqs=3))
    for _ in range(4):
        scheduler.add(Request(4, 2))
    scheduler.complete(scheduler.schedule())
    assert (len(scheduler.running), len(scheduler.waiting)) == (3, 1)
    scheduler.set_max_num_seqs(1)
    scheduler.complete(scheduler.schedule())
    assert (len(scheduler.running), len(scheduler.waiting)) == (0, 1)
    scheduler.add(Request(4, 2))
    scheduler.complete(scheduler.schedule())
    assert (len(scheduler.running), len(scheduler.waiting)) == (1, 1)


@pytest.mark.parametrize("most", [0, -1, 513])
def test_limits_that_do_not_suit_the_others(most: int) -> None:
    scheduler = Scheduler(Rules())
    with pytest.raises(ValueError, match="between 1 and max_num_batched_tokens"):
        scheduler.set_max_num_seqs(most)
    assert scheduler.rules == Rules()
