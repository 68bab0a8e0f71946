"""The CSV of msserviceprofiler: a forward pass in each row, its batch in one tuple and its requests in another."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from swarmtune.errors import ConfigurationError
from swarmtune.simulator.latency.features import piece_work
from swarmtune.simulator.latency.readers.base import UNITS, Found, Reading, Source, as_number, csv_columns
from swarmtune.simulator.latency.rows import rows_of

BATCH = ("batch_stage", "batch_size", "total_need_blocks", "total_prefill_token", "max_seq_len", "model_execute_time")
REQUEST = ("input_length", "need_blocks", "output_length")
LONGEST = 1_000_000  # characters of one cell
UNKNOWN = np.full(5, np.nan)
NOTES = (
    "msserviceprofiler: the time is that of the forward pass; what the engine does between two passes is not in it",
    "msserviceprofiler: cached tokens of prompts are not told; prompts count as computed whole",
)


def knows(source: Source) -> bool:
    """A header that is a tuple with a stage and a time."""
    return "batch_stage" in source.header and "model_execute_time" in source.header


def read(source: Source, reading: Reading) -> Found:
    """The passes. A batch of which the work cannot be known has NaN as features, and is refused with its row."""
    path = source.path
    columns = csv_columns(path)
    names = {_tuple(name): name for name in columns}
    batch = next((name for name in names if name and "batch_stage" in name), None)
    request = next((name for name in names if name and "input_length" in name), None)
    lacking = [name for name in (*BATCH[:2], *BATCH[3:4], *BATCH[5:]) if name not in (batch or ())]
    lacking += [name for name in (REQUEST[0], REQUEST[2]) if name not in (request or ())]
    if batch is None or request is None or lacking:
        raise ConfigurationError(f"{path}: columns lack: {', '.join(lacking)}.")
    cells = zip(columns[names[batch]], columns[names[request]], strict=True)
    found = [
        _step(dict(zip(batch, b, strict=False)), request, r) for b, r in ((_tuple(b), _tuple(r)) for b, r in cells)
    ]
    features = np.array([step for step, _ in found])
    seconds = np.array([time for _, time in found]) * UNITS[reading.unit or "us"]
    return Found(rows_of(features, seconds, path.stem), NOTES, unit_is_sure=True)


def _tuple(cell: str) -> tuple[Any, ...]:
    """The tuple that a cell holds; empty if it holds none."""
    try:
        found = ast.literal_eval(cell.strip()) if len(cell) <= LONGEST else ()
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    return found if isinstance(found, tuple) else ()


def _step(batch: dict[str, Any], names: tuple[Any, ...], requests: tuple[Any, ...]) -> tuple[Any, float]:
    """Features and time of a pass. A batch of both stages is labelled "decode" there, and its prompts cannot be told."""
    seconds = as_number(str(batch.get("model_execute_time")).strip("[]'\""))
    if requests and not isinstance(requests[0], tuple):
        requests = (requests,)
    size, prompt_tokens = as_number(batch.get("batch_size")), as_number(batch.get("total_prefill_token"))
    whole = all(isinstance(r, tuple) and len(r) == len(names) for r in requests)
    if not whole or len(requests) != size:
        return UNKNOWN, seconds
    table = np.array([[as_number(value) for value in r] for r in requests])
    inputs, outputs = table[:, names.index("input_length")], table[:, names.index("output_length")]
    if batch.get("batch_stage") == "prefill":
        return (inputs.sum(), 0, 0, piece_work(inputs, 0.0).sum(), size), seconds
    if batch.get("batch_stage") != "decode" or prompt_tokens > size:
        return UNKNOWN, seconds
    return (size, size, (inputs + outputs).sum(), 0, 0), seconds
