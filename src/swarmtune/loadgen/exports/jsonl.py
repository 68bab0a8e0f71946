"""requests.jsonl, one line per request with all its stamps, and run.json with what is true of the whole run.

Lossless: ``read`` gives the Records that were written (errors in order of their first appearance), without what was
observed beside the run: that is in files of its own (observe/files.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from swarmtune.errors import BenchmarkParseError
from swarmtune.files import escaped
from swarmtune.loadgen.exports.facts import written
from swarmtune.loadgen.judge.latencies import ragged
from swarmtune.loadgen.records import ADDED_COLUMNS, CHUNK, REQUEST, Outcome, Phase, Records, WorkerFacts

ROWS_FILE = "requests.jsonl"
RUN_FILE = "run.json"
BLOCK = 8192
PLAIN = [
    n for n in REQUEST.names or () if n not in ("phase", "outcome", "first_chunk", "chunks", "error", "cached_tokens")
]
CHUNK_LISTS = {
    "token_ns": "ns",
    "chunk_lag_ns": "lag_ns",
    "chunk_doubt_ns": "doubt_ns",
    "chunk_tokens": "tokens",
    "chunk_choices": "choice",
}


def rows(records: Records) -> Iterator[dict[str, Any]]:
    """One plain object per request. ``error`` is the text; 0 stamps and -1 numbers mean what they mean in REQUEST."""
    for start in range(0, len(records.requests), BLOCK):
        block = records.requests[start : start + BLOCK]
        columns = {name: block[name].tolist() for name in REQUEST.names or ()}
        where = ragged(block["first_chunk"], block["chunks"])
        chunks = {key: records.chunks[name][where].tolist() for key, name in CHUNK_LISTS.items()}
        end = 0
        for i in range(len(block)):
            begin, end = end, end + columns["chunks"][i]
            error = columns["error"][i]
            yield {
                "id": f"{records.request_prefix}{columns['session'][i]}-{columns['turn'][i]}",
                "phase": Phase(columns["phase"][i]).name.lower(),
                "outcome": Outcome(columns["outcome"][i]).name.lower(),
                "error": records.errors[error] if error >= 0 else None,
                "cached_tokens": columns["cached_tokens"][i],
                **{name: columns[name][i] for name in PLAIN},
                **{key: values[begin:end] for key, values in chunks.items()},
            }


def run_facts(records: Records) -> dict[str, Any]:
    """What run.json holds: the records without their rows."""
    names = ("started_ns", "ended_ns", "started_unix_ns", "request_prefix", "interrupted", "lost")
    return {**{name: getattr(records, name) for name in names}, "workers": [asdict(w) for w in records.workers]}


def write(records: Records, directory: Path) -> None:
    """Write both files, block by block. ConfigPathError if they cannot be."""
    with written(directory / RUN_FILE) as file:
        file.write(escaped(orjson.dumps(run_facts(records), option=orjson.OPT_INDENT_2)))
    with written(directory / ROWS_FILE) as file:
        for row in rows(records):
            file.write(escaped(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)))


def read(directory: Path) -> Records:
    """The records that were written. BenchmarkParseError says which file and line cannot be read."""
    place = str(directory / RUN_FILE)
    lines: list[dict[str, Any]] = []
    try:
        facts = orjson.loads((directory / RUN_FILE).read_bytes())
        with (directory / ROWS_FILE).open("rb") as file:
            for number, line in enumerate(file, 1):
                place = f"{directory / ROWS_FILE}, line {number}"
                lines.append(orjson.loads(line))
        return _records(lines, facts)
    except OSError as error:
        raise BenchmarkParseError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise BenchmarkParseError(f"{place} does not hold what swarmtune bench writes: {error!r}") from error


def _records(lines: list[dict[str, Any]], facts: dict[str, Any]) -> Records:
    requests = np.zeros(len(lines), REQUEST)
    for name in (*PLAIN, "cached_tokens"):
        requests[name] = [line.get(name, 0) if name in ADDED_COLUMNS else line[name] for line in lines]
    requests["phase"] = [Phase[line["phase"].upper()] for line in lines]
    requests["outcome"] = [Outcome[line["outcome"].upper()] for line in lines]
    errors: dict[str, int] = {}
    requests["error"] = [-1 if (e := line["error"]) is None else errors.setdefault(e, len(errors)) for line in lines]
    requests["chunks"] = [len(line["token_ns"]) for line in lines]
    requests["first_chunk"] = np.cumsum(requests["chunks"]) - requests["chunks"]
    chunks = np.zeros(int(requests["chunks"].sum()), CHUNK)
    for key, name in CHUNK_LISTS.items():
        if name not in ADDED_COLUMNS or all(key in line for line in lines):
            chunks[name] = [value for line in lines for value in line[key]]
    workers = [WorkerFacts(**worker) for worker in facts.pop("workers")]
    return Records(requests, chunks, list(errors), workers, **facts)
