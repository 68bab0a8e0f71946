"""Workloads for schedulers, generated, and our scheduler driven through them in virtual time.

What vLLM's own schedulers make of them is kept in data/vllm_batches.json, as digests. So it was recorded::

    python -m tests.simulator.scheduler_cases write 0.32 cases.json
    .venv-vllm/bin/python tests/vllm/drive_scheduler.py MODEL cases.json batches.json
    python -m tests.simulator.scheduler_cases keep 0.32 batches.json

For another version than that of .venv-vllm, PYTHONPATH is the folder of its sdist: schedulers are plain Python. vLLM 0.33
wants VLLM_USE_V2_MODEL_RUNNER=1 for asynchronous pipelines; 0.19 wants gguf and diskcache.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import deque
from pathlib import Path
from typing import Any

from swarmtune.scheduling import Rules
from swarmtune.simulator.scheduling.scheduler import Request, Scheduler, Step

Case = dict[str, Any]
"""``rules``: of Rules; ``requests``: prompt and output (token numbers), arrival (s), priority."""
CASES, OTHERS = 300, 60  # of vLLM 0.32, and of every other version
VERSIONS = ((0, 19), (0, 30), (0, 31), (0, 32), (0, 33))
KEPT = Path(__file__).with_name("data") / "vllm_batches.json"
BASE_S, TOKEN_S, REQUEST_S = 4e-3, 55e-6, 10e-6  # of a step


def cases(version: tuple[int, int]) -> list[Case]:
    """All workloads for a version."""
    return [case(seed, version) for seed in range(CASES if version == (0, 32) else OTHERS)]


def case(seed: int, version: tuple[int, int] = (0, 32)) -> Case:
    """One workload: tight or ample memory, shared prefixes and conversations, priorities, thresholds, asynchronous or not,
    pipelines. Those of vLLM before 0.31 have two stages at most: with more, it lets in preempted requests in another order.
    """
    rng = random.Random(seed)
    block_size = rng.choice([4, 8, 16])
    longest = rng.choice([40, 120, 300])
    rules = {
        "max_num_seqs": rng.choice([1, 2, 4, 8, 32]),
        "max_num_batched_tokens": rng.choice([32, 64, 128, 512]),
        "blocks": 3 + 2 * longest // block_size + rng.choice([0, 5, 40, 400]),
        "block_size": block_size,
        "max_model_len": 1024,
        "chunked_prefill": rng.random() < 0.8,
        "prefix_caching": rng.random() < 0.6,
        "by_priority": rng.random() < 0.3,
        "long_prefill_token_threshold": rng.choice([0, 0, 0, 16, 48]),
        "adaptive_threshold": rng.random() < 0.3,
        "whole_prompt": rng.random() < 0.7,
        "watermark": rng.choice([0.0, 0.0, 0.05, 0.2]),
        "asynchronous": rng.random() < 0.5,
        "pipeline": rng.choice([1, 1, 1, 2, 3]),
    }
    if not rules["chunked_prefill"]:
        rules["max_num_batched_tokens"] = rules["max_model_len"]
        rules["long_prefill_token_threshold"] = 0
    if version < (0, 31):
        rules["pipeline"] = min(2, rules["pipeline"])
    rules["max_num_seqs"] = min(rules["max_num_seqs"], rules["max_num_batched_tokens"])
    requests: list[dict[str, Any]] = []
    unique, at = 10_000, 0.0
    for _ in range(rng.randint(3, 30)):
        size = rng.randint(1, longest)
        before = rng.choice(requests) if requests and rng.random() < 0.3 else None
        if before and len(before["prompt"]) + len(before["output"]) < longest:
            prompt = [*before["prompt"], *before["output"]]
        else:
            prompt = [1000 * rng.randint(1, 3) + n for n in range(rng.choice([0, size // 2, size]))]
        while len(prompt) < size:
            prompt.append(unique := unique + 1)
        output = [unique := unique + 1 for _ in range(rng.randint(1, max(1, longest // 3)))]
        at += rng.choice([0.0, 0.0, rng.expovariate(50.0), rng.expovariate(5.0)])
        requests.append({"prompt": prompt, "output": output, "arrival": round(at, 6), "priority": rng.randint(0, 2)})
    return {"rules": rules, "batches": Rules(**rules, version=version).batches, "requests": requests}


def digest(batches: list[dict[str, int]]) -> str:
    """Of the batches of one workload."""
    return hashlib.sha256(json.dumps(batches).encode()).hexdigest()[:12]


class _AsVllm(Scheduler):
    """Also where requests come at the same moment, which happens only here."""

    @staticmethod
    def _behind(request: Request) -> tuple[float, ...]:
        return request.priority, request.arrival


def run(given: Case, version: tuple[int, int] = (0, 32)) -> list[dict[str, int]]:
    """The batch of every step that our scheduler makes: number of the request -> tokens."""
    return _run(given, version)[0]


def events(given: Case) -> tuple[int, int]:
    """How many preemptions there are, and how many tokens are found in the KV cache."""
    return _run(given, (0, 32))[1:]


def _run(given: Case, version: tuple[int, int]) -> tuple[list[dict[str, int]], int, int]:
    rules = Rules(**given["rules"], version=version)
    contents: dict[tuple[int, tuple[int, ...]], int] = {}
    requests = [_request(one, rules.block_size, contents) for one in given["requests"]]
    names = {request: str(number) for number, request in enumerate(requests)}
    scheduler = _AsVllm(rules)
    waiting, running = deque(requests), deque[tuple[float, Step]]()
    steps: list[dict[str, int]] = []
    now = free = 0.0
    while waiting or scheduler.busy or running:
        while waiting and waiting[0].arrival <= now:
            scheduler.add(waiting.popleft())
        step = scheduler.schedule()
        if step.work:
            steps.append({names[request]: tokens for request, tokens in step.work})
            free = max(free, now) + BASE_S + TOKEN_S * sum(steps[-1].values()) + REQUEST_S * len(step.work)
            running.append((free, step))
            if len(running) < rules.batches:
                continue
        if running:
            end, done = running.popleft()
            now = max(now, end)
            scheduler.complete(done)
        elif not step.preempted and waiting:
            now = max(now, waiting[0].arrival)
    return steps, scheduler.preemptions, sum(request.cached for request in requests)


def _request(given: dict[str, Any], block_size: int, contents: dict[tuple[int, tuple[int, ...]], int]) -> Request:
    tokens = [*given["prompt"], *given["output"]]
    known, parent = [], -1
    for begin in range(0, len(tokens) - block_size + 1, block_size):
        parent = contents.setdefault((parent, tuple(tokens[begin : begin + block_size])), len(contents))
        known.append(parent)
    return Request(
        len(given["prompt"]), len(given["output"]), given["priority"], tuple(known), arrival=given["arrival"]
    )


def main() -> None:
    """Write the workloads of a version, or keep what became of them."""
    what, name, path = sys.argv[1:]
    major, minor = map(int, name.split("."))
    if what == "write":
        Path(path).write_text(json.dumps(cases((major, minor))))
        return
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[name] = [digest(batches) for batches in json.loads(Path(path).read_text())]
    KEPT.parent.mkdir(exist_ok=True)
    lines = (f'  "{version}": {json.dumps(kept[version], separators=(",", ":"))}' for version in sorted(kept))
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
