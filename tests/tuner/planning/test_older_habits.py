"""What users of the older tools write: files without an engine, keys that another objective uses, start scripts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import ConfigValidationError
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan

SIMULATED = '[simulated]\n[[simulated.target_field]]\nname = "max_num_seqs"\nmin = 1\nmax = 9\n'
COMMAND = '[command]\nargv = ["serve"]\nmodel = "m"\n[[command.target_field]]\nname = "x"\nmin = 1\nmax = 9\n'
NOTE = "because its table is given and no engine is named (-e)"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(text: str, **given: Any) -> Plan:
    Path("config.toml").write_text(text)
    return make_plan(read_settings(Path("config.toml"), given))


@pytest.mark.parametrize(("text", "engine"), [(SIMULATED, "simulated"), (COMMAND, "command"), ("", "llamacpp")])
def test_the_engine_whose_table_is_given_is_meant(text: str, engine: str) -> None:
    made = plan(text)
    assert made.engine.name == engine
    assert [n for n in made.notices if NOTE in n] == (
        [] if engine == "llamacpp" else [f"the engine is {engine}, {NOTE}"]
    )


def test_an_engine_that_is_named_needs_no_note() -> None:
    made = plan(SIMULATED + COMMAND, optimizer={"engine": "simulated"})
    assert made.engine.name == "simulated"
    assert not [n for n in made.notices if NOTE in n]


def test_of_several_tables_one_must_be_chosen() -> None:
    with pytest.raises(ConfigValidationError) as caught:
        plan(f'log_level = "INFO"\n{COMMAND}{SIMULATED}[optimizer]\nbenchmark = "nothing"\n')
    first, second = caught.value.mistakes
    assert first == (
        "optimizer.engine: the tables of several engines are given, [simulated], [command]; choose one of them with -e"
    )
    assert second.startswith("optimizer.benchmark:")  # all mistakes together


def test_a_table_from_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMTUNE_SIMULATED__MODEL", "m")
    assert plan("").engine.name == "simulated"


def test_what_only_the_weighted_objective_uses_is_noted() -> None:
    text = f"ttft_penalty = 1\ntpot_penalty = 0\n{SIMULATED}"
    used = "only the weighted objective uses ttft_penalty, tpot_penalty, and the objective is goodput"
    assert [n for n in plan(text).notices if n.startswith(used)]
    weights = plan(f"{SIMULATED}[objective]\nname = 'throughput'\nweights = {{ success_rate = 1.0 }}\n")
    assert [n for n in weights.notices if "uses objective.weights, and the objective is throughput" in n]
    assert not [n for n in plan(f'{text}[objective]\nname = "weighted"\n').notices if "weighted" in n]
    assert not [n for n in plan(SIMULATED).notices if "weighted" in n]


def test_only_our_own_load_generator_runs_on_masters() -> None:
    parallel = '[parallel]\nenabled = true\nmode = "single_node"\nnode_string = "127.0.0.1"\nnpus_per_node = 0\n'
    text = f'{SIMULATED}{parallel}benchmark_on = "master"\n'
    assert plan(text).load_python == "python3"
    assert plan(f'{text}benchmark_python = "/opt/python"\n').load_python == "/opt/python"
    assert plan(SIMULATED + parallel).load_python is None
    with pytest.raises(ConfigValidationError, match="load generator vllm_benchmark runs only on the tuner's machine"):
        plan(text, optimizer={"benchmark": "vllm_benchmark"})


ONE_NODE = '[parallel]\nenabled = true\nmode = "single_node"\nnode_string = "127.0.0.1"\nnpus_per_node = 0\n'
EXTENSION = """
[vllm.command]
model = "/models/m"
port = "8000"
[[vllm.target_field]]
name = "MAX_NUM_SEQS"
min = 32
max = 512
value = 64
[[vllm.target_field]]
name = "CONCURRENCY"
min = 1
max = 1000
[parallel]
enabled = true
[[parallel.service_groups]]
group_id = 0
master_node_index = 1
start_script = "./start_service.sh"
config_path = "/tmp/config.json"
health_check_url = "http://localhost:1025/health"
health_check_timeout = 60
nodes = [{ host = "n0", ssh_port = 2222, username = "me", work_dir = "/tmp/w" }, { host = "n1", npu_ids = [0, 1] }]
[[parallel.service_groups]]
group_id = 1
nodes = [{ host = "n2" }, { host = "n3" }]
"""


def test_a_start_script_starts_what_the_engine_would() -> None:
    """On the master alone, with the parameters of the engine; a rule between ranks and nodes is then the script's."""
    Path("start_service.sh").write_text("#!/bin/sh -e\nexec serve\n")
    made = plan(EXTENSION)
    first, second = made.groups
    assert (first.name, first.master, first.port, second.name, second.port) == ("0", "n1", 1025, "1", 8000)
    master, worker = made.commands(made.baseline(), first)
    assert master.argv == ("/bin/sh", "-e", "./start_service.sh", "--config", "/tmp/config.json")
    assert (worker.argv, master.lives_on, worker.lives_on) == (("true",), True, True)
    values = '{\n  "MAX_NUM_SEQS": 64\n}\n'
    assert [(f.path, f.restore, f.content) for f in master.files[1:]] == [("/tmp/config.json", True, values)]
    assert [(f.path, f.content) for f in worker.files] == [("/tmp/config.json", values)]
    assert (master.env["MAX_NUM_SEQS"], master.env["SWARMTUNE_CONFIG"]) == ("64", "/tmp/config.json")
    assert made.commands(made.baseline(), second)[0].argv[-1] == "config.json"
    assert made.start_timeout_s == 300  # the longest of the groups
    assert [n for n in made.notices if n.startswith("parallel.start_script starts the services")]


