"""The forms of a fitness function; the older one weighs what our own load generator measures on a real service."""

from __future__ import annotations

import functools
import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarmtune.cluster import NodeConfig, ParallelConfig, ParticleDispatcher, ServiceGroupConfig
from swarmtune.errors import ConfigurationError, SwarmTuneError
from swarmtune.fleet.fitness import weighs_performance
from swarmtune.fleet.load_place import too_large
from swarmtune.fleet.performance import Performance
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.records import Measurement
from swarmtune.space import Field

SERVE = """
import json, os, sys

values, env = json.load(open(sys.argv[sys.argv.index("--config") + 1])), os.environ
where = ["--host", env["SWARMTUNE_MASTER"], "--port", env["SWARMTUNE_PORT"]]
os.execv(sys.executable, [
    sys.executable, "-m", "swarmtune.simulator", *where, "--model", "m", "--max-num-seqs", str(values["max_batch_size"])
])
"""
LOAD = LoadgenOptions(
    request_count=8, concurrency=4, isl=16, osl=4, max_contended_cpu_share=1, max_idle_share=1, max_unsure_share=1
)
FIELDS = [Field("max_batch_size", min=1, max=64), Field("wait", min=0, max=9)]


@pytest.fixture
def parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ParallelConfig:
    """One group of this machine, with a script that serves the simulated engine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "serve.py").write_text(SERVE)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    node = NodeConfig("127.0.0.1", npu_ids=[], work_dir=str(tmp_path / "work"))
    group = ServiceGroupConfig(0, [node], port=port)
    script = f"{sys.executable} {tmp_path}/serve.py"
    return ParallelConfig(
        True, [group], executor="local", start_script=script, retry_count=0, results_dir=str(tmp_path / "results")
    )


def test_a_function_of_the_performance_gets_what_our_load_generator_measures(parallel: ParallelConfig) -> None:
    seen: list[Performance] = []
    told: list[float] = []

    def told_of(fitness: float) -> None:
        told.append(fitness)

    def minimum_algorithm(perf: Any) -> float:
        seen.append(perf)
        return float(1000 / perf.generate_speed + perf.time_to_first_token)

    with ParticleDispatcher(
        parallel_config=parallel,
        target_field=FIELDS,
        fitness_func=minimum_algorithm,
        result_callback=told_of,
        benchmark=LOAD,
    ) as dispatcher:
        results = dispatcher.evaluate_particles(np.array([[8.0, 1.0], [64.0, 2.0]]))
        folder = dispatcher.results_dir
    assert [result.failure for result in results] == [None, None]
    costs = np.asarray(results, dtype=float)
    assert sorted(costs) == sorted(1000 / p.generate_speed + p.time_to_first_token for p in seen)  # type: ignore[operator]
    assert told == [result.cost for result in results] == costs.tolist()
    assert [result.max_batch_size for result in results] == [8, 64]
    for perf in seen:
        assert perf.success_rate == 1.0
        assert perf.throughput is not None
        assert perf.generate_speed == pytest.approx(4 * perf.throughput)  # 4 tokens for each request
        assert 0 < perf.time_to_first_token < 10  # type: ignore[operator]
        # a busy machine may read all four tokens of each answer at once: then their times are not measured
        assert perf.time_per_output_token is None or 0 < perf.time_per_output_token < 10
    assert (folder / "000-00000-1" / "load" / "measurement.json").is_file()


def test_a_benchmark_function_of_the_user_measures_instead(parallel: ParallelConfig) -> None:
    dispatcher = ParticleDispatcher(parallel, FIELDS, lambda perf: perf["cost"], None, lambda: {"cost": 2.5}, True)
    assert dispatcher.setup()
    try:
        results = dispatcher.evaluate_particles([{"max_batch_size": 8}])
    finally:
        dispatcher.cleanup()
        dispatcher.cleanup()
    assert [float(result) for result in results] == [2.5]


def test_a_service_that_lists_no_model_is_told_with_the_way_out(parallel: ParallelConfig, tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(
        "import http.server, os\n"
        "class Ok(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "        self.wfile.write(b'{\"data\": []}')\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['SWARMTUNE_PORT'])), Ok).serve_forever()\n"
    )
    with (
        ParticleDispatcher(parallel, FIELDS, lambda perf: 1.0) as dispatcher,
        pytest.raises(SwarmTuneError, match=r"lists no model .*fitness_func\(values, url\)"),
    ):
        dispatcher.evaluate_particles([{"max_batch_size": 8}])


def on_master(parallel: ParallelConfig, python: Path | str) -> ParallelConfig:
    return parallel.model_copy(update={"benchmark_on": "master", "benchmark_python": str(python)})


def test_the_load_generator_runs_on_the_master_where_that_is_asked_for(
    parallel: ParallelConfig, tmp_path: Path
) -> None:
    config = on_master(parallel, sys.executable)
    with ParticleDispatcher(config, FIELDS, lambda perf: perf.throughput, benchmark=LOAD) as dispatcher:
        (result,) = dispatcher.evaluate_particles([{"max_batch_size": 8}])
        folder = dispatcher.results_dir
    assert (result.failure, result.cost > 0) == (None, True)
    there = tmp_path / "work" / "127.0.0.1" / "loads" / folder.name / "000-00000-1" / "load"
    assert (there / "spec.json").is_file()  # it ran on the "node", and its files came here
    here = folder / "000-00000-1" / "load"
    assert (here / "measurement.json").read_bytes() == (there / "measurement.json").read_bytes()


def test_the_load_generator_finds_its_file_on_the_master(parallel: ParallelConfig, tmp_path: Path) -> None:
    """A copy, named after its content, from which the requests there are made."""
    requests = tmp_path / "requests of today.jsonl"
    requests.write_text("".join(f'{{"input_length": 13, "output_length": 4, "hash_ids": [{n}]}}\n' for n in range(8)))
    load = LOAD.model_copy(update={"input_file": str(requests)})
    with ParticleDispatcher(
        on_master(parallel, sys.executable), FIELDS, lambda perf: perf.throughput, benchmark=load
    ) as dispatcher:
        (result,) = dispatcher.evaluate_particles([{"max_batch_size": 8}])
        there = tmp_path / "work" / "127.0.0.1" / "loads"
        (copy,) = (there / "files").iterdir()
        folder = dispatcher.results_dir / "000-00000-1" / "load"
    assert (result.failure, result.cost > 0) == (None, True)
    assert copy.name.endswith("-requests of today.jsonl")
    assert copy.read_bytes() == requests.read_bytes()
    assert json.loads((folder / "spec.json").read_text())["options"]["input_file"] == f"../../../files/{copy.name}"


def test_a_file_that_is_too_large_for_the_masters_is_a_mistake(tmp_path: Path) -> None:
    large, small = tmp_path / "large.jsonl", tmp_path / "small.jsonl"
    small.write_text("{}")
    with large.open("wb") as file:
        file.truncate(300 * 2**20)
    (mistake,) = too_large([str(large), str(small), str(tmp_path / "none")])
    assert mistake.startswith(f"{large} has 300 MiB, and at most 256 are copied to a master")


def test_a_master_without_swarmtune_is_told_to_the_user(parallel: ParallelConfig, tmp_path: Path) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o700)
    for python, words in ((bare, r"cannot run swarmtune\.loadgen\. Install"), ("/no/python", r"no such program")):
        with (
            ParticleDispatcher(on_master(parallel, python), FIELDS, lambda perf: 1.0, benchmark=LOAD) as dispatcher,
            pytest.raises(SwarmTuneError, match=words) as caught,
        ):
            dispatcher.evaluate_particles([{"max_batch_size": 8}])
        assert "parallel.benchmark_python" in str(caught.value)


def test_units_are_those_of_the_older_tool() -> None:
    metrics = {
        "output_throughput": 800.0,
        "mean_ttft_ms": 250.0,
        "mean_tpot_ms": 20.0,
        "success_rate": 0.5,
        "request_throughput": 4.0,
    }
    assert Performance.of(Measurement(metrics)) == Performance(800.0, 0.25, 0.02, 0.5, 4.0)
    assert Performance.of(Measurement({"success_rate": 0.0})) == Performance(success_rate=0.0)


class Cost:
    """Callable objects and methods count as functions."""

    def __call__(self, perf: Any) -> float:
        return 1.0

    def of_url(self, values: Mapping[str, Any], url: str) -> float:
        return 1.0


async def coroutine(perf: Any) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("function", "older"),
    [
        (lambda perf: 1.0, True),
        (lambda perf, weight=2.0, *, more=1: 1.0, False),
        (lambda values, url: 1.0, False),
        (lambda *arguments: 1.0, False),
        (lambda perf, *, weight=2.0: 1.0, True),
        (functools.partial(lambda weight, perf: 1.0, 3.0), True),
        (Cost(), True),
        (Cost().of_url, False),
        (coroutine, True),
        (max, False),
    ],
)
def test_a_function_of_one_argument_is_the_older_form(function: Any, older: bool) -> None:
    assert weighs_performance(function) is older


@pytest.mark.parametrize("function", [3, "cost", lambda: 1.0, lambda a, b, c: 1.0])
def test_what_is_no_fitness_function_is_told(function: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="fitness_func must be a function of values and url, or of the measured"
    ):
        weighs_performance(function)


def test_unknown_arguments_are_refused(parallel: ParallelConfig) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        ParticleDispatcher(parallel, FIELDS, lambda perf: 1.0, speed=3)
