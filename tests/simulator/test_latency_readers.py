"""Each form of measured steps is read as what it is; what is wrong is said with its place."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from tests.simulator.latency_cases import measured

from swarmtune.errors import ConfigurationError, ConfigValidationError, MissingExtraError
from swarmtune.simulator.latency.features import CONTEXT, DECODES, FEATURES, PREFILL_WORK, PREFILLS, TOKENS
from swarmtune.simulator.latency.gathering import gather
from swarmtune.simulator.latency.readers import read
from swarmtune.simulator.latency.readers.base import Reading
from swarmtune.simulator.latency.rows import Rows, accepted

DATA = Path(os.environ.get("SWARMTUNE_DATA") or Path(__file__).parents[3] / "shared" / "data")
PLAIN = Reading()


def table(rows: Rows, **more: list[Any]) -> dict[str, list[Any]]:
    """The columns of a file of steps."""
    columns = {name: rows.features[:, index].tolist() for index, name in enumerate(FEATURES)}
    return {**columns, "seconds": rows.seconds.tolist(), "run": [rows.runs[r] for r in rows.run], **more}


def written(path: Path, columns: dict[str, list[Any]]) -> Path:
    """A file of these columns: Parquet or CSV, by its name."""
    if path.suffix == ".parquet":
        parquet.write_table(arrow.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


@pytest.mark.parametrize("name", ["steps.parquet", "steps.csv"])
def test_steps_are_read(tmp_path: Path, name: str) -> None:
    rows = measured(90)
    found = read(written(tmp_path / name, table(rows, engine=["vllm"] * 90, tp=[2] * 90, note=["x"] * 90)), PLAIN)
    np.testing.assert_array_equal(found.rows.features, rows.features)
    np.testing.assert_allclose(found.rows.seconds, rows.seconds)
    assert found.rows.runs == rows.runs
    assert found.facts == {"engine": "vllm", "tp": "2"}
    assert not found.unit_is_sure


def test_the_unit_that_the_user_says_counts(tmp_path: Path) -> None:
    rows = measured(90)
    columns = table(rows)
    columns["seconds"] = (rows.seconds * 1e3).tolist()
    found = read(written(tmp_path / "a.csv", columns), Reading(unit="ms"))
    np.testing.assert_allclose(found.rows.seconds, rows.seconds)
    assert found.unit_is_sure


def test_steps_without_runs_are_one_run(tmp_path: Path) -> None:
    columns = table(measured(90))
    del columns["run"]
    assert read(written(tmp_path / "a.csv", columns), PLAIN).rows.runs == ("a",)


def test_all_columns_that_lack_are_named(tmp_path: Path) -> None:
    columns = table(measured(90))
    del columns["context"], columns["prefills"]
    with pytest.raises(ConfigurationError, match="columns lack: context, prefills; there are tokens, decodes"):
        read(written(tmp_path / "a.csv", columns), PLAIN)


def test_all_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    columns = table(measured(90))
    columns["tokens"][3], columns["seconds"][5], columns["seconds"][6] = "many", "\x1b[2J", ""
    with pytest.raises(ConfigValidationError) as error:
        read(written(tmp_path / "a.csv", columns), PLAIN)
    assert [mistake.split(": ", 1)[1] for mistake in error.value.mistakes] == [
        "tokens is 'many', which is no number",
        "seconds is '\\x1b[2J', which is no number",
    ]
    assert "row 4" in error.value.mistakes[0]


def test_steps_of_two_engines_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", table(measured(90), device=["A100"] * 45 + ["H100"] * 45))
    with pytest.raises(ConfigurationError, match="device is A100, H100: steps of several"):
        read(path, PLAIN)


def test_parquet_without_pyarrow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.parquet", table(measured(90)))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match="swarmtune\\[export\\]"):
        read(path, PLAIN)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no steps that are known"),
        (b"PAR1 and no more", "holds no steps that are known"),
        (b"tokens,decodes,context,prefill_work,prefills,seconds\n", "a header of different names and rows"),
        (b"tokens,decodes,context,tokens\n1,2,3,4\n", "a header of different names"),
        (b"tokens,decodes,context,prefill_work,prefills,seconds\n1,2\n", "row 1 has 2 values for 6 columns"),
        (b"tokens,decodes,context\n\xff\xfe,1,2\n", "is not a text"),
        (b'tokens,decodes,context\n"' + b"x" * 200_000 + b'",1,1\n', "is no CSV file"),
        (b'{"token_ns": []}\n', "line 1 is not of a log of requests"),
        (b'{"first_token_ts": 1.0, "last_token_ts": 2.0}\n{}\n', "line 1 is not of a log of requests"),
        (b'{"itls": [[0.1]], "ttfts": []}', "not of a log of requests"),
        (b'{"sent_ns": ' + b"[" * 5000, "line 1 is not of a log of requests"),
    ],
)
def test_what_is_none_is_refused_in_one_sentence(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ConfigurationError, match=told) as error:
        read(tmp_path / "a", PLAIN)
    assert error.value.message.isprintable()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path, "holds no steps"),
        (tmp_path / "no", "cannot be read"),
        (tmp_path / "pipe", "no file"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            read(path, PLAIN)


class Engine:
    """Serves requests step by step, as an engine with one prompt a step does, and writes down what it did."""

    def __init__(self, seed: int = 0, cached: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.steps: list[tuple[float, ...]] = []
        self.requests: list[dict[str, Any]] = []
        now, waiting, running = 0.0, list(np.cumsum(rng.exponential(0.1, 60))), []
        while waiting or running:
            if not running and waiting[0] > now:
                now = waiting[0] + 0.001
            new = None
            if waiting and waiting[0] < now:
                new = {"sent": waiting.pop(0), "prompt": int(rng.integers(50, 900)), "stamps": [], "cached": cached}
                new["left"] = int(rng.integers(2, 40))
            prompt = new["prompt"] - cached if new else 0
            context = sum(r["prompt"] + len(r["stamps"]) for r in running)
            work = prompt * (cached + prompt / 2)
            seconds = 0.01 + 2e-5 * (prompt + len(running)) + 1e-7 * context
            began, now = now, now + seconds
            self.steps.append((began, prompt + len(running), len(running), context, work, int(bool(new)), seconds))
            running += [new] if new else []
            for place, request in enumerate(running):
                request["stamps"].append(now + 20e-6 * place)
                request["left"] -= 1
            self.requests += [r for r in running if not r["left"]]
            running = [r for r in running if r["left"]]

    def ours(self) -> list[dict[str, Any]]:
        """As requests.jsonl has them."""
        return [
            {
                "outcome": "completed", "sent_ns": int(r["sent"] * 1e9) + 1, "input_tokens": r["prompt"],
                "cached_tokens": r["cached"] or -1, "output_tokens": len(r["stamps"]),
                "token_ns": [int(s * 1e9) for s in r["stamps"]],
            }
            for r in self.requests
        ]  # fmt: skip

    def aiperf(self) -> list[dict[str, Any]]:
        """As profile_export.jsonl has them."""
        return [
            {
                "metadata": {"request_start_ns": int(r["sent"] * 1e9) + 1, "was_cancelled": False},
                "metrics": {
                    "time_to_first_token": {"value": (r["stamps"][0] - r["sent"]) * 1e3},
                    "inter_chunk_latency": {"value": (np.diff(r["stamps"]) * 1e3).tolist()},
                    "input_sequence_length": {"value": float(r["prompt"])},
                    "output_sequence_length": {"value": float(len(r["stamps"]))},
                },
                "error": None,
            }
            for r in self.requests
        ]

    def vllm(self) -> dict[str, Any]:
        """As vllm bench serve --save-detailed has them."""
        return {
            "request_throughput": 1.0,
            "start_times": [r["sent"] for r in self.requests],
            "ttfts": [r["stamps"][0] - r["sent"] for r in self.requests],
            "itls": [np.diff(r["stamps"]).tolist() for r in self.requests],
            "input_lens": [r["prompt"] for r in self.requests],
            "output_lens": [len(r["stamps"]) for r in self.requests],
            "errors": [""] * len(self.requests),
        }


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def matched(engine: Engine, rows: Rows) -> float:
    """The share of the engine's steps that were found, with all that they computed and their time."""
    truth = {step[1:6]: step[6] for step in engine.steps}
    found = [
        tuple(row) in truth and abs(truth[tuple(row)] / s - 1) < 0.05
        for row, s in zip(rows.features, rows.seconds, strict=True)
    ]
    assert np.mean(found) > 0.97
    return sum(found) / len(engine.steps)


