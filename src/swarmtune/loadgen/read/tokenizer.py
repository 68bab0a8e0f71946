"""Which tokenizer counts the tokens of an answer whose service does not state them: the model's own, or the built-in one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from swarmtune.workload import tokens

BUILT_IN = "the built-in tokenizer"
BETTER = (
    "the model's own counts its tokens: give --tokenizer DIR, a folder with its tokenizer.json, and pip install "
    "'swarmtune[tokenizer]' where the library tokenizers is missing"
)
FILE = "tokenizer.json"
LARGEST_FILE = 200_000_000  # bytes of a tokenizer.json
MOST_PATH = 4000  # characters: a longer name is no path


@dataclass(frozen=True)
class Counter:
    """``count``: tokens of a text; ``name``: for people; ``note``: why it is not the one that was asked for."""

    count: Callable[[str], int]
    name: str = BUILT_IN
    note: str = ""


def counter(tokenizer: str, model: str) -> Counter:
    """The tokenizer of the folder (or tokenizer.json) ``tokenizer``; without one, of ``model`` where that is a folder here.

    Nothing is downloaded, and no code of the folder runs. Where the library ``tokenizers`` is missing or cannot read the
    file, the built-in one counts, with a note if a folder was asked for.
    """
    if tokenizer == "builtin":
        return Counter(tokens.count)
    asked = tokenizer or model
    file = _file(asked)
    if file is None:
        note = f"{asked} is no folder with a {FILE} here, and none is downloaded" if tokenizer else ""
        return Counter(tokens.count, note=note)
    try:
        return Counter(_counting(file, file.stat().st_mtime_ns), f"the tokenizer of {asked}")
    except ImportError:
        return Counter(tokens.count, note=f"{asked} is not used: pip install 'swarmtune[tokenizer]'")
    except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions on files that it does not understand
        return Counter(tokens.count, note=f"{file} cannot be read: {str(error)[:200]}")


def _file(asked: str) -> Path | None:
    if not asked or len(asked) > MOST_PATH or "\0" in asked:
        return None
    path = Path(asked).expanduser()
    file = path if path.name == FILE else path / FILE
    try:
        return file if file.is_file() and file.stat().st_size <= LARGEST_FILE else None
    except OSError:
        return None


@lru_cache(maxsize=2)
def _counting(file: Path, _changed_ns: int) -> Callable[[str], int]:
    found: Any = importlib.import_module("tokenizers").Tokenizer.from_file(str(file))
    found.no_truncation()
    found.no_padding()
    return lambda text: len(found.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)
