"""What every load generator must do. Inherit ``BenchmarkContract`` in a test class and supply the two methods."""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from swarmtune.errors import BenchmarkParseError
from swarmtune.loadgen.base import COMMON, Benchmark
from swarmtune.records import Command, Measurement, from_plain, to_plain
from swarmtune.workload import Load, Workload

URL = "http://127.0.0.1:8123"
UNITS = re.compile(
    r"_(ms|s|throughput|goodput|rate|tokens|share|share_max|per_s|per_user|count|concurrency|isl|osl|pct|watts)$"
    r"|^(completed|failed|incomplete|cancelled|dropped|late|answered|retried)$"
)
ODD_MODEL = "my model; $(touch broken) `id` && 'x' | \"y\""


class BenchmarkContract:
    """Tests of the contract in ``loadgen/base.py``."""

    @abstractmethod
    def make_benchmark(self) -> Benchmark:
        """A benchmark with a small configuration."""

    @abstractmethod
    def leave_sample(self, directory: Path) -> None:
        """Put the files of a real, successful run into this empty directory."""

    def make_workload(self) -> Workload:
        """The benchmark's own workload."""
        return self.make_benchmark().workload("some-model", 7, {"ttft_ms": 500.0})

    def test_config_is_a_frozen_model_without_unknown_keys(self) -> None:
        config = self.make_benchmark().config
        assert isinstance(config, BaseModel)
        assert isinstance(config, self.make_benchmark().Config)
        with pytest.raises(ValidationError):
            type(config).model_validate({"no_such_key_at_all": 1})

    def test_workload_carries_what_the_tuner_gave(self) -> None:
        workload = self.make_workload()
        assert (workload.model, workload.seed, dict(workload.request_slos)) == ("some-model", 7, {"ttft_ms": 500.0})
        assert workload.requests is not None or workload.duration_s is not None
        assert workload.load.concurrency is not None or workload.load.request_rate is not None

    def test_command_is_argv_of_text(self) -> None:
        command = self.make_benchmark().command(self.make_workload(), URL)
        assert isinstance(command, Command)
        assert command.argv
        assert all(type(word) is str and word for word in command.argv)
        assert not {"-c", "sh", "bash"} & {Path(word).name for word in command.argv[:2]}

    def test_command_names_the_service(self) -> None:
        assert "8123" in self._everything_said(self.make_workload())

    def test_no_shell_stands_between(self) -> None:
        """An odd model name arrives unchanged: as one word of argv, or inside a file."""
        command = self.make_benchmark().command(replace(self.make_workload(), model=ODD_MODEL), URL)
        stored = json.dumps(ODD_MODEL)[1:-1]
        in_files = any(ODD_MODEL in file.content or stored in file.content for file in command.files)
        assert ODD_MODEL in command.argv or in_files

    def test_command_is_a_function_of_its_arguments(self) -> None:
        workload = self.make_workload()
        assert self.make_benchmark().command(workload, URL) == self.make_benchmark().command(workload, URL)

    @pytest.mark.parametrize("load", [Load(concurrency=37), Load(request_rate=41.5), Load(37, 41.5)])
    def test_command_carries_the_load(self, load: Load) -> None:
        said = self._everything_said(self.make_workload().at(load))
        assert load.concurrency is None or "37" in said
        assert load.request_rate is None or "41.5" in said

    def test_an_empty_directory_holds_no_measurement(self, tmp_path: Path) -> None:
        with pytest.raises(BenchmarkParseError):
            self.make_benchmark().read(tmp_path)

    def test_broken_files_hold_no_measurement(self, tmp_path: Path) -> None:
        self.leave_sample(tmp_path)
        for path in tmp_path.iterdir():
            path.write_text("{broken")
        with pytest.raises(BenchmarkParseError):
            self.make_benchmark().read(tmp_path)

    def test_the_sample_is_read_in_our_names_and_units(self, tmp_path: Path) -> None:
        self.leave_sample(tmp_path)
        measurement = self.make_benchmark().read(tmp_path)
        assert isinstance(measurement, Measurement)
        assert all(math.isfinite(value) for value in measurement.metrics.values())
        assert [name for name in measurement.metrics if not UNITS.search(name)] == []
        required = {
            "success_rate",
            "output_throughput",
            "request_throughput",
            "mean_ttft_ms",
            "p99_ttft_ms",
            "mean_tpot_ms",
        }
        assert required <= set(measurement.metrics)
        assert 0 <= measurement.metrics["success_rate"] <= 1

    def test_the_sample_has_exactly_what_is_declared(self, tmp_path: Path) -> None:
        """So that objectives and SLOs can be checked before anything is measured."""
        benchmark = self.make_benchmark()
        if benchmark.samples:
            declared = {f"{statistic}_{sample}" for statistic in benchmark.statistics for sample in benchmark.samples}
            self.leave_sample(tmp_path)
            assert set(benchmark.read(tmp_path).metrics) == {*declared, *COMMON, *benchmark.scalars}

    def test_the_sample_survives_storage(self, tmp_path: Path) -> None:
        self.leave_sample(tmp_path)
        measurement = self.make_benchmark().read(tmp_path)
        stored = json.dumps(to_plain(measurement))
        assert from_plain(json.loads(stored), Measurement) == measurement

    def _everything_said(self, workload: Workload) -> str:
        command = self.make_benchmark().command(workload, URL)
        return " ".join([*command.argv, *(f.content for f in command.files), *command.env.values()])
