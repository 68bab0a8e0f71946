"""Memory theory: how many sequences the key/value cache of a model can hold. Pure functions of the model's config.json.

Source: one token stores a key and a value vector per layer and KV head (vLLM, ``FullAttentionSpec.page_size_bytes``);
with multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) one compressed vector and one rotary key.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option

from swarmtune.engines.schema import with_default
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.space import Field

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1}
DEFAULT_DTYPE = "bfloat16"


class MemoryConfig(BaseModel):
    """The table ``[ENGINE.memory]``: with it, batch sizes that the KV cache cannot hold are excluded from the search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_config_path: Path = Option(description="the model's config.json")
    kv_bytes: int = Option(gt=0, description="memory left for the KV cache on all devices of a group, bytes")
    tokens_per_sequence: int = Option(gt=0, description="tokens that one request holds at most: prompt and answer")
    kv_dtype: str | None = Option(None, description="bfloat16, float16, float32, fp8, int8; the model's own if absent")


def kv_bytes_per_token(config: Mapping[str, Any], kv_dtype: str | None = None) -> int:
    """Bytes of KV cache for one token: 2 x layers x kv_heads x head_dim x dtype bytes. ValueError if a key is missing."""
    model = config.get("text_config") or config
    dtype = str(kv_dtype or model.get("torch_dtype") or model.get("dtype") or DEFAULT_DTYPE).removeprefix("torch.")
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPE_BYTES)}")
    layers = _number(model, "num_hidden_layers")
    if model.get("kv_lora_rank"):
        return layers * (_number(model, "kv_lora_rank") + _number(model, "qk_rope_head_dim")) * DTYPE_BYTES[dtype]
    heads = _number(model, "num_attention_heads")
    kv_heads = _number(model, "num_key_value_heads") if model.get("num_key_value_heads") else heads
    head_dim = _number(model, "head_dim") if model.get("head_dim") else _number(model, "hidden_size") // heads
    return 2 * layers * kv_heads * head_dim * DTYPE_BYTES[dtype]


def kv_bound(
    config_json: Mapping[str, Any], memory_bytes: int, tokens_per_sequence: int, kv_dtype: str | None = None
) -> int:
    """How many sequences of that many tokens fit into ``memory_bytes`` of KV cache at a time; 0 if not even one."""
    return memory_bytes // (kv_bytes_per_token(config_json, kv_dtype) * tokens_per_sequence)


def memory_constraints(config: MemoryConfig | None, names: Sequence[str]) -> tuple[str, ...]:
    """One rule per batch-size field: at most what the memory holds.

    ConfigurationError if the model's config.json cannot be read, lacks what the formula needs, or nothing fits.
    """
    if config is None:
        return ()
    path = config.model_config_path
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
        bound = kv_bound(model, config.kv_bytes, config.tokens_per_sequence, config.kv_dtype)
    except OSError as error:
        raise ConfigPathError(f"memory.model_config_path: {path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigPathError(f"memory.model_config_path: {path} does not describe a model: {error}") from error
    if bound < 1:
        needed = kv_bytes_per_token(model, config.kv_dtype) * config.tokens_per_sequence
        raise ConfigurationError(
            f"memory.kv_bytes: {config.kv_bytes} bytes do not hold one sequence of {config.tokens_per_sequence} tokens, "
            f"which needs {needed} bytes; give more memory or shorter sequences"
        )
    return tuple(f"{name} <= {bound}" for name in names)


def memory_mistakes(config: MemoryConfig | None) -> list[str]:
    """What is wrong with the table ``memory``, as sentences."""
    try:
        memory_constraints(config, ())
    except ConfigurationError as error:
        return [error.message]
    return []


def within_memory(
    fields: Sequence[Field], config: MemoryConfig | None, name: str | None, chosen: Collection[str]
) -> tuple[Field, ...]:
    """The fields, that of the batch size (``name``) ending at the bound. Baselines in ``chosen`` are left to the user."""
    rules = () if config is None or name is None or memory_mistakes(config) else memory_constraints(config, [name])
    if not rules:
        return tuple(fields)
    bound = int(rules[0].rpartition(" ")[2])
    made = []
    for f in fields:
        if f.name == name and f.max is not None and (f.min or 0) <= bound < f.max:
            lower = replace(f, max=bound)
            f = lower if name in chosen else with_default(replace(lower, value=None), f.value)  # noqa: PLW2901
        made.append(f)
    return tuple(made)


def _number(model: Mapping[str, Any], key: str) -> int:
    value = model.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r}, not a whole number above 0")
    return value
