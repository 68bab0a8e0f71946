"""Files of data, read within bounds: lines, or the elements of one JSON list; all mistakes of a file are reported together,
with their places.

What an entry means is in entries.py, sharegpt.py and traces.py; entries are replayed by replay.py.
"""

from __future__ import annotations

import contextlib
import json
import math
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeGuard

import msgspec
import orjson

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.workload.draws import LONGEST

SHOWN = 20  # mistakes of one file
NAMED = 50  # fields of one file that are counted by name
NS_PER_MS = 1_000_000
LATEST_NS = 100 * 366 * 86_400 * 1_000_000_000
LONGEST_LINE = 256 * 2**20  # bytes
BEGIN = 4096  # bytes by which a format is known
BLANK = b"\xef\xbb\xbf \r\n\t"
LARGEST_FILE = 8 * 2**30  # bytes
FOREIGN = {  # how files begin that are no text in UTF-8
    b"\x1f\x8b": "it is compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd: unpack it first",
    b"\xfd7zXZ": "it is compressed with xz: unpack it first",
    b"BZh": "it is compressed with bzip2: unpack it first",
    b"PK\x03\x04": "it is a zip archive: unpack it first",
    b"PAR1": "it is a Parquet file: write it as JSON lines first",
    b"\xff\xfe": "it is text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "it is text in UTF-16: save it as UTF-8",
}


@dataclass(slots=True)
class Part:
    """One request of a file. Without texts, messages or payload its text is made: of ``hash_ids`` (each a block), or
    at random.

    ``timestamp_ns``: in the file's own time; ``delay_ns``: after the end of the answer before; ``place``: its line, or its
    number in a JSON list, from 1.
    """

    input_tokens: int
    output_tokens: int | None = None
    texts: tuple[str, ...] = ()
    messages: tuple[Mapping[str, Any], ...] = ()
    payload: Mapping[str, Any] | None = None
    system: str = ""
    hash_ids: Sequence[int] = ()
    timestamp_ns: int | None = None
    delay_ns: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    session: str | None = None  # parts of the same one belong together
    place: int = 0


Entry = tuple[Part, ...]  # the turns of one session


@dataclass
class Contents:
    """What a file holds. ``total``: its ``noun`` ("rows", "conversations"), of which some were ``left_out``, by reason.

    ``changes``: what is sent otherwise than it stands there, and how often. ``sent`` and ``unsent``: how often it has
    """

    path: Path
    kind: str = ""
    noun: str = "lines"
    unit: str = "line"
    entries: list[Entry] = field(default_factory=list)
    total: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    unsent: Counter[str] = field(default_factory=Counter)
    bodies: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    streams: Counter[bool] = field(default_factory=Counter)
    paths: dict[str, int] = field(
        default_factory=dict
    )  # of the APIs that lines of OpenAI's batches are for, with the first place of each

    def count(self, fields: Counter[str], name: str) -> None:
        """One more; names beyond the first NAMED are counted together."""
        shown = name[:60]
        fields[shown if shown in fields or len(fields) < NAMED else "others"] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts as plain data."""
        counts = {name: dict(getattr(self, name)) for name in ("left_out", "changes", "sent", "unsent", "models")}
        return {"file": self.path.name, "format": self.kind, "counted": self.noun, "total": self.total, **counts}


class Mistakes:
    """The mistakes of a file. ``unit``: what its places are."""

    def __init__(self, path: Path, unit: str = "line") -> None:
        self.path, self.unit = path, unit
        self.found: list[str] = []
        self.count = 0

    def add(self, place: int, text: str) -> None:
        """One more; the first ones are kept."""
        self.count += 1
        if self.count <= SHOWN:
            self.found.append(f"{self.path}, {self.unit} {place}: {text}")

    def check(self) -> None:
        """Raise ConfigValidationError with the mistakes, if there are any; ConfigPathError if the file is not UTF-8."""
        if self.count:
            check_encoding(self.path)
        if self.count > SHOWN:
            self.found.append(f"{self.path}: {self.count - SHOWN} more mistakes of this kind")
        if self.found:
            raise ConfigValidationError(self.found)


def check_file(path: Path) -> None:
    """OSError if this is not a file of a size that can be read whole: a device or a pipe might never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file; copy its content into one")
    if found.st_size > LARGEST_FILE:
        raise OSError(f"it has more than {LARGEST_FILE:,} bytes; cut it into several files")


def check_text(begin: bytes) -> None:
    """OSError for the first bytes of a file that is no text in UTF-8."""
    for magic, advice in FOREIGN.items():
        if begin.startswith(magic):
            raise OSError(advice)
    if 0 in begin[:4]:
        raise OSError("it is text in UTF-16 or UTF-32: save it as UTF-8")


