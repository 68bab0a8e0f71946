"""The adapter of ``vllm bench serve``: its command line, and a result that the real tool wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.adapters.vllm_bench import RESULT_FILE, VllmBenchmark, measurement
from swarmtune.testing.benchmark import BenchmarkContract
from swarmtune.workload import Load, Workload

SAMPLE = Path(__file__).parents[1] / "data" / "vllm_bench_result.json"  # vLLM 0.32.0, 20 requests, 4 at a time
URL = "http://127.0.0.1:9300"


def make(**section: Any) -> VllmBenchmark:
    return VllmBenchmark(VllmBenchmark.Config.model_validate(section))


class TestContract(BenchmarkContract):
    def make_benchmark(self) -> VllmBenchmark:
        return make()

    def leave_sample(self, directory: Path) -> None:
        shutil.copy(SAMPLE, directory / RESULT_FILE)


def test_golden_command() -> None:
    benchmark = make(
        executable="/opt/bin/vllm",
        command={"model": "/m", "served_model_name": "tiny", "num_prompts": "20", "others": "--trust-remote-code"},
        input_tokens=32,
        output_tokens=16,
        warmup_requests=2,
        env={"HF_HUB_OFFLINE": "1"},
    )
    workload = benchmark.workload("tiny", 7, {"tpot_ms": 50, "ttft_ms": 500.5}).at(Load(4, 2.5))
    command = benchmark.command(workload, URL)
    assert command.argv == (
        *("/opt/bin/vllm", "bench", "serve", "--backend", "openai", "--base-url", URL),
        *("--endpoint", "/v1/completions", "--model", "tiny", "--served-model-name", "tiny", "--tokenizer", "/m"),
        *("--dataset-name", "random", "--num-prompts", "20", "--num-warmups", "2", "--max-concurrency", "4"),
        *("--request-rate", "2.5", "--seed", "7", "--percentile-metrics", "ttft,tpot,itl,e2el"),
        *("--metric-percentiles", "50,90,95,99", "--result-dir", ".", "--result-filename", "result.json"),
        *("--random-input-len", "32", "--random-output-len", "16", "--save-result", "--disable-tqdm", "--ignore-eos"),
        *("--goodput", "tpot:50", "ttft:500.5", "--trust-remote-code"),
    )
    assert dict(command.env) == {"HF_HUB_OFFLINE": "1"}


def test_the_older_tuners_section() -> None:
    benchmark = make(
        command={
            "host": "127.0.0.1",
            "port": "port",
            "model": "model_path",
            "served_model_name": "model_name",
            "dataset_name": "sharegpt",
            "dataset_path": "/data/s.json",
            "num_prompts": 3000,
            "result_dir": "./result",
            "others": "--sharegpt-output-len 100 --max-concurrency $CONCURRENCY --request-rate ${REQUESTRATE}",
        },
        performance_config={"time_to_first_token": {"metric": "TTFT", "algorithm": "p90"}},
    )
    argv = benchmark.command(benchmark.workload("llama", 0, {}).at(Load(concurrency=3)), URL).argv
    assert argv[-4:] == ("--max-concurrency", "3", "--request-rate", "inf")
    assert argv.count("--max-concurrency") == argv.count("--request-rate") == 1
    assert argv[argv.index("--dataset-path") + 1] == "/data/s.json"
    assert argv[argv.index("--num-prompts") + 1] == "3000"
    assert not {"--tokenizer", "--random-input-len", "--goodput"} & set(argv)


def test_a_duration_becomes_requests() -> None:
    workload = Workload(model="m", load=Load(request_rate=2.5, arrivals="constant"), duration_s=30, endpoint="chat")
    argv = make().command(workload, URL).argv
    assert argv[argv.index("--num-prompts") + 1] == "75"
    assert argv[argv.index("--burstiness") + 1] == "1e6"
    assert argv[argv.index("--backend") + 1] == "openai-chat"
    assert argv[argv.index("--endpoint") + 1] == "/v1/chat/completions"
    assert "--max-concurrency" not in argv


def test_mistakes() -> None:
    prompts, others = make(command={"num_prompts": "num_prompts", "others": "--x 'y"}).mistakes()
    assert "'num_prompts' is not a whole number" in prompts
    assert "No closing quotation" in others
    assert make().mistakes() == []


def test_the_real_result() -> None:
    found = measurement(json.loads(SAMPLE.read_text()))
    assert found.valid
    assert dict(found.load) == {"concurrency": 4}
    assert found.metrics["completed"] == 20
    assert found.metrics["success_rate"] == 1.0
    assert found.metrics["output_throughput"] == pytest.approx(150.10866)
    assert found.metrics["request_goodput"] == pytest.approx(9.38179)
    assert found.metrics["p95_ttft_ms"] == pytest.approx(205.1233)
    assert found.metrics["p99_icl_ms"] == pytest.approx(133.12275)
    assert found.metrics["mean_e2el_ms"] == pytest.approx(425.02264)
    assert "median_ttft_ms" not in found.metrics


def test_nothing_completed_means_no_latencies() -> None:
    result = {**json.loads(SAMPLE.read_text()), "completed": 0, "failed": 20, "request_rate": 3.0}
    found = measurement(result)
    assert found.metrics["success_rate"] == 0.0
    assert not [name for name in found.metrics if name.endswith("_ms")]
    assert found.load["request_rate"] == 3.0
    assert not found.valid
    assert found.reasons == ("all 20 requests failed",)


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ({"mean_itl_ms": 0.0, "p50_itl_ms": 0.0}, {"icl"}),  # every answer came in one piece
        ({"mean_tpot_ms": 0.00337, "p50_tpot_ms": 0.0031}, {"tpot"}),  # or was held back: the gaps are those of a loop
        ({"mean_tpot_ms": float("nan")}, {"tpot"}),
        ({"mean_ttft_ms": 0.0, "mean_tpot_ms": 0.0}, {"ttft", "tpot"}),
        ({"p99_ttft_ms": -3.0}, {"ttft"}),
    ],
)
def test_what_was_not_measured_is_absent(change: dict[str, float], absent: set[str]) -> None:
    whole = {**json.loads(SAMPLE.read_text())}
    found, every = measurement(whole | change).metrics, measurement(whole).metrics
    latencies = {name for name in every if name.endswith("_ms")}
    lost = {name for name in latencies if name.split("_")[1] in absent}
    goodput = set[str]() if absent == {"icl"} else {"request_goodput"}  # it rests on what was not measured
    assert set(every) - set(found) == lost | goodput


def test_one_value_that_is_no_number_is_absent() -> None:
    found = measurement({**json.loads(SAMPLE.read_text()), "p95_ttft_ms": float("inf"), "std_tpot_ms": None}).metrics
    assert not {"p95_ttft_ms", "std_tpot_ms"} & set(found)
    assert {"p99_ttft_ms", "mean_tpot_ms", "request_goodput"} <= set(found)


def test_answers_of_one_token_can_be_good() -> None:
    zero = {f"{statistic}_tpot_ms": 0.0 for statistic in ("mean", "std", "p50", "p90", "p95", "p99")}
    found = measurement({**json.loads(SAMPLE.read_text()), **zero, "total_output_tokens": 20}).metrics
    assert "mean_tpot_ms" not in found
    assert found["request_goodput"] > 0


def test_the_tokenizer_is_that_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    benchmark = make(command={"model": "model_path"})
    benchmark.learn_model(str(tmp_path))
    argv = benchmark.command(benchmark.workload("llama", 0, {}), URL).argv
    assert argv[argv.index("--tokenizer") + 1] == str(tmp_path)
    benchmark.learn_model("org/llama")
    assert "--tokenizer" not in benchmark.command(benchmark.workload("llama", 0, {}), URL).argv


def test_arguments_that_take_the_result_away_are_a_mistake() -> None:
    (mistake,) = make(
        command={"others": "--metric-percentiles=99 --result-filename x.json --trust-remote-code"}
    ).mistakes()
    assert "leave --result-filename, --metric-percentiles out" in mistake


@pytest.mark.parametrize(
    "change", [{"completed": None}, {"duration": "NaN"}, {"total_output_tokens": -1}, {"total_input_tokens": 10**400}]
)
def test_results_that_hold_no_measurement(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / RESULT_FILE).write_text(json.dumps({**json.loads(SAMPLE.read_text()), **change}))
    with pytest.raises(BenchmarkParseError, match="is not a result of vllm bench serve"):
        make().read(tmp_path)
