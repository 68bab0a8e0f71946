"""The place of a study: a folder of its own, with the database in it unless a server is named."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmtune.database.address import shown_url
from swarmtune.errors import ConfigPathError, ConfigurationError, one_line
from swarmtune.files import created, refuse_planted
from swarmtune.study.reader import StudyHead, latest_study

DATABASE = "study.db"
REQUEST = "request.json"  # beside it, or alone where the database is elsewhere: the command line that started the study
LONGEST_NAME = 200
MOST_BYTES = 2**20


@dataclass(frozen=True)
class Place:
    """The folder and the database of a study; ``head``: None for a new one.

    ``ours``: this user has started the study here, so that its command line can be used again.
    """

    name: str
    folder: Path
    url: str
    head: StudyHead | None = None
    ours: bool = True


def new_place(output: Path, engine: str, study: str | None, now: float) -> Place:
    """A new study's place; its private folder is made."""
    name = f"{engine}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"
    folder = output / name
    number = 1
    _refuse_planted(output)
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
    _refuse_planted(output)
    if study is not None:
        head = _named(latest_study(study))
        if head is None:
            raise ConfigurationError(f"No study to resume in {shown_url(study)}. Start one without -lb.")
        folder = output / head.name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigPathError(f"{folder}: cannot be made: {error.strerror or error}") from error
        return Place(head.name, folder, study, head, _is_ours(folder, head.request))
    for database in sorted(output.glob(f"*/{DATABASE}"), key=_changed_at, reverse=True):
        url = str(database.resolve())
        if head := _named(latest_study(url)):  # else it was killed before it began
            return Place(head.name, database.parent, url, head, _is_ours(database.parent, head.request))
    raise ConfigurationError(f"No study to resume in {output}. Start one without -lb.")


def _refuse_planted(output: Path) -> None:
    try:
        refuse_planted(output, folder=True)
    except OSError as error:
        raise ConfigPathError(f"{output}: cannot hold studies: {error.strerror}. Choose another folder.") from error


def keep_request(place: Place, request: Mapping[str, Any]) -> None:
    """Keep the command line of a new study, sealed, to know it again when it is resumed. ConfigPathError."""
    write_private(place.folder / REQUEST, json.dumps({"request": request, "seal": _seal(request)}))


def _is_ours(folder: Path, request: Mapping[str, Any]) -> bool:
    """Was this command line kept here by this user? A folder that came from elsewhere, as it is, was not."""
    with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, KeyError):
        path = folder / REQUEST
        if _is_private(folder) and stat.S_ISREG(path.lstat().st_mode) and path.stat().st_size <= MOST_BYTES:
            kept, seal = json.loads(path.read_bytes()), _seal(request)
            return bool(seal) and kept["request"] == request and hmac.compare_digest(kept["seal"], seal)
    return False


def _seal(request: Mapping[str, Any]) -> str:
    """What only this user can make of a command line; empty where there is no place for a key."""
    text = json.dumps(request, sort_keys=True).encode()
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    try:
        path = state.expanduser() / "swarmtune" / "key"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, secrets.token_hex(32))
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            return ""
        return hmac.new(path.read_bytes(), text, "sha256").hexdigest()
    except (OSError, RuntimeError, ConfigPathError):
        return ""


def _named(head: StudyHead | None) -> StudyHead | None:
    """The study, if its name can be that of a folder. ConfigurationError: it leads elsewhere."""
    if head is None:
        return None
    name = head.name
    if name == Path(name).name and name not in ("", "..") and name.isprintable() and len(name) <= LONGEST_NAME:
        return head
    raise ConfigurationError(
        f"The study {one_line(head.name[:LONGEST_NAME])!r} cannot be resumed: no folder can have this name."
    )


def _is_private(folder: Path) -> bool:
    """Is the folder this user's, and can no other write it?"""
    facts = folder.stat()
    return facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


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
        with created(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigPathError(f"{path}: cannot be written: {error.strerror or error}") from error
