"""What readers share: what they are asked and what they give, and columns of tables."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import (
    MOST_LISTED,
    ConfigPathError,
    ConfigurationError,
    ConfigValidationError,
    MissingExtraError,
    one_line,
)
from swarmtune.files import opened, text_of
from swarmtune.simulator.latency.rows import Rows

FIRST_BYTES = 4096
MOST_BYTES = 2**30  # of a text
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What the user says about the sources. ``unit``: of the column ``seconds``; "": seconds, and checked. ``config``: the
    model's config.json. ``budget``: tokens that the engine computes in one step at most.
    """

    unit: str = ""
    config: Path | None = None
    budget: int = 8192


@dataclass(frozen=True)
class Source:
    """A file with its first bytes, or a folder with none."""

    path: Path
    first: bytes

    @property
    def header(self) -> str:
        """The first line of a text; empty for anything else."""
        return self.first.partition(b"\n")[0].decode("utf-8-sig", "replace").strip()


@dataclass(frozen=True)
class Found:
    """The steps of a source, and what is to be said about them. ``unit_is_sure``: the form of the source states it.
    ``facts``: what it says of the engine, by the names of model.Identity.
    """

    rows: Rows
    notes: tuple[str, ...] = ()
    unit_is_sure: bool = False
    facts: dict[str, str] = field(default_factory=dict)


def first_part(path: Path) -> bytes:
    """The first bytes of a file, none of a folder. OSError; ConfigPathError if it is neither."""
    if path.is_dir():
        return b""
    if path.exists() and not path.is_file():
        raise ConfigPathError(f"{path} is no file or folder.")
    with opened(path) as file:
        return file.read(FIRST_BYTES)


def text(path: Path) -> str:
    """The text of a file; ConfigurationError if it is none or too large."""
    try:
        return text_of(path, MOST_BYTES)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is {one_line(str(error))}.") from error


def csv_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV file with a header. ConfigurationError if it has none, or rows of another length."""
    try:
        lines = list(csv.reader(io.StringIO(text(path), newline="")))
    except csv.Error as error:
        raise ConfigurationError(f"{path} is no CSV file: {one_line(str(error))}.") from error
    lines = [line for line in lines if line]
    names = [name.strip() for name in lines[0]] if lines else []
    if len(lines) < 2 or len(set(names)) < len(names):
        raise ConfigurationError(f"{path}: a header of different names and rows below it are needed.")
    if wrong := [number for number, line in enumerate(lines[1:], 1) if len(line) != len(names)]:
        raise ConfigurationError(f"{path}: row {wrong[0]} has {len(lines[wrong[0]])} values for {len(names)} columns.")
    return {name: list(values) for name, values in zip(names, zip(*lines[1:], strict=True), strict=True)}


def parquet_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Those of these columns that a Parquet file has. MissingExtraError without pyarrow."""
    parquet = _pyarrow()
    try:
        file = parquet.ParquetFile(path)
        chosen = [name for name in file.schema_arrow.names if name in names]
        table = file.read(columns=chosen)
        return {name: table.column(name).to_pylist() for name in chosen}
    except (ValueError, OSError, KeyError) as error:  # its own errors are those of Python
        raise ConfigurationError(f"{path} is no whole Parquet file: {one_line(str(error))}.") from error


def parquet_names(path: Path) -> tuple[str, ...]:
    """The names of the columns of a Parquet file; none if it is broken."""
    try:
        return tuple(_pyarrow().read_schema(path).names)
    except (ValueError, OSError):
        return ()


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("Reading Parquet", "export") from error


def numbers(path: Path, columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Floats:
    """These columns as an array of shape (n, len(names)); what is empty is NaN. ConfigurationError: columns that lack, and
    every value that is no number.
    """
    if lacking := [name for name in names if name not in columns]:
        raise ConfigurationError(f"{path}: columns lack: {', '.join(lacking)}; there are {_listed(columns)}.")
    mistakes: list[str] = []
    found = np.empty((len(columns[names[0]]), len(names)))
    for index, name in enumerate(names):
        values = columns[name]
        try:
            found[:, index] = [np.nan if value is None or value == "" else value for value in values]
        except (ValueError, TypeError):
            for place, value in enumerate(values):
                found[place, index] = number = as_number(value)
                if number != number and value not in (None, "", "nan", "NaN") and len(mistakes) < MOST_LISTED:
                    mistakes.append(
                        f"{path}, row {place + 1}: {name} is {one_line(repr(value))[:50]}, which is no number"
                    )
    if mistakes:
        raise ConfigValidationError(mistakes)
    return found


def as_number(value: Any) -> float:
    """A number; NaN for what is none."""
    try:
        return float(value)
    except (ValueError, TypeError):
        return float("nan")


def _listed(columns: Mapping[str, Any]) -> str:
    names = [one_line(name)[:40] for name in list(columns)[:20]]
    return ", ".join(names) + (" and more" if len(columns) > 20 else "")
