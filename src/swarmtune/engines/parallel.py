"""How many devices a command line asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Tensor, pipeline and data parallelism as vLLM 0.33 and SGLang 0.5.23 spell them; each multiplies the devices.
PARALLEL_FLAGS = (
    ("--tensor-parallel-size", "-tp", "--tp-size", "--tp"),
    ("--pipeline-parallel-size", "-pp", "--pp-size", "--pp"),
    ("--data-parallel-size", "-dp", "--dp-size", "--dp"),
)


def parallel(argv: Sequence[str]) -> int | None:
    """Devices of all parallel ranks together; None if the command says nothing of them. The last of equal flags counts."""
    given: dict[tuple[str, ...], int] = {}
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        text = value if equals else next(iter(argv[i + 1 : i + 2]), "")
        if text.isdecimal() and int(text) > 0:
            given |= {flags: int(text) for flags in PARALLEL_FLAGS if name in flags}
    return math.prod(given.values()) if given else None
