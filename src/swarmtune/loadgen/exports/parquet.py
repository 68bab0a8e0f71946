"""Raw stamps as columns: requests.parquet and chunks.parquet (pyarrow), or the same in one records.npz (numpy alone).

Parquet: ``requests`` has the fields of records.REQUEST, with outcome, phase and error as text; ``chunks`` those of
records.CHUNK and the number of its request (``request``). What is true of the whole run is in the schema's metadata, key
``swarmtune``, as JSON.
"""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.exports.facts import optional, written
from swarmtune.loadgen.exports.jsonl import run_facts
from swarmtune.loadgen.judge.latencies import ragged
from swarmtune.loadgen.records import ADDED_COLUMNS, CHUNK, REQUEST, Outcome, Phase, Records, WorkerFacts

REQUESTS_FILE, CHUNKS_FILE, NPZ_FILE = "requests.parquet", "chunks.parquet", "records.npz"
KEY = b"swarmtune"


def write(records: Records, directory: Path, form: Literal["auto", "parquet", "npz"] = "auto") -> list[Path]:
    """Write the records; the paths. "auto": Parquet if pyarrow is there. MissingExtraError: "parquet" without pyarrow."""
    if form == "npz" or (form == "auto" and importlib.util.find_spec("pyarrow") is None):
        return _write_npz(records, directory)
    arrow, parquet = optional("pyarrow", "Parquet"), optional("pyarrow.parquet", "Parquet")
    names = {Outcome: [o.name.lower() for o in Outcome], Phase: [p.name.lower() for p in Phase]}
    requests = {name: np.ascontiguousarray(records.requests[name]) for name in REQUEST.names or ()}
    columns: dict[str, Any] = {**requests}
    columns["outcome"] = arrow.DictionaryArray.from_arrays(requests["outcome"].astype(np.int32), names[Outcome])
    columns["phase"] = arrow.DictionaryArray.from_arrays(requests["phase"].astype(np.int32), names[Phase])
    missing = requests["error"] < 0
    index = arrow.array(requests["error"], mask=missing)
    columns["error"] = arrow.DictionaryArray.from_arrays(index, arrow.array(records.errors, arrow.string()))
    owner = np.zeros(len(records.chunks), np.int64)
    owner[ragged(requests["first_chunk"], requests["chunks"])] = np.repeat(
        np.arange(len(records.requests)), requests["chunks"]
    )
    chunks = {"request": owner, **{name: np.ascontiguousarray(records.chunks[name]) for name in CHUNK.names or ()}}
    metadata = {KEY: orjson.dumps({**run_facts(records), "errors": records.errors})}
    for name, content in ((CHUNKS_FILE, chunks), (REQUESTS_FILE, columns)):
        with written(directory / name) as file:
            parquet.write_table(arrow.table(content).replace_schema_metadata(metadata), file, compression="zstd")
    return [directory / REQUESTS_FILE, directory / CHUNKS_FILE]


def _write_npz(records: Records, directory: Path) -> list[Path]:
    facts = orjson.dumps({**run_facts(records), "errors": records.errors})
    with written(directory / NPZ_FILE) as file:
        np.savez_compressed(
            file, requests=records.requests, chunks=records.chunks, facts=np.frombuffer(facts, np.uint8)
        )
    return [directory / NPZ_FILE]


def read(directory: Path) -> Records:
    """The records that ``write`` left. BenchmarkParseError if there are none; MissingExtraError: Parquet without pyarrow."""
    try:
        return _read_parquet(directory) if (directory / REQUESTS_FILE).exists() else _read_npz(directory)
    except OSError as error:
        raise BenchmarkParseError(f"{directory} holds no {REQUESTS_FILE} or {NPZ_FILE} to read: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BenchmarkParseError(f"{directory} holds records that cannot be read: {error!r}") from error


def _read_parquet(directory: Path) -> Records:
    parquet = optional("pyarrow.parquet", "Parquet")
    table, stamps = parquet.read_table(directory / REQUESTS_FILE), parquet.read_table(directory / CHUNKS_FILE)
    facts = orjson.loads(table.schema.metadata[KEY])
    codes = {
        "outcome": {o.name.lower(): int(o) for o in Outcome},
        "phase": {p.name.lower(): int(p) for p in Phase},
        "error": {None: -1, **{text: i for i, text in enumerate(facts["errors"])}},
    }
    requests, chunks = np.zeros(table.num_rows, REQUEST), np.zeros(stamps.num_rows, CHUNK)
    for name in set(REQUEST.names or ()) - (ADDED_COLUMNS - set(table.column_names)):
        column = table[name]
        requests[name] = [codes[name][v] for v in column.to_pylist()] if name in codes else column.to_numpy()
    for name in set(CHUNK.names or ()) - (ADDED_COLUMNS - set(stamps.column_names)):
        chunks[name] = stamps[name].to_numpy()
    return _records(requests, chunks, facts)


def _read_npz(directory: Path) -> Records:
    with np.load(directory / NPZ_FILE, allow_pickle=False) as content:
        requests, chunks = _filled(content["requests"], REQUEST), _filled(content["chunks"], CHUNK)
        return _records(requests, chunks, orjson.loads(content["facts"].tobytes()))


def _filled(written: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """The rows in the form of today; columns that earlier versions did not write are 0."""
    rows = np.zeros(len(written), kind)
    for name in set(kind.names or ()) - (ADDED_COLUMNS - set(written.dtype.names or ())):
        rows[name] = written[name]
    return rows


def _records(requests: Any, chunks: Any, facts: dict[str, Any]) -> Records:
    workers = [WorkerFacts(**worker) for worker in facts.pop("workers")]
    return Records(requests, chunks, facts.pop("errors"), workers, **facts)
