"""What the arguments of a service, and the fields that set them, say of the memory that its KV cache has and needs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swarmtune.engines.kv_formats import Formats
from swarmtune.engines.parallel import CONTEXT_FLAGS, DATA_ATTENTION_FLAG, PARALLEL_FLAGS, Ranks, ranks
from swarmtune.engines.placement import substitute, text, unknown_tokens
from swarmtune.records import Value
from swarmtune.space import Dimension, Field

# As vLLM 0.33 and SGLang 0.5.23 spell them; the first name is vLLM's; MindIE's are keys of its file.
CACHE_DTYPE: Final = ("--kv-cache-dtype",)
MODEL_DTYPE: Final = ("--dtype",)
STATE_DTYPE: Final = ("--mamba-ssm-cache-dtype", "--mamba-ssm-dtype")
CONVOLUTION_DTYPE: Final = ("--mamba-cache-dtype",)
UTILISATION: Final = ("--gpu-memory-utilization", "--mem-fraction-static")
CACHE_BYTES: Final = ("--kv-cache-memory-bytes", "--kv-cache-memory", "npuMemSize")  # of each device
LONGEST: Final = ("--max-model-len", "--context-length", "maxSeqLen")
NO_WINDOWS: Final = ("--disable-hybrid-kv-cache-manager", "--disable-hybrid-swa-memory")
AMOUNTS = frozenset((*UTILISATION, *CACHE_BYTES, *LONGEST))
FLAGS = frozenset(
    (
        *(*itertools.chain(*PARALLEL_FLAGS), *CONTEXT_FLAGS, DATA_ATTENTION_FLAG),
        *(*CACHE_DTYPE, *MODEL_DTYPE, *STATE_DTYPE, *CONVOLUTION_DTYPE, *AMOUNTS, *NO_WINDOWS),
    )
)
NOT_COUNTED = {  # what flags do to the memory that is not counted here
    **dict.fromkeys(("--hf-overrides", "--json-model-override-args"), "what {} changes of the model is not counted"),
    **dict.fromkeys(
        ("--speculative-config", "--speculative-algorithm"), "the cache of layers that draft tokens ({}) is not counted"
    ),
    **dict.fromkeys(("--num-gpu-blocks-override", "--max-total-tokens"), "the cache's limit {} is not counted"),
    **dict.fromkeys(
        ("--disable-sliding-window", "--swa-full-tokens-ratio"), "what {} changes of windows is not counted"
    ),
    "--kv-cache-dtype-skip-layers": "what {} leaves in the model's own format is counted as the others",
    "--cpu-offload-gb": "weights in the host's memory ({}) are counted as if a device held them",
}
ONE_DEVICE = Ranks()
ENGINES_CHOICE = Formats(model="auto")
MOST_RANKS = 64  # that a searched number of ranks is tried with
MOST_VARIANTS = 1024
_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)([kKmMgGtT]?)")


@dataclass(frozen=True)
class Serving:
    """One way in which a command serves a model. None: the command does not say it. ``utilisation``: the share of a device
    for weights and cache; ``kv_bytes``: of the cache on each device; ``longest``: tokens of a sequence at most.
    """

    ranks: Ranks = ONE_DEVICE
    formats: Formats = ENGINES_CHOICE
    utilisation: float | None = None
    kv_bytes: int | None = None
    longest: int | None = None
    windows: bool = True  # False: layers with a window keep all tokens

    @classmethod
    def of(cls, argv: Sequence[str]) -> Serving:
        """The way of a command with these arguments."""
        plain = [_hyphens(argument) for argument in argv]
        share = _number(last(plain, UTILISATION))
        return cls(
            ranks(plain),
            Formats(
                _dtype(last(plain, CACHE_DTYPE)),
                _dtype(last(plain, MODEL_DTYPE)) or "auto",
                _dtype(last(plain, STATE_DTYPE)),
                _dtype(last(plain, CONVOLUTION_DTYPE)),
            ),
            share if share is not None and 0 < share <= 1 else None,
            _whole(last(plain, CACHE_BYTES)),
            _whole(last(plain, LONGEST)),
            not any(flag in plain and f"--no-{flag[2:]}" not in plain for flag in NO_WINDOWS),
        )


def last(argv: Sequence[str], flags: Sequence[str]) -> tuple[str, str] | None:
    """The last of these flags in the arguments, and its value; None: there is none."""
    found = None
    for i, argument in enumerate(argv):
        name, equals, value = _hyphens(argument).partition("=")
        if name in flags:
            found = name, value if equals else next(iter(argv[i + 1 : i + 2]), "")
    return found


def uncounted(argv: Sequence[str]) -> list[str]:
    """A sentence for each flag that changes the memory in a way that is not known here."""
    names = dict.fromkeys(_hyphens(argument).partition("=")[0].partition(".")[0] for argument in argv)
    return [NOT_COUNTED[name].format(name) for name in names if name in NOT_COUNTED]


def ways(given: Sequence[str], fields: Sequence[Field]) -> list[Serving]:
    """The ways in which commands with these arguments and the values of these fields serve a model."""
    used = set(unknown_tokens(given, ()))
    parts: list[list[tuple[Field, Value]]] = [
        [(field, value) for value in _values(field, _set_by(field, given))]
        for field in fields
        if field.name.upper() in used or _flag(field) in FLAGS
    ]
    found: dict[Serving, None] = {}
    for chosen in itertools.islice(itertools.product(*filter(None, parts)), MOST_VARIANTS):
        found[Serving.of(_with(given, chosen))] = None
    return list(found)


def fixed(given: Sequence[str], fields: Sequence[Field]) -> list[str]:
    """The arguments with the values of all fields that have only one."""
    return _with(given, [(field, field.fixed) for field in fields if field.fixed is not None])


def _with(given: Sequence[str], chosen: Sequence[tuple[Field, Value]]) -> list[str]:
    """The arguments with these values: of their $NAMEs, and as flags behind them."""
    argv = list(substitute(given, {field.name.upper(): text(value) for field, value in chosen}))
    for field, value in chosen:
        if _flag(field) in FLAGS and value is not False:
            argv += [_flag(field)] if value is True else [_flag(field), text(value)]
    return argv


def _hyphens(argument: str) -> str:
    """The argument with the name of its flag in the usual spelling: engines take --max_model_len too."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _flag(field: Field) -> str:
    """The flag that a field sets, or would set if its variable or its place in a file were one."""
    position = field.config_position
    if position.startswith("-"):
        return _hyphens(position)
    return f"--{(field.name if position == 'env' else position.rpartition('.')[2]).lower().replace('_', '-')}"


