"""vLLM's parameters that are worth tuning. Source: vLLM 0.32 and 0.33, ``vllm serve --help=all`` and config/*.py."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from swarmtune.engines.flags import read_flags, with_values
from swarmtune.engines.schema import Parameter, Schema
from swarmtune.records import Value

KV_DTYPES = ["auto", "fp8", "fp8_e4m3", "fp8_e5m2"]
BY_MODEL = "on where the model allows it"
PARAMETERS = (
    Parameter(
        *("--max-num-seqs", "int", 256, 1, 1024),
        log=True,
        own="256; 1024 from 70 GiB of device memory on, but on A100s; 128 for each rank on CPUs",
    ),
    Parameter(
        *("--max-num-batched-tokens", "int", 2048, 256, 65536),
        log=True,
        own="2048; 8192 from 70 GiB of device memory on, but on A100s; 16384 from 160 GiB on",
    ),
    Parameter("--max-num-active-seqs", min=1, max=1024, log=True, note="<= max_num_seqs; cheap to change"),
    Parameter("--max-num-scheduled-tokens", "int", 2048, 256, 65536, log=True, note="<= max_num_batched_tokens"),
    Parameter("--performance-mode", "enum", "balanced", dtype_param=["balanced", "interactivity", "throughput"]),
    Parameter(
        *("--long-prefill-token-threshold", "int", 0, 0, 8192),
        note="0: off",
        when="{enable_chunked_prefill}",
    ),
    Parameter("--prefill-schedule-interval", default=1, min=1, max=16, when="{data_parallel_size} > 1"),
    Parameter("--enable-chunked-prefill", "bool", True, own=BY_MODEL),
    Parameter("--enable-prefix-caching", "bool", True, note="prompts must be fresh in every measurement", own=BY_MODEL),
    Parameter("--async-scheduling", "bool", True, own="on where the other settings allow it"),
    Parameter("--scheduling-policy", "enum", "fcfs", dtype_param=["fcfs", "priority"]),
    Parameter("--stream-interval", default=1, min=1, max=16, note="above 1 clients cannot measure token gaps"),
    Parameter("--scheduler-reserve-full-isl", "bool", True),
    Parameter("--watermark", "float", 0.0, min=0.0, max=0.2),
    Parameter(
        *("--gpu-memory-utilization", "float", 0.92, 0.5, 0.98),
        note="no effect beside kv_cache_memory_bytes",
        when="false and {kv_cache_memory_bytes}",
    ),
    Parameter("--kv-cache-memory-bytes", min=2**28, max=2**38, log=True),
    Parameter("--kv-cache-dtype", "enum", "auto", dtype_param=KV_DTYPES, note="changes the output: check quality"),
    Parameter("--block-size", "enum", 16, dtype_param=[8, 16, 32, 64, 128], own="by the attention backend"),
    Parameter("--tensor-parallel-size", default=1, min=1, max=64, note="divides the attention heads"),
    Parameter("--pipeline-parallel-size", default=1, min=1, max=64),
    Parameter("--data-parallel-size", default=1, min=1, max=64),
    Parameter("--max-model-len", min=256, max=131072, log=True),
    Parameter("--enforce-eager", "bool", False),
)
RULES = (
    "{max_num_batched_tokens} >= {max_num_seqs}",
    "{max_num_active_seqs} <= {max_num_seqs}",
    "{max_num_scheduled_tokens} <= {max_num_batched_tokens}",
    "{long_prefill_token_threshold} <= {max_model_len}",
    "{enable_chunked_prefill} or {max_num_batched_tokens} >= {max_model_len}",
    (
        "{prefill_context_parallel_size} > 1 or {decode_context_parallel_size} == 1 or "
        "{tensor_parallel_size} % {decode_context_parallel_size} == 0"
    ),
    (
        "{prefill_context_parallel_size} == 1 or {decode_context_parallel_size} in "
        "(1, {prefill_context_parallel_size}, {tensor_parallel_size} * {prefill_context_parallel_size})"
    ),
    "not {enable_eplb} or {enable_expert_parallel}",
    "not {enable_eplb} or {tensor_parallel_size} * {prefill_context_parallel_size} * {data_parallel_size} > 1",
    "not {enable_elastic_ep} or {enable_eplb}",
    "not {enable_elastic_ep} or {pipeline_parallel_size} == 1",
    "not {enable_dbo} or {all2all_backend} not in ('allgather_reducescatter', 'naive', 'pplx')",
    "not {enable_dbo} or min({dbo_decode_token_threshold}, {dbo_prefill_token_threshold}) >= 2",
    "not {enable_batch_sharded_sampling} or {tensor_parallel_size} > 1",
    "not {enable_batch_sharded_sampling} or {max_num_seqs} >= {tensor_parallel_size}",
    "not {enable_lora} or {max_cpu_loras} == 0 or {max_cpu_loras} >= {max_loras}",
    "not {enable_auto_tool_choice} or {tool_call_parser} != ''",
    "{distributed_executor_backend} != 'external_launcher'",  # it wants a launcher such as torchrun
)
RESTING: Mapping[str, Value] = {
    **dict.fromkeys(("prefill_context_parallel_size", "decode_context_parallel_size"), 1),
    **dict.fromkeys(("enable_expert_parallel", "enable_eplb", "enable_elastic_ep", "enable_dbo"), False),
    "enable_batch_sharded_sampling": False,
    "enable_auto_tool_choice": False,
    "enable_lora": False,
    "max_cpu_loras": 0,
    "kv_offloading_size": 0,
    "max_loras": 1,
    "tool_call_parser": "",
    "all2all_backend": "allgather_reducescatter",
    "data_parallel_backend": "mp",
    "distributed_executor_backend": "mp",
    "dbo_decode_token_threshold": 32,
    "dbo_prefill_token_threshold": 512,
}
IDLE: Mapping[str, str] = {
    **dict.fromkeys(("max_cudagraph_capture_size", "compilation_config.cudagraph_mode"), "not {enforce_eager}"),
    **dict.fromkeys(("max_loras", "max_lora_rank", "max_cpu_loras", "lora_dtype"), "{enable_lora}"),
    **dict.fromkeys(("fully_sharded_loras", "specialize_active_lora"), "{enable_lora}"),
    **dict.fromkeys(("dbo_decode_token_threshold", "dbo_prefill_token_threshold"), "{enable_dbo}"),
    **{f"eplb_config.{key}": "{enable_eplb}" for key in ("window_size", "step_interval", "num_redundant_experts")},
    **dict.fromkeys(("expert_placement_strategy", "all2all_backend"), "{enable_expert_parallel}"),
    "prefix_caching_hash_algo": "{enable_prefix_caching}",
    "kv_offloading_backend": "{kv_offloading_size} > 0",
    "disable_custom_all_reduce": "{tensor_parallel_size} > 1",
}
RANKS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def vllm_schema() -> Schema:
    """With all flags of ``vllm serve``."""
    folder = files("swarmtune.engines")
    text, values = ((folder / name).read_text(encoding="utf-8") for name in ("vllm_flags.txt", "vllm_values.txt"))
    return Schema(
        "vLLM",
        "0.30-0.33",
        PARAMETERS,
        with_values(read_flags(text), read_flags(values)),
        complete=True,
        rules=RULES,
        sure=frozenset({"enable_chunked_prefill", *RANKS}),
        resting=RESTING,
        idle=IDLE,
        ranks=RANKS,
        underscores=True,
        way_out="vllm.check_flags = false",
        shortened=True,
        appending=frozenset({"--middleware"}),
    )
