"""Files of requests by their format; traces of real services: when requests came and how long they were (Mooncake, Bailian,
Azure, BurstGPT).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from swarmtune.errors import ConfigValidationError
from swarmtune.workload.draws import LONGEST
from swarmtune.workload.entries import (
    MEDIA,
    PROMPTS,
    Parse,
    in_sessions,
    json_entries,
    lengths,
    multi_turn,
    single_turn,
)
from swarmtune.workload.files import (
    LATEST_NS,
    Contents,
    Entry,
    Mistakes,
    Part,
    beginning,
    check_encoding,
    documents,
    is_message,
    loads,
    milliseconds,
    text_lines,
    unreadable,
)
from swarmtune.workload.sharegpt import is_sharegpt, read_sharegpt

NS = 1_000_000_000
BLOCKS = {"mooncake_trace": 512, "bailian_trace": 16}  # tokens that a hash_id stands for, unless told otherwise
WHOLE = re.compile(r"\.0+$", re.ASCII)  # of a whole number that pandas wrote from a column with gaps
STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
TEXTS = (*PROMPTS, "texts", "messages", "payload", *MEDIA)
CSV_HEADS = {
    "azure_trace": ("ContextTokens", "GeneratedTokens"),
    "burst_gpt_trace": ("Request tokens", "Response tokens"),
}
KNOWN_COLUMNS = {  # that need no word if they are not used
    "azure_trace": frozenset({"TIMESTAMP", *CSV_HEADS["azure_trace"]}),
    "burst_gpt_trace": frozenset({"Timestamp", "Model", "Total tokens", "Log Type", *CSV_HEADS["burst_gpt_trace"]}),
}
KINDS = (
    *("single_turn", "multi_turn", "random_pool", "sharegpt"),
    *("mooncake_trace", "bailian_trace", "azure_trace", "burst_gpt_trace"),
)
NO_SESSIONS = frozenset({"random_pool", "bailian_trace"})  # each line stands for itself
Row = Mapping[str, Any]


def read_contents(path: Path, kind: str = "auto", *, max_turns: int = 1) -> Contents:
    """What a file holds. ``max_turns``: of a ShareGPT conversation.

    ConfigPathError if it cannot be read; ConfigValidationError with all mistakes, by line, or if ``auto`` knows no
    such format, or it does not fit into memory.
    """
    try:
        return _read(path, kind, max_turns)
    except MemoryError:
        raise ConfigValidationError([f"{path} does not fit into memory: cut it into several files"]) from None


def _read(path: Path, kind: str, max_turns: int) -> Contents:
    if not beginning(path):
        raise ConfigValidationError([f"the input file {path} cannot be used: it is empty"])
    kind = sniff(path) if kind == "auto" else kind
    contents = Contents(path, kind)
    if kind == "sharegpt":
        read_sharegpt(contents, max_turns)
    elif kind == "azure_trace":
        _read_csv(contents, "TIMESTAMP", _azure)
    elif kind == "burst_gpt_trace":
        _read_csv(contents, "Timestamp", _burst_gpt)
    else:
        parsers: Mapping[str, Parse] = {
            "multi_turn": multi_turn,
            "bailian_trace": _bailian,
            "mooncake_trace": _mooncake,
        }
        json_entries(contents, parsers.get(kind, single_turn))
        if kind not in NO_SESSIONS:
            in_sessions(contents)
    if not contents.entries:
        reasons = "; ".join(f"{number} left out ({reason})" for reason, number in contents.left_out.items())
        raise ConfigValidationError([f"{path} has no entry that can be used as {kind}{reasons and f': {reasons}'}"])
    return contents


def sniff(path: Path) -> str:
    """The format of a file, by its first line, or by the first element of a JSON list."""
    head = next(iter(beginning(path).decode(errors="replace").splitlines()), "")
    for kind, columns in CSV_HEADS.items():
        if all(column in head for column in columns) and not head.startswith("{"):
            return kind
    kind, begins = "", f"it begins with {head[:60]!r}"
    if head.startswith(("{", "[", '"')):
        _, items = documents(path)
        first = next((text for _, text in items), None)
        kind, begins = (_sniffed(first, head), begins) if first is not None else ("", "it is an empty list")
    if kind:
        return kind
    check_encoding(path)
    kinds = ", ".join(KINDS)
    mistake = f"{path}: a format that is not known ({begins}); custom_dataset_type can name it: {kinds}"
    raise ConfigValidationError([mistake])


def _sniffed(text: Any, head: str) -> str:
    line = loads(text)
    if isinstance(line, str) or (isinstance(line, list) and line and is_message(line[0])):
        return "single_turn"
    if isinstance(line, dict) and is_sharegpt(line):
        return "sharegpt"
    keys = frozenset(line) if isinstance(line, dict) else frozenset(re.findall(r'"(\w+)"\s*:', head))
    for needed, kind in (
        ({"turns"}, "multi_turn"),
        ({"conversations"}, "sharegpt"),
        ({"chat_id", "input_length"}, "bailian_trace"),
        ({"input_length"}, "mooncake_trace"),
    ):
        if needed <= keys:
            return kind
    if isinstance(line, dict) and line.get("type") == "random_pool":
        return "random_pool"
    return "single_turn" if keys & {*TEXTS, "input", "body"} else ""


def _mooncake(line: Row, contents: Contents) -> Entry:
    """{"timestamp" (ms), "input_length", "output_length", "hash_ids"}, and AIPerf's "text_input", "messages",
    "payload", "delay" (ms) and "session_id": lines of the same session are its turns.
    """
    return single_turn(line, contents) if any(key in line for key in TEXTS) else lengths(line, contents, NS // 1000)


def _bailian(line: Row, contents: Contents) -> Entry:
    """{"chat_id", "parent_chat_id", "timestamp" (s), "input_length", "output_length", "hash_ids" of 16 tokens}.

    An input contains its whole history, so each line is a request of its own, at its own time; prefixes are shared.
    """
    return lengths(line, contents, NS)


def _read_csv(contents: Contents, first: str, parse: Callable[[Row, Contents], Part | None]) -> None:
    path, kind = contents.path, contents.kind
    contents.noun, mistakes, names = "rows", Mistakes(path), list[str]()
    try:
        rows = csv.DictReader(text_lines(path))
        names = rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        missing = [name for name in (first, *CSV_HEADS[kind]) if name not in names]
        if missing:
            raise ConfigValidationError([f"{path}, line 1: no column {name!r}, as a {kind} has" for name in missing])
        if twice := sorted(name for name in {*names} & KNOWN_COLUMNS[kind] if names.count(name) > 1):
            raise ConfigValidationError([f"{path}, line 1: the column {twice[0]!r} is there twice"])
        for row in rows:
            contents.total += 1
            try:
                part = parse(_whole_row(row), contents)
            except (ValueError, TypeError) as error:
                mistakes.add(rows.line_num, str(error))
                continue
            if part is not None:
                part.place = rows.line_num
                contents.entries.append((part,))
    except csv.Error as error:
        mistakes.add(rows.line_num, f"not CSV: {error}")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    mistakes.check()
    for name in names:
        if name not in KNOWN_COLUMNS[kind]:
            contents.unsent[name[:60]] = len(contents.entries)
    if kind == "azure_trace":
        begin = min((entry[0].timestamp_ns or 0 for entry in contents.entries), default=0)
        for (part,) in contents.entries:
            part.timestamp_ns = (part.timestamp_ns or 0) - begin


def _whole_row(row: dict[Any, Any]) -> Row:
    if any(cell.strip() for cell in row.get(None) or ()):
        raise ValueError(f"it has {len(row) - 1 + len(row[None])} cells, the first line {len(row) - 1}")
    return row


def _azure(row: Row, contents: Contents) -> Part:
    """TIMESTAMP (date and time, 100 ns), ContextTokens, GeneratedTokens; times count from the file's first."""
    match = STAMP.fullmatch((row["TIMESTAMP"] or "").strip())
    if match is None:
        raise ValueError(f"TIMESTAMP must be like 2023-11-16 18:15:46.6805900, not {(row['TIMESTAMP'] or '')[:60]!r}")
    date, time, fraction, zone = match.groups()
    seconds = int(datetime.fromisoformat(f"{date}T{time}{zone or 'Z'}").timestamp())
    stamp = seconds * NS + int((fraction or "0").ljust(9, "0"))
    if not 0 <= stamp <= LATEST_NS:
        raise ValueError(f"TIMESTAMP must lie between 1970 and 2069, not in {date[:4]}")
    return _part(row, *CSV_HEADS["azure_trace"], stamp, contents)


