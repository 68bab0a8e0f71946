"""devices.jsonl, telemetry.jsonl and telemetry.json, and the first two as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from swarmtune.devices.spool import Lines
from swarmtune.files import escaped
from swarmtune.loadgen.exports.facts import optional, written
from swarmtune.loadgen.observe.summary import summary
from swarmtune.loadgen.records import Records
from swarmtune.redaction import ours

DEVICES, SERVERS, SUMMARY = "devices", "telemetry", "telemetry.json"


def rows(lines: Lines, started_ns: int, *, changes: bool = False) -> Iterator[dict[str, Any]]:
    """Long format, by time: ns (the axis of requests.jsonl), s (since ``started_ns``), source, name, labels, value.

    ``changes``: without readings that are the same as the one before and the one after.
    """
    found = [
        (ns, key, one.values[i])
        for key, one in lines.series.items()
        for i, ns in enumerate(one.ns)
        if not changes or i in (0, len(one.ns) - 1) or len({*one.values[i - 1 : i + 2]}) > 1
    ]
    shown = {key: _labels(dict(key[2])) for key in lines.series}
    for ns, key, value in sorted(found, key=lambda row: row[0]):
        seconds = round((ns - started_ns) / 1e9, 3)
        yield {"ns": ns, "s": seconds, "source": key[0], "name": key[1], "labels": shown[key], "value": value}


def _labels(given: Mapping[str, str]) -> dict[str, str]:
    """As a server or an exporter has them: also a value that could be a name of ours may be a secret."""
    return {ours.hide(name): ours.hide(value) for name, value in given.items()}


def write_jsonl(records: Records, directory: Path) -> None:
    """One line per reading, and what each series did during the measurement. Nothing was read: no file."""
    observed = records.observed
    for lines, name in ((observed.devices, DEVICES), (observed.servers, SERVERS)):
        if lines.series:
            with written(directory / f"{name}.jsonl") as file:
                for row in rows(lines, records.started_ns, changes=name == SERVERS):
                    file.write(escaped(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)))
    found = [
        {**row, "labels": _labels(row["labels"])}
        for lines in (observed.devices, observed.servers)
        for row in summary(lines, records.started_ns, records.ended_ns)
    ]
    if observed.devices.series or observed.servers.series:
        with written(directory / SUMMARY) as file:
            file.write(escaped(orjson.dumps(found, option=orjson.OPT_INDENT_2)))


def write_parquet(records: Records, directory: Path) -> None:
    """The same rows as columns, labels as JSON text. MissingExtraError without pyarrow."""
    arrow, parquet = optional("pyarrow", "Parquet"), optional("pyarrow.parquet", "Parquet")
    text, kinds = arrow.string(), {"ns": arrow.int64(), "s": arrow.float64()}
    schema = arrow.schema(
        [*kinds.items(), ("source", text), ("name", text), ("labels", text), ("value", arrow.float64())]
    )
    observed = records.observed
    for lines, name in ((observed.devices, DEVICES), (observed.servers, SERVERS)):
        if not lines.series:
            continue
        table = [
            {**row, "labels": orjson.dumps(row["labels"]).decode()}
            for row in rows(lines, records.started_ns, changes=name == SERVERS)
        ]
        with written(directory / f"{name}.parquet") as file:
            parquet.write_table(arrow.Table.from_pylist(table, schema=schema), file, compression="zstd")
