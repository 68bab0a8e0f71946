"""Memory theory: how many sequences the key/value cache of a model can hold. Pure functions of the model's config.json.

Source: one token stores a key and a value vector per layer and KV head (vLLM, ``FullAttentionSpec.page_size_bytes``);
with multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) one compressed vector and one rotary key.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option

from swarmtune.engines.baseline import with_default
from swarmtune.engines.document import read_text
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.space import Field

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1}
DEFAULT_DTYPE = "bfloat16"
MAX_NUMBER = 2**31  # no size of a model comes near it


class MemoryConfig(BaseModel):
    """The table ``[ENGINE.memory]``: with it, batch sizes that the KV cache cannot hold are excluded from the search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_config_path: Path = Option(description="the model's config.json")
    kv_bytes: int = Option(gt=0, description="memory left for the KV cache on all devices of a group, bytes")
    tokens_per_sequence: int = Option(gt=0, description="tokens that one request holds at most: prompt and answer")
    kv_dtype: str | None = Option(None, description="bfloat16, float16, float32, fp8, int8; the model's own if absent")


def kv_bytes_per_token(config: Mapping[str, Any], kv_dtype: str | None = None) -> int:
    """Bytes of KV cache for one token: 2 x layers x kv_heads x head_dim x dtype bytes.

    ValueError if a key is missing or its value cannot be that of a model.
    """
    inner = config.get("text_config")
    model = inner if isinstance(inner, Mapping) and inner else config
    dtype = str(kv_dtype or model.get("torch_dtype") or model.get("dtype") or DEFAULT_DTYPE).removeprefix("torch.")
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"dtype {reprlib.repr(dtype)} is not one of {', '.join(DTYPE_BYTES)}")
    layers = _number(model, "num_hidden_layers")
    if model.get("kv_lora_rank"):
        return layers * (_number(model, "kv_lora_rank") + _number(model, "qk_rope_head_dim")) * DTYPE_BYTES[dtype]
    heads = _number(model, "num_attention_heads")
    kv_heads = _number(model, "num_key_value_heads") if model.get("num_key_value_heads") else heads
    head_dim = _number(model, "head_dim") if model.get("head_dim") else _number(model, "hidden_size") // heads
    if head_dim < 1:
        raise ValueError(f"hidden_size is smaller than num_attention_heads {heads}")
    return 2 * layers * kv_heads * head_dim * DTYPE_BYTES[dtype]


def kv_bound(
    config_json: Mapping[str, Any], memory_bytes: int, tokens_per_sequence: int, kv_dtype: str | None = None
) -> int:
    """How many sequences of that many tokens fit into ``memory_bytes`` of KV cache at a time; 0 if not even one."""
    return memory_bytes // (kv_bytes_per_token(config_json, kv_dtype) * tokens_per_sequence)


def read_bound(config: MemoryConfig) -> int:
    """How many sequences the memory of this table holds, at least 1.

    ConfigurationError if the model's config.json cannot be read, lacks what the formula needs, or nothing fits.
    """
    path = config.model_config_path
    try:
        model = _json_object(read_text(path))
        sequence_bytes = kv_bytes_per_token(model, config.kv_dtype) * config.tokens_per_sequence
    except OSError as error:
        raise ConfigPathError(f"memory.model_config_path: {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigPathError(f"memory.model_config_path: {path} does not describe a model: {error}") from error
    bound = config.kv_bytes // sequence_bytes
    if bound < 1:
        raise ConfigurationError(
            f"memory.kv_bytes: {config.kv_bytes} bytes do not hold one sequence of {config.tokens_per_sequence} tokens, "
            f"which needs {sequence_bytes} bytes; give more memory or shorter sequences"
        )
    return bound


class KvMemory:
    """The bound that an engine's memory table sets to its batch size. The model's file is read once, when first asked."""

    def __init__(self, config: MemoryConfig | None, baselines: Collection[str] = ()) -> None:
        """``baselines``: names of the fields whose baseline the user chose; it is left to them."""
        self._config = config
        self._baselines = baselines

    @cached_property
    def _found(self) -> int | ConfigurationError | None:
        if self._config is None:
            return None
        try:
            return read_bound(self._config)
        except ConfigurationError as error:
            return error

    @property
    def sequences(self) -> int | None:
        """How many sequences the KV cache holds; None without a table, or where ``mistakes`` says why it is not known."""
        return self._found if isinstance(self._found, int) else None

    def mistakes(self) -> list[str]:
        """Mistakes in the table, as sentences."""
        return [self._found.message] if isinstance(self._found, ConfigurationError) else []

    def rules(self, name: str | None) -> tuple[str, ...]:
        """The constraint on the field of this name, the batch size. ConfigurationError where there are mistakes."""
        if isinstance(self._found, ConfigurationError):
            raise type(self._found)(self._found.message)
        return () if self.sequences is None or name is None else (f"{name} <= {self.sequences}",)

    def bounded(self, fields: Sequence[Field], name: str | None) -> tuple[Field, ...]:
        """The fields, that of this name ending at the bound if its range reaches beyond it."""
        return tuple(self._bounded(f) if f.name == name else f for f in fields)

    def _bounded(self, batch: Field) -> Field:
        bound = self.sequences
        if bound is None or batch.max is None or not (batch.min or 0) <= bound < batch.max:
            return batch
        lower = replace(batch, max=bound)
        return lower if batch.name in self._baselines else with_default(replace(lower, value=None), batch.value)


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of a file, not of an argument
    return found


def _number(model: Mapping[str, Any], key: str) -> int:
    value = model.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < MAX_NUMBER:
        raise ValueError(f"{key} is {reprlib.repr(value)}, not a whole number from 1 to {MAX_NUMBER - 1}")
    return value
