"""How many devices a command line asks for, and how it divides a model between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Tensor, pipeline and data parallelism as vLLM 0.33 and SGLang 0.5.23 spell them; each multiplies the devices.
PARALLEL_FLAGS = (
    ("--tensor-parallel-size", "-tp", "--tp-size", "--tp"),
    ("--pipeline-parallel-size", "-pp", "--pp-size", "--pp"),
    ("--data-parallel-size", "-dp", "--dp-size", "--dp"),
)
PREFILL_FLAGS = ("--prefill-context-parallel-size", "-pcp")  # vLLM: they multiply the devices, not the cache
CONTEXT_FLAGS = ("--decode-context-parallel-size", "-dcp", "--dcp-size")  # a share of the tensor ranks: adds no devices
DATA_ATTENTION_FLAG = "--enable-dp-attention"  # SGLang: the data parallel ranks are a share of the tensor ranks


@dataclass(frozen=True)
class Ranks:
    """How the attention of a model is divided: heads by ``tensor``, layers by ``pipeline``, tokens by ``context`` (a share
    of the tensor ranks), sequences by ``data``. ``joint``: one limit of running requests holds for all data ranks together.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    context: int = 1
    joint: bool = False

    @property
    def devices(self) -> int:
        """Devices of all ranks."""
        return self.tensor * self.pipeline * self.data


def parallel(argv: Sequence[str]) -> int | None:
    """Devices of all parallel ranks together; None if the command says nothing of them. The last of equal flags counts."""
    given = [_size(argv, flags) for flags in (*PARALLEL_FLAGS, PREFILL_FLAGS)]
    if given == [None, None, None, None]:
        return None
    tensor, pipeline, data, prefill = (size or 1 for size in given)
    return tensor * pipeline * prefill * (1 if DATA_ATTENTION_FLAG in argv else data)


def ranks(argv: Sequence[str]) -> Ranks:
    """The ranks of a command; 1 each where it says nothing of them."""
    tensor, pipeline, data = (_size(argv, flags) or 1 for flags in PARALLEL_FLAGS)
    context = math.gcd(_size(argv, CONTEXT_FLAGS) or 1, tensor)
    if DATA_ATTENTION_FLAG in argv:
        return Ranks(max(1, tensor // data), pipeline, data, context, joint=True)
    return Ranks(tensor, pipeline, data, context)


def _size(argv: Sequence[str], flags: Sequence[str]) -> int | None:
    """The last positive whole number that one of these flags gives."""
    found = None
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        text = value if equals else next(iter(argv[i + 1 : i + 2]), "")
        if name in flags and text.isdecimal() and len(text) < 10 and int(text) > 0:
            found = int(text)
    return found
