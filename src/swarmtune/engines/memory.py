"""Memory theory: how many sequences the key/value cache of a model can hold, for the batch sizes of a search.

What the layers of a model keep: ``kv_model``. Here: what the devices hold, and the bound that follows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option

from swarmtune.engines.baseline import with_default
from swarmtune.engines.document import read_text
from swarmtune.engines.gguf_model import SUFFIX, gguf_bytes, gguf_config
from swarmtune.engines.kv_layers import UnknownLayerError
from swarmtune.engines.kv_model import KvModel, dtype_bits, kv_model
from swarmtune.engines.parallel import CONTEXT_FLAGS, DATA_ATTENTION_FLAG, PARALLEL_FLAGS, Ranks, ranks
from swarmtune.engines.placement import substitute, text, unknown_tokens
from swarmtune.engines.weights import weight_bytes
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.records import Value
from swarmtune.space import Dimension, Field

DTYPE_FLAG = "--kv-cache-dtype"
FLAGS = frozenset((*itertools.chain(*PARALLEL_FLAGS), *CONTEXT_FLAGS, DATA_ATTENTION_FLAG, DTYPE_FLAG))
MOST_RANKS = 64  # that a searched number of ranks is tried with
MOST_VARIANTS = 1024


class MemoryConfig(BaseModel):
    """The table ``[ENGINE.memory]``: with it, batch sizes that the KV cache cannot hold are excluded from the search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_config_path: Path = Option(description="the model's config.json, or the folder that holds it, or a GGUF file")
    kv_bytes: int | None = Option(
        None, gt=0, description="memory left for the KV cache on all devices of a group, bytes"
    )
    device_bytes: int | None = Option(
        None,
        gt=0,
        description="memory of one device, bytes: instead of kv_bytes, less the weights; read there if both are absent",
    )
    utilisation: float = Option(0.9, gt=0, le=1, description="share of device_bytes for weights and KV cache")
    weight_bytes: int | None = Option(
        None, gt=0, description="bytes of the weights; those of the files beside config.json if absent"
    )
    tokens_per_sequence: int = Option(gt=0, description="tokens that one request holds at most: prompt and answer")
    kv_dtype: str | None = Option(
        None, description="format of the KV cache as engines spell it: auto, bfloat16, fp8_e4m3, int8, ..."
    )


@dataclass(frozen=True)
class Bound:
    """``sequences`` fit into the KV caches of all devices at a time, each taking ``sequence_bytes`` on all devices of its
    replica; one scheduler may run ``limit`` of them.
    """

    sequences: int
    limit: int
    sequence_bytes: int
    ranks: Ranks


def kv_bytes_per_token(config: Mapping[str, Any], kv_dtype: str | None = None, divided: Ranks | None = None) -> int:
    """Bytes of KV cache that one token takes on all devices of a replica, before any window ends and without fixed states.

    ValueError if a key is missing or its value cannot be that of a model; UnknownLayerError for unknown kinds of layers.
    """
    model = kv_model(config, kv_dtype)
    layers = tuple(replace(layer, state=0) for layer in model.layers)
    divided = divided or Ranks()
    return replace(model, layers=layers).sequence_bytes(divided.context, divided) // divided.context


def kv_bound(
    config_json: Mapping[str, Any],
    memory_bytes: int,
    tokens_per_sequence: int,
    kv_dtype: str | None = None,
    divided: Ranks | None = None,
) -> int:
    """How many sequences of that many tokens fit into ``memory_bytes`` of KV cache on all devices; 0 if not even one.

    Errors as of ``kv_bytes_per_token``; UnknownLayerError also for a model without a cache, which sets no bound.
    """
    return memory_bytes // _sequence_bytes(kv_model(config_json, kv_dtype), tokens_per_sequence, divided or Ranks())


def read_model(config: MemoryConfig, kv_dtype: str | None = None) -> KvModel:
    """The model that this table names, with the table's format of the cache or ``kv_dtype``.

    ConfigurationError if its config.json cannot be read or describes no model; UnknownLayerError: see ``kv_model``.
    """
    own = config.kv_dtype if config.kv_dtype and config.kv_dtype.lower() != "auto" else None
    if own is not None:
        try:
            dtype_bits(own)
        except ValueError as error:
            raise ConfigurationError(f"memory.kv_dtype: {error}") from error
    elif kv_dtype is not None:
        try:
            dtype_bits(kv_dtype)
        except ValueError as error:
            raise UnknownLayerError(f"a KV cache of an unknown format: {error}") from error
    file = config.model_config_path
    try:
        file = file / "config.json" if file.is_dir() else file
        described = gguf_config(file) if file.suffix == SUFFIX else _json_object(read_text(file))
        return kv_model(described, own or kv_dtype)
    except OSError as error:
        raise ConfigPathError(f"memory.model_config_path: {file} cannot be read: {error.strerror or error}") from error
    except UnknownLayerError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigPathError(f"memory.model_config_path: {file} does not describe a model: {error}") from error


