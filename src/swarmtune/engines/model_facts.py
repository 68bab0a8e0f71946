"""What the model's config.json says of the rules between an engine's parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from swarmtune.engines.document import read_text
from swarmtune.engines.kv_families import HEADS
from swarmtune.engines.kv_model import inner, kv_model

MOST = 2**31  # no size of a model comes near it
QUANTIZED = ("quantization_config", "compression_config")  # keys of config.json
BESIDE = ("quant_config.json", "quantize_config.json", "hf_quant_config.json")  # older files of the same, beside it
INSTEAD = ("params.json", "modules.json")  # files beside config.json that may say another length
ROPE = ("rope_scaling", "rope_parameters")
EXPERTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
# Families without experts: of others a file may leave out what the class in Hugging Face's transformers fills in.
DENSE = frozenset(
    {
        *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "phi", "phi3", "falcon"),
        *("glm", "glm4", "chatglm", "opt", "gpt2", "gpt_neox", "gpt_bigcode", "bloom", "mpt", "starcoder2", "stablelm"),
        *("cohere", "cohere2", "olmo", "olmo2", "internlm2", "baichuan", "exaone", "granite", "nemotron", "smollm3"),
    }
)


class ModelFacts:
    """The config.json of a model, read once. A fact that is missing, or not a number, is None."""

    def __init__(self, model: str, config_path: Path | None = None) -> None:
        """``model``: a folder, or a name of which nothing is known here; ``config_path``: the file, where it is named, or
        the folder that holds it.
        """
        self._path = config_path or (Path(model) / "config.json" if model else None)
        self._folder = Path(model) if model else None

    @cached_property
    def _whole(self) -> Mapping[str, Any]:
        try:
            file = self._path / "config.json" if self._path and self._path.is_dir() else self._path
            read = json.loads(read_text(file)) if file else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return read if isinstance(read, dict) else {}

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        """The language model's part."""
        return [*inner(self._whole)][-1]

    def _number(self, *keys: str) -> int | None:
        value = next((self._config[key] for key in keys if self._config.get(key) is not None), None)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST else None

    @property
    def heads(self) -> int | None:
        """Attention heads."""
        return self._number(*HEADS)

    @cached_property
    def kv_heads(self) -> tuple[int, ...]:
        """The numbers of KV heads of its layers, each once; none where a layer keeps a latent, which is not divided, and
        where the model is not understood.
        """
        try:
            layers = kv_model(self._whole).layers if self._whole else ()
        except ValueError:
            return ()
        if any(layer.latent for layer in layers):
            return ()
        return tuple(sorted({layer.heads for layer in layers if layer.heads}))

    @property
    def experts(self) -> int | None:
        """Routed experts of a layer."""
        return self._number(*EXPERTS)

    @property
    def dense(self) -> bool:
        """Is it sure that it has no experts?"""
        family = self._config.get("model_type")
        return (
            isinstance(family, str)
            and family in DENSE
            and not any("expert" in key.lower() or "moe" in key.lower() for key in _keys(self._whole))
        )

    def lengths(self, keys: Sequence[str]) -> tuple[int, ...]:
        """The tokens that a request may have at most by each of these keys of its file, in their order; where positions are
        scaled, the most that any version of an engine makes of them. None of them where that is open.
        """
        numbers = [number for key in keys if (number := self._number(key))]
        scaled = [self._scaled(number) for number in numbers if not self._has(INSTEAD)]
        return tuple(number for number in scaled if number) if all(scaled) else ()

    def _scaled(self, length: int) -> int | None:
        """Of positions that are scaled up by a factor; None: by what is not known."""
        most: float = length
        for rope in (config.get(key) or {} for config in (self._whole, self._config) for key in ROPE):
            if not isinstance(rope, Mapping):
                return None
            for part in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):  # of kinds of layers
                kind, factor = part.get("rope_type", part.get("type")), part.get("factor")
                if kind == "llama3" or (factor is None and kind in (None, "default", "mrope")):
                    continue
                if not isinstance(factor, (int, float)) or not 0 < factor < MOST:
                    return None
                original = part.get("original_max_position_embeddings")
                start = original if isinstance(original, int) and "yarn" in str(kind) else length
                most = max(most, factor * start)
        return math.floor(min(most, MOST))

    def _has(self, names: Sequence[str]) -> bool:
        """Is one of these files beside config.json?"""
        folder = self._path if self._path is None or self._path.is_dir() else self._path.parent
        return folder is not None and any((folder / name).exists() for name in names)

    @property
    def quantization(self) -> str | None:
        """The method that quantized its weights, as engines call it; None also where the file does not simply say it."""
        found = [config[key] for config in (self._whole, self._config) for key in QUANTIZED if config.get(key)]
        method = found[0].get("quant_method") if found and isinstance(found[0], Mapping) else None
        otherwise = str(self._config.get("model_type")).startswith("deepseek_v4")
        if not isinstance(method, str) or otherwise or not found[0].keys().isdisjoint(("producer", "quantization")):
            return None
        return method.lower().replace("compressed_tensors", "compressed-tensors")

    @property
    def unquantized(self) -> bool:
        """Is it sure that nothing has quantized its weights? Only where the folder of the model is here."""
        named = any(config.get(key) for config in (self._whole, self._config) for key in QUANTIZED)
        if named or self._folder is None or not (self._folder / "config.json").is_file():
            return False
        return bool(self._whole) and not any((self._folder / name).exists() for name in BESIDE)

    @property
    def longest(self) -> int | None:
        """Tokens that the model can attend to; None also where positions are scaled."""
        rope = self._config.get("rope_scaling") or self._config.get("rope_parameters")
        scaled = bool(self._config.get("rope_scaling")) or (isinstance(rope, dict) and "factor" in rope)
        return None if scaled else self._number("max_position_embeddings")


NO_FACTS = ModelFacts("")


def _keys(config: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a configuration and of those inside it."""
    for part in inner(config):
        yield from part
