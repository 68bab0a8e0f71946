"""The adapter of AISBench: its command line, the configs beside it, and a result that the real tool wrote."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.adapters.ais_bench import AisBenchBenchmark, measurement
from swarmtune.testing.benchmark import BenchmarkContract
from swarmtune.workload import Load, Workload

DATA = Path(__file__).parents[1] / "data"
URL = "http://127.0.0.1:9300"


def make(**section: Any) -> AisBenchBenchmark:
    return AisBenchBenchmark(AisBenchBenchmark.Config.model_validate(section))


def table() -> list[dict[str, Any]]:
    with (DATA / "ais_bench_result.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def counts(**changes: Any) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((DATA / "ais_bench_result.json").read_text())
    return stored | {name.replace("_", " "): {"total": value} for name, value in changes.items()}


def configs(benchmark: AisBenchBenchmark, workload: Workload) -> dict[str, str]:
    return {file.path: file.content for file in benchmark.command(workload, URL).files}


def literals(source: str) -> dict[str, Any]:
    """What a config assigns, with the tool's own classes as their names."""
    names = {word: word for word in re.findall(r"\b[A-Z]\w+", source) if word not in ("True", "False", "None")}
    body = "\n".join(line for line in source.splitlines() if not line.startswith("from "))
    found: dict[str, Any] = {}
    exec(body, names, found)
    return found


class TestContract(BenchmarkContract):
    def make_benchmark(self) -> AisBenchBenchmark:
        return make()

    def leave_sample(self, directory: Path) -> None:
        shutil.copy(DATA / "ais_bench_result.csv", directory / "synthetic.csv")
        shutil.copy(DATA / "ais_bench_result.json", directory / "synthetic.json")


def test_golden_command() -> None:
    benchmark = make(
        executable="/opt/bin/ais_bench",
        command={"num_prompts": "20"},
        warmup_requests=2,
        others="--debug",
        env={"A": "1"},
    )
    command = benchmark.command(benchmark.workload("tiny", 7, {}), URL)
    assert command.argv == (
        *("/opt/bin/ais_bench", "--mode", "perf", "--models", "swarmtune", "--datasets", "swarmtune"),
        *("--summarizer", "swarmtune", "--config-dir", "configs", "--work-dir", "."),
        *("--num-prompts", "20", "--num-warmups", "2", "--debug"),
    )
    assert dict(command.env) == {"A": "1"}
    assert [file.path for file in command.files] == [
        "configs/models/swarmtune.py",
        "configs/datasets/swarmtune.py",
        "configs/summarizers/swarmtune.py",
    ]


def test_the_configs_carry_the_workload() -> None:
    benchmark = make(tokenizer="org/tiny", command={"num_prompts": 20}, input_tokens=32, input_tokens_stddev=4)
    workload = benchmark.workload('ti"n\\y', 7, {}).at(Load(4, 2.5))
    found = configs(benchmark, workload)
    (model,) = literals(found["configs/models/swarmtune.py"])["models"]
    assert (model["model"], model["path"], model["url"]) == ('ti"n\\y', "org/tiny", URL)
    assert (model["type"], model["stream"], model["batch_size"]) == ("VLLMCustomAPI", True, 4)
    assert (model["request_rate"], model["traffic_cfg"]) == (2.5, {"burstiness": 1.0})
    assert model["generation_kwargs"]["ignore_eos"] is True
    (dataset,) = literals(found["configs/datasets/swarmtune.py"])["synthetic_datasets"]
    assert dataset["config"]["RequestCount"] == 20
    assert dataset["config"]["StringConfig"] == {
        "Input": {"Method": "gaussian", "Params": {"Mean": 32, "Var": 16, "MinValue": 1, "MaxValue": 72}},
        "Output": {"Method": "uniform", "Params": {"MinValue": 32, "MaxValue": 32}},
    }
    summarizer = literals(found["configs/summarizers/swarmtune.py"])["summarizer"]
    assert summarizer["calculator"]["stats_list"][-3:] == ["P90", "P95", "P99"]


def test_a_rate_without_a_limit_on_users() -> None:
    workload = Workload(model="m", load=Load(request_rate=2.5, arrivals="constant"), duration_s=30, endpoint="chat")
    (model,) = literals(configs(make(), workload)["configs/models/swarmtune.py"])["models"]
    assert (model["type"], model["batch_size"], model["traffic_cfg"]) == ("VLLMCustomAPIChat", 75, {"burstiness": 0.0})


