"""Our load generator keeps the contract of all load generators."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from swarmtune import registry
from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.base import LoadedService
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.exports.report import report, write_files
from swarmtune.records import Node
from swarmtune.testing.benchmark import BenchmarkContract
from swarmtune.testing.fake_records import fake_records
from swarmtune.workload import Load


def make(**options: object) -> SwarmtuneBenchmark:
    return SwarmtuneBenchmark(SwarmtuneBenchmark.Config.model_validate(options))


class TestContract(BenchmarkContract):
    def make_benchmark(self) -> SwarmtuneBenchmark:
        return make(request_count=10, concurrency=2)

    def leave_sample(self, directory: Path) -> None:
        spec = Spec(url=("http://127.0.0.1:9",), model="m", request_slos={"ttft_ms": 500.0})
        write_files(report(spec, fake_records(200, seed=3)), directory)


def test_the_command_holds_the_whole_spec() -> None:
    benchmark = make(
        request_rate=3.0, concurrency=4, benchmark_duration=5, endpoint_type="chat", max_cpu_share=0.5, isl_stddev=3
    )
    workload = benchmark.workload("m", 3, {"ttft_ms": 9.0})
    command = benchmark.command(workload, "http://127.0.0.1:9")
    spec = Spec.model_validate_json(command.files[0].content)
    assert command.argv == (sys.executable, "-P", "-m", "swarmtune.loadgen", "spec.json")
    assert workload.load == Load(4, 3.0)
    assert workload.requests is None
    assert (spec.url, spec.model, spec.seed, spec.request_slos) == (("http://127.0.0.1:9",), "m", 3, {"ttft_ms": 9.0})
    assert spec.options == benchmark.config.model_copy(update={"warmup_until_steady": True})
    closed = benchmark.command(workload.at(Load(concurrency=7)), "http://127.0.0.1:9")
    options = Spec.model_validate_json(closed.files[0].content).options
    assert (options.concurrency, options.request_rate) == (7, None)


def test_the_spec_knows_the_nodes_of_the_service() -> None:
    benchmark = make()
    service = LoadedService("http://n1:8000", (Node("n1", (0, 1)), Node("n2", (3,))), "http://n1:8000/m", True, "mark")
    command = benchmark.command_for(benchmark.workload("m", 3, {}), service)
    spec = Spec.model_validate_json(command.files[0].content)
    assert [(node.host, node.devices) for node in spec.service_nodes] == [("n1", (0, 1)), ("n2", (3,))]
    assert (spec.url, spec.metrics_url, spec.power_needed) == (("http://n1:8000",), "http://n1:8000/m", True)
    assert spec.service_token == "mark"
    assert "n1, n2: not this machine" in benchmark.no_power(service.nodes)
    assert make(gpu_telemetry="http://n1:9400/metrics").no_power(service.nodes) == ""


def test_headers_travel_in_the_environment_as_secrets() -> None:
    benchmark = make(header=["X-Key: very-secret"])
    command = benchmark.command(benchmark.workload("m", 3, {}), "http://127.0.0.1:9")
    assert "very-secret" not in command.files[0].content
    assert set(command.env) == command.secrets != set()


def test_defaults_are_a_hundred_requests_of_eight_users() -> None:
    workload = make().workload("m", 0, {})
    assert (workload.requests, workload.load) == (100, Load(concurrency=8))
    assert make(request_rate=2.0).workload("m", 0, {}).load == Load(request_rate=2.0)


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"request_rate": -1}, {"endpoint_type": "x"}, {"users": 3}])
def test_a_wrong_section_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make(**wrong)


@pytest.mark.parametrize(
    "content",
    ['{"metrics": {"a": NaN}, "load": {}, "valid": true, "reasons": [], "source": "x"}', "[]", '{"metrics": 3}'],
)
def test_files_that_hold_no_measurement(tmp_path: Path, content: str) -> None:
    (tmp_path / "measurement.json").write_text(content)
    with pytest.raises(BenchmarkParseError, match=r"measurement\.json"):
        make().read(tmp_path)


def test_registered_without_heavy_imports() -> None:
    code = (
        "import sys, json; from swarmtune import loadgen, registry; loadgen.register();"
        "print(json.dumps([list(registry.benchmarks), [m for m in ('aiohttp', 'numpy', 'uvloop') if m in sys.modules]]))"
    )
    names, heavy = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert {"swarmtune", "vllm_benchmark"} <= set(names)
    assert heavy == []
    registry.load_plugins()
    assert registry.benchmarks.load("swarmtune") is SwarmtuneBenchmark


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt,output\na,b\n", "a format that is not known"),
        ("just a prompt\n", "input_file"),
        ('{"text": "one", "output_length": 4}\n{"text": 5}\n', "line 2"),
    ],
)
def test_a_file_of_requests_is_read_before_anything_is_started(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "q.csv").write_text(text)
    found = make(input_file=str(tmp_path / "q.csv"), ca_file="/nowhere").mistakes()
    assert any(words in mistake for mistake in found)
    assert any("/nowhere is not a file" in mistake for mistake in found)
    assert all(mistake.startswith("loadgen.") for mistake in found)
