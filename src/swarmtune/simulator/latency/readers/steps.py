"""Rows of `swarmtune collect`, as Parquet or CSV: a step in each, with its features, its time and its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swarmtune.errors import ConfigurationError, one_line
from swarmtune.simulator.latency.features import FEATURES
from swarmtune.simulator.latency.readers.base import (
    UNITS,
    Found,
    Reading,
    Source,
    csv_columns,
    numbers,
    parquet_columns,
    parquet_names,
)
from swarmtune.simulator.latency.rows import Rows

MAGIC = b"PAR1"
FACTS = ("engine", "version", "model", "tp", "pp", "dp", "device", "kv_dtype")  # columns that say what was measured
LEAST_KNOWN = 3  # names in a header, by which a file with a mistake in it is known


def knows(source: Source) -> bool:
    """A table with the names of some features."""
    names = parquet_names(source.path) if source.first.startswith(MAGIC) else source.header.split(",")
    return len({name.strip().strip('"') for name in names} & {*FEATURES, "seconds"}) >= LEAST_KNOWN


def read(source: Source, reading: Reading) -> Found:
    """The steps; ConfigurationError, with all columns that lack or all values that are no numbers."""
    path = source.path
    names = (*FEATURES, "seconds")
    read_columns = _parquet if source.first.startswith(MAGIC) else csv_columns
    columns = read_columns(path)
    values = numbers(path, columns, names)
    named = columns.get("run") or [path.stem] * len(values)
    runs, run = np.unique(np.array([str(name) for name in named]), return_inverse=True)
    seconds = values[:, -1] * UNITS[reading.unit or "s"]
    places = np.arange(1, len(values) + 1)
    facts = {name: _one(path, name, columns[name]) for name in FACTS if name in columns}
    rows = Rows(values[:, :-1].copy(), seconds, run, tuple(runs.tolist()), np.ones(len(values)), places)
    return Found(rows, unit_is_sure=bool(reading.unit), facts={name: fact for name, fact in facts.items() if fact})


def _one(path: Path, name: str, values: Sequence[Any]) -> str:
    """The one value of a column that says what was measured; ConfigurationError if there are several."""
    found = sorted({str(value) for value in values if value not in (None, "")})
    if len(found) > 1:
        told = one_line(", ".join(found[:5]))[:200]
        raise ConfigurationError(f"{path}: {name} is {told}: steps of several are several models; give a file of each.")
    return found[0] if found else ""


def _parquet(path: Path) -> dict[str, list[Any]]:
    return parquet_columns(path, (*FEATURES, "seconds", "run", *FACTS))
