"""The files of a run: written whole, read back, and in the form that other tools expect."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from swarmtune.errors import BenchmarkParseError, ConfigPathError, MissingExtraError
from swarmtune.loadgen.adapters.vllm_bench import measurement as read_vllm
from swarmtune.loadgen.exports import aiperf, aiperf_slices, jsonl, measurement, parquet, plots, table, vllm
from swarmtune.loadgen.exports.facts import RunFacts
from swarmtune.loadgen.judge.summary import results
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import ADDED_COLUMNS, Records
from swarmtune.records import Measurement, from_plain
from swarmtune.testing.fake_records import fake_records

SLOS = {"ttft_ms": 80, "tpot_ms": 12}
FACTS = RunFacts(
    "org/tiny",
    "http://host:8000",
    LoadgenOptions(concurrency=8, request_count=400, header="Authorization: Bearer s3cret"),
)
REAL_VLLM = Path(__file__).parents[1] / "data" / "vllm_bench_result.json"


@pytest.fixture(scope="module")
def records() -> Records:
    return fake_records()


def same(a: Records, b: Records) -> None:
    """Everything but the numbering of the errors and of the chunks."""
    for name in a.requests.dtype.names or ():
        if name not in ("error", "first_chunk"):
            assert np.array_equal(a.requests[name], b.requests[name]), name
    texts = [[r.errors[e] if e >= 0 else None for e in r.requests["error"]] for r in (a, b)]
    assert texts[0] == texts[1]
    assert np.array_equal(a.chunks, b.chunks)
    for name in ("workers", "started_ns", "ended_ns", "started_unix_ns", "request_prefix", "interrupted", "lost"):
        assert getattr(a, name) == getattr(b, name)
    assert results(a, SLOS) == results(b, SLOS)


def test_jsonl_holds_everything(records: Records, tmp_path: Path) -> None:
    jsonl.write(records, tmp_path)
    same(records, jsonl.read(tmp_path))
    first = json.loads((tmp_path / "requests.jsonl").read_text().splitlines()[0])
    assert (first["id"], first["phase"], first["outcome"]) == ("run-0-0", "warmup", "completed")
    assert len(first["token_ns"]) == records.requests["chunks"][0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["requests.jsonl", "run.json"]


def test_files_of_earlier_versions_lack_what_was_added_since(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written here without the added columns."""
    earlier = [n for n in records.requests.dtype.names if n not in ADDED_COLUMNS]
    stamps = [n for n in records.chunks.dtype.names if n not in ADDED_COLUMNS]
    old = replace(records, requests=records.requests[earlier].copy(), chunks=records.chunks[stamps].copy())
    added = {*ADDED_COLUMNS, "chunk_choices"}
    rows = [{k: v for k, v in row.items() if k not in added} for row in jsonl.rows(records)]
    monkeypatch.setattr(parquet, "REQUEST", old.requests.dtype)
    monkeypatch.setattr(parquet, "CHUNK", old.chunks.dtype)
    for form in ("parquet", "npz"):
        parquet.write(old, tmp_path / form, form)  # type: ignore[arg-type]
    jsonl.write(records, tmp_path / "jsonl")
    (tmp_path / "jsonl" / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.undo()
    for read, folder in ((parquet.read, "parquet"), (parquet.read, "npz"), (jsonl.read, "jsonl")):
        same(records, read(tmp_path / folder))


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_columns_hold_everything(records: Records, tmp_path: Path, form: str) -> None:
    paths = parquet.write(records, tmp_path, form)  # type: ignore[arg-type]
    assert all(path.exists() for path in paths)
    same(records, parquet.read(tmp_path))


def test_without_pyarrow_there_is_npz_or_a_clear_error(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "pyarrow"] + ["pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'swarmtune\[export\]'"):
        parquet.write(records, tmp_path, "parquet")


def test_without_matplotlib_plots_say_what_to_install(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"Plots needs .* 'swarmtune\[export\]'"):
        plots.write(records, results(records), tmp_path)


@pytest.mark.parametrize("broken", ["", "{", '{"id": 1}', "[]", "\xff"])
def test_a_broken_line_is_one_clear_error(records: Records, tmp_path: Path, broken: str) -> None:
    jsonl.write(records, tmp_path)
    (tmp_path / "requests.jsonl").write_text(broken + "\n", encoding="latin-1")
    with pytest.raises(BenchmarkParseError, match=r"requests\.jsonl, line 1"):
        jsonl.read(tmp_path)


def test_nothing_to_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkParseError, match=r"run\.json"):
        jsonl.read(tmp_path)
    with pytest.raises(BenchmarkParseError, match=r"records\.npz"):
        parquet.read(tmp_path)
    (tmp_path / "records.npz").write_bytes(b"no zip")
    with pytest.raises(BenchmarkParseError, match="cannot be read"):
        parquet.read(tmp_path)


