"""What the model's config.json says of the rules between an engine's parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from swarmtune.engines.document import read_text

MOST = 2**31  # no size of a model comes near it


class ModelFacts:
    """The config.json of a model, read once. A fact that is missing, or not a number, is None."""

    def __init__(self, model: str, config_path: Path | None = None) -> None:
        """``model``: a folder, or a name of which nothing is known here; ``config_path``: the file, where it is named."""
        self._path = config_path or (Path(model) / "config.json" if model else None)

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        try:
            read = json.loads(read_text(self._path)) if self._path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        inner = read.get("text_config") if isinstance(read, dict) else None
        return inner if isinstance(inner, dict) and inner else read if isinstance(read, dict) else {}

    def _number(self, key: str) -> int | None:
        value = self._config.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST else None

    @property
    def heads(self) -> int | None:
        """Attention heads."""
        return self._number("num_attention_heads")

    @property
    def longest(self) -> int | None:
        """Tokens that the model can attend to; None also where positions are scaled."""
        rope = self._config.get("rope_scaling") or self._config.get("rope_parameters")
        scaled = bool(self._config.get("rope_scaling")) or (isinstance(rope, dict) and "factor" in rope)
        return None if scaled else self._number("max_position_embeddings")


def head_rules(heads: int | None, tensor_ranks: str) -> tuple[str, ...]:
    """The rule that attention heads are divided evenly; ``tensor_ranks``: the name of a field, or a number as text."""
    return (f"{heads} % {tensor_ranks} == 0",) if heads and not tensor_ranks.isdecimal() else ()


def head_mistakes(heads: int | None, tensor_ranks: str, where: str) -> list[str]:
    """A sentence if a fixed number of tensor ranks does not divide the attention heads."""
    if heads and tensor_ranks.isdecimal() and (int(tensor_ranks) < 1 or heads % int(tensor_ranks)):
        return [f"{where}: the model's {heads} attention heads cannot be divided by {tensor_ranks} tensor ranks"]
    return []
