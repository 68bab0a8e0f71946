"""SGLang's parameters that are worth tuning. Source: SGLang 0.5.23, ``--help`` and its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from swarmtune.engines.flags import read_flags, with_values
from swarmtune.engines.schema import Parameter, Schema
from swarmtune.records import Value

POLICIES = ["lpm", "random", "fcfs", "dfs-weight", "lof", "priority", "routing-key", "hrrn", "shortest-prefill-first"]
KV_DTYPES = ["auto", "fp8_e5m2", "fp8_e4m3"]
PARAMETERS = (
    Parameter("--max-running-requests", default=256, min=1, max=2048, log=True, own="from the free memory"),
    Parameter(
        "--chunked-prefill-size",
        "enum",
        8192,
        dtype_param=[512, 1024, 2048, 4096, 8192, 16384],
        own="by the device's memory",
    ),
    Parameter("--max-prefill-tokens", default=16384, min=1024, max=65536, log=True),
    Parameter(
        *("--mem-fraction-static", "float", 0.88, 0.5, 0.95),
        note="weights and KV cache of the total",
        own="by the device's memory and other settings",
    ),
    Parameter("--schedule-policy", "enum", "fcfs", dtype_param=POLICIES),
    Parameter("--schedule-conservativeness", "float", 1.0, min=0.1, max=2.0),
    Parameter("--page-size", "enum", 1, dtype_param=[1, 16, 32, 64, 128], own="by the attention backend"),
    Parameter("--num-continuous-decode-steps", default=1, min=1, max=16),
    Parameter("--prefill-max-requests", min=1, max=256, log=True),
    Parameter("--max-queued-requests", min=1, max=4096, log=True),
    Parameter("--prefill-decode-interval", default=1, min=1, max=16),
    Parameter("--kv-cache-dtype", "enum", "auto", dtype_param=KV_DTYPES, note="changes the output: check quality"),
    Parameter("--enable-mixed-chunk", "bool", False),
    Parameter("--cuda-graph-max-bs-decode", min=8, max=512, log=True, when="not {disable_cuda_graph}"),
    Parameter("--cuda-graph-max-bs-prefill", min=8, max=512, log=True, when="not {disable_cuda_graph}"),
    Parameter("--attn-dp-size", default=1, min=1, max=64),
    Parameter("--tp-size", default=1, min=1, max=64),
    Parameter("--dp-size", default=1, min=1, max=64),
    Parameter("--pp-size", default=1, min=1, max=64),
)
RULES = (
    "{chunked_prefill_size} <= 0 or {chunked_prefill_size} % {page_size} == 0",
    "{max_prefill_tokens} >= {chunked_prefill_size}",
    "not {enable_dp_attention} or {dp_size} == 1 or {tp_size} % {dp_size} == 0",
    "{attn_dp_size} == 1 or {tp_size} % {attn_dp_size} == 0",
    "{attn_cp_size} == 1 or {tp_size} % ({dp_size} * {attn_cp_size}) == 0",
    "{dcp_size} == 1 or {tp_size} % {dcp_size} == 0",
    "{moe_a2a_backend} != 'none' or {ep_size} == 1 or {tp_size} % {ep_size} == 0",
    "{moe_dp_size} == 1 or {tp_size} % {moe_dp_size} == 0",
    "{moe_dp_size} == 1 or {moe_a2a_backend} != 'none' or {ep_size} == 1 or {ep_size} * {moe_dp_size} == {tp_size}",
    "{moe_dp_size} == 1 or {moe_dp_size} == {attn_cp_size}",
    "{moe_dp_size} == 1 or {pp_size} == 1",
    "{moe_dense_tp_size} in (1, {tp_size})",
    "{dwdp_size} == 1 or {dwdp_size} == {tp_size}",
    "{dwdp_size} == 1 or {pp_size} == 1",
    "{pp_size} == 1 or {speculative_algorithm} == ''",
    "not {enable_hierarchical_cache} or not {disable_radix_cache}",
    "not {enable_lmcache} or not {disable_radix_cache}",
    "not {enable_priority_scheduling} or {schedule_policy} in ('fcfs', 'lof')",
    "{retraction_policy} != 'priority' or {enable_priority_scheduling}",
    "not {disable_cuda_graph_padding} or not {enable_torch_compile}",
    "not {enable_dp_lm_head} or {enable_dp_attention} or {dp_size} == 1 or {attn_dp_size} > 1",
    "not {enable_two_batch_overlap} or {enable_dp_attention} or {moe_a2a_backend} != 'none' or {attn_dp_size} > 1",
)
RESTING: Mapping[str, Value] = {
    **dict.fromkeys(("ep_size", "moe_dp_size", "attn_cp_size", "dcp_size", "dwdp_size"), 1),
    **dict.fromkeys(("enable_dp_attention", "enable_dp_lm_head", "enable_two_batch_overlap"), False),
    **dict.fromkeys(("enable_hierarchical_cache", "disable_radix_cache", "enable_lmcache"), False),
    **dict.fromkeys(("enable_priority_scheduling", "disable_cuda_graph_padding", "enable_torch_compile"), False),
    "retraction_policy": "length",
    "moe_a2a_backend": "none",
    "speculative_algorithm": "",
    "enable_lora": False,
    "lora_paths": "",
    "ep_num_redundant_experts": 0,
}
IDLE: Mapping[str, str] = {
    **dict.fromkeys(("hicache_ratio", "hicache_size", "hicache_write_policy"), "{enable_hierarchical_cache}"),
    **dict.fromkeys(("hicache_io_backend", "hicache_mem_layout"), "{enable_hierarchical_cache}"),
    **dict.fromkeys(("max_loras_per_batch", "max_lora_rank", "lora_backend"), "{enable_lora} or {lora_paths} != ''"),
    **dict.fromkeys(("speculative_num_steps", "speculative_eagle_topk"), "{speculative_algorithm} != ''"),
    "speculative_num_draft_tokens": "{speculative_algorithm} != ''",
    "torch_compile_max_bs": "{enable_torch_compile}",
    "radix_eviction_policy": "not {disable_radix_cache}",
    "deepep_mode": "{moe_a2a_backend} != 'none'",
    "load_balance_method": "{dp_size} > 1",
}
RANKS = ("tp_size", "pp_size", "dp_size")


def sglang_schema() -> Schema:
    """With all flags of ``python -m sglang.launch_server``."""
    folder = files("swarmtune.engines")
    text, values = ((folder / name).read_text(encoding="utf-8") for name in ("sglang_flags.txt", "sglang_values.txt"))
    return Schema(
        "SGLang",
        "0.5.23",
        PARAMETERS,
        with_values(read_flags(text), read_flags(values)),
        complete=True,
        rules=RULES,
        sure=frozenset({"attn_dp_size", *RANKS}),
        resting=RESTING,
        idle=IDLE,
        ranks=RANKS,
        switches=True,
        way_out="sglang.check_flags = false",
        shortened=True,
    )