def test_the_older_tuners_section(tmp_path: Path) -> None:
    command = {
        "models": "vllm_api_stream_chat",
        "datasets": "gsm8k_gen_0_shot_cot_str_perf",
        "mode": "perf",
        "num_prompts": 1000,
        "work_dir": "work_dir",
    }
    older = {"process_name": "", "best_concurrency_coefficient": 3, "best_concurrency_threshold": 200}
    measured = {"time_to_first_token": {"metric": "TTFT", "algorithm": "p90"}}
    benchmark = make(tokenizer=str(tmp_path), command=command, performance_config=measured, **older)
    assert benchmark.mistakes() == []
    workload = benchmark.workload("llama", 0, {})
    argv = benchmark.command(workload, URL).argv
    assert argv[argv.index("--datasets") + 1] == "gsm8k_gen_0_shot_cot_str_perf"
    assert argv[argv.index("--num-prompts") + 1] == "1000"
    (model,) = literals(configs(benchmark, workload)["configs/models/swarmtune.py"])["models"]
    assert model["type"] == "VLLMCustomAPIChat"


def test_mistakes(tmp_path: Path) -> None:
    others, prompts, mode, tokenizer = make(
        others="--x 'y", command={"num_prompts": "num_prompts", "mode": "all"}, tokenizer=str(tmp_path / "no")
    ).mistakes()
    assert "No closing quotation" in others
    assert "'num_prompts' is not a whole number" in prompts
    assert "write perf" in mode
    assert "is not a folder" in tokenizer
    assert "tokenizer" in make().mistakes()[0]


def test_the_tokenizer_is_that_beside_the_model(tmp_path: Path) -> None:
    benchmark = make()
    benchmark.learn_model(str(tmp_path))
    (mistake,) = benchmark.mistakes()
    assert f"{tmp_path} holds none; give the folder" in mistake
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert benchmark.mistakes() == []
    (model,) = literals(configs(benchmark, benchmark.workload("llama", 0, {}))["configs/models/swarmtune.py"])["models"]
    assert model["path"] == str(tmp_path)


@pytest.mark.parametrize("folder", ["org/llama", "", "x" * 5000, "a\0b", "/no/such/folder"])
def test_no_tokenizer_is_known(folder: str) -> None:
    benchmark = make()
    benchmark.learn_model(folder)
    (mistake,) = benchmark.mistakes()
    assert "ais_bench.tokenizer: ais_bench needs the model's tokenizer" in mistake


def test_nothing_is_said_of_a_model_that_is_not_known_yet() -> None:
    benchmark = make()
    benchmark.learn_model(None)
    assert benchmark.mistakes() == []


def test_the_real_result() -> None:
    found = measurement(table(), counts()).metrics
    assert (found["completed"], found["failed"], found["success_rate"]) == (40, 0, 1.0)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (2560, 1280)
    assert found["duration_s"] == pytest.approx(1.0750133)
    assert found["request_throughput"] == pytest.approx(37.2088, abs=1e-4)
    assert found["output_throughput"] == pytest.approx(1190.6829, abs=1e-4)
    assert found["total_token_throughput"] == pytest.approx(3572.0487, abs=1e-3)
    assert (found["mean_ttft_ms"], found["p50_ttft_ms"], found["p95_ttft_ms"]) == (14.6, 14.6, 19.2)
    assert (found["mean_tpot_ms"], found["p99_icl_ms"], found["max_e2el_ms"]) == (2.9, 6.6, 111.3)
    assert not [name for name in found if name.endswith("_itl_ms") or name == "request_goodput"]


def test_failed_requests_count() -> None:
    found = measurement(table(), counts(Success_Requests=30, Failed_Requests=10)).metrics
    assert found["success_rate"] == 0.75


def test_it_is_found_where_the_tool_leaves_it(tmp_path: Path) -> None:
    left = tmp_path / "20261122_071839" / "performances" / "swarmtune"
    left.mkdir(parents=True)
    TestContract().leave_sample(left)
    assert make().read(tmp_path).metrics["completed"] == 40
    shutil.copy(DATA / "ais_bench_result.csv", left / "other.csv")
    with pytest.raises(BenchmarkParseError, match=r"left 2 tables .* Name one dataset"):
        make().read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"Success_Requests": None},
        {"Benchmark_Duration": "1.07 s"},
        {"Benchmark_Duration": "0 ms"},
        {"Total_Generated_Tokens": "nan"},
        {"Total_Generated_Tokens": "-1280"},
        {"Total_Generated_Tokens": "1e999"},
        {"Total_Generated_Tokens": "1,28"},
        {"Benchmark_Duration": "1,0 ms"},
        {"Benchmark_Duration": "1075.0133 ms ms"},
        {"Benchmark_Duration": ["1075 ms"]},
    ],
)
def test_results_that_hold_no_measurement(tmp_path: Path, change: dict[str, Any]) -> None:
    TestContract().leave_sample(tmp_path)
    (tmp_path / "synthetic.json").write_text(json.dumps(counts(**change)))
    with pytest.raises(BenchmarkParseError, match="is not a result of ais_bench"):
        make().read(tmp_path)


def test_a_table_without_first_tokens(tmp_path: Path) -> None:
    TestContract().leave_sample(tmp_path)
    lines = (tmp_path / "synthetic.csv").read_text().splitlines()
    (tmp_path / "synthetic.csv").write_text("\n".join(line for line in lines if not line.startswith("TTFT")))
    with pytest.raises(BenchmarkParseError, match="streams nothing"):
        make().read(tmp_path)


