"""The file between the reader's process and whoever started it: series by number, and rows of values.

One JSON array per line: ``["series", source, name, labels, kind]`` (numbered from 0, in order), ``["at", ns, numbers,
values]`` and ``["note", source, text]``. Stamps are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import contextlib
import json
import threading
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from swarmtune.devices.readings import Labels, Reading
from swarmtune.files import created

LIMIT_BYTES = 64 * 2**20
LIMIT_SERIES = 50_000
Key = tuple[str, str, Labels]  # source, name, labels


class SpoolWriter:
    """Takes rows from several threads. When the file is full, that is noted, and further rows are dropped."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """OSError if the file cannot be made."""
        self._file: IO[str] = created(path, "w")
        self._left = limit_bytes
        self._numbers: dict[Key, int] = {}
        self._noted: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, ns: int, source: str, readings: Sequence[Reading]) -> None:
        """Values that were read at one time. OSError when the disk is full."""
        with self._lock:
            if self._left <= 0:
                return
            numbers, values = [], []
            for reading in readings:
                key = (source, reading.name, reading.labels)
                number = self._numbers.get(key)
                if number is None:
                    if len(self._numbers) >= LIMIT_SERIES:
                        self._note(source, f"more than {LIMIT_SERIES:,} series; further ones are not kept")
                        continue
                    number = self._numbers[key] = len(self._numbers)
                    self._put(["series", source, reading.name, dict(reading.labels), reading.kind])
                numbers.append(number)
                values.append(reading.value)
            self._put(["at", ns, numbers, values])
            if self._left <= 0:
                self._note(source, "the spool is full; further readings are not kept")
            self._file.flush()

    def note(self, source: str, text: str) -> None:
        """Trouble with a source, once."""
        with self._lock:
            self._note(source, text)
            self._file.flush()

    def _note(self, source: str, text: str) -> None:
        if (source, text) not in self._noted and len(self._noted) < 1000:
            self._noted.add((source, text))
            self._put(["note", source, text])

    def _put(self, row: list[Any]) -> None:
        line = json.dumps(row, separators=(",", ":")) + "\n"
        self._left -= len(line)
        self._file.write(line)

    def close(self) -> None:
        """Everything is on its way to the disk."""
        with self._lock:
            self._file.close()


@dataclass
class Series:
    """The readings of one series by time: stamps (CLOCK_MONOTONIC, ns) and values."""

    kind: str
    ns: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))


@dataclass
class Lines:
    """All that was read beside a run. ``notes``: one sentence for each trouble."""

    series: dict[Key, Series] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, ns: int, source: str, readings: Sequence[Reading]) -> None:
        """Values that were read from a source at one time."""
        for reading in readings:
            key = (source, reading.name, reading.labels)
            series = self.series.setdefault(key, Series(reading.kind))
            series.ns.append(ns)
            series.values.append(reading.value)

    def only(self, sources: Collection[str]) -> Lines:
        """What these sources told."""
        return self._of(set(sources), wanted=True)

    def without(self, sources: Collection[str]) -> Lines:
        """What all others told."""
        return self._of(set(sources), wanted=False)

    def _of(self, sources: set[str], *, wanted: bool) -> Lines:
        notes = [note for note in self.notes if (note.partition(": ")[0] in sources) is wanted]
        return Lines({key: one for key, one in self.series.items() if (key[0] in sources) is wanted}, notes)


def read_spool(path: Path) -> Lines:
    """What a reader left there; nothing if it left nothing. A last line that is not whole is passed over."""
    found = Lines()
    numbered: list[Series] = []
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        for row in _rows(file):
            match row:
                case ["series", str(source), str(name), dict(labels), str(kind)]:
                    series = found.series.setdefault((source, name, tuple(sorted(labels.items()))), Series(kind))
                    numbered.append(series)
                case ["at", int(ns), list(numbers), list(values)]:
                    for number, value in zip(numbers, values, strict=False):
                        if number < len(numbered):
                            numbered[number].ns.append(ns)
                            numbered[number].values.append(value)
                case ["note", str(source), str(text)]:
                    found.notes.append(f"{source}: {text}")
                case _:
                    continue
    return found


def _rows(file: IO[str]) -> Iterator[Any]:
    for line in file:
        with contextlib.suppress(ValueError):
            yield json.loads(line)
