"""The older tuner's [health_check] and [deploy]: the user's own texts in logs, and where programs are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmtune.clock import RealClock
from swarmtune.engines.surroundings import Deploy, HealthCheck
from swarmtune.errors import BenchmarkExecutionError, ConfigValidationError, Culprit, SimulatorStartError
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.records import Command, command_line
from swarmtune.settings import read_settings
from swarmtune.testing.executor import finished

TEXTS = """
[health_check]
log_snippet_length = 5
[health_check.service_errors.fatal_patterns]
out_of_memory = ["HBM exhausted", "no pages (left)"]
device_error = ["chip fell off"]
[health_check.service_errors.retryable_patterns]
network_error = ["link flapped"]
io_error = ["stale handle"]
[health_check.benchmark_errors.retryable_patterns]
network_error = ["peer vanished"]
"""


def test_either_table_may_hold_any_cause(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[health_check.service_errors.fatal_patterns]\nio_error = ["a"]\nnetwork_error = ["b"]\n'
        '[health_check.service_errors.retryable_patterns]\nio_error = ["c"]\nout_of_memory = ["d"]\n'
    )
    seen = read_settings(path, {}).health_check.service_errors
    causes = {line: seen.cause(line) for line in ("a1", "b2", "c3", "d4")}
    assert causes == {
        "a1": ("io_error", "a1"), "b2": ("network_error", "b2"), "c3": ("io_error", "c3"), "d4": ("out_of_memory", "d4")
    }  # fmt: skip


@pytest.fixture
def health(tmp_path: Path) -> HealthCheck:
    path = tmp_path / "config.toml"
    path.write_text(TEXTS)
    return read_settings(path, {}).health_check


@pytest.mark.parametrize(
    ("log", "cause", "culprit"),
    [
        ("a\nE9: HBM exhausted\nb", "out_of_memory", Culprit.SETTING),
        ("no pages (left)", "out_of_memory", Culprit.SETTING),  # a text, not a pattern of characters
        ("the chip fell off", "device_error", Culprit.INFRASTRUCTURE),
        ("link flapped", "network_error", Culprit.INFRASTRUCTURE),
        ("stale handle", "io_error", Culprit.INFRASTRUCTURE),
        ("link flapped\nHBM exhausted", "out_of_memory", Culprit.SETTING),  # the last one counts
        ("HBM exhausted\nlink flapped\n", "network_error", Culprit.INFRASTRUCTURE),
        ("HBM exhausted\n1\n2\n3\n4\n5", "crashed", Culprit.USER),  # above the lines that are searched
        ("peer vanished", "crashed", Culprit.USER),  # of the load generator
        ("", "crashed", Culprit.USER),
    ],
)
def test_a_text_in_the_log_gives_cause_and_blame(health: HealthCheck, log: str, cause: str, culprit: Culprit) -> None:
    found = SimulatorStartError("it crashed", details={"cause": "crashed", "exit_code": 1}, culprit=Culprit.USER)
    error = health.of_service(found, log)
    assert isinstance(error, SimulatorStartError)
    assert (error.details["cause"], error.details["exit_code"], error.culprit) == (cause, 1, culprit)
    assert "it crashed" in error.message
    assert (cause == "crashed") == ("[health_check]" not in str(error))


def test_a_load_generator_has_texts_of_its_own(health: HealthCheck) -> None:
    error = health.of_benchmark(BenchmarkExecutionError("code 1"), "HBM exhausted\npeer vanished: 10.0.0.9\n")
    assert (error.details["cause"], error.culprit) == ("network_error", Culprit.INFRASTRUCTURE)
    assert str(error) == "network error, by a text of [health_check]: peer vanished: 10.0.0.9\ncode 1"


def test_mistakes_in_the_tables_are_told(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[health_check.service_errors.fatal_patterns]\nout_of_memroy = []\nio_errors = ["x"]\ndevice_error = [""]'
    )
    with pytest.raises(ConfigValidationError) as caught:
        read_settings(path, {})
    where = f"{path}: health_check.service_errors.fatal_patterns"
    assert sorted(caught.value.mistakes) == [
        f"{where}.device_error.0: string should have at least 1 character (it is '')",
        f"{where}.io_errors: unknown key; did you mean io_error or device_error or network_error?",
        f"{where}.out_of_memroy: unknown key; did you mean out_of_memory?",
    ]


async def test_programs_of_the_prefix_come_first_on_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    program = tmp_path / "stack" / "bin" / "my-serve"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$PATH"\n')
    program.chmod(0o700)
    executor = LocalExecutor(tmp_path / "root", RealClock())
    command = Deploy(path_prefix=f"{tmp_path}/stack/").on_path(Command(("my-serve",)))
    handle = await executor.start(command)
    assert await finished(handle) == 0
    assert await handle.logs() == f"{tmp_path}/stack:{tmp_path}/stack/bin:{os.environ['PATH']}\n"
    await executor.close()


def test_a_path_of_the_engine_stays_behind_the_prefix() -> None:
    deploy = Deploy(path_prefix="/opt/my stack")
    assert command_line(deploy.on_path(Command(("serve",)))) == "PATH='/opt/my stack:/opt/my stack/bin:'\"$PATH\" serve"
    own = deploy.on_path(Command(("serve",), env={"PATH": "/usr/bin", "A": "$PATH"}))
    assert dict(own.env) == {"PATH": "/opt/my stack:/opt/my stack/bin:/usr/bin", "A": "$PATH"}
    assert Deploy().on_path(own) is own
