"""Files of ours in folders that others may write, too."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import IO, Any

FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def create(path: Path) -> int:
    """The descriptor of a new empty file, which only this user may read. What had its name is removed, and no link followed;
    a device is opened as it is.

    OSError; FileExistsError: another made a file of this name at this moment.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISCHR(path.lstat().st_mode):
            return os.open(path, FLAGS)
        path.unlink()
    return os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o600)


def created(path: Path, mode: str = "wb") -> IO[Any]:
    """``create``, as a file object; ``mode``: "wb" or "w" (UTF-8)."""
    return os.fdopen(create(path), mode, encoding=None if "b" in mode else "utf-8")