def _burst_gpt(row: Row, contents: Contents) -> Part | None:
    """Timestamp (s), Model, Request tokens, Response tokens ...; requests without a response had failed and are left
    out.
    """
    try:
        stamp = milliseconds({"Timestamp": float(row["Timestamp"])}, "Timestamp", NS)
    except (ValueError, TypeError):
        text = (row["Timestamp"] or "")[:60]
        raise ValueError(f"Timestamp must be a number of seconds, at most a century, not {text!r}") from None
    if _number(row, "Response tokens") == 0:
        contents.left_out["no response"] += 1
        return None
    return _part(row, *CSV_HEADS["burst_gpt_trace"], stamp, contents)


def _part(row: Row, asked: str, answered: str, stamp: int, contents: Contents) -> Part:
    prompt, answer = _number(row, asked), _number(row, answered)
    if not (prompt and answer):
        contents.changes["row of 0 tokens sent as 1"] += 1
    return Part(max(1, prompt), max(1, answer), timestamp_ns=stamp)


def _number(row: Row, name: str) -> int:
    text = WHOLE.sub("", (row[name] or "").strip())
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{name} must be a whole number, not {text[:60]!r}")
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(LONGEST)) or int(digits) > LONGEST:
        raise ValueError(f"{name} must be at most {LONGEST:,}, not {text[:60]}")
    return int(digits)
