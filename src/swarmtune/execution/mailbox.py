"""Mailbox: commands and answers as files in a folder that two machines share. No port and no common clock is needed.

    FOLDER/tuner.json            who asks, and a number that grows while it lives
    FOLDER/node.json             who answers, likewise
    FOLDER/commands/ID.json      a command, taken away by the one who answers
    FOLDER/answers/ID.json       its answer, taken away by the one who asked

A file appears whole (written under another name, then renamed). Only a file of this user in a folder that no other user can
write is believed: whoever can put a command here runs it as us. Whether the other side lives is judged by its number on
one's own clock: the clocks of the machines may differ by hours.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import stat
import uuid
from pathlib import Path
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError

POLL_S = 0.05
BEAT_S = 1.0
LOST_S = 15.0  # without a new number for so long, the other side counts as gone
MESSAGE_BYTES = 2**24
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

Message = dict[str, Any]


def write_message(path: Path, message: Message) -> None:
    """Write a file in one step, readable by its owner alone. CommunicationError if it cannot be written."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(message, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise CommunicationError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_message(path: Path) -> Message | None:
    """The message in a file; None if the file does not exist, is not to be believed, or holds no message."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > MESSAGE_BYTES or _distrust(facts):
                return None
            content = json.loads(file.read(MESSAGE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def distrust(path: Path) -> str:
    """Why what lies at this place is not believed, and the way out; empty: it is, or nothing is there."""
    try:
        reason = _distrust(path.lstat())
    except OSError:
        return ""
    return f"{path} {reason}" if reason else ""


def distrust_above(folder: Path) -> str:
    """Why another user could put a folder in place of this one, and the way out; empty: nobody but root can."""
    for above in folder.resolve().parents:
        facts = above.stat()
        if facts.st_uid not in (0, os.geteuid()):
            reason = f"belongs to {_name(facts.st_uid)}"
        elif facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
            reason = f"can be written by everybody (mode {stat.S_IMODE(facts.st_mode):o}; chmod o-w or +t)"
        else:
            continue
        return f"{above} {reason}, who could put another folder in place of {folder}: use a folder of your own"
    return ""


def _distrust(facts: os.stat_result) -> str:
    user = os.geteuid()
    if facts.st_uid != user:
        return (
            f"belongs to {_name(facts.st_uid)}, and only {_name(user)} is obeyed here: let the tuner and `swarmtune node` "
            "run as one user, in a folder of that user"
        )
    if facts.st_mode & OTHERS_WRITE and not stat.S_ISLNK(facts.st_mode):
        return f"can be written by other users (mode {stat.S_IMODE(facts.st_mode):o}): chmod go-w"
    return "is a link" if stat.S_ISLNK(facts.st_mode) else ""


def _name(user: int) -> str:
    try:
        return f"the user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"the user {user}"


def waiting(folder: Path) -> list[Path]:
    """The message files of a folder, sorted by name; files that are still being written are left out."""
    with contextlib.suppress(OSError):
        return sorted(p for p in folder.iterdir() if p.suffix == ".json" and not p.name.startswith("."))
    return []


class Pulse:
    """Heartbeat: a growing number in a file of the folder, for the other side to read."""

    def __init__(self, path: Path, name: str, clock: Clock) -> None:
        self.path, self.name = path, name
        self._clock = clock
        self._number = 0

    def beat(self) -> None:
        """Write the next number."""
        if doubt := distrust(self.path.parent):  # another user may have put something else in its place
            raise CommunicationError(doubt)
        self._number += 1
        write_message(self.path, {"name": self.name, "number": self._number})

    async def go_on(self) -> None:
        """Write the heartbeat until cancelled; failed writes are retried."""
        while True:
            with contextlib.suppress(CommunicationError):
                self.beat()
            await self._clock.sleep(BEAT_S)


class Watch:
    """Reads the other side's heartbeat; ``name`` is called from time to time."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._seen: Message | None = None
        self._since = clock.monotonic()

    def name(self) -> str | None:
        """The name of the other side; None if there is none, or its heartbeat has not changed for LOST_S."""
        now, message = self._clock.monotonic(), read_message(self.path)
        if message != self._seen:
            self._seen, self._since = message, now
        if message is None or now - self._since > LOST_S:
            return None
        return str(message.get("name"))