@pytest.mark.parametrize("form", ["ours", "aiperf", "vllm"])
def test_steps_are_reconstructed_from_stamps(tmp_path: Path, form: str) -> None:
    engine = Engine()
    if form == "vllm":
        (tmp_path / "bench.json").write_text(json.dumps(engine.vllm()))
    else:
        lines(tmp_path / "bench.json", engine.ours() if form == "ours" else engine.aiperf())
    found = read(tmp_path / "bench.json", PLAIN)
    assert matched(engine, found.rows) > 0.9
    assert len(accepted(found.rows, unit_is_sure=True)[0]) > 0.97 * len(found.rows)
    assert found.unit_is_sure


def test_cached_tokens_are_not_computed(tmp_path: Path) -> None:
    engine = Engine(1, cached=32)
    assert matched(engine, read(lines(tmp_path / "requests.jsonl", engine.ours()), PLAIN).rows) > 0.9


def test_an_idle_engine_makes_no_step(tmp_path: Path) -> None:
    stamps = {"ours": [[1.0, 1.02, 1.04], [9.0, 9.02, 9.04]]}
    rows = [
        {"outcome": "completed", "sent_ns": int((s[0] - 0.5) * 1e9), "input_tokens": 10, "cached_tokens": -1,
         "output_tokens": 3, "token_ns": [int(x * 1e9) for x in s]} for s in stamps["ours"]
    ]  # fmt: skip
    found = read(lines(tmp_path / "requests.jsonl", rows), PLAIN)
    np.testing.assert_allclose(found.rows.seconds, [0.02] * 4)
    assert any("2 steps were left out" in note for note in found.notes)


