"""The place of a study: a folder of its own, with the database in it unless a server is named."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmtune.database.address import shown_url
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.study.reader import StudyHead, latest_study

DATABASE = "study.db"


@dataclass(frozen=True)
class Place:
    """The folder and the database of a study; ``head``: None for a new one."""

    name: str
    folder: Path
    url: str
    head: StudyHead | None = None


def new_place(output: Path, engine: str, study: str | None, now: float) -> Place:
    """A new study's place; its private folder is made."""
    name = f"{engine}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"
    folder = output / name
    number = 1
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir(mode=0o700)
                break
            except FileExistsError:
                number += 1
                folder = output / f"{name}-{number}"
    except OSError as error:
        raise ConfigPathError(
            f"{output}: no folder for studies can be made there: {error.strerror or error}"
        ) from error
    return Place(folder.name, folder, study or str(folder.resolve() / DATABASE))


def last_place(output: Path, study: str | None) -> Place:
    """The place of the newest study, to resume it. ConfigurationError if there is none."""
    if study is None:
        databases = sorted(output.glob(f"*/{DATABASE}"), key=lambda p: p.stat().st_mtime)
        if not databases:
            raise ConfigurationError(f"No study to resume in {output}. Start one without -lb.")
        folder, url = databases[-1].parent, str(databases[-1].resolve())
        head = latest_study(url)
    else:
        head = latest_study(study)
        url, folder = study, output / (head.name if head else "")
    if head is None:
        raise ConfigurationError(f"No study to resume in {shown_url(url)}. Start one without -lb.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Place(head.name, folder, url, head)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested tables merged; where both have a value the second takes precedence."""
    out = dict(first)
    for key, value in second.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigPathError(f"{path}: cannot be written: {error.strerror or error}") from error