def test_a_directory_that_cannot_be_written_is_one_clear_error(records: Records, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigPathError, match="cannot be written"):
        jsonl.write(records, tmp_path / "file")


def test_the_measurement_is_finite_and_keeps_no_secret(records: Records, tmp_path: Path) -> None:
    facts = RunFacts(FACTS.model, FACTS.url, FACTS.options, "invalid", ("late by 60 ms",))
    found = results(records, SLOS)
    measurement.write(found, facts, tmp_path)
    read = from_plain(json.loads((tmp_path / "measurement.json").read_text()), Measurement)
    assert read == measurement.measurement(found, facts)
    assert (read.valid, read.reasons, dict(read.load)) == (False, ("late by 60 ms",), {"concurrency": 8.0})
    assert np.isfinite(list(read.metrics.values())).all()
    assert {"p99_ttft_ms", "p99_scheduled_ttft_ms", "request_goodput", "dropped"} <= set(read.metrics)
    text = (tmp_path / "results.json").read_text()
    assert "s3cret" not in text
    report = json.loads(text)
    assert (report["verdict"], report["options"]["concurrency"]) == ("invalid", 8)
    assert report["statistics"]["ttft_ms"]["adjusted"]["p99"] == "inf"
    assert (
        report["statistics"]["ttft_ms"]["intervals"]["p50"][0] <= report["statistics"]["ttft_ms"]["percentiles"]["p50"]
    )


