"""Failures at start as in real engines, with their messages."""

from __future__ import annotations

import resource
import sys

from swarmtune.simulator.config import DeviceMemory, SimulatorConfig

SAFE_LIMIT_BYTES = 8 * 2**30  # without a memory limit below this, "oom" only pretends: the machine is shared
BLOCK_BYTES = 32 * 2**20


def mistakes(config: SimulatorConfig) -> str | None:
    """vLLM's message if it would refuse these settings; None if it would not."""
    rules = config.rules
    if rules.max_num_batched_tokens < rules.max_num_seqs:
        return (
            f"ValueError: max_num_batched_tokens ({rules.max_num_batched_tokens}) must be greater than or equal to "
            f"max_num_seqs ({rules.max_num_seqs})."
        )
    if rules.usable_blocks < 1:
        return "ValueError: No available memory for the cache blocks. Try increasing kv_cache_tokens."
    if config.memory.missing_gib(rules.kv_tokens) > 0:
        return out_of_memory(config.memory, rules.kv_tokens)
    return None


def out_of_memory(memory: DeviceMemory, kv_cache_tokens: int) -> str:
    """The line that torch prints when the KV cache does not fit."""
    wanted = kv_cache_tokens * memory.kv_bytes_per_token / 2**30
    free = max(0.0, memory.memory_gib - memory.weights_gib)
    return (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {wanted:.2f} GiB. GPU 0 has a total capacity "
        f"of {memory.memory_gib:.2f} GiB of which {free:.2f} GiB is free."
    )


def fail_start(config: SimulatorConfig) -> int | None:
    """Do what ``--fail-start`` says; the exit code, or None to go on. MemoryError for ``oom`` under a memory limit."""
    match config.faults.fail_start:
        case "oom":
            _exhaust_memory()
            sys.stderr.write(out_of_memory(config.memory, config.rules.kv_tokens) + "\n")
            return 1
        case "bad-argument":
            sys.stderr.write("python -m swarmtune.simulator: error: unrecognized arguments: --simulated-bad-argument\n")
            return 2
        case "missing-model":
            sys.stderr.write(
                f"OSError: {config.model} is not a local folder and is not a valid model identifier listed on "
                "'https://huggingface.co/models'\n"
            )
            return 1
    return None


def _exhaust_memory() -> None:
    """Allocate until MemoryError, but only under an address-space limit that keeps the machine safe."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    held: list[bytearray] = []
    while limit != resource.RLIM_INFINITY and limit <= SAFE_LIMIT_BYTES:
        held.append(bytearray(b"\1") * BLOCK_BYTES)
