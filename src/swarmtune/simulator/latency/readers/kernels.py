"""Tables of kernel times, as LLMServingSim's profiler writes them: steps are put together from their layers.

``dense.csv`` (layer, tokens), ``per_sequence.csv`` (layer, sequences), ``attention.csv`` (prefill_chunk, kv_prefill,
n_decode, kv_decode) and, for a mixture of experts, ``moe.csv`` (tokens, activated_experts), each with ``time_us``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.files import text_of
from swarmtune.simulator.latency.features import piece_work
from swarmtune.simulator.latency.readers.base import UNITS, Found, Reading, Source, csv_columns, numbers
from swarmtune.simulator.latency.rows import rows_of

Floats = NDArray[np.float64]
ONCE = (
    "embedding",
    "final_layernorm",
    "lm_head",
    "sampler",
)  # in a step; every other layer once per layer of the model
TWICE = ("layernorm",)  # before attention and before the feed-forward part
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
EXPERTS, CHOSEN = ("num_local_experts", "num_experts", "n_routed_experts"), "num_experts_per_tok"
MOST_CONFIG_BYTES = 2**20
MOST_LAYERS = 1000
NOTES = (
    "kernels: host time and communication between ranks are in no table; calibrate the model with a log of requests",
    "kernels: the points of the grid were mixed before parts of it were held out, as they follow no order in time",
)


def knows(source: Source) -> bool:
    """A folder with both tables."""
    return all((source.path / name).is_file() for name in ("dense.csv", "attention.csv"))


def read(source: Source, reading: Reading) -> Found:
    """A step for each point of the attention grid. ConfigurationError without the number of layers."""
    folder = source.path
    if not knows(source):
        raise ConfigPathError(f"{folder}: a folder with dense.csv and attention.csv is needed.")
    config = _config(reading.config, folder)
    layers = next((config[name] for name in LAYERS if name in config), None)
    if type(layers) is not int or not 0 < layers <= MOST_LAYERS:
        raise ConfigurationError(f"{reading.config} does not say the number of layers ({LAYERS[0]}).")
    grid = _table(folder / "attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    chunk, cached, decodes, context, attention = grid[np.random.default_rng(0).permutation(len(grid))].T
    tokens, prefills = chunk + decodes, (chunk > 0).astype(float)
    micros = attention * layers
    micros += _layers(folder / "dense.csv", "tokens", tokens, layers)
    if (folder / "per_sequence.csv").is_file():
        micros += _layers(folder / "per_sequence.csv", "sequences", decodes + prefills, layers)
    if (folder / "moe.csv").is_file():
        micros += layers * _experts(folder / "moe.csv", tokens, config)
    features = np.column_stack([tokens, decodes, decodes * context, piece_work(chunk, cached), prefills])
    real = tokens > 0
    rows = rows_of(features[real], micros[real] * UNITS[reading.unit or "us"], folder.name)
    return Found(replace(rows, counts=_evened(prefills[real])), NOTES, unit_is_sure=True)


def _evened(prefills: Floats) -> Floats:
    """How much each step counts: those that only decode, of which a grid has few and a service many, as all others."""
    share = max(1e-9, float((prefills == 0).mean()))
    return np.where(prefills == 0, 0.5 / share, 0.5 / max(1e-9, 1 - share)) if share < 1 else np.ones(len(prefills))


def _config(path: Path | None, folder: Path) -> dict[str, Any]:
    if path is None:
        raise ConfigurationError(
            f"{folder}: kernel times are those of one layer; name the model's config.json (--model-config)."
        )
    found = model_config(path)
    inner = found.get("text_config", found)
    return inner if isinstance(inner, dict) else {}


def model_config(path: Path) -> dict[str, Any]:
    """The config.json of a model. ConfigurationError if it is none."""
    try:
        found = msgspec.json.decode(text_of(path, MOST_CONFIG_BYTES))
    except OSError as error:
        raise ConfigPathError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ConfigurationError(f"{path} is no config.json of a model.") from error
    return found if isinstance(found, dict) else {}


def _table(path: Path, names: tuple[str, ...]) -> Floats:
    """Columns of numbers of a table; ConfigurationError if one is not finite or below 0."""
    found = numbers(path, csv_columns(path), names)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)).all(axis=1))
    if wrong.size:
        raise ConfigurationError(f"{path}, row {wrong[0] + 1}: a number that is not below 0 is needed in each column.")
    return found


def _layers(path: Path, size: str, wanted: Floats, layers: int) -> Floats:
    """Microseconds of all layers of a table, at these sizes: between two points of the grid in proportion."""
    names = np.array(csv_columns(path)["layer"]) if "layer" in csv_columns(path) else np.array([])
    if not names.size:
        raise ConfigurationError(f"{path}: columns lack: layer.")
    sizes, times = _table(path, (size, "time_us")).T
    total = np.zeros(len(wanted))
    for name in sorted(set(names)):
        here = names == name
        total += (1 if name in ONCE else layers * (2 if name in TWICE else 1)) * _between(
            sizes[here], times[here], wanted
        )
    return total


def _between(sizes: Floats, times: Floats, wanted: Floats) -> Floats:
    """Linear between the points; beyond the last, along the line from nothing: a larger size has the rate of the largest."""
    order = np.argsort(sizes)
    largest = sizes[order[-1]]
    return np.asarray(np.interp(wanted, sizes[order], times[order]) * np.maximum(1.0, wanted / largest))


def _experts(path: Path, tokens: Floats, config: dict[str, Any]) -> Floats:
    """Microseconds of one layer of experts; as many are active as are to be expected of tokens that choose at random."""
    experts = next((config[name] for name in EXPERTS if name in config), None)
    chosen = config.get(CHOSEN)
    if not (type(experts) is int and type(chosen) is int and 0 < chosen <= experts):
        raise ConfigurationError(f"{path} needs the numbers of experts in config.json ({EXPERTS[0]}, {CHOSEN}).")
    grid = _table(path, ("tokens", "activated_experts", "time_us"))
    active = experts * (1 - (1 - chosen / experts) ** tokens)
    counts = np.unique(grid[:, 1])
    tables = [grid[grid[:, 1] == count] for count in counts]
    by_count = np.stack([_between(table[:, 0], table[:, 2], tokens) for table in tables])
    upper = np.clip(np.searchsorted(counts, active), 1, max(1, len(counts) - 1))
    if len(counts) == 1:
        return np.asarray(by_count[0])
    low, high = counts[upper - 1], counts[upper]
    share = np.clip((active - low) / (high - low), 0.0, 1.0)
    steps = np.arange(len(tokens))
    return np.asarray(by_count[upper - 1, steps] * (1 - share) + by_count[upper, steps] * share)
