"""Files of ours in folders that others may write, too."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
from io import BufferedReader
from json import dumps
from pathlib import Path
from typing import IO, Any

from swarmtune.errors import ConfigPathError

# In UTF-8: what shows nothing and may steer a terminal (C1) or turn words around. Source: Unicode 4.6, UAX 9.
_UNSHOWN = re.compile(
    rb"\x7f|\xc2[\x80-\x9f\xad]|\xd8\x9c|\xe1\xa0\x8e|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]"
    rb"|\xef\xbb\xbf|\xef\xbf[\xb9-\xbb]|\xf3\xa0[\x80\x81][\x80-\xbf]"
)
PIPE_S = 10.0
MOST_LINKS = 40  # on the way to a file, as Linux has it
FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def refuse_planted(path: Path, *, folder: bool = False) -> None:
    """PermissionError if a link of another user (but root) leads to this path. With ``folder``, if the path is a folder of
    such a user that everybody could have made or can write, too.
    """
    trusted = {0, os.geteuid()}
    at, left, links = Path("/"), list(reversed(path.absolute().parts)), 0
    facts = at.lstat()
    while left:
        part = left.pop()
        at = Path(part) if part.startswith("/") else at.parent if part == ".." else at / part
        try:
            facts = at.lstat()
        except OSError:
            return  # what is not there is not planted, and nothing is written where we may not look
        if stat.S_ISLNK(facts.st_mode) and links < MOST_LINKS:
            if facts.st_uid not in trusted:
                raise PermissionError(
                    errno.EPERM, f"{at} is a link made by another user (uid {facts.st_uid})", str(path)
                )
            links += 1
            left += reversed(Path(os.readlink(at)).parts)  # noqa: PTH115
            at = at.parent
            facts = at.lstat()
    if folder and facts.st_uid not in trusted and (facts.st_mode | at.parent.lstat().st_mode) & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, f"{at} is a folder of another user (uid {facts.st_uid})", str(path))


def create(path: Path) -> int:
    """The descriptor of a new empty file, which only this user may read. What had its name is removed, and no link followed;
    a device is opened as it is.

    OSError; FileExistsError: another made a file of this name at this moment; PermissionError: see ``refuse_planted``.
    """
    refuse_planted(path.parent)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISCHR(path.lstat().st_mode):
            return os.open(path, FLAGS)
        path.unlink()
    return os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o600)


def opened(path: Path) -> BufferedReader:
    """A file of a user, to read. Of a pipe, as a shell's ``<(...)`` is, the first bytes are waited for, but not for ever.

    OSError: as ``open`` has it; TimeoutError: nobody has written to the pipe for PIPE_S.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if not waiting.poll(PIPE_S * 1000):
            os.close(descriptor)
            raise TimeoutError(errno.ETIMEDOUT, "it is a pipe, and nothing is written to it")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def text_of(path: Path, most: int) -> str:
    """The UTF-8 text of a regular file of at most ``most`` bytes. OSError or ValueError if there is none, or more."""
    if not path.is_file():  # a pipe would be waited for, a device has no end
        raise OSError(errno.ENOENT, "not a file" if path.exists() else "no such file")
    with opened(path) as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"larger than {most // 2**20} MiB")
    return raw.decode("utf-8")


def created(path: Path, mode: str = "wb") -> IO[Any]:
    """``create``, as a file object; ``mode``: "wb" or "w" (UTF-8)."""
    return os.fdopen(create(path), mode, encoding=None if "b" in mode else "utf-8")


def appended(path: Path) -> IO[str]:
    """A text file of ours, to write on at its end; what is no regular file of ours, as a planted link, is removed first."""
    refuse_planted(path.parent)
    with contextlib.suppress(FileNotFoundError):
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_nlink > 1:
            path.unlink()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8", errors="backslashreplace")


def escaped(json: bytes) -> bytes:
    """A JSON text that shows all that it holds: a reader on a terminal sees escapes, a program the same values."""
    return _UNSHOWN.sub(lambda found: dumps(found[0].decode())[1:-1].encode(), json)


def environment_names(given: dict[str, str]) -> dict[str, str]:
    """The same variables; ValueError if one has a name that no process can have, or no shell can set."""
    for name in given:
        if not name or any(c in "=\0" or c.isspace() for c in name):
            raise ValueError(f"{name[:60]!r} cannot be the name of an environment variable")
    return given


def expanded(path: str) -> Path:
    """The path with ``~`` replaced; ConfigPathError if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigPathError(f"{path}: no such home directory") from error
