"""A replica in C gives the same bytes as the one in Python, and both step as vLLM's own scheduler does."""

from __future__ import annotations

import math
import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator import scheduler_cases
from tests.simulator.test_scheduler_rules import LENGTHS, RULES

from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.tables import CostTables
from swarmtune.simulator.virtual import native
from swarmtune.simulator.virtual.native import NativeReplica
from swarmtune.simulator.virtual.plain import PlainReplica
from swarmtune.simulator.virtual.requests import Reason, Requests

needs_native = pytest.mark.skipif(
    not native.available() and not shutil.which("cc"), reason="there is no C compiler to build it"
)
COST = CostTables(
    np.array([4e-3, 55e-6, 10e-6, 1e-8, 1e-9, 10e-6, 2e-6, 1e-6]),
    np.array([16.0, 100.0]),
    (
        *(np.array([0.0, 8.0, 64.0, 90.0]), np.array([0.0, 4.0, 1e9]), np.array([0.0, 50.0, 200.0, 1e9])),
        *(np.zeros(0), np.array([0.0, 2.0, 1e9])),
    ),
    (
        (0, 1, np.linspace(0.7, 1.3, 20).reshape(5, 4)),
        (2, 2, np.array([[1.0], [1.01], [0.99], [1.1], [1.0]])),
        (2, 4, np.linspace(0.9, 1.2, 20).reshape(5, 4)),
    ),
)


def requests_of(case: scheduler_cases.Case, block_size: int) -> Requests:
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    made = [scheduler_cases._request(one, block_size, known) for one in case["requests"]]
    return Requests.of(
        [one.arrival for one in made],
        [one.prompt_tokens for one in made],
        [one.output_tokens for one in made],
        [one.priority for one in made],
        [one.contents for one in made],
    )


def replicas(rules: Rules) -> tuple[PlainReplica, NativeReplica, NativeReplica]:
    """In Python; in C, step by step; in C, with leaps."""
    stepping = NativeReplica(rules, COST, rows=True, work=True)
    return PlainReplica(rules, COST, rows=True, work=True), stepping, NativeReplica(rules, COST, rows=True)


def same(plain: PlainReplica, compiled: NativeReplica) -> None:
    assert plain.now == compiled.now
    assert plain.busy == compiled.busy
    assert plain.preemptions == compiled.preemptions
    assert plain.blocks_used == compiled.blocks_used
    assert compiled.work in (plain.work, [])
    assert plain.rows.tobytes() == compiled.rows.tobytes()
    left, right = plain.answers(), compiled.answers()
    for name in ("first_scheduled", "generated", "cached", "preemptions", "starts", "stamps"):
        assert getattr(left, name).tobytes() == getattr(right, name).tobytes(), name


@needs_native
@pytest.mark.parametrize("version", scheduler_cases.VERSIONS)
def test_both_step_as_the_scheduler_of_vllm(version: tuple[int, int]) -> None:
    for number, case in enumerate(scheduler_cases.cases(version)[:60]):
        rules = Rules(**case["rules"], version=version)
        plain, stepping, leaping = replicas(rules)
        for one in (plain, stepping, leaping):
            one.add(requests_of(case, rules.block_size))
            assert one.run() is Reason.DRAINED, number
        same(plain, stepping)
        same(plain, leaping)


@pytest.mark.parametrize("version", scheduler_cases.VERSIONS)
@pytest.mark.parametrize("kind", [PlainReplica, pytest.param(NativeReplica, marks=needs_native)])
def test_requests_that_come_together_do_not_preempt_each_other_for_ever(
    kind: type[PlainReplica] | type[NativeReplica], version: tuple[int, int]
) -> None:
    """Of equals the one that came last gives way, also among those that came at one moment."""
    rules = Rules(2, 36, 19, 2, by_priority=True, long_prefill_token_threshold=1, whole_prompt=False, version=version)
    replica = kind(rules, COST)
    replica.add(Requests.of([0.17] * 3, [12] * 3, [24] * 3, [2] * 3, [[]] * 3))
    told = [replica.run(replica.now + 1.0) for _ in range(100)]
    assert told[-1] is Reason.DRAINED, f"{replica.preemptions} preemptions, and no end"


@needs_native
@given(RULES, LENGTHS, st.lists(st.floats(0.0, 1.0), max_size=8), st.booleans(), st.integers(0, 3))
def test_the_same_bytes_whatever_comes(
    rules: Rules, given: list[tuple[int, int, int, int, int]], limits: list[float], stop: bool, removed: int
) -> None:
    kept = [one for one in sorted(given, key=lambda one: one[2]) if one[0] + one[1] <= rules.longest]
    contents = [[100 * family + n for n in range(prompt // rules.block_size)] for prompt, _, _, _, family in kept]
    arrivals = [at / 100 for _, _, at, _, _ in kept]
    columns: list[Any] = [list(column) for column in zip(*kept, strict=True)] or [[], [], [], [], []]
    plain, stepping, leaping = replicas(rules)
    for one in (plain, stepping, leaping):
        one.add(Requests.of(arrivals, columns[0], columns[1], columns[3], contents))
    for limit in [*sorted(limits), math.inf]:
        while True:
            told = [one.run(limit, stop=stop) for one in (plain, stepping, leaping)]
            assert len(set(told)) == 1
            assert plain.ended() == stepping.ended() == leaping.ended()
            assert plain.now == stepping.now == leaping.now
            if told[0] is not Reason.ENDED:
                break
        if kept and removed:
            for one in (plain, stepping, leaping):
                one.remove(removed % len(kept))
    same(plain, stepping)
    same(plain, leaping)


LONG = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 200), st.integers(0, 60)), min_size=1, max_size=12)


@needs_native
@given(
    LONG,
    st.integers(2, 6),
    st.sampled_from([1, 4, 16]),
    st.integers(8, 200),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_leaps_over_long_answers(
    given: list[tuple[int, int, int]], most: int, size: int, blocks: int, caching: bool, ahead: bool, several: bool
) -> None:
    """Few arrivals and long answers: in ample memory, in little, and with others that wait."""
    rules = Rules(most, 64, blocks, size, None, prefix_caching=caching, asynchronous=ahead)
    kept = [one for one in sorted(given, key=lambda one: one[2]) if one[0] + one[1] <= rules.longest]
    arrivals, prompts, outputs = [one[2] / 4 for one in kept], [one[0] for one in kept], [one[1] for one in kept]
    contents = [list(range(1000 * i * several, 1000 * i * several + p // size)) for i, p in enumerate(prompts)]
    plain, stepping, leaping = replicas(rules)
    for one in (plain, stepping, leaping):
        one.add(Requests.of(arrivals, prompts, outputs, None, contents))
        for limit in (0.7, 0.70001, 3.0, math.inf):
            one.run(limit)
    same(plain, stepping)
    same(plain, leaping)
