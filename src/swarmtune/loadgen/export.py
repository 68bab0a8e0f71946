"""The files that a run leaves in its working directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

from swarmtune.loadgen.rows import Row
from swarmtune.records import Measurement

MEASUREMENT_FILE = "measurement.json"
ROWS_FILE = "requests.jsonl"


def write(rows: Sequence[Row], measurement: Measurement, directory: Path) -> None:
    """Leave the rows, then the measurement, each at once: whoever finds the measurement finds the rows too."""
    for name, content in (
        (ROWS_FILE, b"".join(orjson.dumps(row.to_json()) + b"\n" for row in rows)),
        (MEASUREMENT_FILE, orjson.dumps(measurement.to_json(), option=orjson.OPT_INDENT_2)),
    ):
        draft = directory / f"{name}.part"
        draft.write_bytes(content)
        draft.replace(directory / name)


def read_rows(directory: Path) -> list[Row]:
    """The rows that a run left; OSError or ValueError if there are none."""
    return [Row.from_json(orjson.loads(line)) for line in (directory / ROWS_FILE).read_bytes().splitlines()]
