"""The adapter of AIPerf: its command line, and a result that the real tool wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.adapters.aiperf import RESULT_FILE, AiperfBenchmark, measurement
from swarmtune.testing.benchmark import BenchmarkContract
from swarmtune.workload import Load, Workload

SAMPLE = Path(__file__).parents[1] / "data" / "aiperf_result.json"
URL = "http://127.0.0.1:9300"


def make(**section: Any) -> AiperfBenchmark:
    return AiperfBenchmark(AiperfBenchmark.Config.model_validate(section))


def sample(**changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = {**json.loads(SAMPLE.read_text()), **changes}
    return {name: value for name, value in result.items() if value is not None}


class TestContract(BenchmarkContract):
    def make_benchmark(self) -> AiperfBenchmark:
        return make()

    def leave_sample(self, directory: Path) -> None:
        shutil.copy(SAMPLE, directory / RESULT_FILE)


def test_golden_command() -> None:
    benchmark = make(
        executable="/opt/bin/aiperf",
        tokenizer="org/tiny",
        requests=20,
        warmup_requests=2,
        input_tokens=32,
        input_tokens_stddev=4,
        output_tokens=16,
        workers=1,
        others="--log-level debug",
        env={"HF_HUB_OFFLINE": "1"},
    )
    workload = benchmark.workload("tiny", 7, {"tpot_ms": 50, "ttft_ms": 500.5}).at(Load(4, 2.5))
    command = benchmark.command(workload, URL)
    assert command.argv == (
        *("/opt/bin/aiperf", "profile", "--model", "tiny", "--url", URL, "--endpoint-type", "completions"),
        *("--tokenizer", "org/tiny", "--concurrency", "4", "--request-rate", "2.5", "--arrival-pattern", "poisson"),
        *("--request-count", "20", "--num-dataset-entries", "22", "--warmup-request-count", "2"),
        *("--isl", "32", "--isl-stddev", "4", "--osl", "16", "--random-seed", "7"),
        *("--request-timeout-seconds", "120", "--extra-inputs", "ignore_eos:true"),
        *("--goodput", "inter_token_latency:50 time_to_first_token:500.5", "--workers-max", "1"),
        *("--artifact-dir", ".", "--export-level", "summary", "--ui-type", "none"),
        *("--streaming", "--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics"),
        *("--log-level", "debug"),
    )
    assert dict(command.env) == {"HF_HUB_OFFLINE": "1"}


def test_a_duration_in_place_of_a_count() -> None:
    workload = Workload(model="m", load=Load(request_rate=2.5, arrivals="constant"), duration_s=30, endpoint="chat")
    argv = make().command(workload, URL).argv
    assert argv[argv.index("--benchmark-duration") + 1] == "30"
    assert argv[argv.index("--arrival-pattern") + 1] == "constant"
    assert argv[argv.index("--endpoint-type") + 1] == "chat"
    assert not {"--request-count", "--num-dataset-entries", "--concurrency", "--goodput"} & set(argv)


def test_further_arguments_win() -> None:
    benchmark = make(others="--ui-type=simple --isl 99")
    argv = benchmark.command(benchmark.workload("m", 0, {}), URL).argv
    assert "--ui-type" not in argv
    assert argv.count("--isl") == 1
    assert argv[-2:] == ("--isl", "99")


def test_mistakes() -> None:
    (others,) = make(others="--x 'y").mistakes()
    assert "aiperf.others" in others
    assert "No closing quotation" in others
    assert make().mistakes() == []


def test_the_real_result() -> None:
    found = measurement(sample())
    assert found.valid
    assert dict(found.load) == {"concurrency": 4}
    assert found.metrics["completed"] == 40
    assert found.metrics["failed"] == 0
    assert found.metrics["success_rate"] == 1
    assert found.metrics["total_input_tokens"] == 1185
    assert found.metrics["total_output_tokens"] == 1280
    assert found.metrics["duration_s"] == pytest.approx(1.34153)
    assert found.metrics["request_throughput"] == pytest.approx(29.81671)
    assert found.metrics["output_throughput"] == pytest.approx(954.1347)
    assert found.metrics["request_goodput"] == pytest.approx(4 / 1.34153, rel=1e-5)  # 4 good ones, by the same seconds
    assert found.metrics["mean_ttft_ms"] == pytest.approx(20.35305)
    assert found.metrics["p99_ttft_ms"] == pytest.approx(41.4779)
    assert found.metrics["p50_tpot_ms"] == pytest.approx(2.889749)
    assert found.metrics["mean_e2el_ms"] == pytest.approx(109.4692)
    assert found.metrics["max_osl"] == 32
    assert found.metrics["p95_ttst_ms"] == pytest.approx(3.673007)
    assert found.metrics["mean_output_throughput_per_user"] == pytest.approx(352.8459)


def test_its_inter_token_latency_is_our_tpot() -> None:
    result = sample()
    found = measurement(result).metrics
    assert found["mean_tpot_ms"] == result["inter_token_latency"]["avg"]
    assert found["p99_icl_ms"] == result["inter_chunk_latency"]["p99"]
    assert not [name for name in found if name.endswith("_itl_ms")]


def test_nothing_completed_means_no_latencies() -> None:
    changes = {"request_count": None, "error_request_count": {"unit": "requests", "avg": 20.0}, "total_osl": None}
    found = measurement(sample(**changes))
    assert found.metrics["success_rate"] == found.metrics["output_throughput"] == 0.0
    assert found.metrics["failed"] == 20
    assert not [name for name in found.metrics if name.endswith("_ms")]
    assert (found.valid, found.reasons) == (False, ("all 20 requests failed",))


def test_what_was_not_measured_is_absent() -> None:
    nothing = {"unit": "ms", "avg": float("nan"), "p50": None}
    assert set(measurement(sample()).metrics) - set(measurement(sample(request_latency=nothing)).metrics) == {
        *(f"{statistic}_e2el_ms" for statistic in AiperfBenchmark.statistics),
        *(f"{statistic}_output_throughput_per_user" for statistic in AiperfBenchmark.statistics),
        "request_goodput",
    }
    held_back = measurement(sample(inter_token_latency={"unit": "ms", "avg": 0.03, "p50": 0.02, "min": 0.0})).metrics
    assert not {"mean_tpot_ms", "request_goodput", "mean_output_throughput_per_user"} & set(held_back)
    assert {"mean_ttft_ms", "p95_e2el_ms", "output_throughput"} <= set(held_back)
    assert "max_ttft_ms" not in measurement(sample(time_to_first_token={"unit": "ms", "avg": 8.0, "max": None})).metrics


def test_arguments_that_take_the_result_away_are_a_mistake() -> None:
    (mistake,) = make(others="--artifact-dir elsewhere --export-level=records").mistakes()
    assert "aiperf.others: leave --artifact-dir, --export-level out" in mistake


def test_a_run_that_was_stopped_is_not_valid() -> None:
    found = measurement(sample(was_cancelled=True))
    assert not found.valid
    assert "stopped" in found.reasons[0]


@pytest.mark.parametrize(
    "change",
    [
        {"benchmark_duration": None},
        {"benchmark_duration": {"unit": "sec", "avg": 0.0}},
        {"time_to_first_token": {"unit": "sec", "avg": 0.1}},
        {"time_to_first_token": None},
        {"request_latency": {"unit": "ms", "avg": "fast"}},
        {"request_count": {"unit": "requests", "avg": "many"}},
        {"request_count": {"unit": "requests", "avg": float("nan")}},
        {"total_osl": {"unit": "tokens", "avg": 10**400}},
    ],
)
def test_results_that_hold_no_measurement(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / RESULT_FILE).write_text(json.dumps(sample(**change)))
    with pytest.raises(BenchmarkParseError, match="is not a result of aiperf"):
        make().read(tmp_path)