def wrong_byte(text: bytes) -> str:
    """Which byte is none of a text in UTF-8; empty if all are."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} (0x{text[error.start]:02x}) is not UTF-8: save it as UTF-8"
    return ""


def check_encoding(path: Path) -> None:
    """ConfigPathError with the place of what is no UTF-8 in this file, if it has such bytes."""
    with contextlib.suppress(OSError), path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if wrong := wrong_byte(line):
                raise ConfigPathError(f"the input file {path} cannot be read: line {number}, {wrong}")


def beginning(path: Path) -> bytes:
    """The first bytes that are not blank, some thousand; empty of an empty file. ConfigPathError if it cannot be read."""
    try:
        check_file(path)
        with path.open("rb") as stream:
            begin = stream.read(BEGIN)
            check_text(begin)
            while begin and not (text := begin.lstrip(BLANK)):
                begin = stream.read(BEGIN)
            return text if begin else b""
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ConfigPathError:
    """The error for a file that cannot be read. Raises ConfigPathError itself if the file is not UTF-8."""
    if isinstance(error, UnicodeDecodeError):
        check_encoding(path)
    return ConfigPathError(f"the input file {path} cannot be read: {getattr(error, 'strerror', None) or error}")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, text) of the lines that are not blank."""
    try:
        check_file(path)
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE), b""), 1):
                if len(line) == LONGEST_LINE:
                    raise ConfigValidationError([f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes"])
                if number == 1:
                    check_text(line)
                text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
                if text:
                    yield number, text
    except OSError as error:
        raise unreadable(path, error) from error


def text_lines(path: Path) -> Iterator[str]:
    """The lines as text, with their ends, for the reader of CSV. UnicodeDecodeError; OSError: see check_file, check_text."""
    check_file(path)
    with path.open("rb") as stream, TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
        check_text(stream.peek(8))
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE), ""), 1):
            if len(line) == LONGEST_LINE:
                raise ConfigValidationError([f"{path}, line {number}: longer than {LONGEST_LINE:,} characters"])
            yield line


def documents(path: Path) -> tuple[str, Iterable[tuple[int, Any]]]:
    """("line", lines) of JSON lines, or ("entry", elements) of one JSON list; each with its place, and not yet decoded.

    A list of messages (objects with a role) is one conversation, so lines of such lists are JSON lines.
    """
    if not beginning(path).startswith(b"["):
        return "line", numbered_lines(path)
    try:
        data = path.read_bytes().lstrip(BLANK)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        elements = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (ValueError, RecursionError) as error:  # of UnicodeDecodeError, too
        if _is_list(data[: data.find(b"\n")]):
            return "line", numbered_lines(path)
        check_encoding(path)
        mended = _with_halves(data)
        if mended is None:
            raise ConfigValidationError([f"{path} is not a JSON list: {error}"]) from error
        elements = mended
    if elements and is_message(loads(elements[0])):
        return "line", [(1, data)]
    return "entry", enumerate(elements, 1)


def _with_halves(data: bytes) -> list[msgspec.Raw] | None:
    """The elements of a list with halves of characters, which stay escapes; None: it is no list for another reason."""
    try:
        found = json.loads(data)
        return [msgspec.Raw(json.dumps(element).encode()) for element in found] if isinstance(found, list) else None
    except (ValueError, RecursionError):
        return None


def loads(text: Any) -> Any:
    """One JSON value; None if it is none."""
    try:
        return orjson.loads(memoryview(text))
    except ValueError:
        return None


def whole_characters(text: Any, contents: Contents) -> bytes | None:
    """The same JSON with halves of characters (escapes such as \\ud83d alone) replaced, and counted; None: it is none."""
    try:
        value = json.loads(bytes(text))
        mended = json.dumps(value, ensure_ascii=False).encode(errors="replace")
    except (ValueError, RecursionError):
        return None
    contents.changes["text with half a character, which was replaced"] += 1
    return mended


def is_message(value: Any) -> bool:
    """Is this a chat message?"""
    return isinstance(value, dict) and "role" in value and ("content" in value or "tool_calls" in value)


def _is_list(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), list)
    except ValueError:
        return False


def whole(line: Mapping[str, Any], key: str, least: int = 0) -> int:
    """A length in tokens: a whole number from ``least`` to LONGEST."""
    value = line.get(key)
    if not _is_number(value) or value != int(value) or not least <= value <= LONGEST:
        raise ValueError(f"{key!r} must be a whole number of at least {least}, at most {LONGEST:,}, not {shown(value)}")
    return int(value)


def milliseconds(line: Mapping[str, Any], key: str, ns: int = NS_PER_MS) -> int:
    """A time that is not negative, in ns; ``ns``: of its unit."""
    value = line.get(key)
    if not _is_number(value) or not 0 <= value * ns <= LATEST_NS:
        text = "must be a number that is not negative (and at most a century)"
        raise ValueError(f"{key!r} {text}, not {shown(value)}")
    return round(value * ns)


def shown(value: Any) -> str:
    """A value of a file for a message, of bounded length."""
    text = repr(value)
    return text if len(text) <= SHOWN * 4 else f"{text[: SHOWN * 4]} ..."


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