def test_a_prompt_beyond_the_budget_is_in_the_steps_before(tmp_path: Path) -> None:
    decoding = {"outcome": "completed", "sent_ns": 1, "input_tokens": 10, "cached_tokens": -1, "output_tokens": 6,
                "token_ns": [int((1 + 0.1 * k) * 1e9) for k in range(6)]}  # fmt: skip
    long = {"outcome": "completed", "sent_ns": int(1.05e9), "input_tokens": 250, "cached_tokens": -1, "output_tokens": 2,
            "token_ns": [int(1.4e9), int(1.5e9)]}  # fmt: skip
    rows = read(lines(tmp_path / "requests.jsonl", [decoding, long]), Reading(budget=101)).rows
    assert rows.features[:, TOKENS].tolist() == [1, 51, 101, 101, 2]
    assert rows.features[:, PREFILLS].tolist() == [0, 1, 1, 1, 0]
    assert rows.features[:, PREFILL_WORK].sum() == 250**2 / 2
    assert rows.features[:, DECODES].tolist() == [1, 1, 1, 1, 2]
    assert rows.features[:, CONTEXT].tolist() == [11, 12, 13, 14, 15 + 251]


@pytest.mark.parametrize(("failed", "refused"), [(3, False), (12, True)])
def test_a_run_that_failed_is_refused(tmp_path: Path, failed: int, refused: bool) -> None:
    rows = Engine().ours()
    for row in rows[:failed]:
        row["outcome"] = "failed"
    path = lines(tmp_path / "requests.jsonl", rows)
    if refused:
        with pytest.raises(ConfigurationError, match="12 of 60 requests failed"):
            read(path, PLAIN)
    else:
        assert len(read(path, PLAIN).rows) > 100


def test_events_with_several_tokens_are_refused(tmp_path: Path) -> None:
    rows = Engine().ours()
    for row in rows:
        row["token_ns"] = row["token_ns"][::2]
    with pytest.raises(ConfigurationError, match="steps cannot be told apart"):
        read(lines(tmp_path / "requests.jsonl", rows), PLAIN)


