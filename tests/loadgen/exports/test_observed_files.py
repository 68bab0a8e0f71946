"""devices.jsonl, telemetry.jsonl, telemetry.json, and the same as Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from swarmtune.devices.readings import Reading
from swarmtune.loadgen.exports import observed
from swarmtune.loadgen.records import Records
from swarmtune.redaction import HIDDEN, Redactor
from swarmtune.testing.fake_records import fake_records

S = 1_000_000_000


def records() -> Records:
    made = fake_records(50, seed=1)
    devices, servers = made.observed.devices, made.observed.servers
    for second, level in enumerate((5.0, 5.0, 5.0, 6.0, float("nan"))):
        ns = made.started_ns + second * S // 10
        devices.add(ns, "nvml", [Reading("gpu_power_watts", level, (("device", "0"),))])
        servers.add(ns, "http://s/metrics", [Reading("queue", level)])
    return made


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_on_the_axis_of_the_run(tmp_path: Path) -> None:
    made = records()
    observed.write_jsonl(made, tmp_path)
    found = lines(tmp_path / "devices.jsonl")
    assert [row["s"] for row in found] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert found[3] == {
        "ns": made.started_ns + 3 * S // 10, "s": 0.3, "source": "nvml", "name": "gpu_power_watts",
        "labels": {"device": "0"}, "value": 6.0,
    }  # fmt: skip
    assert found[4]["value"] is None
    assert [row["s"] for row in lines(tmp_path / "telemetry.jsonl")] == [0.0, 0.2, 0.3, 0.4], "only what changed"
    summary = json.loads((tmp_path / "telemetry.json").read_text())
    assert [(row["name"], row["mean"], row["n"]) for row in summary] == [
        ("gpu_power_watts", 5.25, 4), ("queue", 5.25, 4)
    ]  # fmt: skip


def test_the_same_as_columns(tmp_path: Path) -> None:
    made = records()
    observed.write_parquet(made, tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "devices.parquet").to_pylist()
    assert table[0] == {
        "ns": made.started_ns, "s": 0.0, "source": "nvml", "name": "gpu_power_watts", "labels": '{"device":"0"}',
        "value": 5.0,
    }  # fmt: skip
    assert len(pyarrow.parquet.read_table(tmp_path / "telemetry.parquet")) == 4


def test_keys_in_labels_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a metrics page says in its labels leaves as all else does: without what is known, and without keys by form."""
    known = Redactor()
    known.learn("plAnted-pass-03")
    monkeypatch.setattr(observed, "ours", known)
    made, key = fake_records(50, seed=1), "hf_QmEzTnVxLwAsDfGhJkPoIuYt"
    labels = (("k", "plAnted-pass-03"), ("auth", key), ("model", "m"))
    made.observed.servers.add(made.started_ns, "http://s/metrics", [Reading("queue", 1.0, labels)])
    made.observed.devices.add(made.started_ns, "http://d/metrics", [Reading("power", 1.0, labels)])
    observed.write_jsonl(made, tmp_path)
    observed.write_parquet(made, tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert b"plAnted" not in content, path
        assert key.encode() not in content, path
    (row,) = lines(tmp_path / "telemetry.jsonl")
    assert row["labels"] == {"k": HIDDEN, "auth": HIDDEN, "model": "m"}


def test_nothing_read_leaves_no_file(tmp_path: Path) -> None:
    observed.write_jsonl(fake_records(20), tmp_path)
    observed.write_parquet(fake_records(20), tmp_path)
    assert list(tmp_path.iterdir()) == []
