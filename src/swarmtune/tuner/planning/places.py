"""Where results go and where earlier ones are: the folder, the database and the studies that settings name, checked."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from swarmtune.errors import ConfigurationError
from swarmtune.files import expanded


def output_folder(given: str, mistakes: list[str]) -> Path:
    """The folder for studies, as a path. A mistake if it cannot be made there; nothing is made here."""
    try:
        path = expanded(given)
        _there(path)
        taken = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)
        within = next((p for p in (path, *path.parents) if p.is_dir()), path)
    except (ConfigurationError, OSError) as error:
        mistakes.append(f"output: {error}")
        return Path(given)
    if taken is not None:
        mistakes.append(f"output: no folder can be made at {given[:200]!r}: {str(taken)[:200]!r} is a file")
    elif not os.access(within, os.W_OK | os.X_OK):
        mistakes.append(f"output: no folder can be made at {given[:200]!r}: {str(within)[:200]!r} cannot be written to")
    return path


def check_study(url: str | None, mistakes: list[str]) -> None:
    """Is this the address of a database for a study? It may hold a password, so no mistake repeats it."""
    if url is None:
        return
    scheme, found, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if not url.strip():
        mistakes.append("optimizer.study: an empty text is not an address; leave it out for a new folder")
    elif not found and re.search(r"(^|\s)(host|hostaddr|dbname|user|password|port)\s*=", url):
        mistakes.append("optimizer.study: write a PostgreSQL database as postgresql://USER:PASSWORD@HOST/DB")
    elif (folder := _folder_of(url)) is not None:
        mistakes.append(
            f"optimizer.study: {folder[:200]!r} is a folder, and a database is a file; name one in it, such as study.db; "
            "studies without a name of their own go into the folder `output`"
        )
    elif found and kind not in ("sqlite", "postgresql", "postgres"):
        mistakes.append(
            f"optimizer.study: {kind[:20]!r} is not supported; write a path, sqlite:///PATH or postgresql://USER@HOST/DB"
        )
    elif found and kind == "sqlite" and not rest.startswith("/"):
        mistakes.append(
            "optimizer.study: a SQLite address has three slashes or four: sqlite:///PATH, sqlite:////ROOT/PATH"
        )
    elif found and kind != "sqlite":
        try:
            reason = "" if urlsplit(url).port != 0 else "port 0"
        except ValueError as error:
            reason = str(error).partition(":")[0]
        if importlib.util.find_spec("psycopg") is None:
            mistakes.append("optimizer.study: PostgreSQL needs an extra: pip install 'swarmtune[postgres]'")
        if reason:
            mistakes.append(f"optimizer.study: not a database address ({reason}); write postgresql://USER@HOST:PORT/DB")


def _folder_of(url: str) -> str | None:
    """The path in the address of a file database, if a folder is there."""
    path = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else url
    with contextlib.suppress(ConfigurationError, OSError, ValueError):
        return path if "://" not in path and expanded(path).is_dir() else None
    return None


def check_earlier(given: list[str] | None, mistakes: list[str]) -> None:
    """Earlier studies that are named must exist: folders and files here; servers are asked when the study starts."""
    for number, place in enumerate(given or (), 1):
        try:
            if "://" in place:
                from swarmtune.database.address import (
                    database_url,  # SQLAlchemy is slow to import, and few need it here
                )

                database_url(place)
            elif not (place.strip() and _there(expanded(place))):
                mistakes.append(f"optimizer.earlier.{number}: no such file or folder: {place[:200]!r}")
        except (ConfigurationError, OSError) as error:
            mistakes.append(f"optimizer.earlier.{number}: {getattr(error, 'strerror', None) or error}")


def _there(path: Path) -> bool:
    """Is there anything at this path? OSError if its name cannot be one: from Python 3.14 on ``exists`` says no."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
