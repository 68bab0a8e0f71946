"""Bodies and schedules come from the seed alone."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from dataclasses import replace

import orjson
import pytest

from swarmtune.loadgen.requests import NS, request, requests, schedule
from swarmtune.workload import Load, Workload

WORKLOAD = Workload("m", requests=50, input_tokens_mean=40, input_tokens_stddev=15, output_tokens_stddev=8, seed=3)
POISSON = replace(WORKLOAD, load=Load(request_rate=20.0), requests=4000)


def digest(workload: Workload) -> str:
    taken = list(requests(workload, 10))
    text = b"".join(r.id.encode() + r.body for r in taken) + repr(schedule(workload)).encode()
    return hashlib.sha256(text).hexdigest()


def test_same_seed_same_bytes_and_schedule_in_another_process() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/loadgen'); from test_requests import *;"
        "print(digest(replace(POISSON, requests=200)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == digest(replace(POISSON, requests=200))


def test_another_seed_gives_other_bytes_and_arrivals() -> None:
    other = replace(POISSON, seed=4)
    assert request(other, 0).body != request(POISSON, 0).body
    assert schedule(other) != schedule(POISSON)


def test_a_request_does_not_depend_on_how_many_were_prepared_nor_on_the_load() -> None:
    bodies = [[r.body for r in requests(WORKLOAD.at(Load(4)), prepared)] for prepared in (0, 7, 50)]
    assert bodies[0] == bodies[1] == bodies[2]
    assert len(bodies[0]) == 50


def test_prompts_share_no_prefix_and_warm_up_is_different() -> None:
    prompts = [orjson.loads(r.body)["prompt"] for r in requests(WORKLOAD, 50)]
    assert len({tuple(p.split()[:4]) for p in prompts}) == 50
    assert request(WORKLOAD, 0, warmup=True).body != request(WORKLOAD, 0).body


def test_lengths_follow_the_distribution_cut_off_at_one() -> None:
    workload = replace(WORKLOAD, requests=3000, input_tokens_mean=20, input_tokens_stddev=30)
    taken = list(requests(workload, 0))
    words = [len(orjson.loads(r.body)["prompt"].split()) for r in taken]
    assert words == [r.input_tokens for r in taken]
    assert min(words) == 1
    outputs = [r.output_tokens for r in taken]
    assert sum(outputs) / len(outputs) == pytest.approx(workload.output_tokens_mean, rel=0.03)


def test_body_of_a_completion_and_of_a_chat() -> None:
    completion = orjson.loads(request(WORKLOAD, 0).body)
    assert completion.pop("prompt")
    assert completion == {
        "model": "m",
        "max_tokens": request(WORKLOAD, 0).output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    chat = orjson.loads(request(replace(WORKLOAD, endpoint="chat", ignore_eos=False), 0).body)
    assert chat["messages"][0]["role"] == "user"
    assert "ignore_eos" not in chat


def test_poisson_gaps_are_exponential() -> None:
    """Kolmogorov-Smirnov: the largest distance to 1 - exp(-rate * gap) stays below 1.63 / sqrt(n) (alpha 0.01)."""
    offsets = schedule(POISSON)
    gaps = sorted((b - a) / NS for a, b in zip([0, *offsets], offsets, strict=False))
    count = len(gaps)
    assert count == 4000
    distance = 0.0
    for index, gap in enumerate(gaps):
        expected = 1 - math.exp(-20.0 * gap)
        distance = max(distance, (index + 1) / count - expected, expected - index / count)
    assert distance < 1.63 / math.sqrt(count)


def test_poisson_counts_vary_because_gaps_are_not_rescaled() -> None:
    """Counts over 10 s at 20 per second have the variance of a Poisson distribution, 200."""
    base = replace(POISSON, requests=None, duration_s=10.0)
    counts = [len(schedule(replace(base, seed=seed))) for seed in range(300)]
    mean = sum(counts) / len(counts)
    variance = sum((c - mean) ** 2 for c in counts) / (len(counts) - 1)
    assert mean == pytest.approx(200, abs=5)
    assert 140 < variance < 280


def test_constant_arrivals_do_not_drift_and_keep_the_duration() -> None:
    workload = replace(WORKLOAD, load=Load(request_rate=3.0, arrivals="constant"), requests=None, duration_s=100.0)
    offsets = schedule(workload)
    assert len(offsets) == 300
    assert offsets[0] == 0
    assert offsets[299] == round(299 / 3 * NS)


def test_a_closed_loop_has_no_schedule() -> None:
    with pytest.raises(ValueError, match="closed loop"):
        schedule(WORKLOAD)
