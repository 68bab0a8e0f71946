"""What the layers of a model keep of a sequence while it is served, read from the model's config.json. Pure.

Sources: one token stores a key and a value vector per layer and KV head (vLLM, ``FullAttentionSpec.page_size_bytes``); with
multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) one compressed vector and one rotary key. The names
of the keys are those of Hugging Face's configurations; absent ones have that library's defaults (``DEFAULTS``).
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarmtune.engines.kv_layers import FULL, NOTHING, STATE, WINDOW, UnknownLayerError, kinds
from swarmtune.engines.parallel import Ranks

DEFAULT_DTYPE = "bfloat16"
DTYPE_BITS: Mapping[str, float] = {
    **dict.fromkeys(("float32", "fp32", "float", "f32"), 32),
    **dict.fromkeys(("float16", "fp16", "half", "f16", "bfloat16", "bf16"), 16),
    **dict.fromkeys(("int8", "uint8", "c8"), 8),
    **dict.fromkeys(("int4", "fp4", "nvfp4", "fp4_e2m1", "float4_e2m1fn_x2"), 4),
    **dict.fromkeys(("q4_0", "iq4_nl"), 4.5),  # of ggml, as all that follow: blocks with their scales
    **dict(zip(("q4_1", "q5_0", "q5_1", "q8_0"), (5, 5.5, 6, 8.5), strict=True)),
}
FP8 = ("fp8", "float8")  # any of its forms: fp8_e4m3, float8_e5m2, ...
MAX_NUMBER = 2**31  # no size of a model comes near it
MAX_LAYERS = 10_000
INNER = ("text_config", "llm_config", "language_config", "thinker_config")  # the language model inside a larger one
MOST_INNER = 4  # configurations inside one another
_GEMMA3 = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
_LLAMA4 = {"attention_chunk_size": 8192, "no_rope_layer_interval": 4, "head_dim": 128}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2},
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "gpt_oss": {"sliding_window": 128, "sliding_window_pattern": 2, "head_dim": 64},
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
    "jamba": {"attn_layer_period": 8, "attn_layer_offset": 4},
    "qwen3_next": {"full_attention_interval": 4, "head_dim": 256, "num_key_value_heads": 2},
    **{family: {"multi_query": True} for family in ("falcon", "gpt_bigcode", "RefinedWebModel")},
}


@dataclass(frozen=True)
class Layer:
    """What a layer keeps of one sequence: ``heads`` x ``values`` numbers for each of its last ``window`` tokens (None: of
    all), and ``state`` numbers however long it is. ``latent``: every tensor rank keeps all of it.
    """

    heads: int = 0
    values: int = 0
    window: int | None = None
    latent: bool = False
    state: int = 0

    def numbers(self, tokens: int, ranks: Ranks) -> int:
        """On one tensor rank, which holds at least one head: fewer heads than ranks are kept by several of them."""
        heads = self.heads if self.latent else -(-self.heads // ranks.tensor)
        kept = tokens if self.window is None else min(tokens, self.window)
        return heads * self.values * -(-kept // ranks.context) + -(-self.state // ranks.tensor)


@dataclass(frozen=True)
class KvModel:
    """The cached layers of a model, in order, and the bits of a cached number. ``notes``: what is not counted."""

    layers: tuple[Layer, ...]
    bits: float
    notes: tuple[str, ...] = ()
    experts: bool = False

    def sequence_bytes(self, tokens: int, ranks: Ranks) -> int:
        """Bytes that one sequence takes on all devices of a replica, each as full as the fullest; 0: it has no cache."""
        count, stages = len(self.layers), ranks.pipeline
        parts = [self.layers[i * count // stages : (i + 1) * count // stages] for i in range(stages)]
        fullest = max(sum(layer.numbers(tokens, ranks) for layer in part) for part in parts)
        return math.ceil(fullest * self.bits / 8) * ranks.tensor * stages


def kv_model(config: Mapping[str, Any], kv_dtype: str | None = None) -> KvModel:
    """The model of a config.json. ``kv_dtype`` as engines spell it; None and "auto": the model's own.

    ValueError if a key is missing or its value cannot be that of a model; UnknownLayerError, which is one, if the file
    describes a kind of layer that is not known here.
    """
    chain = list(_inner(config))
    model, outer = dict(chain[-1]), chain[::-1]
    family = str(next((c["model_type"] for c in outer if c.get("model_type")), ""))
    model = {**DEFAULTS.get(family, {}), **{key: value for key, value in model.items() if value is not None}}
    if config.get("is_encoder_decoder") is True:
        raise UnknownLayerError("an encoder and a decoder, of which each keeps its own")
    count = number(model, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers")
    if count > MAX_LAYERS:
        raise ValueError(f"num_hidden_layers is {count}, more than {MAX_LAYERS}")
    bits = dtype_bits(kv_dtype) if kv_dtype and kv_dtype.lower() != "auto" else _own_bits(outer)
    found = kinds(model, count, family)
    shared = optional(model, "num_kv_shared_layers") or 0
    every = (optional(model, "cla_share_factor") or 1) if model.get("use_cla") is True else 1
    notes: list[str] = []
    state = _state(model) if STATE in found else 0
    if state is None:
        notes.append(
            "the fixed state of its linear or state-space layers is not counted: their sizes are not all given"
        )
    if "index_head_dim" in model:
        notes.append("the cache of its sparse attention's indexer is not counted")
    crossing = model.get("cross_attention_layers")
    if isinstance(crossing, list) and crossing:
        notes.append("the cache of its cross-attention layers is not counted")
    layers = []
    for i, kind in enumerate(found):
        if kind == STATE:
            layers.append(Layer(state=state or 0))
        elif kind == NOTHING or i >= count - shared or i % every or (isinstance(crossing, list) and i in crossing):
            layers.append(Layer())
        else:
            layers.append(_attention(model, i, kind, found.window(i)))
    if family == "falcon_h1":  # both kinds side by side in each layer
        beside = _state(model) or 0
        layers = [replace(layer, state=beside) for layer in layers]
    experts = any(key in model for key in ("num_experts", "n_routed_experts", "num_local_experts"))
    return KvModel(tuple(layers), bits, tuple(notes), experts)


def dtype_bits(name: str) -> float:
    """Bits of a number of this format, as engines and models spell it; ValueError if it is not known."""
    plain = name.lower().removeprefix("torch.")
    if plain.startswith(FP8):
        return 8
    if plain not in DTYPE_BITS:
        raise ValueError(f"dtype {reprlib.repr(name)} is not one of auto, fp8, {', '.join(DTYPE_BITS)}")
    return DTYPE_BITS[plain]


def number(model: Mapping[str, Any], *names: str) -> int:
    """The first of these keys that is there; ValueError if none is, or it is not a whole number from 1."""
    name = next((n for n in names if model.get(n) is not None), names[0])
    value = model.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < MAX_NUMBER:
        raise ValueError(f"{name} is {reprlib.repr(value)}, not a whole number from 1 to {MAX_NUMBER - 1}")
    return value


def optional(model: Mapping[str, Any], *names: str) -> int | None:
    """As ``number``; None if no key is there or it is 0."""
    return number(model, *names) if any(model.get(name) for name in names) else None


def _inner(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration, and the language model's inside it, from the outside."""
    here: Any = config
    for _ in range(MOST_INNER):
        yield here
        here = next((here[key] for key in INNER if isinstance(here.get(key), Mapping) and here[key]), None)
        if here is None:
            return


