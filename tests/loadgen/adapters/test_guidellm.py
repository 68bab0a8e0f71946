"""The adapter of GuideLLM: its scenario file, and a result that the real tool wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.adapters.guidellm import RESULT_FILE, GuidellmBenchmark, measurement
from swarmtune.testing.benchmark import BenchmarkContract
from swarmtune.workload import Load, Workload

SAMPLE = Path(__file__).parents[1] / "data" / "guidellm_result.json"
URL = "http://127.0.0.1:9300"


def make(**section: Any) -> GuidellmBenchmark:
    return GuidellmBenchmark(GuidellmBenchmark.Config.model_validate(section))


def spec_of(benchmark: GuidellmBenchmark, workload: Workload) -> dict[str, Any]:
    (file,) = benchmark.command(workload, URL).files
    spec: dict[str, Any] = json.loads(file.content)["spec"]
    return spec


class TestContract(BenchmarkContract):
    def make_benchmark(self) -> GuidellmBenchmark:
        return make()

    def leave_sample(self, directory: Path) -> None:
        shutil.copy(SAMPLE, directory / RESULT_FILE)


def test_golden_command() -> None:
    benchmark = make(executable="/opt/bin/guidellm", workers=1, others="--label a=b", env={"HF_HUB_OFFLINE": "1"})
    command = benchmark.command(benchmark.workload("tiny", 7, {}), URL)
    assert command.argv == (
        *("/opt/bin/guidellm", "run", "--config", "scenario.json", "--disable-console"),
        *("--label", "a=b"),
    )
    assert dict(command.env) == {"GUIDELLM__MAX_WORKER_PROCESSES": "1", "HF_HUB_OFFLINE": "1"}
    assert [file.path for file in command.files] == ["scenario.json"]


def test_golden_scenario() -> None:
    benchmark = make(
        tokenizer="org/tiny", requests=20, warmup_requests=2, input_tokens=32, input_tokens_stddev=4, output_tokens=16
    )
    workload = benchmark.workload("tiny", 7, {"tpot_ms": 50, "ttft_ms": 500.5}).at(Load(4, 2.5))
    assert spec_of(benchmark, workload) == {
        "backend": {
            "kind": "openai_http",
            "target": URL,
            "model": "tiny",
            "request_format": "/v1/completions",
            "timeout": 120.0,
        },
        "tokenizer": {"kind": "hf_auto", "model": "org/tiny"},
        "data": [{"kind": "synthetic_text", "prompt_tokens": 32, "output_tokens": 16, "prompt_tokens_stdev": 4}],
        "profile": {
            "kind": "poisson",
            "rate": 2.5,
            "max_concurrency": 4,
            "warmup": {"value": 2, "mode": "requests"},
        },
        "constraints": [{"kind": "max_requests", "count": 22}],
        "seed": {"kind": "static", "value": 7},
        "outputs": [{"kind": "json", "path": "result.json"}],
        "metrics": {"kind": "generative", "sample_size": 0, "slo": {"tpot_ms": 50, "ttft_ms": 500.5}},
    }


def test_other_loads() -> None:
    closed = spec_of(make(), make().workload("m", 0, {}).at(Load(concurrency=3)))
    assert closed["profile"] == {"kind": "concurrent", "streams": 3}
    assert closed["constraints"] == [{"kind": "max_requests", "count": 100}]
    assert closed["tokenizer"] == {"kind": "hf_auto"}
    assert "slo" not in closed["metrics"]
    constant = Load(request_rate=2.5, arrivals="constant")
    timed = spec_of(make(), Workload(model="m", load=constant, duration_s=30, endpoint="chat", ignore_eos=False))
    assert timed["profile"] == {"kind": "constant", "rate": 2.5}
    assert timed["constraints"] == [{"kind": "max_duration", "seconds": 30}]
    assert timed["backend"]["request_format"] == "/v1/chat/completions"
    assert timed["backend"]["extras"] == {"body": {"ignore_eos": False}}


def test_mistakes() -> None:
    others, warmup = make(others="--x 'y", warmup_requests=3, duration_s=10).mistakes()
    assert "No closing quotation" in others
    assert "guidellm.warmup_requests" in warmup
    assert make(warmup_requests=3).mistakes() == []


def test_the_real_result() -> None:
    found = measurement(json.loads(SAMPLE.read_text()))
    assert found.valid
    assert dict(found.load) == {"concurrency": 4}
    assert found.metrics["completed"] == 39
    assert found.metrics["failed"] == 0
    assert found.metrics["success_rate"] == 1
    assert found.metrics["total_input_tokens"] == 942
    assert found.metrics["total_output_tokens"] == 1248
    assert found.metrics["duration_s"] == pytest.approx(1.019917)
    assert found.metrics["request_throughput"] == pytest.approx(38.23842)
    assert found.metrics["output_throughput"] == pytest.approx(1223.63)
    assert found.metrics["request_goodput"] == pytest.approx(35.29701)
    assert found.metrics["mean_ttft_ms"] == pytest.approx(8.284999)
    assert found.metrics["p99_ttft_ms"] == pytest.approx(20.73884)
    assert found.metrics["p50_tpot_ms"] == pytest.approx(2.766701)
    assert found.metrics["mean_e2el_ms"] == pytest.approx(95.25219)
    assert found.metrics["max_osl"] == 32
    assert found.metrics["incomplete"] == 0
    assert found.metrics["std_ttft_ms"] == pytest.approx(3.211537)


def test_its_inter_token_latency_is_our_tpot() -> None:
    result = json.loads(SAMPLE.read_text())
    theirs = result["benchmarks"][0]["metrics"]
    found = measurement(result).metrics
    assert found["mean_tpot_ms"] == theirs["inter_token_latency_ms"]["successful"]["mean"]
    assert found["mean_tpot_ms"] != theirs["time_per_output_token_ms"]["successful"]["mean"]
    assert found["p99_e2el_ms"] == 1000 * theirs["request_latency"]["successful"]["percentiles"]["p99"]
    assert not [name for name in found if name.endswith(("_itl_ms", "_icl_ms"))]


def test_nothing_completed_means_no_latencies() -> None:
    result = json.loads(SAMPLE.read_text())
    theirs = result["benchmarks"][0]["metrics"]
    theirs["request_totals"] = {"successful": 0, "errored": 20, "incomplete": 0, "total": 20}
    theirs["output_token_count"]["successful"]["total_sum"] = 0
    found = measurement(result)
    assert found.metrics["success_rate"] == found.metrics["output_throughput"] == 0.0
    assert not [name for name in found.metrics if name.endswith("_ms")]
    assert (found.valid, found.reasons) == (False, ("all 20 requests failed",))


def test_what_was_not_measured_is_absent() -> None:
    """A stream that is held back to its end: the tool divides the moment in which it comes by its tokens."""
    result = json.loads(SAMPLE.read_text())
    theirs = result["benchmarks"][0]["metrics"]
    every = set(measurement(result).metrics)
    theirs["inter_token_latency_ms"]["successful"] |= {"mean": 0.0278, "min": 0.01}
    theirs["time_to_first_output_token_ms"]["successful"]["percentiles"] |= {"p50": None, "p95": float("nan")}
    lost = {f"{statistic}_tpot_ms" for statistic in GuidellmBenchmark.statistics}
    assert every - set(measurement(result).metrics) == lost | {"request_goodput", "p50_ttfo_ms", "p95_ttfo_ms"}


@pytest.mark.parametrize(
    "change", [{"benchmarks": []}, {"benchmarks": [{}]}, {"benchmarks": 3}, {"benchmarks": [{}, {}]}]
)
def test_results_that_hold_no_measurement(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / RESULT_FILE).write_text(json.dumps({**json.loads(SAMPLE.read_text()), **change}))
    with pytest.raises(BenchmarkParseError, match="is not a result of guidellm"):
        make().read(tmp_path)


@pytest.mark.parametrize("duration", [0.0, float("nan"), None])
def test_a_run_without_a_duration(tmp_path: Path, duration: float | None) -> None:
    result = json.loads(SAMPLE.read_text())
    result["benchmarks"][0]["duration"] = duration
    (tmp_path / RESULT_FILE).write_text(json.dumps(result))
    with pytest.raises(BenchmarkParseError, match="is not a result of guidellm"):
        make().read(tmp_path)


def test_what_only_a_load_with_a_rate_has() -> None:
    result = json.loads(SAMPLE.read_text())
    theirs = result["benchmarks"][0]["metrics"]
    theirs["request_scheduled_latency"] = theirs["request_latency"]
    found = measurement(result).metrics
    assert found["p95_scheduled_e2el_ms"] == found["p95_e2el_ms"]
    assert GuidellmBenchmark(GuidellmBenchmark.Config()).absent("p95_scheduled_e2el_ms")