def _set_by(field: Field, given: Sequence[str]) -> str:
    """The flag whose value is the field's $NAME, else the one that the field sets."""
    name = field.name.upper()
    tokens = (f"${name}", f"${{{name}}}")
    flags = [before for before, argument in itertools.pairwise(given) if argument in tokens]
    flags += [argument.partition("=")[0] for argument in given if argument.partition("=")[2] in tokens]
    return _hyphens(flags[-1]) if flags else _flag(field)


def _values(field: Field, flag: str) -> list[Value]:
    """Values that a field may have: all that are listed, else the ends of an amount, or powers of two."""
    if field.fixed is not None:
        return [field.fixed]
    broken = bool(field.mistakes({field.name, *field.targets})) or not field.searched
    if broken:
        return [] if flag in AMOUNTS else [2**i for i in range(MOST_RANKS.bit_length())]
    dimension = Dimension.of(field)
    if dimension.choices:
        return list(dimension.choices)
    if flag in AMOUNTS:
        return [dimension.low, dimension.high]
    low, high = int(dimension.low), int(min(dimension.high, MOST_RANKS))
    return sorted({low, max(low, high), *(2**i for i in range(MOST_RANKS.bit_length()) if low <= 2**i <= high)})


def _dtype(found: tuple[str, str] | None) -> str | None:
    return None if found is None or found[1].lower() in ("", "auto") else found[1]


def _number(found: tuple[str, str] | None) -> float | None:
    """As vLLM reads them: 1k is 1000, 1K is 1024."""
    match = _NUMBER.fullmatch(found[1]) if found else None
    if match is None:
        return None
    unit = match[2]
    power = " kmgt".index(unit.lower()) if unit else 0
    return float(match[1]) * float((1000 if unit.islower() else 1024) ** power)


def _whole(found: tuple[str, str] | None) -> int | None:
    number = _number(found)
    return int(number) if number is not None and 1 <= number < 2**60 else None
