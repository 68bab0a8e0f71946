"""The file of a model: JSON, versioned, data only."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from swarmtune.errors import ConfigPathError, ConfigurationError, one_line
from swarmtune.files import created, text_of
from swarmtune.simulator.latency.features import FEATURES
from swarmtune.simulator.latency.model import Bars, Identity, LatencyModel, Report
from swarmtune.simulator.latency.rows import Rows
from swarmtune.simulator.latency.tables import CostTables, Pair

FORMAT, VERSION = "swarmtune latency model", 1
MOST_BYTES = 16 * 2**20
MOST_ROWS = 100_000  # of the sample
Floats = NDArray[np.float64]


class _Head(msgspec.Struct):
    format: str
    version: int


class _Pair(msgspec.Struct, forbid_unknown_fields=True):
    features: tuple[int, int]
    factors: list[list[float]]


class _Tables(msgspec.Struct, forbid_unknown_fields=True):
    weights: list[float]
    knots: list[float]
    cuts: list[list[float]]
    pairs: list[_Pair]


class _Bars(msgspec.Struct, forbid_unknown_fields=True):
    edges: tuple[list[float], list[float]]
    factors: tuple[list[tuple[float, float]], list[tuple[float, float]]]
    outside: tuple[float, float]


class _Sample(msgspec.Struct, forbid_unknown_fields=True):
    runs: list[str]
    features: list[tuple[float, float, float, float, float]]
    seconds: list[float]
    run: list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_ROWS)]]
    counts: list[float]


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    identity: Identity
    report: Report
    features: tuple[str, ...]
    typical: _Tables
    mean: _Tables
    domain: tuple[list[float], list[float]]
    bars: _Bars
    sample: _Sample
    multipliers: dict[str, float] = {}


def encoded(model: LatencyModel) -> bytes:
    """The file's bytes; the same model always has the same."""
    sample = model.sample
    document = {
        "format": FORMAT,
        "version": VERSION,
        "identity": msgspec.to_builtins(model.identity),
        "report": msgspec.to_builtins(model.report),
        "features": FEATURES,
        "typical": _tables_of(model.typical),
        "mean": _tables_of(model.mean),
        "domain": model.domain,
        "bars": {"edges": model.bars.edges, "factors": model.bars.factors, "outside": model.bars.outside},
        "sample": {
            "runs": sample.runs,
            "features": sample.features,
            "seconds": sample.seconds,
            "run": sample.run,
            "counts": sample.counts,
        },
        "multipliers": dict(model.multipliers),
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _tables_of(tables: CostTables) -> dict[str, Any]:
    pairs = [{"features": (i, j), "factors": factors} for i, j, factors in tables.pairs]
    return {"weights": tables.weights, "knots": tables.knots, "cuts": tables.cuts, "pairs": pairs}


def fingerprint(model: LatencyModel) -> str:
    """The sha256 of the file's content."""
    return hashlib.sha256(encoded(model)).hexdigest()


def save(model: LatencyModel, path: Path) -> None:
    """Write the file; until it is complete, an older one stays as it was. ConfigPathError if that cannot be done."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise ConfigPathError(f"{path} is no file that a model could replace.")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with created(part) as file:
            file.write(encoded(model))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise ConfigPathError(f"The model cannot be written to {path}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def load(path: Path) -> LatencyModel:
    """The model of a file. ConfigurationError, in one sentence, if it is none that can be used."""
    try:
        return decoded(text_of(path, MOST_BYTES))
    except OSError as error:
        raise ConfigPathError(f"The model {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a model of step times: it is not a text.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not a model of step times: it is {one_line(str(error))}.") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}") from error


def decoded(text: str) -> LatencyModel:
    """The model of the file's text; ConfigurationError."""
    head = _parsed(text, _Head)
    if head.format != FORMAT:
        raise ConfigurationError("This is not a model of step times; `swarmtune train` writes one.")
    if head.version != VERSION:
        age = "a newer" if head.version > VERSION else "an unknown"
        raise ConfigurationError(
            f"This model has version {head.version} of its format, of {age} SwarmTune; this one reads version {VERSION}. "
            "Train it again, or update SwarmTune."
        )
    document = _parsed(text, _Document)
    if document.features != FEATURES:
        raise ConfigurationError("This model is about other features of a step; train it again.")
    bars = document.bars
    return LatencyModel(
        typical=_tables(document.typical),
        mean=_tables(document.mean),
        domain=_table(document.domain, "domain", 2, len(FEATURES)),
        bars=Bars(
            (_floats(bars.edges[0]), _floats(bars.edges[1])),
            (_table(bars.factors[0], "bars", -1, 2), _table(bars.factors[1], "bars", -1, 2)),
            bars.outside,
        ),
        identity=document.identity,
        report=document.report,
        sample=_sample(document.sample),
        multipliers=document.multipliers,
    )


def _parsed(text: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        what = one_line(str(error)).rstrip(".")
        raise ConfigurationError(
            f"This is not a whole model of step times ({what}); `swarmtune train` writes one."
        ) from error


def _floats(values: Any) -> Floats:
    return np.array(values, np.float64)


def _table(values: Any, name: str, rows: int, columns: int) -> Floats:
    """An array of this shape, with -1 for any number of rows."""
    if (rows not in (-1, len(values))) or not values or any(len(row) != columns for row in values):
        raise ConfigurationError(f"The {name} of this model are damaged: {columns} numbers in each row are needed.")
    return _floats(values)


def _tables(found: _Tables) -> CostTables:
    pairs: list[Pair] = []
    for pair in found.pairs:
        width = len(pair.factors[0]) if pair.factors else 0
        pairs.append((*pair.features, _table(pair.factors, "factors", -1, width)))
    return CostTables(_floats(found.weights), _floats(found.knots), tuple(map(_floats, found.cuts)), tuple(pairs))


def _sample(found: _Sample) -> Rows:
    """The rows kept for updates; ConfigurationError if they are none."""
    count = len(found.seconds)
    rows = Rows(
        _floats(found.features).reshape(-1, len(FEATURES)),
        _floats(found.seconds),
        np.array(found.run, np.int64),
        tuple(found.runs),
        _floats(found.counts),
        np.arange(1, count + 1),
    )
    whole = count <= MOST_ROWS and len(rows.features) == len(rows.run) == len(rows.counts) == count
    usable = whole and bool(
        np.isfinite(rows.features).all()
        and (rows.features >= 0).all()
        and np.isfinite(rows.seconds).all()
        and (rows.seconds > 0).all()
        and np.isfinite(rows.counts).all()
        and (rows.counts > 0).all()
        and (rows.run < len(rows.runs)).all()
    )
    if not usable:
        raise ConfigurationError("The steps that this model keeps for updates are damaged; train it again.")
    return rows