def profiled(path: Path, *rows: tuple[Any, Any]) -> Path:
    """A CSV of msserviceprofiler."""
    batch = (
        "batch_stage",
        "batch_size",
        "total_need_blocks",
        "total_prefill_token",
        "max_seq_len",
        "model_execute_time",
    )
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([(batch, ("input_length", "need_blocks", "output_length")), *rows])
    return path


def test_passes_of_msserviceprofiler_are_read(tmp_path: Path) -> None:
    path = profiled(
        tmp_path / "feature.csv",
        (("prefill", "2", "12", "300", "200", "58000.5"), (("100", "4", "0"), ("200", "8", "0"))),
        (("decode", 2, 12, 0, 210, 21000), ((100, 4, 7), (200, 8, 9))),
        (("decode", "1", "4", "0", "100", "['15000']"), ("100", "4", "3")),
    )
    found = read(path, PLAIN)
    assert found.rows.features.tolist() == [
        [300, 0, 0, 100**2 / 2 + 200**2 / 2, 2],
        [2, 2, 316, 0, 0],
        [1, 1, 103, 0, 0],
    ]
    np.testing.assert_allclose(found.rows.seconds, [0.0580005, 0.021, 0.015])


def test_batches_whose_work_is_not_told_are_refused_with_their_rows(tmp_path: Path) -> None:
    good = (("decode", 2, 12, 0, 210, 21000), ((100, 4, 7), (200, 8, 9)))
    path = profiled(
        tmp_path / "feature.csv",
        good,
        (("decode", 2, 12, 512, 210, 21000), good[1]),  # both stages in one batch
        (("decode", 3, 12, 0, 210, 21000), good[1]),  # another number of requests
        ("__import__('os').abort()", good[1]),
        (("decode", 2, 12, 0, 210, 21000), "((1, 2"),
    )
    rows = read(path, PLAIN).rows
    kept, refusals = accepted(rows, unit_is_sure=True)
    assert len(kept) == 1
    assert [line.split(":")[0] for line in refusals.listed] == [f"feature, row {n}" for n in (2, 3, 4, 5)]


def kernels(folder: Path, layers: str = '{"num_hidden_layers": 4}') -> Reading:
    """Tables of a model with four layers."""
    dense = [
        (name, t, us * t)
        for name, us in (("embedding", 1.0), ("layernorm", 0.5), ("qkv_proj", 2.0))
        for t in (1, 8, 64)
    ]
    written(
        folder / "dense.csv",
        dict(zip(("layer", "tokens", "time_us"), map(list, zip(*dense, strict=True)), strict=True)),
    )
    written(folder / "per_sequence.csv", {"layer": ["lm_head"] * 2, "sequences": [1, 16], "time_us": [10, 160]})
    grid = [(0, 0, 4, 100, 7.0), (16, 32, 0, 0, 9.0), (120, 0, 8, 50, 11.0)]
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    written(folder / "attention.csv", dict(zip(names, map(list, zip(*grid, strict=True)), strict=True)))
    (folder / "config.json").write_text(layers)
    return Reading(config=folder / "config.json")


def test_steps_are_put_together_from_kernels(tmp_path: Path) -> None:
    found = read(tmp_path, kernels(tmp_path))
    by_tokens = {row[TOKENS]: (row.tolist(), s) for row, s in zip(found.rows.features, found.rows.seconds, strict=True)}

    def of(tokens: int, sequences: int, attention: float) -> float:
        return (tokens + 4 * (2 * 0.5 + 2.0) * tokens + 10 * sequences + 4 * attention) / 1e6

    assert by_tokens[4] == ([4, 4, 400, 0, 0], pytest.approx(of(4, 4, 7)))
    assert by_tokens[16] == ([16, 0, 0, 16 * (32 + 8), 1], pytest.approx(of(16, 1, 9)))
    assert by_tokens[128] == ([128, 8, 400, 7200, 1], pytest.approx(of(128, 9, 11)))
    assert any("host time" in note for note in found.notes)
    assert found.rows.counts.tolist() == pytest.approx(
        [1.5 if row[PREFILLS] == 0 else 0.75 for row in found.rows.features]
    )