def _own_bits(chain: Sequence[Mapping[str, Any]]) -> float:
    """Bits of the checkpoint's cache: what its quantisation says of the cache, else the format of the model."""
    for config in chain:
        quantised = config.get("quantization_config")
        if isinstance(quantised, Mapping):
            scheme = quantised.get("kv_cache_scheme")
            if isinstance(scheme, Mapping) and scheme.get("num_bits") in (4, 8, 16):
                return int(scheme["num_bits"])
            algorithm = quantised.get("kv_cache_quant_algo")
            if isinstance(algorithm, str) and algorithm.lower() not in ("none", "auto"):
                return dtype_bits(algorithm)
    names = (config.get(key) for config in chain for key in ("torch_dtype", "dtype"))
    return dtype_bits(str(next((name for name in names if name), DEFAULT_DTYPE)))


def _attention(model: Mapping[str, Any], i: int, kind: str, window: int | None) -> Layer:
    """A layer that attends."""
    if model.get("kv_lora_rank"):
        values = number(model, "kv_lora_rank") + number(model, "qk_rope_head_dim")
        return Layer(1, values, window, latent=True)
    per_layer = _per_layer(model, i, "num_attention_heads", "num_query_heads")
    heads = per_layer or number(model, "num_attention_heads", "n_head", "n_heads", "num_heads")
    size = optional(model, "head_dim", "kv_channels", "attention_head_dim", "head_size")
    if size is None and "qk_nope_head_dim" in model:
        size = number(model, "qk_nope_head_dim") + (optional(model, "qk_rope_head_dim") or 0)
    size = size or number(model, "hidden_size", "n_embd", "d_model") // heads
    if size < 1:
        raise ValueError(f"hidden_size is smaller than num_attention_heads {heads}")
    kv_heads, value_size = _kv_heads(model, heads, i), optional(model, "v_head_dim") or size
    if kind == FULL and (wide := optional(model, "global_head_dim")):
        size = value_size = wide
        kv_heads = optional(model, "num_global_key_value_heads") or kv_heads
    if kind == WINDOW and "swa_num_key_value_heads" in model:
        kv_heads = number(model, "swa_num_key_value_heads")
        size = optional(model, "swa_head_dim") or size
        value_size = optional(model, "swa_v_head_dim") or value_size
    return Layer(kv_heads, size + value_size, window)


