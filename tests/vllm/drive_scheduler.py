"""Drive vLLM's own scheduler classes through workloads in virtual time: the batch of every step, as JSON.

Run it with the Python of ``.venv-vllm``: ``python drive_scheduler.py MODEL CASES.json BATCHES.json``. MODEL is a folder
with a config.json; no weights are read. The cases are those of ``tests/simulator/scheduler_cases.py``.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from vllm.config import CacheConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core import single_type_kv_cache_manager as managers
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

BASE_S, TOKEN_S, REQUEST_S = 4e-3, 55e-6, 10e-6


def scheduler_of(model: ModelConfig, rules: dict[str, Any]) -> Scheduler:
    """vLLM's scheduler with these rules."""
    options = {
        "max_num_seqs": rules["max_num_seqs"],
        "max_num_batched_tokens": rules["max_num_batched_tokens"],
        "max_model_len": rules["max_model_len"],
        "long_prefill_token_threshold": rules["long_prefill_token_threshold"],
        "long_prefill_token_threshold_adaptive": rules["adaptive_threshold"],
        "enable_chunked_prefill": rules["chunked_prefill"],
        "async_scheduling": rules["asynchronous"],
        "is_encoder_decoder": False,
        "scheduler_reserve_full_isl": rules["whole_prompt"],
        "watermark": rules["watermark"],
        "policy": "priority" if rules["by_priority"] else "fcfs",
    }
    known = {field.name for field in fields(SchedulerConfig)} | {"max_model_len", "is_encoder_decoder"}
    scheduling = SchedulerConfig(**{name: value for name, value in options.items() if name in known})
    cache = CacheConfig(block_size=rules["block_size"], enable_prefix_caching=rules["prefix_caching"])
    config = VllmConfig(
        scheduler_config=scheduling,
        model_config=model,
        cache_config=cache,
        parallel_config=ParallelConfig(pipeline_parallel_size=rules["pipeline"]),
    )
    cache.num_gpu_blocks = rules["blocks"]
    spec = FullAttentionSpec(block_size=rules["block_size"], num_kv_heads=1, head_size=1, dtype=torch.float32)
    kv = KVCacheConfig(
        num_blocks=rules["blocks"], kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
    )
    if register := getattr(managers, "register_all_kvcache_specs", None):  # not in vLLM 0.19
        register(config)
    kind = AsyncScheduler if rules["asynchronous"] else Scheduler
    scheduler = kind(
        vllm_config=config, kv_cache_config=kv, block_size=rules["block_size"], log_stats=True,
        structured_output_manager=StructuredOutputManager(config),
    )  # fmt: skip
    scheduler.use_v2_model_runner = True  # as on accelerators; vLLM 0.19 does not look at it
    return scheduler


def run(model: ModelConfig, case: dict[str, Any]) -> list[dict[str, int]]:
    """The batch of every step."""
    rules, given = case["rules"], case["requests"]
    scheduler = scheduler_of(model, rules)
    hasher = get_request_block_hasher(rules["block_size"], sha256)
    waiting = deque(
        Request(
            request_id=f"{number:06}", prompt_token_ids=one["prompt"], pooling_params=None, arrival_time=one["arrival"],
            sampling_params=SamplingParams(ignore_eos=True, max_tokens=len(one["output"])), block_hasher=hasher,
            priority=one["priority"],
        )
        for number, one in enumerate(given)
    )  # fmt: skip
    running: deque[tuple[float, Any, list[str]]] = deque()
    steps: list[dict[str, int]] = []
    now = free = 0.0
    while waiting or running or scheduler.get_num_unfinished_requests():
        while waiting and waiting[0].arrival_time <= now:
            scheduler.add_request(waiting.popleft())
        step = scheduler.schedule()
        work = step.num_scheduled_tokens
        if work:
            steps.append({str(int(name)): tokens for name, tokens in work.items()})
            free = max(free, now) + BASE_S + TOKEN_S * sum(work.values()) + REQUEST_S * len(work)
            running.append((free, step, [name for name in work if not scheduler.requests[name].is_prefill_chunk]))
            if len(running) < case["batches"]:
                continue
        if running:
            end, done, answers = running.popleft()
            now = max(now, end)
            scheduler.update_from_output(done, _output(scheduler, given, list(done.num_scheduled_tokens), answers))
        elif not step.preempted_req_ids and waiting:
            now = max(now, waiting[0].arrival_time)
    return steps


def _output(scheduler: Scheduler, given: list[Any], names: list[str], answers: list[str]) -> ModelRunnerOutput:
    """What a model would have answered: the next token of each."""
    sampled = []
    for name in names:
        request = scheduler.requests.get(name)
        due = request is not None and name in answers
        sampled.append([given[int(name)]["output"][request.num_output_tokens]] if due else [])
    return ModelRunnerOutput(
        req_ids=names, req_id_to_index={name: place for place, name in enumerate(names)}, sampled_token_ids=sampled
    )


def main() -> None:
    """Read the cases, write the batches."""
    folder, cases, batches = sys.argv[1:]
    init_none_hash(sha256)
    model = ModelConfig(model=folder, skip_tokenizer_init=True, dtype="float32", max_model_len=1024)
    Path(batches).write_text(json.dumps([run(model, case) for case in json.loads(Path(cases).read_text())]))


if __name__ == "__main__":
    main()
