"""``swarmtune simulate`` and ``calibrate``: predictions as people and programs get them, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_runs import Cli
from tests.simulator.latency_cases import trained

from swarmtune.simulator.latency.file import load, save
from swarmtune.simulator.latency.model import LatencyModel

VLLM = """
[vllm.command]
model = "m"
others = "--max-num-seqs 32 --max-num-batched-tokens 2048 --no-enable-prefix-caching"
[loadgen]
isl = 200
osl = 40
request_count = 60
"""


@pytest.fixture
def model(clean: Path) -> LatencyModel:
    """A model of step times in steps.json, and a configuration in vllm.toml."""
    (clean / "vllm.toml").write_text(VLLM)
    save(trained(), clean / "steps.json")
    return trained()


def simulated(cli: Cli, *more: str) -> dict[str, Any]:
    ended = cli("simulate", "--json", *more)
    assert ended.code in (0, 3), ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


VLLM_RUN = ("-e", "vllm", "-c", "vllm.toml", "--model", "steps.json")


def test_the_simulated_engine_needs_no_model(cli: Cli) -> None:
    ended = cli("simulate", "-e", "simulated", "--concurrency", "8")
    assert ended.code == 0, ended.err
    assert "Predicted, nothing measured: simulated, as the engine declares its steps" in ended.out
    assert "predicted: nothing was measured" in ended.out
    assert "measurement: valid" not in ended.out
    assert "100 completed" in ended.out


def test_nothing_in_the_json_was_measured_and_runs_agree(cli: Cli) -> None:
    first, again = (simulated(cli, "-e", "simulated", "--concurrency", "8") for _ in range(2))
    assert first["measured"] is False
    assert first["best"] == again["best"]
    assert first["loads"] == [{**first["loads"][0], "concurrency": 8.0}]
    assert first["scheduler"]["max_num_seqs"] == 16


def test_a_load_search_is_that_of_the_plan(cli: Cli) -> None:
    found = simulated(cli, "-e", "simulated")
    loads = [one["concurrency"] for one in found["loads"]]
    assert loads[0] == 4
    assert len(set(loads)) >= 3


@pytest.mark.parametrize(
    ("values", "better"),
    [(("max_num_seqs=2",), False), (("max_num_seqs=64", "max_num_batched_tokens=2048"), True)],
)
def test_a_setting_moves_the_prediction(cli: Cli, values: tuple[str, ...], better: bool) -> None:
    baseline = simulated(cli, "-e", "simulated", "--concurrency", "48")
    given = [word for value in values for word in ("--set", value)]
    changed = simulated(cli, "-e", "simulated", "--concurrency", "48", *given)
    assert (changed["loads"][0]["value"] > baseline["loads"][0]["value"]) is better
    assert changed["setting"]["max_num_seqs"] == int(values[0].partition("=")[2])


def test_vllm_by_a_model(cli: Cli, model: LatencyModel) -> None:
    ended = cli("simulate", *VLLM_RUN, "--concurrency", "8", "--kv-blocks", "2000")
    assert ended.code == 0, ended.err
    assert "vllm, by a model trained on 1,500 steps" in ended.out
    assert "32 sequences, 2048 tokens a step, 1,999 KV blocks of 16" in ended.out
    assert "how much the KV cache holds is not known" not in ended.out
    assert "how much the KV cache holds is not known" in cli("simulate", *VLLM_RUN, "--concurrency", "2").out


def test_more_replicas_and_little_memory_show(cli: Cli, model: LatencyModel) -> None:
    load = ("--concurrency", "32", "--kv-blocks")
    one, two = (simulated(cli, *VLLM_RUN, *load, "4000", "--replicas", n)["loads"][0] for n in ("1", "2"))
    assert two["value"] > 1.1 * one["value"]
    assert simulated(cli, *VLLM_RUN, *load, "60")["loads"][0]["preemptions"] > 0


def test_a_trace_is_replayed_at_its_times(cli: Cli, model: LatencyModel, clean: Path) -> None:
    lines = [{"timestamp": 100 * n, "input_length": 64, "output_length": 8, "hash_ids": [0, n + 1]} for n in range(30)]
    (clean / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = simulated(cli, *VLLM_RUN, "--trace", "trace.jsonl", "--kv-blocks", "4000")
    metrics = found["best"]["metrics"]
    assert metrics["completed"] == 30
    assert 2.9 < metrics["duration_s"] < 4.0


def test_a_search_in_virtual_time(cli: Cli) -> None:
    found = simulated(cli, "-e", "simulated", "--concurrency", "32", "--evaluations", "12")
    values = [one["value"] for one in found["tried"]]
    assert len(values) == 12
    assert values == sorted(values, reverse=True)
    assert found["setting"] == found["tried"][0]["setting"]
    assert any(one["origin"] == "baseline" for one in found["tried"])
    ended = cli("simulate", "-e", "simulated", "--concurrency", "32", "--evaluations", "10")
    assert "1 of 10" in ended.out
    assert "(baseline)" in ended.out


FIELDS = """
[[vllm.target_field]]
name = "max_num_seqs"
config_position = "--max-num-seqs"
min = 4
max = 64
value = 32
[[vllm.target_field]]
name = "kv_cache_dtype"
config_position = "--kv-cache-dtype"
dtype = "enum"
dtype_param = ["auto", "fp8"]
value = "auto"
[[vllm.target_field]]
name = "VLLM_CPU_OMP_THREADS_BIND"
dtype = "enum"
dtype_param = ["0-3", "0-7"]
value = "0-3"
"""
UNMODELLED = """
[[vllm.target_field]]
name = "seed"
config_position = "--seed"
min = 0
max = 8
value = 4
"""
FIELDS_RUN = ("-e", "vllm", "-c", "fields.toml", "--model", "steps.json", "--concurrency", "8", "--kv-blocks", "2000")


def fields_toml(clean: Path, fields: str) -> None:
    (clean / "fields.toml").write_text(VLLM.replace("--max-num-seqs 32 ", "") + fields)


def test_each_field_is_told_to_move_the_prediction_or_not(cli: Cli, model: LatencyModel, clean: Path) -> None:
    fields_toml(clean, FIELDS + UNMODELLED)
    found = simulated(cli, *FIELDS_RUN, "--evaluations", "12")
    assert found["fields"] == {
        "max_num_seqs": "moves the prediction",
        "kv_cache_dtype": "needs a model for each value",
        "VLLM_CPU_OMP_THREADS_BIND": "needs a model for each value",
        "seed": "not modelled",
    }
    assert len({one["setting"]["max_num_seqs"] for one in found["tried"]}) > 5
    for one in found["tried"]:
        assert {**one["setting"], "max_num_seqs": 0} == {**found["setting"], "max_num_seqs": 0}
    told = cli("simulate", *FIELDS_RUN).out
    assert "needs a model for each value: kv_cache_dtype, VLLM_CPU_OMP_THREADS_BIND" in told
    assert "not modelled: seed" in told


def test_a_search_of_fields_that_move_nothing_is_refused(cli: Cli, model: LatencyModel, clean: Path) -> None:
    fields_toml(clean, UNMODELLED)
    ended = cli("simulate", *FIELDS_RUN, "--evaluations", "5")
    assert ended.code == 2
    assert "seed: no field that is searched moves a prediction" in ended.err
    assert "Traceback" not in ended.err


def test_where_a_field_moves_the_prediction_its_direction_is_right(cli: Cli) -> None:
    """More memory, tokens and sequences answer no fewer requests of many users."""
    given = ("-e", "simulated", "--concurrency", "64")
    told = simulated(cli, *given)["fields"]
    for name, low, high in (
        ("max_num_seqs", 2, 64),
        ("max_num_batched_tokens", 64, 2048),
        ("kv_cache_tokens", 1024, 65536),
    ):
        assert told[name] == "moves the prediction"
        few, many = (simulated(cli, *given, "--set", f"{name}={value}")["loads"][0] for value in (low, high))
        assert many["value"] > few["value"], name


def test_the_highest_rate_within_the_slos(cli: Cli) -> None:
    (Path("short.toml")).write_text("[loadgen]\nbenchmark_duration = 8\nisl = 256\n")
    given = ("-e", "simulated", "-c", "short.toml", "--find-capacity")
    found = simulated(cli, *given)
    low, high = min(found["capacity"]), max(found["capacity"])
    assert len(found["capacity"]) == 3
    assert high < 1.5 * low
    assert found["loads"][0]["request_rate"] == low
    assert found["loads"][0]["feasible"]
    assert "highest rate within the SLOs" in cli("simulate", *given).out


def test_steps_and_figure(cli: Cli, clean: Path) -> None:
    ended = cli("simulate", "-e", "simulated", "--concurrency", "4", "--steps", "steps.json", "--plot", "steps.svg")
    assert ended.code == 0, ended.err
    events = json.loads((clean / "steps.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["name"] for event in slices} <= {"decode", "prefill", "mixed"}
    assert all(math.isfinite(event["ts"]) and event["dur"] > 0 for event in slices)
    assert all(later["ts"] >= earlier["ts"] for earlier, later in itertools.pairwise(slices))
    assert "<svg" in (clean / "steps.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-e", "simulated", "--set", "max_num_seqs"), "--set max_num_seqs: write NAME=VALUE"),
        (("-e", "simulated", "--set", "seqs=3"), "'seqs' is not a field"),
        (("-e", "simulated", "--set", "max_num_seqs=1000"), "max_num_seqs = 1000 is outside its range"),
        (("-e", "simulated", "--set", "max_num_seqs=2", "--set", "max_num_seqs=3"), "given twice"),
        (
            ("-e", "simulated", "--set", "max_num_seqs=200", "--set", "max_num_batched_tokens=100"),
            "breaks the rule 'max_num_batched_tokens >= max_num_seqs'",
        ),
        (("-e", "vllm", "-c", "vllm.toml"), "Nothing says how long a step of vllm takes"),
        (("-e", "vllm", "-c", "vllm.toml", "--model", "none.json"), "none.json"),
        (("-e", "vllm", "-c", "vllm.toml", "--model", "vllm.toml"), "vllm.toml"),
        (("-e", "simulated", "--trace", "none.jsonl"), "none.jsonl"),
        (("-e", "simulated", "-b", "guidellm"), "guidellm"),
        (("-e", "simulated", "--replicas", "0"), "'0' is not a whole number from 1 on"),
        (("-e", "simulated", "--request-rate", "nan"), "'nan' is not a number above 0"),
        (
            ("-e", "simulated", "--concurrency", "4", "--plot", "steps.bmp"),
            "a figure is a file that ends in .svg or .png",
        ),
        (("-e", "simulated", "--concurrency", "4", "--steps", "none/steps.json"), ""),
    ],
)
def test_what_cannot_be_simulated_is_one_error(
    cli: Cli, model: LatencyModel, arguments: tuple[str, ...], told: str
) -> None:
    ended = cli("simulate", *arguments)
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert ended.code == (2 if told else 0)


def log_of(clean: Path, requests: int = 60) -> None:
    rows = []
    for n in range(requests):
        sent = 1_000_000_000 + n * 200_000_000
        stamps = [sent + 30_000_000 + 12_000_000 * k for k in range(40)]
        rows.append({"outcome": "completed", "sent_ns": sent, "input_tokens": 200, "cached_tokens": -1, "output_tokens": 40,
                     "token_ns": stamps})  # fmt: skip
    (clean / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_model_of_data_sheets_says_what_it_is(cli: Cli, clean: Path) -> None:
    (clean / "vllm.toml").write_text(VLLM)
    sizes = {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
    (clean / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 32000, **sizes}))
    given = ("train", "-t", "device", "--model-config", "config.json", "-o", "sheet.json")
    ended = cli(*given, "--device", "h100")
    assert (ended.code, "nothing was measured" in ended.out) == (0, True), ended.err
    run = ("-e", "vllm", "-c", "vllm.toml", "--model", "sheet.json", "--kv-blocks", "4000", "--concurrency", "8")
    assert "by data sheets of h100" in cli("simulate", *run).out
    slow, quick = (found := simulated(cli, *run))["ends"]
    assert slow < found["loads"][0]["value"] < quick
    for more, told in (
        ((), "--device: one of A100"),
        (("--device", "H800"), "no sheet of the device 'H800'"),
        (("--device", "H100", "-i", "steps.parquet"), "learns from nothing that was measured"),
    ):
        ended = cli(*given, *more)
        assert (ended.code, told in ended.err) == (2, True), ended.err
    assert "-i: name what was measured" in cli("train", "-t", "vllm", "-o", "x.json").err


CALIBRATE = (
    "calibrate",
    "steps.json",
    "--log",
    "requests.jsonl",
    "-e",
    "vllm",
    "-c",
    "vllm.toml",
    "--kv-blocks",
    "4000",
)


def test_a_calibrated_model_predicts_what_was_seen(cli: Cli, model: LatencyModel, clean: Path) -> None:
    log_of(clean)
    ended = cli(*CALIBRATE, "-o", "anchored.json")
    assert ended.code == 0, ended.err
    assert "time per output token" in ended.out
    assert "Wrote anchored.json" in ended.out
    anchored = load(clean / "anchored.json")
    assert anchored.multipliers["weights"] > 1.2
    found = simulated(cli, *VLLM_RUN[:4], "--model", "anchored.json", "--request-rate", "5", "--kv-blocks", "4000")
    assert found["best"]["statistics"]["tpot_ms"]["mean"] == pytest.approx(12.0, rel=0.1)
    assert json.loads(cli(*CALIBRATE, "-o", "anchored.json", "--json").out)["requests"] == 60


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"others": "--tensor-parallel-size 2"}, "The model was trained on another service (tp 1 and 2)"),
        ({"requests": 5}, "5 requests are too few"),
        ({"log": "none.jsonl"}, "none.jsonl"),
        ({"log": "vllm.toml"}, "is not of a log of requests"),
    ],
)
def test_what_cannot_be_calibrated_is_one_error(
    cli: Cli, model: LatencyModel, clean: Path, change: dict[str, Any], told: str
) -> None:
    log_of(clean, change.get("requests", 60))
    if "others" in change:
        (clean / "vllm.toml").write_text(VLLM.replace("--max-num-seqs 32", change["others"]))
    words = list(CALIBRATE)
    words[words.index("requests.jsonl")] = change.get("log", "requests.jsonl")
    ended = cli(*words, "-o", "anchored.json")
    assert ended.code == 2
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert not (clean / "anchored.json").exists()


def test_a_model_of_another_layout_is_refused(cli: Cli, model: LatencyModel, clean: Path) -> None:
    text = VLLM.replace("--max-num-seqs 32", "--max-num-seqs 32 --tensor-parallel-size 8")
    (clean / "wide.toml").write_text(text)
    identity = msgspec.structs.replace(model.identity, tp=1)
    save(dataclasses.replace(model, identity=identity), clean / "narrow.json")
    ended = cli("simulate", "-e", "vllm", "-c", "wide.toml", "--model", "narrow.json", "--concurrency", "2")
    assert ended.code == 2
    assert "trained on another service" in ended.err


def test_the_warm_up_is_over_before_a_trace_begins(cli: Cli, model: LatencyModel, clean: Path) -> None:
    (clean / "one.jsonl").write_text('{"timestamp": 0, "input_length": 100, "output_length": 10}\n')
    metrics = simulated(cli, *VLLM_RUN, "--trace", "one.jsonl", "--kv-blocks", "1000")["best"]["metrics"]
    assert metrics["peak_concurrency"] == 1


def test_as_many_replicas_as_nobody_has_are_refused(cli: Cli) -> None:
    ended = cli("simulate", "-e", "simulated", "--replicas", "1000000")
    assert ended.code == 2
    assert "more than 1,000" in ended.err


def test_what_is_not_modelled_of_the_layout_is_told(cli: Cli, model: LatencyModel, clean: Path) -> None:
    (clean / "wide.toml").write_text(VLLM.replace("--max-num-seqs 32", "--max-num-seqs 32 --data-parallel-size 4"))
    given = ("-e", "vllm", "-c", "wide.toml", "--model", "steps.json", "--concurrency", "2")
    assert "data parallel ranks are not modelled: this is one of the 4" in cli("simulate", *given).out
    assert "data parallel" not in cli("simulate", *VLLM_RUN, "--concurrency", "2").out
