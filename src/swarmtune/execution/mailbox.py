"""Mailbox: commands and answers as files in a folder that two machines share. No port and no common clock is needed.

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
LOST_S = 15.0  # without a new number for so long, the other side counts as gone

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
    """The message in a file; None if the file does not exist, or it holds no message."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


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
