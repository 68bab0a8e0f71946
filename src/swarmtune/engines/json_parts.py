"""The parts of vLLM's JSON options, which it refuses where it does not know them. Source: the fields of the classes in
vllm/config of vLLM 0.32; another version may have more, so only what is nearly one of these is a mistake.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

NEAR = 0.8  # how alike two names are that one stands for the other
PARTS: Mapping[str, frozenset[str]] = {
    flag: frozenset(names.split())
    for flag, names in {
        "--compilation-config": """
            mode level debug_dump_path cache_dir compile_cache_save_format backend custom_ops ir_enable_torch_wrap
            splitting_ops compile_mm_encoder cudagraph_mm_encoder encoder_cudagraph_token_budgets
            cudagraph_decoder_replay compile_sizes
            encoder_cudagraph_max_vision_items_per_batch encoder_cudagraph_max_frames_per_batch decoder_replay_trim_threshold
            decoder_replay_cudagraph_capture_sizes compile_ranges_endpoints inductor_compile_config inductor_passes
            cudagraph_mode cudagraph_num_of_warmups cudagraph_capture_sizes cudagraph_copy_inputs cudagraph_specialize_lora
            use_inductor_graph_partition pass_config max_cudagraph_capture_size dynamic_shapes_config local_cache_dir
            fast_moe_cold_start use_inductor use_cudagraph full_cuda_graph""",
        "--speculative-config": """
            enforce_eager num_speculative_tokens model method draft_tensor_parallel_size tensor_parallel_size quantization
            moe_backend attention_backend kv_cache_dtype max_model_len revision code_revision index_share_for_mtp_iteration
            disable_padded_drafter_batch disable_eagle_block_drop use_local_argmax_reduction use_heterogeneous_vocab
            prompt_lookup_max prompt_lookup_min parallel_drafting num_speculative_tokens_per_batch_size draft_load_config
            suffix_decoding_max_tree_depth suffix_decoding_max_cached_requests suffix_decoding_max_spec_factor
            suffix_decoding_min_token_prob rejection_sample_method synthetic_acceptance_rates synthetic_acceptance_length
            enable_adaptive_verification draft_sample_method dspark_draft_topk disable_by_batch_size disable_logprobs""",
        "--structured-outputs-config": """
            backend disable_any_whitespace disable_additional_properties reasoning_parser reasoning_parser_plugin
            enable_in_reasoning disable_fallback""",
        "--kv-transfer-config": """
            kv_connector engine_id kv_buffer_device kv_buffer_size kv_role kv_rank kv_parallel_size kv_ip kv_port
            kv_connector_extra_config kv_connector_module_path enable_permute_local_kv kv_load_failure_policy""",
        "--eplb-config": """
            window_size step_interval num_redundant_experts log_balancedness log_balancedness_interval use_async policy
            communicator enable_migration_batching""",
    }.items()
}
VALUES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("--compilation-config", "cudagraph_mode"): (
        *("NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"),
    ),
    ("--structured-outputs-config", "backend"): ("auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"),
    ("--kv-transfer-config", "kv_role"): ("kv_producer", "kv_consumer", "kv_both"),
}


def level_hint(flag: str, text: str) -> str:
    """The end of a sentence that refuses a number which older versions of vLLM take for a level; empty for any other."""
    level = flag == "--compilation-config" and re.fullmatch(r"[0-3]", text)
    return f": write -O{text}, or -cc.mode={text}" if level else ""


def part_refusal(flag: str, part: str, value: Any) -> str | None:
    """Why this part of a flag's JSON is refused, as the end of a sentence that begins with the flag; None: it may be
    right.
    """
    known = PARTS.get(flag)
    if known is None:
        return None
    name = part.partition(".")[0].replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, NEAR)
        return f"has no part {part[:60]!r}; near: {near[0]}" if near else None
    choices = VALUES.get((flag, name))
    if choices is None or not isinstance(value, str) or value.lower() in map(str.lower, choices) or "$" in value:
        return None
    return f"takes for {name} one of {', '.join(choices)}, not {value[:60]!r}"
