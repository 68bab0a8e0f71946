"""Readers of measured steps. Each is one file here and one line in READERS."""

from __future__ import annotations

import importlib
from pathlib import Path

from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.simulator.latency.readers.base import Found, Reading, Source, first_part

READERS = {  # name -> module with ``knows(source)`` and ``read(source, reading)``; the first that knows a source reads it
    "steps": "swarmtune.simulator.latency.readers.steps",
    "requests": "swarmtune.simulator.latency.readers.requests",
    "kernels": "swarmtune.simulator.latency.readers.kernels",
    "msserviceprofiler": "swarmtune.simulator.latency.readers.msserviceprofiler",
}
KNOWN = (
    "steps of `swarmtune collect` (Parquet or CSV), request logs with a stamp for each token (requests.jsonl of "
    "`swarmtune bench`, profile_export.jsonl of AIPerf, the JSON of `vllm bench serve --save-detailed`), a folder of kernel "
    "tables (dense.csv, attention.csv), and the CSV of msserviceprofiler"
)


def read(path: Path, reading: Reading, only: str = "") -> Found:
    """The steps of a file or folder. ``only``: by this reader, whatever the source looks like.

    ConfigurationError: it cannot be read, or is nothing that a reader knows; MissingExtraError: Parquet without pyarrow.
    """
    try:
        source = Source(path, first_part(path))
        for name, module in READERS.items():
            reader = importlib.import_module(module)
            if name == only or (not only and reader.knows(source)):
                found: Found = reader.read(source, reading)
                return found
    except OSError as error:
        raise ConfigPathError(f"{path} cannot be read: {error.strerror or error}.") from error
    raise ConfigurationError(f"{path} holds no steps that are known. Known are {KNOWN}.")
