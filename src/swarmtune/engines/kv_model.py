"""What the layers of a model keep of a sequence while it is served, read from the model's config.json. Pure.

Sources: one token stores a key and a value vector per layer and KV head (vLLM, ``FullAttentionSpec.page_size_bytes``); with
multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) one compressed vector and one rotary key. The names
of the keys are those of Hugging Face's configurations; absent ones have that library's defaults (``DEFAULTS``).
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from swarmtune.engines.kv_families import (
    HEADS,
    HIDDEN,
    KV_HEADS,
    LATENT,
    LAYERS,
    TWICE,
    WINDOW_HEADS,
    WINDOW_KV_HEADS,
    filled,
)
from swarmtune.engines.kv_formats import FP8, Formats, cache_bits, dtype_bits, model_bits, state_bits
from swarmtune.engines.kv_layers import BOTH, FULL, NOTHING, STATE, WINDOW, UnknownLayerError, kinds
from swarmtune.engines.parallel import Ranks

MAX_NUMBER = 2**31  # no size of a model comes near it
MAX_LAYERS = 10_000
INNER = ("text_config", "llm_config", "language_config", "thinker_config")  # the language model inside a larger one
KV_LISTS = ("num_key_value_heads", "num_key_value_heads_per_layer", "num_kv_heads")  # which may have one for each layer
MAMBA2_HEADS = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
PACKED, PACKED_BITS = "fp8_ds_mla", 8
MOST_INNER = 4  # configurations inside one another
OWN_FORMATS = Formats()
_NOT_HEADS = frozenset({*KV_HEADS, *WINDOW_KV_HEADS, "num_global_key_value_heads", "multi_query_group_num"})
KV_LIKE = re.compile(r"(kv|key_value).*(head|group)|(head|group).*(kv|key_value)|(query|attention|attn)_groups?$")


class MissingKeyError(ValueError):
    """The file does not give a size that is needed."""


@dataclass(frozen=True)
class Layer:
    """What a layer keeps of one sequence: ``heads`` x ``values`` numbers for each of its last ``window`` tokens (None: of
    all), and ``state_bits`` however long it is. ``latent``: every tensor rank keeps all of it.
    """

    heads: int = 0
    values: int = 0
    window: int | None = None
    latent: bool = False
    state_bits: int = 0

    def bits(self, tokens: int, ranks: Ranks, bits: float) -> float:
        """On one tensor rank, which holds at least one head: fewer heads than ranks are kept by several of them.

        ``bits``: of a cached number.
        """
        heads = self.heads if self.latent else -(-self.heads // ranks.tensor)
        kept = tokens if self.window is None else min(tokens, self.window)
        return heads * self.values * -(-kept // ranks.context) * bits + -(-self.state_bits // ranks.tensor)


@dataclass(frozen=True)
class KvModel:
    """The cached layers of a model, in order, and the bits of a cached number. ``notes``: what is not counted."""

    layers: tuple[Layer, ...]
    bits: float
    notes: tuple[str, ...] = ()
    experts: bool = False

    def uneven_heads(self, tensor: int) -> int | None:
        """A number of KV heads that this many tensor ranks neither divide nor repeat evenly; None: there is none."""
        counts = (layer.heads for layer in self.layers if layer.heads and not layer.latent)
        return next((heads for heads in counts if heads % tensor and tensor % heads), None)

    def without_windows(self) -> KvModel:
        """All layers keep all tokens, as engines do without a cache of their own for windows, if any layer does."""
        if all(layer.window is not None for layer in self.layers if layer.heads):
            return self
        return replace(self, layers=tuple(replace(layer, window=None) for layer in self.layers))

    def sequence_bytes(self, tokens: int, ranks: Ranks) -> int:
        """Bytes that one sequence takes on all devices of a replica, each as full as the fullest; 0: it has no cache."""
        count, stages = len(self.layers), ranks.pipeline
        parts = [self.layers[i * count // stages : (i + 1) * count // stages] for i in range(stages)]
        fullest = max(sum(layer.bits(tokens, ranks, self.bits) for layer in part) for part in parts)
        return math.ceil(fullest / 8) * ranks.tensor * stages


def kv_model(
    config: Mapping[str, Any],
    kv_dtype: str | None = None,
    formats: Formats = OWN_FORMATS,
    whole: Collection[str] = (),
) -> KvModel:
    """The model of a config.json. ``kv_dtype`` as engines spell it; None and "auto": the model's own. ``formats``: of the
    rest, where a command names them. ``whole``: families with a latent of which the engine keeps keys and values of all
    heads, each as long as a key.

    ValueError if a key is missing or its value cannot be that of a model; UnknownLayerError, which is one, if the file
    describes a kind of layer that is not known here, or leaves out a size of a family whose sizes are not known.
    """
    outer = list(inner(config))[::-1]
    family = str(next((c["model_type"] for c in outer if c.get("model_type")), ""))
    if config.get("is_encoder_decoder") is True:
        raise UnknownLayerError("an encoder and a decoder, of which each keeps its own")
    own = model_bits(outer, formats.model)
    named = kv_dtype if kv_dtype and kv_dtype.lower() != "auto" else None
    try:
        model = filled(outer[0], family)
        if named and model.get("kv_lora_rank"):
            named = named.partition(",")[0]  # there is nothing beside the keys' latent
        bits = dtype_bits(named) if named else cache_bits(outer) or own
        if family in whole and model.get("kv_lora_rank"):
            size = number(model, "qk_nope_head_dim") + number(model, "qk_rope_head_dim")
            model = {key: value for key, value in model.items() if key not in ("kv_lora_rank", *KV_HEADS)}
            model |= {"head_dim": size, "v_head_dim": size}
        sparse = bool(model.get("index_topk") or model.get("index_head_dim"))
        spelled = (named or "fp8").lower()  # of 8 bits that the checkpoint asks for
        packed = bits == PACKED_BITS and spelled.startswith(FP8) and (sparse or spelled == PACKED)
        return _described(model, family, bits, state_bits(model, formats, own), packed)
    except MissingKeyError as error:
        if not family and not config.get("architectures"):
            raise
        reason = f"no sizes of all its layers, and model_type {reprlib.repr(family)} has none known here ({error})"
        raise UnknownLayerError(reason) from error


def _described(
    model: Mapping[str, Any], family: str, bits: float, states: tuple[float, float], packed: bool
) -> KvModel:
    """``states``: bits of a number of a fixed state, and of what its convolution keeps; ``packed``: see ``_latent``."""
    count = number(model, *LAYERS)
    if count > MAX_LAYERS:
        raise ValueError(f"num_hidden_layers is {count}, more than {MAX_LAYERS}")
    found = kinds(model, count, family)
    shared = optional(model, "num_kv_shared_layers") or 0
    every = (optional(model, "cla_share_factor") or 1) if model.get("use_cla") is True else 1
    crossing = model.get("cross_attention_layers")
    crossing = crossing if isinstance(crossing, list) else []
    state = _state(model, family, *states) if STATE in found or BOTH in found else 0
    layers = []
    for i, kind in enumerate(found):
        layer = Layer()
        keeps = kind not in (STATE, NOTHING) and i < count - shared and i % every == 0 and i not in crossing
        if keeps and not _is_headless(model, i):
            layer = _attention(model, family, i, kind, found.window(i), packed)
        layers.append(replace(layer, state_bits=state or 0) if kind in (STATE, BOTH) else layer)
    notes = {
        "the fixed state of its linear or state-space layers is not counted: their sizes are not all given": (
            state is None
        ),
        "the cache of its sparse attention's indexer is not counted": "index_head_dim" in model,
        "the cache of its cross-attention layers is not counted": bool(crossing),
    }
    experts = any(key in model for key in ("num_experts", "n_routed_experts", "num_local_experts"))
    return KvModel(tuple(layers), bits, tuple(note for note, holds in notes.items() if holds), experts)


def number(model: Mapping[str, Any], *names: str) -> int:
    """The first of these keys that is there; ValueError if it is not a whole number from 1, MissingKeyError if none is."""
    name = next((n for n in names if model.get(n) is not None), names[0])
    value = model.get(name)
    if value is None:
        raise MissingKeyError(f"{name} is None, not a whole number from 1 to {MAX_NUMBER - 1}")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < MAX_NUMBER:
        raise ValueError(f"{name} is {reprlib.repr(value)}, not a whole number from 1 to {MAX_NUMBER - 1}")
    return value


def optional(model: Mapping[str, Any], *names: str) -> int | None:
    """As ``number``; None if no key is there or it is 0."""
    return number(model, *names) if any(model.get(name) for name in names) else None


def inner(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration, and the language model's inside it, from the outside."""
    here: Any = config
    for _ in range(MOST_INNER):
        yield here
        here = next((here[key] for key in INNER if isinstance(here.get(key), Mapping) and here[key]), None)
        if here is None:
            return


