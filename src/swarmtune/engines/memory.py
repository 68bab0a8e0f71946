"""Memory theory: how many sequences the key/value cache of a model can hold, for the batch sizes of a search.

What the layers of a model keep: ``kv_model``. Here: what the devices hold, and the bound that follows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option

from swarmtune.engines.baseline import with_default
from swarmtune.engines.document import read_text
from swarmtune.engines.gguf_model import SUFFIX, gguf_bytes, gguf_config
from swarmtune.engines.kv_formats import Formats, dtype_bits, known_bits
from swarmtune.engines.kv_layers import UnknownLayerError
from swarmtune.engines.kv_model import KvModel, kv_model
from swarmtune.engines.parallel import Ranks
from swarmtune.engines.serving import (
    CACHE_BYTES,
    CACHE_DTYPE,
    LONGEST,
    UTILISATION,
    Serving,
    fixed,
    last,
    uncounted,
    ways,
)
from swarmtune.engines.weights import weight_bytes
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.space import Field

QUANTISATION = "hf_quant_config.json"  # beside config.json: what ModelOpt says of formats
AS_ENGINES = Serving()


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
    replica; one scheduler may run ``limit`` of them. ``tokens``: of a sequence.
    """

    sequences: int
    limit: int
    sequence_bytes: int
    ranks: Ranks
    tokens: int


def kv_bytes_per_token(config: Mapping[str, Any], kv_dtype: str | None = None, divided: Ranks | None = None) -> int:
    """Bytes of KV cache that one token takes on all devices of a replica, before any window ends and without fixed states.

    ValueError if a key is missing or its value cannot be that of a model; UnknownLayerError for unknown kinds of layers.
    """
    model = kv_model(config, kv_dtype)
    layers = tuple(replace(layer, state_bits=0) for layer in model.layers)
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


def read_model(config: MemoryConfig, formats: Formats = AS_ENGINES.formats, whole: Collection[str] = ()) -> KvModel:
    """The model that this table names, with the table's format of the cache or that of ``formats``; ``whole``: see
    ``kv_model``.

    ConfigurationError if its config.json cannot be read or describes no model; UnknownLayerError: see ``kv_model``.
    """
    own = _own_dtype(config)
    if own is not None:
        try:
            dtype_bits(own)
        except ValueError as error:
            raise ConfigurationError(f"memory.kv_dtype: {error}") from error
    elif formats.cache is not None:
        known_bits(formats.cache, "a KV cache")
    file = config.model_config_path
    try:
        file = file / "config.json" if file.is_dir() else file
        described = gguf_config(file) if file.suffix == SUFFIX else _with_quantisation(file)
        return kv_model(described, own or formats.cache, formats, whole)
    except OSError as error:
        raise ConfigPathError(f"memory.model_config_path: {file} cannot be read: {error.strerror or error}") from error
    except UnknownLayerError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigPathError(f"memory.model_config_path: {file} does not describe a model: {error}") from error