LINES = (DATA / "ais_bench_result.csv").read_text().splitlines()
EVERY = set(measurement(table(), counts()).metrics)


def read_of(folder: Path, csv_text: str | bytes, json_text: str | bytes | None = None) -> dict[str, float]:
    TestContract().leave_sample(folder)
    for name, content in (("synthetic.csv", csv_text), ("synthetic.json", json_text)):
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return dict(make().read(folder).metrics)


def with_row(name: str, **cells: str) -> str:
    """The real table with other cells in a row."""
    head = LINES[0].split(",")
    changed = [dict(zip(head, line.split(","), strict=True)) for line in LINES[1:]]
    for row in changed:
        row.update(cells if row["Performance Parameters"] == name else {})
    cells_of = [[f'"{cell}"' if "," in cell else cell for cell in row.values()] for row in changed]
    return "\n".join([LINES[0], *(",".join(row) for row in cells_of)]) + "\n"


def test_a_mark_of_the_byte_order(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    text = (DATA / "ais_bench_result.json").read_bytes()
    assert set(read_of(tmp_path, mark + "\r\n".join(LINES).encode(), mark + text)) == EVERY


def test_commas_between_thousands(tmp_path: Path) -> None:
    found = read_of(tmp_path, with_row("E2EL", Average="12,104.5 ms", Max="1,112,104 ms"))
    assert (found["mean_e2el_ms"], found["max_e2el_ms"]) == (12104.5, 1112104.0)


def test_the_only_stage_is_the_one_that_was_measured(tmp_path: Path) -> None:
    table_text, counts_text = ((DATA / f"ais_bench_result.{kind}").read_text() for kind in ("csv", "json"))
    stable = read_of(tmp_path, table_text.replace(",total,", ",stable,"), counts_text.replace('"total"', '"stable"'))
    assert set(stable) == EVERY


def test_values_that_were_not_measured_are_absent(tmp_path: Path) -> None:
    zeros = dict.fromkeys(("Average", "Min", "Max", "Median", "P75", "P90", "P95", "P99"), "0.0 ms")
    tpot, ttft = ({f"{one}_{sample}" for one in AisBenchBenchmark.statistics} for sample in ("tpot_ms", "ttft_ms"))
    assert EVERY - set(read_of(tmp_path, with_row("TPOT", **zeros))) == tpot
    assert EVERY - set(read_of(tmp_path, with_row("TTFT", Average="nan ms"))) == ttft
    assert EVERY - set(read_of(tmp_path, with_row("TTFT", P95="nan ms", P99=""))) == {"p95_ttft_ms", "p99_ttft_ms"}
    without = "\n".join(line for line in LINES if not line.startswith(("TPOT", "ITL")))  # as it writes it
    assert EVERY - set(read_of(tmp_path, without)) == tpot | {name.replace("tpot", "icl") for name in tpot}


def test_zeros_of_answers_without_a_tpot_are_taken_out(tmp_path: Path) -> None:
    half = read_of(tmp_path, with_row("TPOT", Average="1.5 ms", Median="2.7 ms", Min="0.0 ms", N="20"))
    assert half["mean_tpot_ms"] == 3.0
    assert {name for name in half if name.endswith("tpot_ms")} == {"mean_tpot_ms", "max_tpot_ms"}


@pytest.mark.parametrize(
    "table_text",
    [
        "\n".join(LINES)[:-300],  # half written
        with_row("TTFT", Average="0.0146 s"),
        with_row("TTFT", Average="14.6"),
        with_row("TTFT", Average="14,6 ms"),
        with_row("TTFT", Average="12,104.5 ms").replace('"', ""),
        with_row("TTFT", Stage="stable") + with_row("TTFT", Stage="odd"),
        "\n".join([*LINES, *LINES[1:]]),  # one run behind the other
        with_row("InputTokens", Average="64.0 ms"),
        "",
        LINES[0],
        "\n".join(LINES).encode("utf-16"),
        b"\xff\xfe" + "\n".join(LINES).encode(),
        '"' + "x" * 200_000,
    ],
)
def test_tables_that_hold_no_measurement(tmp_path: Path, table_text: str | bytes) -> None:
    with pytest.raises(BenchmarkParseError, match="is not a result of ais_bench"):
        read_of(tmp_path, table_text)


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"Success Requests": {"odd": 4}}', b"\xff", '{"a": 1'])
def test_counts_that_hold_no_measurement(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(BenchmarkParseError, match="is not a result of ais_bench") as caught:
        read_of(tmp_path, "\n".join(LINES), text)
    assert len(caught.value.message) < 1000


def test_counts_that_are_not_there(tmp_path: Path) -> None:
    shutil.copy(DATA / "ais_bench_result.csv", tmp_path / "synthetic.csv")
    with pytest.raises(BenchmarkParseError, match=r"ais_bench left no .*synthetic.json"):
        make().read(tmp_path)