def test_the_vllm_file_has_the_keys_of_a_real_one(records: Records, tmp_path: Path) -> None:
    real = json.loads(REAL_VLLM.read_text())
    found = results(records, SLOS)
    vllm.write(records, found, FACTS, tmp_path / "v.json")
    ours = json.loads((tmp_path / "v.json").read_text())
    assert set(real) <= set(ours)
    for name, value in real.items():
        if value is not None and not isinstance(value, (int, float)):
            assert type(ours[name]) is type(value), name
    amounts = {
        len(ours[n]) for n in ("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "errors")
    }
    assert amounts == {ours["num_prompts"]}
    assert sum(ours["output_lens"]) == ours["total_output_tokens"]
    ttfts = [t for t in ours["ttfts"] if t]
    assert max(ttfts) * 1000 <= found.statistics["ttft_ms"].max
    read = read_vllm(ours)
    assert read.metrics["mean_tpot_ms"] == found.flat()["mean_tpot_ms"]
    assert read.metrics["completed"] == found.scalars["completed"]
    assert "ttfts" not in vllm.document(records, found, FACTS, detailed=False)


def test_aiperf_files(records: Records, tmp_path: Path) -> None:
    found = results(records, SLOS)
    aiperf.write(records, found, FACTS, tmp_path)
    summary = json.loads((tmp_path / "profile_export_aiperf.json").read_text())
    ttft = summary["time_to_first_token"]
    assert set(ttft) == {*aiperf.STATISTICS, "unit", "count"}
    assert (ttft["unit"], ttft["avg"], ttft["p99"]) == ("ms", found.flat()["mean_ttft_ms"], found.flat()["p99_ttft_ms"])
    assert summary["request_count"] == {"unit": "requests", "avg": found.scalars["completed"]}
    assert sum(e["count"] for e in summary["error_summary"]) == found.scalars["failed"]
    lines = (tmp_path / "profile_export.jsonl").read_text().splitlines()
    assert len(lines) == 400 - found.scalars["dropped"]
    latencies = [
        m["request_latency"]["value"] for line in lines if "request_latency" in (m := json.loads(line)["metrics"])
    ]
    assert np.mean(latencies) == pytest.approx(found.flat()["mean_e2el_ms"])
    assert all((r["error"] is None) == bool(r["metrics"]) for r in map(json.loads, lines))
    rows = list(csv.reader(io.StringIO((tmp_path / "profile_export_aiperf.csv").read_text())))
    assert rows[0] == ["Metric", *aiperf.STATISTICS]
    assert ["Metric", "Value"] in rows
    assert [] in rows
    by_name = {row[0]: row for row in rows if row}
    assert by_name["Time to First Token (ms)"][1] == f"{ttft['avg']:.2f}"
    assert by_name["Request Count"][1] == f"{found.scalars['completed']:.2f}"


def test_the_table_says_what_was_asked_measured_and_wrong(records: Records) -> None:
    console = Console(width=220, record=True, file=io.StringIO())
    facts = RunFacts("m", "u", LoadgenOptions(request_rate=50), "degraded", ("[bold] is no markup",))
    table.show(results(records, SLOS), facts, console)
    text = console.export_text()
    for part in (
        "time to first token, ms",
        "p99, 95 %",
        "asked and achieved",
        "measurement: degraded",
        "[bold] is no markup",
    ):
        assert part in text
    assert "HTTP 500: out of memory" in text


@pytest.mark.parametrize("width", [30, 60, 80, 100, 240])
def test_the_table_shows_everything_at_every_width(records: Records, width: int) -> None:
    found = results(records, SLOS)
    console = Console(width=width, record=True, file=io.StringIO(), markup=False)
    console.print(table.report(found, FACTS, width))
    text = console.export_text()
    sample = found.statistics["ttft_ms"]
    for name in table.STATISTICS:
        assert name in text
        assert table.number(sample.value(name)) in text
    interval = sample.intervals["p99"]
    if width >= 60 and interval is not None:
        assert f"{table.number(interval[0])} .. {table.number(interval[1])}" in text


@pytest.mark.parametrize("name", [0.000123456, 12.3456, 123456.7, None])
def test_numbers_are_short(name: float | None) -> None:
    assert table.number(name) in ("0.0001235", "12.35", "123,457", "-")


@pytest.mark.parametrize("requests", [0, 1, 400])
def test_plots_are_pictures_whatever_there_is(tmp_path: Path, requests: int) -> None:
    records = fake_records(requests, warmup=0) if requests else fake_records(0, warmup=3)
    paths = plots.write(records, results(records, target_concurrency=4), tmp_path)
    assert [p.name for p in paths] == [
        "latency_over_time.svg", "distributions.svg", "throughput.svg", "concurrency.svg"
    ]  # fmt: skip
    for path in paths:
        text = path.read_text()
        assert text.startswith("<?xml")
        assert "http" not in text.split("<metadata>")[-1].split("</metadata>")[-1].replace("http://www.w3.org", "")


def test_every_export_of_an_empty_run(tmp_path: Path) -> None:
    records = fake_records(0, warmup=0)
    found = results(records, SLOS)
    aiperf.write(records, found, FACTS, tmp_path)
    vllm.write(records, found, FACTS, tmp_path / "v.json")
    measurement.write(found, FACTS, tmp_path)
    jsonl.write(records, tmp_path)
    assert len(jsonl.read(tmp_path).requests) == 0
    table.show(found, FACTS, Console(file=io.StringIO()))


def test_aiperfs_time_slices_hold_each_answer_once(records: Records, tmp_path: Path) -> None:
    aiperf_slices.write(records, 0.5, FACTS, tmp_path)
    document = json.loads((tmp_path / "profile_export_aiperf_timeslices.json").read_text())
    slices = document["timeslices"]
    whole = aiperf.metrics(records, results(records))
    assert sum(one["request_count"]["avg"] for one in slices) == whole["request_count"]["avg"]
    counts = [one["time_to_first_token"]["count"] for one in slices if "time_to_first_token" in one]
    assert 0 < sum(counts) <= whole["time_to_first_token"]["count"]
    assert [one["end_ns"] - one["start_ns"] for one in slices] == [500_000_000] * len(slices)
    assert [one["is_complete"] for one in slices] == [True] * (len(slices) - 1) + [False]
    assert document["input_config"]["loadgen"]["concurrency"] == 8
    assert "s3cret" not in json.dumps(document)
    rows = list(csv.DictReader((tmp_path / "profile_export_aiperf_timeslices.csv").read_text().splitlines()))
    assert list(rows[0]) == ["Timeslice", "Metric", "Unit", "Stat", "Value"]
    assert {int(row["Timeslice"]) for row in rows} == set(range(len(slices)))
    (count,) = [row for row in rows if row["Timeslice"] == "0" and row["Metric"] == "Request Count"]
    assert (count["Unit"], count["Stat"], count["Value"]) == ("requests", "avg", str(slices[0]["request_count"]["avg"]))
