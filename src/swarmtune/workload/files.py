"""Files of requests and conversations, read into entries; all mistakes of a file are reported together, with lines.

The formats of traces are in traces.py; entries are replayed by replay.py.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import msgspec
import orjson

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.workload.draws import LONGEST
from swarmtune.workload.tokens import count

SHOWN = 20  # mistakes of one file
NS_PER_MS = 1_000_000
LATEST_NS = 100 * 366 * 86_400 * 1_000_000_000
LONGEST_LINE = 256 * 2**20  # bytes
LARGEST_FILE = 8 * 2**30  # bytes
OUTPUTS = ("output_length", "output_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens")
PROMPTS = ("text", "prompt", "text_input")


@dataclass(slots=True)
class Part:
    """One request of a file. Without texts, messages or payload its text is made: of ``hash_ids`` (each a block), or
    at random.

    ``timestamp_ns``: in the file's own time; ``delay_ns``: after the end of the answer before.
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
    session: object = None  # parts of the same one belong together


Entry = tuple[Part, ...]  # the turns of one session
Parse = Callable[[Mapping[str, Any]], Entry]


class Mistakes:
    """The mistakes of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str] = []
        self.count = 0

    def add(self, line: int, text: str) -> None:
        """One more; the first ones are kept."""
        self.count += 1
        if self.count <= SHOWN:
            self.found.append(f"{self.path}, line {line}: {text}")

    def check(self) -> None:
        """ConfigValidationError if there was any."""
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


def open_bytes(path: Path) -> bytes:
    """The file's content; ConfigPathError if it cannot be read."""
    try:
        check_file(path)
        return path.read_bytes()
    except OSError as error:
        raise ConfigPathError(f"the input file {path} cannot be read: {error.strerror or error}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, text) of the lines that are not blank."""
    try:
        check_file(path)
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE), b""), 1):
                if len(line) == LONGEST_LINE:
                    raise ConfigValidationError([f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes"])
                text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
                if text:
                    yield number, text
    except OSError as error:
        raise ConfigPathError(f"the input file {path} cannot be read: {error.strerror or error}") from error


def json_lines(path: Path, parse: Parse) -> list[Entry]:
    """One entry per line; ``parse`` raises ValueError for what is wrong with a line."""
    mistakes, entries = Mistakes(path), list[Entry]()
    for number, text in numbered_lines(path):
        try:
            line = orjson.loads(text)
            if isinstance(line, dict):
                entries.append(parse(line))
            else:
                mistakes.add(number, "not a JSON object")
        except orjson.JSONDecodeError as error:
            mistakes.add(number, f"not JSON: {error}")
        except ValueError as error:
            mistakes.add(number, str(error))
    mistakes.check()
    return entries


def single_turn(line: Mapping[str, Any]) -> Entry:
    """{"text" | "prompt" | "texts" | "messages" | "payload", "output_length", "timestamp" (ms), "delay" (ms),
    "system"}.

    A line with "model" and "messages", "prompt" or "input" is a raw payload: a whole body, sent as it is.
    """
    return (_part(line),)


def multi_turn(line: Mapping[str, Any]) -> Entry:
    """{"session_id", "turns": [{"text" ..., "delay" (ms)}, ...]}; the turns as in ``single_turn``."""
    turns = line.get("turns")
    if not isinstance(turns, list) or not turns:
        raise ValueError("'turns' must be a list with at least one turn")
    if not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("each of 'turns' must be a JSON object")
    parts = tuple(_part(turn) for turn in turns)
    if parts[0].timestamp_ns is None and line.get("timestamp") is not None:
        parts[0].timestamp_ns = milliseconds(line, "timestamp")
    return parts


class _Said(msgspec.Struct, gc=False):
    value: str
    speaker: str = msgspec.field(name="from", default="")


class _Conversation(msgspec.Struct):
    conversations: list[_Said] = []


def sharegpt(path: Path, max_turns: int = 1) -> list[Entry]:
    """ShareGPT: a JSON list (or lines) of {"conversations": [{"from": "human", "value"}, {"from": "gpt", "value"},
    ...]}.

    The human messages are the prompts; the lengths of the answers in the file are requested. Conversations without a
    whole first exchange are left out, as usual.
    """
    data = open_bytes(path).lstrip(b"\xef\xbb\xbf \r\n\t")
    mistakes, entries = Mistakes(path), list[Entry]()
    try:
        raw = msgspec.json.decode(data, type=list[msgspec.Raw]) if data.startswith(b"[") else data.splitlines()
    except msgspec.MsgspecError as error:
        raise ConfigValidationError([f"{path} is not a JSON list: {error}"]) from error
    decode = msgspec.json.Decoder(_Conversation).decode
    for number, text in enumerate(raw, 1):
        try:
            entry = _exchanges(decode(text).conversations, max_turns) if bytes(text).strip() else ()
        except msgspec.MsgspecError as error:
            mistakes.add(number, f"not a ShareGPT conversation: {error}")
        else:
            if entry:
                entries.append(entry)
    mistakes.check()
    return entries


def _exchanges(messages: Sequence[_Said], max_turns: int) -> Entry:
    if messages and messages[0].speaker == "system":
        messages = messages[1:]
    parts: list[Part] = []
    for asked, answered in zip(messages[::2], messages[1::2], strict=False):
        if asked.speaker not in ("", "human", "user") or not asked.value or len(parts) == max_turns:
            break
        parts.append(Part(count(asked.value), max(1, count(answered.value)), (asked.value,)))
    return tuple(parts)


def _part(line: Mapping[str, Any]) -> Part:
    output = next((whole(line, key, 1) for key in OUTPUTS if line.get(key) is not None), None)
    delay = 0 if line.get("delay") is None else milliseconds(line, "delay")
    stamp = None if line.get("timestamp") is None else milliseconds(line, "timestamp")
    payload = line.get("payload")
    if payload is None and "model" in line and any(key in line for key in ("messages", "prompt", "input")):
        payload, delay, stamp = line, 0, None
    if payload is not None:
        if not isinstance(payload, dict):
            raise ValueError("'payload' must be a JSON object")
        asked = next((whole(payload, key, 1) for key in OUTPUTS if payload.get(key) is not None), output)
        return Part(_spoken(payload), asked, payload=payload, timestamp_ns=stamp, delay_ns=delay)
    system, extra = line.get("system") or "", line.get("extra") or {}
    if not isinstance(system, str) or not isinstance(extra, dict):
        raise ValueError("'system' must be a text and 'extra' a JSON object")  # noqa: TRY004  a file is wrong
    messages = line.get("messages")
    if messages is not None:
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            raise ValueError("'messages' must be a list of JSON objects with role and content")
        tokens = _spoken(line) + count(system)
        return Part(tokens, output, (), tuple(messages), None, system, (), stamp, delay, extra)
    texts = _texts(line)
    tokens = sum(map(count, texts)) + count(system)
    return Part(tokens, output, texts, (), None, system, (), stamp, delay, extra)


def _texts(line: Mapping[str, Any]) -> tuple[str, ...]:
    texts = line.get("texts")
    if texts is None:
        texts = next(([line[key]] for key in PROMPTS if line.get(key) is not None), None)
    if texts is None:
        raise ValueError("one of 'text', 'prompt', 'texts', 'messages' or 'payload' is needed")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("the prompt must be a text that is not empty, 'texts' a list of such")
    return tuple(texts)


def _spoken(tree: Any) -> int:
    """About the tokens of all texts in messages, prompts and inputs of a body."""
    if isinstance(tree, str):
        return count(tree)
    if isinstance(tree, list):
        return sum(map(_spoken, tree))
    if isinstance(tree, Mapping):
        return sum(_spoken(tree.get(key)) for key in ("messages", "prompt", "input", "inputs", "content", "text"))
    return 0


def whole(line: Mapping[str, Any], key: str, least: int = 0) -> int:
    """A length in tokens: a whole number from ``least`` to LONGEST."""
    value = line.get(key)
    if not _is_number(value) or value != int(value) or not least <= value <= LONGEST:
        raise ValueError(f"{key!r} must be a whole number of at least {least}, at most {LONGEST:,}, not {value!r}")
    return int(value)


def milliseconds(line: Mapping[str, Any], key: str, ns: int = NS_PER_MS) -> int:
    """A time that is not negative, in ns; ``ns``: of its unit."""
    value = line.get(key)
    if not _is_number(value) or not 0 <= value * ns <= LATEST_NS:
        raise ValueError(f"{key!r} must be a number that is not negative (and at most a century), not {value!r}")
    return round(value * ns)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
