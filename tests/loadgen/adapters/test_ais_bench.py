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
    with pytest.raises(BenchmarkParseError, match="left 2 tables"):
        make().read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"Success_Requests": None},
        {"Benchmark_Duration": "1.07 s"},
        {"Benchmark_Duration": "0 ms"},
        {"Total_Generated_Tokens": "nan"},
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
