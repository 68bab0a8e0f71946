"""JSON and YAML files of services, and dotted paths into them (``ModelConfig.0.tp``: numbers index lists)."""

from __future__ import annotations

import copy
import json
import re
import reprlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from swarmtune.errors import ConfigPathError
from swarmtune.files import text_of
from swarmtune.records import Value

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 100  # of lists and objects in one another


class DocumentError(ConfigPathError):
    """The file cannot be read, is neither JSON nor YAML, or has no such place."""


def load(path: Path) -> Any:
    """The parsed content of a ``.json``, ``.yaml`` or ``.yml`` file.

    DocumentError if it is not a regular file of at most MAX_BYTES, cannot be parsed, or nests deeper than MAX_DEPTH.
    """
    try:
        text = read_text(path).removeprefix("\ufeff")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DocumentError(f"The service's file {path} cannot be read: {why}. Check config_path.") from error
    try:
        content = _yaml(text) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text)
        _check_depth(content)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"The service's file {path} cannot be understood: {error}.") from error
    return content


def read_text(path: Path) -> str:
    """``files.text_of``, of at most MAX_BYTES."""
    return text_of(path, MAX_BYTES)


def _yaml(text: str) -> Any:
    """ValueError if it is not YAML: PyYAML's own constructors also raise LookupError, AttributeError and TypeError."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error


def _check_depth(content: Any) -> None:
    """ValueError if it nests deeper than MAX_DEPTH. YAML's aliases may make circles: a part counts once in each level."""
    level = {id(content): content}
    for _ in range(MAX_DEPTH):
        inner = [
            x for c in level.values() for x in (c.values() if isinstance(c, dict) else c if isinstance(c, list) else ())
        ]
        level = {id(x): x for x in inner if isinstance(x, (dict, list))}
        if not level:
            return
    raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")


class ServiceFile:
    """The file of a service as it was when it was first looked at. It is read once, also when that fails."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    @property
    def content(self) -> Any:
        """The parsed content; DocumentError if there is none. Not to be changed: see ``changed``."""
        if isinstance(self._read, DocumentError):
            raise DocumentError(self._read.message)
        return self._read

    @cached_property
    def _read(self) -> Any:
        try:
            return load(self._path)
        except DocumentError as error:
            return error


def dump(document: Any, path: Path) -> str:
    """The text of a document in the format that the file name asks for."""
    if path.suffix.lower() in (".yaml", ".yml"):
        import yaml

        return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return json.dumps(document, indent=4, ensure_ascii=False) + "\n"


def read(document: Any, dotted: str) -> Any:
    """The value at a dotted path; DocumentError says which part is not there."""
    here = document
    for i, part in enumerate(dotted.split(".")):
        here = _step(here, part, dotted, i)
    return here


def read_or(document: Any, dotted: str, otherwise: Any) -> Any:
    """The value at a dotted path, or ``otherwise`` where there is none."""
    try:
        return read(document, dotted)
    except DocumentError:
        return otherwise


def put(document: Any, dotted: str, value: Value) -> None:
    """Write a value in place. Its object must be there; the last name may be new, a list index may not."""
    *parents, last = dotted.split(".")
    here = document
    for i, part in enumerate(parents):
        here = _step(here, part, dotted, i)
    if isinstance(here, dict):
        here[last] = value
    else:
        _step(here, last, dotted, len(parents))
        here[int(last)] = value


def changed(document: Any, values: Mapping[str, Value]) -> Any:
    """A copy with these values at these dotted paths."""
    copied = copy.deepcopy(document)
    for dotted, value in values.items():
        put(copied, dotted, value)
    return copied


def _step(here: Any, part: str, dotted: str, depth: int) -> Any:
    where = ".".join(dotted.split(".")[:depth]) or "the top level"
    if isinstance(here, list):
        if re.fullmatch(r"[0-9]{1,9}", part) and int(part) < len(here):
            return here[int(part)]
        raise DocumentError(f"{dotted}: {where} is a list of {len(here)}; {part!r} is none of its indexes.")
    if isinstance(here, dict):
        if part in here:
            return here[part]
        have = ", ".join(str(name)[:60] for name in list(here)[:12]) or "nothing"
        raise DocumentError(f"{dotted}: {where} has no {part!r}; it has {have}.")
    raise DocumentError(f"{dotted}: {where} is {reprlib.repr(here)}; nothing can be inside it.")