def read_bound(config: MemoryConfig, divided: Ranks | None = None, kv_dtype: str | None = None) -> Bound:
    """What the memory of this table holds when the model is divided so: at least one sequence.

    ConfigurationError if nothing fits, memory is missing from the table, or the model cannot be read; UnknownLayerError if
    nothing can be said of it.
    """
    divided = divided or Ranks()
    model = read_model(config, kv_dtype)
    size = _sequence_bytes(model, config.tokens_per_sequence, divided)
    if config.device_bytes is None and config.kv_bytes is not None:
        total, key = config.kv_bytes, f"memory.kv_bytes: {config.kv_bytes} bytes"
    elif config.device_bytes is not None and config.kv_bytes is None:
        weights = _weights(config) * (1 if divided.joint or model.experts else divided.data)
        total = int(config.device_bytes * config.utilisation) * divided.devices - weights
        key = f"memory.device_bytes: {divided.devices} x {config.device_bytes} bytes, less the weights,"
    else:
        raise ConfigurationError("memory.kv_bytes: give either kv_bytes or device_bytes")
    limit = max(0, total) // (size * (1 if divided.joint else divided.data))
    if limit < 1:
        raise ConfigurationError(
            f"{key} do not hold one sequence of {config.tokens_per_sequence} tokens, "
            f"which needs {size} bytes; give more memory or shorter sequences"
        )
    return Bound(total // size, limit, size, divided)


class KvMemory:
    """The bound that an engine's memory table sets to its batch size. The model's file is read once, when first needed."""

    def __init__(
        self,
        config: MemoryConfig | None,
        baselines: Collection[str] = (),
        given: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """``baselines``: names of the fields whose baseline the user chose; it is left to them. ``given``: the arguments
        of every command, which may say how the model is divided.
        """
        self._config = config
        self._baselines = baselines
        self._given = given
        self._bounds: dict[tuple[Ranks, str | None], Bound | ConfigurationError | UnknownLayerError] = {}

    def learn(self, device_bytes: int) -> None:
        """The memory of one device, bytes, as the device says; it counts where the table gives no bytes."""
        if self._config is not None and self._config.kv_bytes is None and self._config.device_bytes is None:
            self._config = self._config.model_copy(update={"device_bytes": device_bytes})
            self._bounds.clear()

    @cached_property
    def _arguments(self) -> tuple[str, ...]:
        try:
            return tuple(self._given())
        except (ValueError, ConfigurationError):  # which the engine's own mistakes name
            return ()

    def _bound(self, divided: Ranks, kv_dtype: str | None) -> Bound | ConfigurationError | UnknownLayerError:
        assert self._config is not None  # noqa: S101 - ``_found`` has seen to it
        key = (divided, kv_dtype)
        if key not in self._bounds:
            try:
                self._bounds[key] = read_bound(self._config, divided, kv_dtype)
            except (ConfigurationError, UnknownLayerError) as error:
                self._bounds[key] = error
        return self._bounds[key]

    def _found(self, fields: Sequence[Field]) -> Bound | ConfigurationError | UnknownLayerError | None:
        """The loosest bound of all ways to divide the model that are searched; an error where none of them has one."""
        if self._config is None:
            return None
        every = [self._bound(*way) for way in _ways(self._arguments, fields)]
        unknown = next((found for found in every if isinstance(found, UnknownLayerError)), None)
        bounds = [found for found in every if isinstance(found, Bound)]
        return unknown or (max(bounds, key=lambda found: found.limit) if bounds else every[0])

    @property
    def sequences(self) -> int | None:
        """How many sequences the KV cache holds; None without a table, or where ``mistakes`` or ``notes`` say why not."""
        found = self._found(())
        return found.sequences if isinstance(found, Bound) else None

    def mistakes(self, fields: Sequence[Field] = ()) -> list[str]:
        """Mistakes in the table, as sentences. ``fields``: those of the search, which may divide the model."""
        found = self._found(fields)
        return [found.message] if isinstance(found, ConfigurationError) else []

    def notes(self, fields: Sequence[Field], name: str | None) -> list[str]:
        """What bounds the field of this name, and what could not be understood, as sentences."""
        found, config = self._found(fields), self._config
        if config is None or found is None or isinstance(found, ConfigurationError):
            return []
        if isinstance(found, UnknownLayerError):
            return [f"memory: no batch size is excluded: {config.model_config_path} has {found}"]
        devices = f"{found.ranks.devices} devices" if found.ranks.devices > 1 else "1 device"
        several = "" if found.ranks.data == 1 or found.ranks.joint else f", {found.limit} on each data parallel rank"
        bounds = f"; no larger {name} is tried" if name else "; no field is a batch size, so nothing is excluded"
        text = (
            f"memory: a sequence of {config.tokens_per_sequence} tokens takes {found.sequence_bytes} bytes on all devices "
            f"of its replica, and {found.sequences} fit on {devices}{several}{bounds}"
        )
        return [text, *(f"memory: {note}" for note in read_model(config).notes)]

    def rules(self, name: str | None, fields: Sequence[Field] = ()) -> tuple[str, ...]:
        """The constraint on the field of this name, the batch size. ConfigurationError where there are mistakes."""
        found = self._found(fields)
        if isinstance(found, ConfigurationError):
            raise type(found)(found.message)
        return (f"{name} <= {found.limit}",) if isinstance(found, Bound) and name is not None else ()

    def bounded(self, fields: Sequence[Field], name: str | None) -> tuple[Field, ...]:
        """The fields, that of this name ending at the bound if its range reaches beyond it."""
        found = self._found(fields)
        if not isinstance(found, Bound):
            return tuple(fields)
        return tuple(self._bounded(f, found.limit) if f.name == name else f for f in fields)

    def _bounded(self, batch: Field, bound: int) -> Field:
        if batch.max is None or not (batch.min or 0) <= bound < batch.max:
            return batch
        lower = replace(batch, max=bound)
        return lower if batch.name in self._baselines else with_default(replace(lower, value=None), batch.value)


def _sequence_bytes(model: KvModel, tokens: int, divided: Ranks) -> int:
    size = model.sequence_bytes(tokens, divided)
    if size < 1:
        raise UnknownLayerError("no layer that keeps a cache of known size")
    return size


def _weights(config: MemoryConfig) -> int:
    if config.weight_bytes is not None:
        return config.weight_bytes
    path = config.model_config_path
    if path.suffix == SUFFIX and not path.is_dir():
        return gguf_bytes(path)
    found = weight_bytes(path if path.is_dir() else path.parent)
    if found is None:
        raise ConfigurationError(f"memory.weight_bytes: there are no weights beside {path}; give their size in bytes")
    return found


def _ways(given: Sequence[str], fields: Sequence[Field]) -> list[tuple[Ranks, str | None]]:
    """The ways in which commands with these arguments and fields divide a model, and their formats of the cache."""
    used = set(unknown_tokens(given, ()))
    parts: list[list[tuple[Field, Value]]] = [
        [(field, value) for value in _values(field)]
        for field in fields
        if field.name.upper() in used or _flag(field) in FLAGS
    ]
    found: dict[tuple[Ranks, str | None], None] = {}
    for chosen in itertools.islice(itertools.product(*parts), MOST_VARIANTS):
        argv = list(substitute(given, {field.name.upper(): text(value) for field, value in chosen}))
        for field, value in chosen:
            if _flag(field) in FLAGS and value is not False:
                argv += [_flag(field)] if value is True else [_flag(field), text(value)]
        found[ranks(argv), _dtype(argv)] = None
    return list(found)


def _flag(field: Field) -> str:
    """The flag that a field sets, or would set if its variable or its place in a file were one."""
    position = field.config_position
    if position.startswith("-"):
        return position
    return f"--{(field.name if position == 'env' else position.rpartition('.')[2]).lower().replace('_', '-')}"


def _values(field: Field) -> list[Value]:
    """Values that a field may have: all that are listed, else powers of two."""
    if field.fixed is not None:
        return [field.fixed]
    if field.mistakes({field.name, *field.targets}) or not field.searched:
        return [2**i for i in range(MOST_RANKS.bit_length())]
    dimension = Dimension.of(field)
    if dimension.choices:
        return list(dimension.choices)
    low, high = int(dimension.low), int(min(dimension.high, MOST_RANKS))
    return sorted({low, max(low, high), *(2**i for i in range(MOST_RANKS.bit_length()) if low <= 2**i <= high)})


def _dtype(argv: Sequence[str]) -> str | None:
    """The last format of the cache that the arguments name; None: the model's own."""
    found = None
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name == DTYPE_FLAG:
            found = value if equals else next(iter(argv[i + 1 : i + 2]), None)
    return None if found in (None, "auto") else found


def _json_object(content: str) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of a file, not of an argument
    return found
