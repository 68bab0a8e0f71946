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
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.export import write
from swarmtune.loadgen.metrics import metrics
from swarmtune.loadgen.rows import Outcome, Row
from swarmtune.loadgen.spec import Spec
from swarmtune.records import Measurement
from swarmtune.testing.benchmark import BenchmarkContract
from swarmtune.workload import Load


def make(**options: object) -> SwarmtuneBenchmark:
    return SwarmtuneBenchmark(SwarmtuneBenchmark.Config.model_validate(options))


class TestContract(BenchmarkContract):
    def make_benchmark(self) -> SwarmtuneBenchmark:
        return make(requests=10, concurrency=2)

    def leave_sample(self, directory: Path) -> None:
        rows = [
            Row(f"7-{i}", 0, 0, (5_000_000 + i, 9_000_000, 15_000_000), 15_000_000, 8, 3, Outcome.COMPLETED)
            for i in range(4)
        ]
        write(rows, Measurement(metrics(rows, 0, {"ttft_ms": 500.0}), {"concurrency": 2}), directory)


def test_the_command_holds_the_whole_spec() -> None:
    benchmark = make(request_rate=3.0, concurrency=4, duration_s=5, endpoint="chat", max_cpu_share=0.5)
    workload = benchmark.workload("m", 3, {"ttft_ms": 9.0})
    command = benchmark.command(workload, "http://127.0.0.1:9")
    spec = Spec.model_validate_json(command.files[0].content)
    assert command.argv == (sys.executable, "-P", "-m", "swarmtune.loadgen", "spec.json")
    assert spec.workload == workload
    assert workload.load == Load(4, 3.0)
    assert workload.requests is None
    assert (spec.url, spec.limits.max_cpu_share) == ("http://127.0.0.1:9", 0.5)


def test_defaults_are_a_hundred_requests_of_eight_users() -> None:
    workload = make().workload("m", 0, {})
    assert (workload.requests, workload.load) == (100, Load(concurrency=8))
    assert make(request_rate=2.0).workload("m", 0, {}).load == Load(request_rate=2.0)


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"request_rate": -1}, {"endpoint": "x"}, {"users": 3}])
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