def test_experts_are_added(tmp_path: Path) -> None:
    reading = kernels(tmp_path, '{"num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 2}')
    before = {
        r[TOKENS]: s for r, s in zip(*(lambda f: (f.features, f.seconds))(read(tmp_path, reading).rows), strict=True)
    }
    grid = [(t, e, 10.0 * e) for t in (1, 64) for e in (2, 4, 8)]
    written(
        tmp_path / "moe.csv",
        dict(zip(("tokens", "activated_experts", "time_us"), map(list, zip(*grid, strict=True)), strict=True)),
    )
    rows = read(tmp_path, reading).rows
    for row, seconds in zip(rows.features, rows.seconds, strict=True):
        active = 8 * (1 - 0.75 ** row[TOKENS])
        assert seconds - before[row[TOKENS]] == pytest.approx(4 * 10e-6 * active * max(1, row[TOKENS] / 64))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config.json": "{}"}, "does not say the number of layers"),
        ({"config.json": "[" * 9}, "is no config.json"),
        ({"config.json": '{"num_hidden_layers": true}'}, "does not say the number of layers"),
        ({"dense.csv": "tokens,time_us\n1,1\n"}, "columns lack: layer"),
        ({"dense.csv": "layer,tokens,time_us\na,1,-1\n"}, "row 1: a number that is not below 0"),
        ({"moe.csv": "tokens,activated_experts,time_us\n1,1,1\n"}, "numbers of experts"),
    ],
)
def test_kernels_that_are_damaged_are_refused(tmp_path: Path, change: dict[str, str], told: str) -> None:
    reading = kernels(tmp_path)
    for name, text in change.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        read(tmp_path, reading)


def test_kernels_without_a_config_are_refused(tmp_path: Path) -> None:
    kernels(tmp_path)
    with pytest.raises(ConfigurationError, match="--model-config"):
        read(tmp_path, PLAIN)


def test_all_mistakes_of_all_sources_come_together(tmp_path: Path) -> None:
    good = written(tmp_path / "good.csv", table(measured(90)))
    wrong = written(tmp_path / "ms.csv", {**table(measured(90)), "seconds": [9.0] * 90})
    (tmp_path / "foreign").write_text("hello")
    with pytest.raises(ConfigValidationError) as error:
        gather([good, wrong, tmp_path / "foreign", tmp_path / "none"], PLAIN)
    told = [("ms.csv: only 0 of 90 rows", "another unit"), ("foreign holds no steps", ""), ("none cannot be read", "")]
    for mistake, parts in zip(sorted(error.value.mistakes), sorted(told, key=lambda t: t[0]), strict=True):
        assert all(part in mistake for part in parts)


def test_a_few_bad_rows_are_left_out_and_told(tmp_path: Path) -> None:
    columns = table(measured(90))
    columns["seconds"][7] = float("nan")
    found = gather([written(tmp_path / "a.csv", columns)], PLAIN)
    assert len(found.rows) == 89
    assert found.refusals.listed == ["a.csv: run 0, row 8: no number: seconds is nan"]


def test_sources_of_different_engines_are_refused(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / f"{device}.csv", table(measured(90), device=[device] * 90)) for device in ("A100", "H100")
    ]
    with pytest.raises(ConfigValidationError, match="device is H100, and A100 in a source before"):
        gather(paths, PLAIN)


def test_the_kernels_of_a_real_gpu() -> None:
    folder = DATA / "llmservingsim" / "perf_RTXPRO6000_Llama-3.1-8B" / "tp1"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; SWARMTUNE_DATA names the folder of measured data")
    config = DATA / "aiconfigurator" / "model_configs" / "meta-llama--Meta-Llama-3.1-8B_config.json"
    rows = read(folder, Reading(config=config)).rows
    kept, refusals = accepted(rows, floor_s=16e9 / 1.8e12, unit_is_sure=True)
    assert len(kept) == len(rows), refusals.listed[:3]  # 16 GB of weights at 1.8 TB/s: 8.9 ms
    one = (rows.features[:, TOKENS] == 1) & (rows.features[:, CONTEXT] == 16)
    assert 0.009 < rows.seconds[one][0] < 0.014
