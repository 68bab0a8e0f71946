"""JSON and YAML files of services, and dotted paths into them (``ModelConfig.0.tp``: numbers index lists)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarmtune.errors import ConfigPathError
from swarmtune.records import Value


class DocumentError(ConfigPathError):
    """The file cannot be read, is no JSON or YAML, or has no such place."""


def load(path: Path) -> Any:
    """The parsed content of a ``.json``, ``.yaml`` or ``.yml`` file; DocumentError if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"The service's file {path} cannot be read: {error}. Check config_path.") from error
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            import yaml

            try:
                return yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error)) from error
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"The service's file {path} cannot be understood: {error}.") from error


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
        if part.isascii() and part.isdigit() and int(part) < len(here):
            return here[int(part)]
        raise DocumentError(f"{dotted}: {where} is a list of {len(here)}; {part!r} is none of its indexes.")
    if isinstance(here, dict):
        if part in here:
            return here[part]
        have = ", ".join(map(str, list(here)[:12])) or "nothing"
        raise DocumentError(f"{dotted}: {where} has no {part!r}; it has {have}.")
    raise DocumentError(f"{dotted}: {where} is {here!r}; nothing can be inside it.")
