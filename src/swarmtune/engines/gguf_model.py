"""A GGUF file's description of its model, as a config.json has it: what its layers keep, and the size of its weights.

Names of the keys: the GGUF specification of ggml. Which layers have a window where the file does not say: llama.cpp.
"""

from __future__ import annotations

import errno
import re
import struct
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from swarmtune.engines.kv_layers import UnknownLayerError
from swarmtune.errors import MissingExtraError

SUFFIX = ".gguf"
NAMES = {  # of config.json, by their names in a GGUF file behind the architecture
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.sliding_window": "sliding_window",
    "full_attention_interval": "full_attention_interval",
}
FAMILIES = {"gpt-oss": "gpt_oss", "qwen3next": "qwen3_next", "falcon-h1": "falcon_h1"}  # where config.json differs
OWN_WINDOWS = frozenset({"gemma2", "gemma3", "cohere2", "gpt_oss"})  # whose pattern of windows is the family's
BOTH = frozenset({"falcon_h1", "qwen3_next"})  # families of which the kind of each layer is known without a list
RECURRENT = ("ssm.", "shortconv.", "wkv.")  # starts of keys that only layers with a state have
STATE_SIZES = ("ssm.inner_size", "ssm.state_size", "ssm.conv_kernel", "ssm.group_count")
BROKEN = (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, struct.error)
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")  # of a model in several files
MOST_PARTS = 10_000
LONG_LIST = 4096  # entries; a list with one for each layer is shorter


def gguf_config(path: Path) -> dict[str, Any]:
    """The model of a GGUF file in the words of a config.json, its cache in 16 bits as llama.cpp has it by default.

    MissingExtraError without the package gguf, OSError if the file cannot be read, ValueError if it is no GGUF file,
    UnknownLayerError (a ValueError) if the file does not tell the layers apart.
    """
    fields = _header(path)
    family = fields.get("general.architecture")
    if not isinstance(family, str):
        raise ValueError("it names no general.architecture")  # noqa: TRY004 - of a file
    own = {key.removeprefix(f"{family}."): value for key, value in fields.items() if key.startswith(f"{family}.")}
    family = FAMILIES.get(family, family.replace("-", "_"))
    config: dict[str, Any] = {"model_type": family, "torch_dtype": "float16"}
    size, heads = own.get("embedding_length"), own.get("attention.head_count")
    if isinstance(size, int) and isinstance(heads, int) and heads > 0:
        config["head_dim"] = size // heads  # and not the default of a family's config.json
    config |= {NAMES[key]: value for key, value in own.items() if key in NAMES}
    if own.get("attention.kv_lora_rank") and own.get("attention.head_count_kv") == 1:
        config |= {"kv_lora_rank": own["attention.kv_lora_rank"], "qk_rope_head_dim": own.get("rope.dimension_count")}
    if own.get("ssm.inner_size"):
        config |= {name.replace(".", "_"): own[name] for name in STATE_SIZES if own.get(name) is not None}
        config |= {"mamba_ssm_dtype": "float32", "mamba_cache_dtype": "float32"}  # as llama.cpp keeps every state
    if types := _layer_types(own, family):
        config["layer_types"] = types
    return config


def gguf_bytes(path: Path) -> int:
    """Bytes of the file, with all parts of a model that is in several. OSError if it cannot be read."""
    part = PART.search(path.name)
    several = [path] if part is None else path.parent.glob(f"*-of-{part[1]}{SUFFIX}")
    start = path.name[: part.start()] if part else path.name
    return sum(file.stat().st_size for file in islice(several, MOST_PARTS) if file.name.startswith(start))


def _layer_types(own: Mapping[str, Any], family: str) -> list[str] | None:
    """The kind of each layer where the file tells, else None: the family's. UnknownLayerError if nobody tells."""
    recurrent = any(key.startswith(RECURRENT) for key in own)
    heads, pattern = own.get("attention.head_count_kv"), own.get("attention.sliding_window_pattern")
    if isinstance(heads, list) and 0 in heads:
        return ["attention" if count else "mamba" if recurrent else "mlp" for count in heads]
    if recurrent and family not in BOTH and "full_attention_interval" not in own:
        raise UnknownLayerError(f"layers of architecture {family[:40]!r}, and nothing says which of them attend")
    if not own.get("attention.sliding_window"):
        return None
    if isinstance(pattern, list) and pattern:
        count = own.get("block_count")
        count = count if isinstance(count, int) and 0 < count <= len(pattern) else len(pattern)
        return ["sliding_attention" if has else "full_attention" for has in pattern[:count]]
    if family not in OWN_WINDOWS:
        raise UnknownLayerError(
            f"a sliding window, and nothing says which layers of architecture {family[:40]!r} have it"
        )
    return None


def _without_long_lists(reader: type[Any]) -> type[Any]:
    """The package's reader, which steps over long lists: of each word of a vocabulary it would make several objects, and
    take 20 s for 400,000 of them.
    """
    from gguf import GGUFValueType

    class Reader(reader):  # type: ignore[misc]
        def _get_field_parts(self, at: int, kind: int, *rest: Any) -> Any:
            if kind == GGUFValueType.ARRAY:
                of, count = int(self._get(at, "uint32")[0]), int(self._get(at + 4, "uint64")[0])
                if count > LONG_LIST:
                    return _end(self, at + 12, of, count) - at, [], [], [GGUFValueType.ARRAY, GGUFValueType(of)]
            return super()._get_field_parts(at, kind, *rest)

    return Reader


def _end(reader: Any, at: int, of: int, count: int) -> int:
    """Where a list ends. ValueError if the file ends before it, or nobody can say."""
    from gguf import GGUFValueType

    bytes_of, size = memoryview(reader.data), len(reader.data)
    scalar = reader.gguf_scalar_to_np.get(GGUFValueType(of))
    if scalar is not None:
        at += count * scalar(0).nbytes
    elif of == GGUFValueType.STRING:
        order: Any = sys.byteorder if reader.byte_order == "I" else {"little": "big", "big": "little"}[sys.byteorder]
        for _ in range(min(count, size)):
            at += 8 + int.from_bytes(bytes_of[at : at + 8], order)
            if at > size:
                break
    else:
        raise ValueError(f"a list of {count} lists")
    if at > size or count > size:
        raise ValueError("it ends within a list")
    return at


def _header(path: Path) -> dict[str, Any]:
    """Numbers, texts and lists of numbers in the header, by key; the vocabulary is left out."""
    try:
        from gguf import GGUFReader  # of an extra, and slow to import
    except ImportError as error:
        raise MissingExtraError("The memory of a GGUF model", "llamacpp") from error
    read: Callable[[Path], Any] = _without_long_lists(GGUFReader)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device, and not a file", str(path))
    with path.open("rb"):  # a folder, or a file without permission, is the system's error and not the reader's
        pass
    try:
        fields = read(path).fields
        return {
            name: field.contents() for name, field in fields.items() if not name.startswith(("tokenizer.", "GGUF."))
        }
    except BROKEN as error:
        raise ValueError(f"it is no GGUF file that can be read: {str(error)[:200] or type(error).__name__}") from error