def _kv_heads(model: Mapping[str, Any], heads: int, i: int) -> int:
    if found := _per_layer(model, i, "num_key_value_heads", "num_key_value_heads_per_layer", "num_kv_heads"):
        return found
    if model.get("multi_query") is True and model.get("new_decoder_architecture") is not True:
        return 1  # Falcon 7B, StarCoder: one head, whatever num_kv_heads says
    if model.get("multi_query_attention") is False:
        return heads
    inner = model.get("attn_config")
    if isinstance(inner, Mapping) and inner.get("kv_n_heads"):
        return number(inner, "kv_n_heads")
    names = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_query_groups")
    return optional(model, *(name for name in names if model.get(name))) or heads


def _per_layer(model: Mapping[str, Any], i: int, *names: str) -> int | None:
    """The value of this layer where one of these keys has a list of them."""
    name = next((n for n in names if isinstance(model.get(n), list)), None)
    if name is None:
        return None
    values = model[name]
    if i >= len(values):
        raise ValueError(f"{name} has {len(values)} values, fewer than layers")
    return number({name: values[i]}, name)


def _state(model: Mapping[str, Any]) -> int | None:
    """Numbers that a linear or state-space layer keeps of a sequence; None if the file does not say enough."""
    try:
        if "linear_num_value_heads" in model:  # gated delta rule, Qwen3-Next
            keys = number(model, "linear_num_key_heads") * number(model, "linear_key_head_dim")
            values = number(model, "linear_num_value_heads") * number(model, "linear_value_head_dim")
            kernel = number(model, "linear_conv_kernel_dim")
            return values * number(model, "linear_key_head_dim") + (2 * keys + values) * (kernel - 1)
        size = number(model, "mamba_d_state", "ssm_state_size")
        kernel = number(model, "mamba_d_conv", "conv_kernel")
        if "mamba_n_heads" in model or "mamba_num_heads" in model:  # Mamba 2
            inner = number(model, "mamba_n_heads", "mamba_num_heads") * number(model, "mamba_d_head", "mamba_head_dim")
            groups = optional(model, "mamba_n_groups", "n_groups") or 1
            return inner * size + (inner + 2 * groups * size) * (kernel - 1)
        inner = number(model, "mamba_expand", "expand") * number(model, "hidden_size")
        return inner * size + inner * (kernel - 1)
    except ValueError:
        return None
