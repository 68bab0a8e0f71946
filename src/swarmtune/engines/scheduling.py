"""From a command line to the rules of a scheduler."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from swarmtune.engines.arguments import literals, read
from swarmtune.engines.flags import size
from swarmtune.engines.schema import Schema, underscored
from swarmtune.records import Value
from swarmtune.scheduling import VLLM, Rules

BLOCK = 16  # tokens, where nothing says more
UNKNOWN_BLOCKS = 2**20  # of a cache of which nothing is known: ample
OF_STEP_TIMES = re.compile(  # flags and variables of vLLM by which a step takes another time
    r"tensor_parallel|expert|eplb|all2all|dbo|ubatch|context_parallel|"
    r"^dtype|kv_cache_dtype|quantization|attention|attn|mla|enforce_eager|cudagraph|cuda_graph|compilation|optimization|"
    r"block_size|kernel|moe_backend|linear_backend|distributed_executor|all_reduce|threads|numa|mm_encoder|performance",
    re.IGNORECASE,
)


def flag_values(argv: Sequence[str], schema: Schema) -> dict[str, Value]:
    """What the flags of a command line say, by the names that rules use; the last of equal flags counts."""
    fixed = literals(read(argv, schema.commands, "").given)
    return {underscored(flag): _value(text) for (flag, path), text in fixed.items() if not path}


def vllm_rules(values: Mapping[str, Value], schema: Schema, longest: int | None, kv_tokens: int | None) -> Rules:
    """What vLLM makes of these flags. ``longest``: tokens of the model's context; ``kv_tokens``: what its KV cache holds.
    None: not known; then a context has no end, and the cache is ample.
    """
    own = {underscored(parameter.name): parameter.default for parameter in schema.parameters}

    def number(name: str, otherwise: int) -> int:
        value = values.get(name, own.get(name))
        return (
            int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else otherwise
        )

    def switched(name: str, otherwise: bool) -> bool:
        value = values.get(name, own.get(name))
        return value if isinstance(value, bool) else otherwise

    block = number("block_size", BLOCK)
    given = number("num_gpu_blocks_override", 0)
    blocks = given or (UNKNOWN_BLOCKS if kv_tokens is None else kv_tokens // block + 1)
    length = number("max_model_len", 0) or longest
    batched = number("max_num_batched_tokens", 2048)
    chunked = switched("enable_chunked_prefill", True)
    return Rules(
        max_num_seqs=min(number("max_num_seqs", 256), batched),
        max_num_batched_tokens=min(batched, number("max_num_scheduled_tokens", batched)),
        blocks=blocks,
        block_size=block,
        max_model_len=length,
        chunked_prefill=chunked,
        prefix_caching=switched("enable_prefix_caching", True),
        by_priority=values.get("scheduling_policy") == "priority",
        long_prefill_token_threshold=number("long_prefill_token_threshold", 0),
        adaptive_threshold=switched("long_prefill_token_threshold_adaptive", False),
        whole_prompt=switched("scheduler_reserve_full_isl", True),
        watermark=_share(values.get("watermark", 0.0)),
        asynchronous=switched("async_scheduling", True),
        pipeline=number("pipeline_parallel_size", 1),
        version=VLLM,
    )


def step_time_values(flags: Mapping[str, Value], env: Mapping[str, str]) -> dict[str, Value]:
    """Those flags and variables of vLLM's that decide how long a step takes."""
    return {name: value for name, value in (*flags.items(), *env.items()) if OF_STEP_TIMES.search(name)}


def version_of(text: str) -> tuple[int, int]:
    """The first two numbers of a version; those of VLLM without any."""
    found = re.search(r"(\d{1,4})\.(\d{1,4})", text)
    return (int(found[1]), int(found[2])) if found else VLLM


def _share(value: Value) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1 else 0.0


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    number = size(text)
    if number is not None:
        return number
    try:
        return float(text)
    except ValueError:
        return text