def test_another_start_script_is_another_study() -> None:
    Path("start_service.sh").write_text("serve\n")
    before = plan(EXTENSION).fingerprint()
    Path("start_service.sh").write_text("serve --otherwise\n")
    assert {k for k, v in plan(EXTENSION).fingerprint().items() if v != before[k]} == {"start_script"}


def test_a_start_script_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(
        ConfigValidationError, match=r"parallel\.start_script: script '\./start_service\.sh.: cannot be sent"
    ):
        plan(EXTENSION)


def test_groups_that_join_later_have_the_script_of_the_table() -> None:
    made = plan(f'{SIMULATED}{ONE_NODE}start_script = "serve"\nstart = "every_node"\n')
    joined = replace(made.groups[0], name="group7")
    assert [c.argv for c in made.commands(made.baseline(), joined)] == [("serve",)]


def test_keys_of_a_start_script_have_no_effect_without_one() -> None:
    made = plan(f'{SIMULATED}{ONE_NODE}stop_script = "stop"\nhealth_check_timeout = 9\n')
    assert made.scripts is None
    (note,) = [n for n in made.notices if "start_script" in n]
    assert note.startswith(
        "parallel.stop_script, parallel.health_check_timeout: no effect without parallel.start_script"
    )
    assert not [n for n in plan(SIMULATED + ONE_NODE).notices if "start_script" in n]
    Path("start_service.sh").write_text("serve\n")
    (note,) = [n for n in plan(SIMULATED + ONE_NODE).notices if "start_script" in n]
    assert note.startswith("./start_service.sh is here and not used")


def test_the_scripts_of_groups_that_a_hostfile_replaces_are_not_used() -> None:
    made = plan(EXTENSION, parallel={"node_string": "n7,n8", "npus_per_node": 0}, optimizer={"engine": "simulated"})
    assert ([g.master for g in made.groups], made.scripts) == (["n7"], None)


@pytest.mark.parametrize(
    ("cwd", "directory", "runs_in"), [("/srv/model", "", "/srv/model"), ("~/svc", "", "~/svc"), ("svc", "svc", "")]
)
def test_the_folder_in_which_a_service_runs(cwd: str, directory: str, runs_in: str) -> None:
    """A whole path is a user's, and the log lies elsewhere; a relative one is below the executor's, for all attempts."""
    made = plan(COMMAND.replace('model = "m"', f'model = "m"\ncwd = "{cwd}"'))
    (command,) = made.commands(made.baseline(), made.groups[0])
    assert (command.directory, command.cwd) == (directory, runs_in)


OLD_TOOLS = """
[ais_bench]
output_path = "ais_bench"
work_path = "/tmp"
process_name = "ais_bench"
host_port = 1025
[ais_bench.command]
others = "--debug"
[[ais_bench.target_field]]
name = "CONCURRENCY"
config_position = "env"
min = 1
max = 100
dtype = "int"
value = 10
[vllm_benchmark]
process_name = ""
output_path = "vllm"
[vllm_benchmark.command]
serving = "vllm"
backend = "vllm"
[[vllm_benchmark.target_field]]
name = "REQUESTRATE"
config_position = "env"
"""


def test_keys_of_the_older_tools_are_read_and_named() -> None:
    made = plan(SIMULATED + OLD_TOOLS)
    (said,) = [n for n in made.notices if "no effect here" in n]
    assert said.startswith(
        "ais_bench.host_port, ais_bench.output_path, ais_bench.process_name, ais_bench.target_field, "
    )
    assert "vllm_benchmark.command.backend" in said
    assert "vllm_benchmark.process_name" not in said, "it is empty"
    assert "ais_bench.command.others" not in said, "it has an effect"
    assert not [n for n in plan(SIMULATED).notices if "no effect here" in n]


@pytest.mark.parametrize("name", ["", "A=B", "B C"])
@pytest.mark.parametrize("table", ["vllm", "vllm_benchmark", "ais_bench"])
def test_a_variable_must_have_a_name_that_a_process_can_have(table: str, name: str) -> None:
    with pytest.raises(ConfigValidationError, match="cannot be the name of an environment variable"):
        plan(f'{SIMULATED}[{table}]\nenv = {{ "{name}" = "x" }}\n')
    plan(f'[optimizer]\nengine = "simulated"\n{SIMULATED}[{table}]\nenv = {{ "A.b-1" = "x=y z" }}\n')
