"""Traces of real services: when requests came and how long they were; Mooncake, Bailian, Azure, BurstGPT."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.workload.draws import LONGEST
from swarmtune.workload.files import (
    PROMPTS,
    Entry,
    Mistakes,
    Part,
    check_file,
    json_lines,
    milliseconds,
    multi_turn,
    numbered_lines,
    sharegpt,
    single_turn,
    whole,
)

NS = 1_000_000_000
BLOCKS = {"mooncake_trace": 512, "bailian_trace": 16}  # tokens that a hash_id stands for, unless told otherwise
STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
CSV_HEADS = {
    "azure_trace": ("ContextTokens", "GeneratedTokens"),
    "burst_gpt_trace": ("Request tokens", "Response tokens"),
}
KINDS = (
    *("single_turn", "multi_turn", "random_pool", "sharegpt"),
    *("mooncake_trace", "bailian_trace", "azure_trace", "burst_gpt_trace"),
)


def read_entries(path: Path, kind: str = "auto", *, max_turns: int = 1) -> tuple[str, list[Entry]]:
    """(format, entries) of a file. ``max_turns``: of a ShareGPT conversation.

    ConfigPathError if it cannot be read; ConfigValidationError with all mistakes, by line, or if ``auto`` knows no
    such format.
    """
    kind = sniff(path) if kind == "auto" else kind
    if kind == "sharegpt":
        entries = sharegpt(path, max_turns)
    elif kind == "mooncake_trace":
        entries = _mooncake(path)
    elif kind in CSV_HEADS:
        entries = _csv(path, *(("TIMESTAMP", _azure) if kind == "azure_trace" else ("Timestamp", _burst_gpt)), kind)
    else:
        parsers = {"multi_turn": multi_turn, "bailian_trace": _bailian}
        entries = json_lines(path, parsers.get(kind, single_turn))
    if not entries:
        raise ConfigValidationError([f"{path} has no entry that can be used as {kind}"])
    return kind, entries


def sniff(path: Path) -> str:
    """The format of a file, by its first line."""
    first = next((text for _, text in numbered_lines(path)), b"")
    head = first.decode(errors="replace")
    if head.startswith("["):
        return "sharegpt"
    for kind, columns in CSV_HEADS.items():
        if all(column in head for column in columns):
            return kind
    for keys, kind in (
        (('"turns"',), "multi_turn"),
        (('"conversations"',), "sharegpt"),
        (('"chat_id"', '"input_length"'), "bailian_trace"),
        (('"input_length"',), "mooncake_trace"),
        (('"random_pool"',), "random_pool"),
    ):
        if head.startswith("{") and all(key in head for key in keys):
            return kind
    if head.startswith("{") and any(f'"{key}"' in head for key in (*PROMPTS, "texts", "messages", "payload", "input")):
        return "single_turn"
    kinds = ", ".join(KINDS)
    mistake = (
        f"{path}: a format that is not known (it begins with {head[:60]!r}); custom_dataset_type can name it: {kinds}"
    )
    raise ConfigValidationError([mistake])


def _mooncake(path: Path) -> list[Entry]:
    """{"timestamp" (ms), "input_length", "output_length", "hash_ids"}, and AIPerf's "text_input", "messages",
    "payload", "delay" (ms) and "session_id": lines of the same session are its turns.
    """

    def parse(line: Mapping[str, Any]) -> Entry:
        if any(key in line for key in (*PROMPTS, "texts", "messages", "payload")):
            entry = single_turn(line)
        else:
            entry = (_lengths(line, "timestamp", NS // 1000),)
        if line.get("delay") is not None:
            entry[0].delay_ns = milliseconds(line, "delay")
        entry[0].session = line.get("session_id")
        return entry

    sessions: dict[object, list[Part]] = {}
    for number, (part,) in enumerate(json_lines(path, parse)):
        known = part.session is not None
        sessions.setdefault((known, str(part.session) if known else number), []).append(part)
    return [tuple(parts) for parts in sessions.values()]


def _bailian(line: Mapping[str, Any]) -> Entry:
    """{"chat_id", "parent_chat_id", "timestamp" (s), "input_length", "output_length", "hash_ids" of 16 tokens}.

    An input contains its whole history, so each line is a request of its own, at its own time; prefixes are shared.
    """
    return (_lengths(line, "timestamp", NS),)


def _lengths(line: Mapping[str, Any], key: str, ns: int) -> Part:
    ids = line.get("hash_ids") or ()
    if not isinstance(ids, list | tuple) or not all(isinstance(one, int) and one >= 0 for one in ids):
        raise ValueError("'hash_ids' must be a list of whole numbers that are not negative")
    stamp = None if line.get(key) is None else milliseconds(line, key, ns)
    output = None if line.get("output_length") is None else max(1, whole(line, "output_length"))
    return Part(whole(line, "input_length", 1), output, hash_ids=tuple(ids), timestamp_ns=stamp)


def _csv(path: Path, first: str, parse: Callable[[Mapping[str, str]], Part | None], kind: str) -> list[Entry]:
    mistakes, entries = Mistakes(path), list[Entry]()
    try:
        check_file(path)
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            missing = [name for name in (first, *CSV_HEADS[kind]) if name not in (rows.fieldnames or ())]
            if missing:
                raise ConfigValidationError(
                    [f"{path}, line 1: no column {name!r}, as a {kind} has" for name in missing]
                )
            for row in rows:
                try:
                    part = parse(row)
                except (ValueError, TypeError) as error:
                    mistakes.add(rows.line_num, str(error))
                else:
                    entries += [(part,)] if part is not None else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigPathError(f"the input file {path} cannot be read: {error}") from error
    mistakes.check()
    begin = min((entry[0].timestamp_ns or 0 for entry in entries), default=0) if kind == "azure_trace" else 0
    for entry in entries:
        entry[0].timestamp_ns = (entry[0].timestamp_ns or 0) - begin
    return entries


def _azure(row: Mapping[str, str]) -> Part:
    """TIMESTAMP (date and time, 100 ns), ContextTokens, GeneratedTokens; times count from the file's first."""
    match = STAMP.fullmatch((row["TIMESTAMP"] or "").strip())
    if match is None:
        raise ValueError(f"TIMESTAMP must be like 2023-11-16 18:15:46.6805900, not {row['TIMESTAMP']!r}")
    date, time, fraction, zone = match.groups()
    seconds = int(datetime.fromisoformat(f"{date}T{time}{zone or 'Z'}").timestamp())
    stamp = seconds * NS + int((fraction or "0").ljust(9, "0"))
    return Part(_number(row, "ContextTokens"), _number(row, "GeneratedTokens"), timestamp_ns=stamp)


def _burst_gpt(row: Mapping[str, str]) -> Part | None:
    """Timestamp (s), Model, Request tokens, Response tokens ...; requests without a response had failed and are left
    out.
    """
    if _number(row, "Response tokens", 0) == 0:
        return None
    try:
        stamp = milliseconds({"Timestamp": float(row["Timestamp"])}, "Timestamp", NS)
    except ValueError:
        raise ValueError(f"Timestamp must be a number of seconds, not {row['Timestamp']!r}") from None
    return Part(_number(row, "Request tokens"), _number(row, "Response tokens"), timestamp_ns=stamp)


def _number(row: Mapping[str, str], name: str, least: int = 1) -> int:
    text = (row[name] or "").strip()
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, not {text[:60]!r}")
    return min(LONGEST, max(least, int(text[:20])))
