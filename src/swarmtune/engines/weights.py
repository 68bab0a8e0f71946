"""The size of a model's weights, from the files in its folder."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from swarmtune.engines.document import read_text

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FILES = ("*.safetensors", "pytorch_model*.bin")
MOST_FILES = 10_000


def weight_bytes(folder: Path) -> int | None:
    """Bytes of all weights in a model's folder: what its index says, else the sizes of its files; None: there are none."""
    for name in INDEXES:
        try:
            size = json.loads(read_text(folder / name))["metadata"]["total_size"]
        except (OSError, ValueError, RecursionError, LookupError, TypeError):
            continue
        if isinstance(size, (int, float)) and not isinstance(size, bool) and 0 < size < 2**60:
            return int(size)
    for pattern in FILES:
        try:
            size = sum(file.stat().st_size for file in islice(folder.glob(pattern), MOST_FILES) if file.is_file())
        except OSError:
            continue
        if size:
            return int(size)
    return None
