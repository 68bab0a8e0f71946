"""What all tests share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator

import hypothesis
import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does: many small matrices, few cores
# Test processes share the machine, so a measurement of a test is always disturbed; tests of that say so themselves.
os.environ["SWARMTUNE_LOADGEN__MAX_CONTENDED_CPU_SHARE"] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would ours

# A slow machine is no failure: neither a slow example nor slow making of examples.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# The tests that start a process, by how their ids begin; they get the marker "processes". All others are the unit suite:
# `make test-fast`, which `make test-pythons` runs on every Python. A test that starts one and is not here fails.
PROCESSES = (
    *("e2e/", "vllm/test_vllm_e2e", "vllm/test_vllm_first_hour", "vllm/test_vllm_scheduler"),
    "loadgen/test_http_and_virtual_time",
    *("engines/test_failures_e2e", "fleet/test_particle_dispatcher", "apps/test_bench"),
    *("apps/test_installed_engine", "apps/test_train.py::test_a_kill", "apps/test_pairs_of_mistakes.py::test_what_is_not"),
    "workload/test_fuzzed_files.py::test_ten_thousand",
    *("fleet/test_fitness.py::" + name for name in (
        "test_a_function_of_the_performance", "test_a_benchmark_function", "test_a_service_that_lists", "test_the_load_gen",
        "test_a_master_without",
    )),
    *("engines/test_surroundings.py::test_programs_of", "test_redaction.py::test_the_command_line"),
    *("apps/test_commands.py::" + name for name in (
        "test_help_imports_nothing_heavy", "test_a_reader_that_goes_away", "test_head_of_the_plan",
        "test_a_terminal_without_unicode", "test_plugins_are_listed", "test_a_plugin_brings", "test_mistakes_in_a_plugins",
        "test_a_missing_extra", "test_what_others_print", "test_an_output_that_cannot", "test_an_interruption_while",
    )),
    "apps/test_malformed.py::test_in_a_process_of_its_own", "apps/test_first_hour",
    "apps/test_console.py::test_the_line_of_a_log",
    *("devices/test_device_reader", "devices/test_npu_smi", "devices/test_parties"),
    *("execution/test_" + name for name in (
        "installed", "local", "node_agent", "ray", "service_group", "shared_dir", "slurm", "ssh", "supervisor",
    )),
    *("loadgen/" + name for name in (
        "ask/test_dataset.py::test_another_process", "ask/test_target.py::test_https_goes_through_a_tunnel",
        "distributed/test_hosts", "distributed/test_services_run", "observe/test_observing",
        "judge/test_deciding.py::test_it_ends_when_it_is_sure", "test_endpoint_plugin", "test_exactness",
        "test_loadgen_command", "test_selftest",
        "test_swarmtune_benchmark.py::test_registered_without",
        "test_disturbed",
        *("test_misbehaving_servers", "send/test_waiting"),  # they start none, but wait as servers do
    )),
    *("tuner/loop/test_late_services.py::test_" + name for name in ("the_port_on_which", "a_service_that_listens")),
    *("simulator/test_ranks", "simulator/test_simulator_command", "simulator/test_latency_file.py::test_a_kill"),
    *("test_architecture.py::" + name for name in ("test_help_loads", "test_import_is_light")),
    *("test_docs.py::" + name for name in ("test_the_option_reference", "test_the_command_reference",
                                     "test_commands_and_options")),
    *("test_project_files.py::" + name for name in ("test_make_help", "test_tools_accept", "test_the_bill")),
    "test_registry.py::test_built_in_parts_come", "test_cluster_names.py::test_importing",
)  # fmt: skip
SERVERS = {"postgres_url"}  # fixtures that start one
SOCKETS = {
    "raw_server",
    "simulated",
    "proxy",
    "pair",
    "peer",
    "session",
}  # fixtures with a server in the test's own process
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
_started: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in STARTS and arguments[:1] != ("fc-list",):  # Matplotlib's, where a user draws for the first time
        _started.append(f"{event}{arguments[:2]}"[:200])


sys.addaudithook(_watch)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        starts = item.nodeid.removeprefix("tests/").startswith(PROCESSES) or "[postgres" in item.nodeid
        if starts or not SERVERS.isdisjoint(fixtures):
            item.add_marker("processes")
        if not SOCKETS.isdisjoint(fixtures):
            item.add_marker("sockets")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _started.clear()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    if item.get_closest_marker("processes"):
        return (yield)
    result = yield
    assert not _started, f"this test starts a process; name it in PROCESSES of tests/conftest.py: {_started[0]}"
    return result


@pytest.fixture(autouse=True, scope="session")
def _built_in_parts() -> None:
    """Engines, benchmarks and searches are known, as after the command line has started."""
    from swarmtune import registry

    assert registry.load_plugins() == []


@pytest.fixture(autouse=True, scope="session")
def _free_machine() -> None:
    """Commands that tests call find this machine free, however many tests run on it."""
    from swarmtune.apps.cli import machine

    machine.machine_use = lambda: None
    machine.memory_in_use = lambda _: {}


@pytest.fixture(autouse=True, scope="session")
def _no_questions() -> None:
    """Commands that tests call ask no node for its engine; tests of that put the method back."""
    from swarmtune.tuner.planning.inquiry import Inquiry
    from swarmtune.tuner.planning.installed import Installed

    Inquiry.make = lambda *_: Installed()  # type: ignore[method-assign]