def _latent(model: Mapping[str, Any], packed: bool) -> int:
    """Numbers of a token's latent and rotary key. ``packed``: counted in bytes of DeepSeek's format for sparse attention, in
    which the latent has 8 bits with a scale of 32 for each 128 numbers, and the rotary key has 16 (vLLM's fp8_ds_mla, and
    SGLang's fp8 there): 656 bytes of 512 and 64 numbers.
    """
    latent, rotary = number(model, "kv_lora_rank"), number(model, "qk_rope_head_dim")
    return latent + 4 * -(-latent // 128) + 2 * rotary if packed else latent + rotary


def _attention(
    model: Mapping[str, Any], family: str, i: int, kind: str, window: int | None, packed: bool = False
) -> Layer:
    """A layer that attends."""
    if model.get("kv_lora_rank") and model.get("use_mla") is not False:
        if family and not family.startswith(LATENT):
            raise UnknownLayerError(
                f"kv_lora_rank with model_type {reprlib.repr(family)}, of which engines keep a latent or whole heads"
            )
        values = _latent(model, packed)
        return Layer(2 if family.startswith(TWICE) else 1, values, window, latent=True)
    other = model.get("attention_other_setting")  # Step 3.5: of the layers with a window
    if kind == WINDOW and isinstance(other, Mapping):
        model = {**model, **{key: value for key, value in other.items() if value is not None}}
    per_layer = _per_layer(model, i, "num_attention_heads", "num_query_heads")
    heads = per_layer or number(model, *HEADS)
    size = optional(model, "head_dim", "kv_channels", "attention_head_dim", "head_size", "hidden_size_per_head")
    if size is None and model.get("qk_nope_head_dim"):
        size = number(model, "qk_nope_head_dim") + (optional(model, "qk_rope_head_dim") or 0)
    own_size, size = size, size or _evenly(number(model, *HIDDEN), heads, "hidden_size", "attention heads")
    kv_heads, value_size = _kv_heads(model, heads, i), optional(model, "v_head_dim") or size
    if kind == FULL and (wide := optional(model, "global_head_dim")):
        size = value_size = wide
        kv_heads = optional(model, "num_global_key_value_heads") or kv_heads
    if kind == WINDOW and (narrow := optional(model, *WINDOW_KV_HEADS)):
        kv_heads, window_heads = narrow, optional(model, *WINDOW_HEADS)
        if own_size is None and window_heads:
            size = value_size = number(model, *HIDDEN) // window_heads
        size = optional(model, "swa_head_dim") or size
        value_size = optional(model, "swa_v_head_dim") or value_size
    return Layer(kv_heads, size + value_size, window)


def _kv_heads(model: Mapping[str, Any], heads: int, i: int) -> int:
    found = _kv_heads_given(model, heads, i)
    _evenly(heads, found, "the number of attention heads", "KV heads")
    return found


def _evenly(whole: int, parts: int, what: str, among: str) -> int:
    """The size of each part; ValueError if they are not all of the same size."""
    if whole % parts:
        raise ValueError(f"{what}, {whole}, cannot be divided evenly among {parts} {among}")
    return whole // parts


def _kv_heads_given(model: Mapping[str, Any], heads: int, i: int) -> int:
    if found := _per_layer(model, i, *KV_LISTS):
        return found
    if blocks := model.get("block_configs"):  # whose attention ``kinds`` has understood
        group = number(blocks[i]["attention"], "n_heads_in_group")
        if heads % group:
            raise ValueError(f"n_heads_in_group {group} does not divide {heads} heads")
        return heads // group
    if model.get("multi_query") is True and model.get("new_decoder_architecture") is not True:
        return 1  # Falcon 7B, StarCoder: one head, whatever num_kv_heads says
    if model.get("multi_query_attention") is False:
        return heads
    inner = model.get("attn_config")
    if isinstance(inner, Mapping) and inner.get("kv_n_heads"):
        return number(inner, "kv_n_heads")
    if isinstance(inner, Mapping) and inner.get("attn_type") == "multiquery_attention":
        return 1
    if counted := optional(model, *(name for name in KV_HEADS if model.get(name))):
        return counted
    if any(model.get(name) is not None for name in KV_HEADS):
        number(model, *KV_HEADS)  # it is 0 or no number: ValueError
    other = next((key for key, value in model.items() if value and key not in _NOT_HEADS and KV_LIKE.search(key)), None)
    if other is not None:
        raise UnknownLayerError(f"{other[:60]}, and no number of KV heads under a name that is known here")
    return heads


def _is_headless(model: Mapping[str, Any], i: int) -> bool:
    """Does a list of the numbers of KV heads say that this layer has none?"""
    given: list[Any] = next((model[name] for name in KV_LISTS if isinstance(model.get(name), list)), [])
    return i < len(given) and (given[i] is None or (given[i] == 0 and not isinstance(given[i], bool)))


def _per_layer(model: Mapping[str, Any], i: int, *names: str) -> int | None:
    """The value of this layer where one of these keys has a list of them."""
    name = next((n for n in names if isinstance(model.get(n), list)), None)
    if name is None:
        return None
    values = model[name]
    if i >= len(values):
        raise ValueError(f"{name} has {len(values)} values, fewer than layers")
    return number({name: values[i]}, name)


def _state(model: Mapping[str, Any], family: str, state: float, convolution: float) -> int | None:
    """Bits that a linear or state-space layer keeps of a sequence, its numbers having ``state`` and ``convolution`` bits;
    None if the file does not say enough.
    """
    try:
        delta = model.get("linear_attn_config")
        if isinstance(delta, Mapping):  # Kimi's delta attention, whose state always has 32 bits
            width = number(delta, "num_heads") * number(delta, "head_dim")
            kernel, state = number(delta, "short_conv_kernel_size"), 32
            kept, passing = width * number(delta, "head_dim"), 3 * width
        elif family.startswith("minimax"):  # lightning attention, which has no convolution
            size = optional(model, "head_dim") or number(model, *HIDDEN) // number(model, *HEADS)
            kernel, state, kept, passing = 1, convolution, number(model, *HEADS) * size**2, 0
        elif "ssm_inner_size" in model:  # of a GGUF file, whose sizes are those of any kind of state
            inner, size, kernel = (number(model, f"ssm_{name}") for name in ("inner_size", "state_size", "conv_kernel"))
            kept, passing = inner * size, inner + 2 * (optional(model, "ssm_group_count") or 0) * size
        elif "linear_num_value_heads" in model:  # gated delta rule, Qwen3-Next
            keys = number(model, "linear_num_key_heads") * number(model, "linear_key_head_dim")
            values = number(model, "linear_num_value_heads") * number(model, "linear_value_head_dim")
            kernel = number(model, "linear_conv_kernel_dim")
            kept, passing = values * number(model, "linear_key_head_dim"), 2 * keys + values
        else:
            size = number(model, "mamba_d_state", "ssm_state_size")
            kernel = number(model, "mamba_d_conv", "conv_kernel")
            if any(name in model for name in MAMBA2_HEADS):
                inner = number(model, *MAMBA2_HEADS) * number(model, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
                groups = optional(model, "mamba_n_groups", "n_groups", "mamba_ngroups") or 1
                kept, passing = inner * size, inner + 2 * groups * size
            else:
                inner = number(model, "mamba_expand", "expand") * number(model, *HIDDEN)
                kept, passing = inner * size, inner
        return math.ceil(kept * state + passing * (kernel - 1) * convolution)
    except ValueError:
        return None