def read_bound(config: MemoryConfig, serving: Serving = AS_ENGINES, whole: Collection[str] = ()) -> Bound:
    """What the memory of this table holds when the model is served so: at least one sequence. ``whole``: see ``kv_model``.

    ConfigurationError if nothing fits, memory is missing from the table, or the model cannot be read; UnknownLayerError if
    nothing can be said of it.
    """
    divided, tokens = serving.ranks, min(config.tokens_per_sequence, serving.longest or config.tokens_per_sequence)
    model = read_model(config, serving.formats, whole)
    size = _sequence_bytes(model if serving.windows else model.without_windows(), tokens, divided)
    if serving.kv_bytes is not None:
        total, key = serving.kv_bytes * divided.devices, f"{divided.devices} x {serving.kv_bytes} bytes of KV cache"
    elif config.device_bytes is None and config.kv_bytes is not None:
        total, key = config.kv_bytes, f"memory.kv_bytes: {config.kv_bytes} bytes"
    elif config.device_bytes is not None and config.kv_bytes is None:
        weights = _weights(config) * (1 if divided.joint or model.experts else divided.data)
        total = int(config.device_bytes * (serving.utilisation or config.utilisation)) * divided.devices - weights
        key = f"memory.device_bytes: {divided.devices} x {config.device_bytes} bytes, less the weights,"
    else:
        raise ConfigurationError("memory.kv_bytes: give either kv_bytes or device_bytes")
    limit = max(0, total) // (size * (1 if divided.joint else divided.data))
    if limit < 1:
        raise ConfigurationError(
            f"{key} do not hold one sequence of {tokens} tokens, "
            f"which needs {size} bytes; give more memory or shorter sequences"
        )
    return Bound(total // size, limit, size, divided, tokens)


class KvMemory:
    """The bound that an engine's memory table sets to its batch size. The model's file is read once, when first needed."""

    def __init__(
        self,
        config: MemoryConfig | None,
        baselines: Collection[str] = (),
        given: Callable[[], Sequence[str]] = tuple,
        whole: Collection[str] = (),
    ) -> None:
        """``baselines``: names of the fields whose baseline the user chose; it is left to them. ``given``: the arguments
        of every command, which may say how the model is divided. ``whole``: see ``kv_model``.
        """
        self._config = config
        self._baselines = baselines
        self._given = given
        self._whole = whole
        self._bounds: dict[Serving, Bound | ConfigurationError | UnknownLayerError] = {}

    def learn(self, device_bytes: int) -> None:
        """The memory of one device, bytes, as the device says; it counts where the table gives no bytes."""
        if self._config is not None and self._config.kv_bytes is None and self._config.device_bytes is None:
            self._config = self._config.model_copy(update={"device_bytes": device_bytes})
            self._bounds.clear()

    @property
    def _arguments(self) -> tuple[str, ...]:
        try:
            return tuple(self._given())
        except (ValueError, ConfigurationError):  # which the engine's own mistakes name
            return ()

    def _bound(self, serving: Serving) -> Bound | ConfigurationError | UnknownLayerError:
        assert self._config is not None  # noqa: S101 - ``_found`` has seen to it
        if serving not in self._bounds:
            try:
                self._bounds[serving] = read_bound(self._config, serving, self._whole)
            except (ConfigurationError, UnknownLayerError) as error:
                self._bounds[serving] = error
        return self._bounds[serving]

    def _found(self, fields: Sequence[Field]) -> Bound | ConfigurationError | UnknownLayerError | None:
        """The loosest bound of all ways to serve the model that are searched; an error where none of them has one."""
        if self._config is None:
            return None
        every = [self._bound(way) for way in ways(self._arguments, fields)]
        unknown = next((found for found in every if isinstance(found, UnknownLayerError)), None)
        bounds = [found for found in every if isinstance(found, Bound)]
        return unknown or (max(bounds, key=lambda found: found.limit) if bounds else every[0])

    @property
    def tokens(self) -> int | None:
        """What the KV cache of one scheduler holds; None: not known."""
        found = self._found(())
        return found.limit * found.tokens if isinstance(found, Bound) else None

    @property
    def sequences(self) -> int | None:
        """How many sequences the KV cache holds; None without a table, or where ``mistakes`` or ``notes`` say why not."""
        found = self._found(())
        return found.sequences if isinstance(found, Bound) else None

    def mistakes(self, fields: Sequence[Field] = ()) -> list[str]:
        """Mistakes in the table, as sentences. ``fields``: those of the search, which may divide the model."""
        found, config = self._found(fields), self._config
        if config is None or not isinstance(found, ConfigurationError):
            return []
        behind = self._of_model(config.model_copy(update={"kv_dtype": None}))  # a wrong format hides it
        return list(dict.fromkeys([found.message, *behind]))

    def _of_model(self, config: MemoryConfig) -> list[str]:
        try:
            read_model(config, whole=self._whole)
        except UnknownLayerError:
            return []
        except ConfigurationError as error:
            return [error.message]
        return []

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
            f"memory: a sequence of {found.tokens} tokens takes {found.sequence_bytes} bytes on all devices "
            f"of its replica, and {found.sequences} fit on {devices}{several}{bounds}"
        )
        model, tensor = read_model(config, whole=self._whole), found.ranks.tensor
        given = fixed(self._arguments, fields)
        notes = [*model.notes, *_contradictions(config, given), *uncounted(given)]
        if heads := model.uneven_heads(tensor):
            notes.append(
                f"{heads} KV heads cannot be divided evenly by {tensor} tensor ranks, and the service may refuse it"
            )
        return [text, *(f"memory: {note}" for note in notes)]

    def exhausted(self, key: str, fields: Sequence[Field], name: str | None) -> list[str]:
        """A sentence if the bound leaves one value of the field of this name, and no other is searched. ``fields``: as
        bounded; ``key``: the engine's section.
        """
        found = self._found(fields)
        if not isinstance(found, Bound) or any(field.searched for field in fields):
            return []
        return [
            f"{key}.target_field {name}: the table [{key}.memory] leaves no value but {found.limit}, as no more sequences "
            f"of {found.tokens} tokens fit; give the table more memory or fewer tokens_per_sequence"
            for field in fields
            if field.name == name and field.constant is None and field.min == field.max == found.limit
        ]

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


def _contradictions(config: MemoryConfig, argv: Sequence[str]) -> list[str]:
    """What counts where the table and the arguments say different things."""
    given, found = Serving.of(argv), []
    if given.kv_bytes and (flag := last(argv, CACHE_BYTES)):
        found.append(f"{' '.join(flag)} counts, for each device, and not the bytes of the table")
    elif (
        config.device_bytes
        and given.utilisation not in (None, config.utilisation)
        and (flag := last(argv, UTILISATION))
    ):
        found.append(f"{' '.join(flag)} counts, and not the table's utilisation {config.utilisation}")
    if given.longest and given.longest < config.tokens_per_sequence and (flag := last(argv, LONGEST)):
        found.append(f"{' '.join(flag)} counts, and not tokens_per_sequence {config.tokens_per_sequence}")
    own, flag = _own_dtype(config), last(argv, CACHE_DTYPE)
    if own and flag and given.formats.cache and given.formats.cache.lower() != own.lower():
        found.append(f"the table's kv_dtype {own} counts, and not {' '.join(flag)}")
    return found


def _own_dtype(config: MemoryConfig) -> str | None:
    """The table's format of the cache; None: it leaves it open."""
    return config.kv_dtype if config.kv_dtype and config.kv_dtype.lower() != "auto" else None


def _with_quantisation(file: Path) -> dict[str, Any]:
    """The config.json, with what a file of ModelOpt beside it says of formats and the config.json does not.

    OSError and ValueError if config.json cannot be read; UnknownLayerError if the other file cannot.
    """
    described, beside = _json_object(read_text(file)), file.with_name(QUANTISATION)
    own = described.get("quantization_config") or {}
    if beside.is_file() and isinstance(own, dict):
        try:
            more = _json_object(read_text(beside)).get("quantization")
        except (OSError, ValueError, RecursionError) as error:
            raise UnknownLayerError(f"beside it a {QUANTISATION} that cannot be read") from error
        described["quantization_config"] = {**more, **own} if isinstance(more, dict) else own
    return described


def _json_object(content: str) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of a file, not of an argument
    return found
