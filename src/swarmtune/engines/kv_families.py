"""What config.json files leave out because a family's class in Hugging Face's transformers fills it in, and other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers", "nlayers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "nheads")
HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model", "embed_dim", "emb_dim", "dim")
KV_HEADS = (
    *("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "n_kv_head", "kv_n_heads", "kvheads"),
    *("multi_query_group_num", "num_query_groups", "n_query_groups", "num_attention_groups"),
)
WINDOW_KV_HEADS = ("swa_num_key_value_heads", "num_swa_key_value_heads")  # of layers with a window, where they differ
WINDOW_HEADS = ("swa_num_attention_heads", "num_swa_attention_heads")
# Starts of the families whose latent (kv_lora_rank) is what every engine keeps. Of others, some engines keep whole heads.
LATENT = ("deepseek", "kimi", "longcat", "glm", "pangu", "bailing", "axk1", "joyai", "mistral", "youtu")
TWICE = "longcat_flash"  # each layer attends twice


def _sizes(layers: int, heads: int, hidden: int, **more: Any) -> dict[str, Any]:
    return {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": hidden, **more}


_LLAMA = _sizes(32, 32, 4096)
_MISTRAL = {**_LLAMA, "num_key_value_heads": 8}
_GEMMA3 = _sizes(26, 8, 2304, num_key_value_heads=4, head_dim=256, sliding_window=4096, sliding_window_pattern=6)
_LLAMA4 = {"attention_chunk_size": 8192, "no_rope_layer_interval": 4, "head_dim": 128}
_LATENT = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("llama", "olmo", "olmo2", "qwen2"), _LLAMA),
    **dict.fromkeys(("llava", "llava_next", "llava_next_video", "video_llava", "vipllava"), _LLAMA),  # a Llama inside
    **dict.fromkeys(("mistral", "mixtral", "idefics2"), _MISTRAL),
    "qwen3": {**_LLAMA, "head_dim": 128},
    "qwen2_moe": _sizes(24, 16, 2048),
    "phi": _sizes(24, 32, 2048),
    "phi3": _sizes(32, 32, 3072),
    "gpt2": _sizes(12, 12, 768),
    "gpt_neox": _sizes(44, 64, 6144),
    "opt": _sizes(12, 12, 768),
    "persimmon": _sizes(36, 64, 4096),
    "stablelm": _sizes(32, 32, 2560),
    "cohere": _sizes(40, 64, 8192),
    "starcoder2": _sizes(30, 24, 3072, num_key_value_heads=2),
    "gemma": _sizes(28, 16, 3072, head_dim=256),
    "gemma2": _sizes(26, 8, 2304, num_key_value_heads=4, head_dim=256, sliding_window=4096, sliding_window_pattern=2),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "gpt_oss": {"sliding_window": 128, "sliding_window_pattern": 2, "head_dim": 64},
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
    "jamba": {"attn_layer_period": 8, "attn_layer_offset": 4},
    "zamba": {"attn_layer_period": 6, "attn_layer_offset": 4},
    "qwen3_next": {"full_attention_interval": 4, "head_dim": 256, "num_key_value_heads": 2},
    "step3_text": {"num_attention_groups": 1},
    "afmoe": {"global_attn_every_n_layers": 4},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _LATENT),
    **{family: {"multi_query": True} for family in ("falcon", "gpt_bigcode", "RefinedWebModel")},
}


def filled(model: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The model with its family's defaults for what it does not say; a null in the file is not a default, but nothing."""
    defaults = dict(DEFAULTS.get(family, {}))
    for names in (LAYERS, HEADS, HIDDEN, KV_HEADS):
        if any(name in model for name in names):
            defaults = {key: value for key, value in defaults.items() if key not in names}
    return {key: value for key, value in {**defaults, **model}.items() if value is not None}
