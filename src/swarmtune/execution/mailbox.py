"""Commands and answers as files in a folder that two machines see, and nothing else in common: no port, no clock.

    FOLDER/tuner.json            who asks, and a number that grows while it lives
    FOLDER/node.json             who answers, likewise
    FOLDER/commands/ID.json      a command, taken away by the one who answers
    FOLDER/answers/ID.json       its answer, taken away by the one who asked

A file appears whole (written under another name, then renamed). Whether the other side lives is judged by its number on
one's own clock: the clocks of the machines may differ by hours.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError

POLL_S = 0.05
BEAT_S = 1.0
LOST_S = 15.0  # without a new number the other side is gone

Message = dict[str, Any]


def write_message(path: Path, message: Message) -> None:
    """Write a file that appears whole, readable by its owner alone. CommunicationError if the disk does not take it."""
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
    """What the file says; None if it is not there, or is no message."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def waiting(folder: Path) -> list[Path]:
    """The messages in a folder, the oldest name first; files that are still being written are not among them."""
    with contextlib.suppress(OSError):
        return sorted(p for p in folder.iterdir() if p.suffix == ".json" and not p.name.startswith("."))
    return []


class Pulse:
    """One's own number in a file of the folder, for the other side to see."""

    def __init__(self, path: Path, name: str, clock: Clock) -> None:
        self.path, self.name = path, name
        self._clock = clock
        self._number = 0

    def beat(self) -> None:
        """Write the next number."""
        self._number += 1
        write_message(self.path, {"name": self.name, "number": self._number})

    async def go_on(self) -> None:
        """Beat for ever; a disk that takes nothing for a while is tried again."""
        while True:
            with contextlib.suppress(CommunicationError):
                self.beat()
            await self._clock.sleep(BEAT_S)


class Watch:
    """Does the other side live? Asked now and then."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._seen: Message | None = None
        self._since = clock.monotonic()

    def name(self) -> str | None:
        """Who is there; None if nobody is, or has been silent for LOST_S."""
        now, found = self._clock.monotonic(), read_message(self.path)
        if found != self._seen:
            self._seen, self._since = found, now
        if found is None or now - self._since > LOST_S:
            return None
        return str(found.get("name"))
