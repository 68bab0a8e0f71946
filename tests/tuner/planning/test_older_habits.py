"""What users of the older tools write: files without an engine, keys that another objective uses, start scripts."""

from __future__ import annotations

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


@pytest.mark.parametrize("given", [{"optimizer": {"engine": "simulated"}}, {"simulate": True}])
def test_an_engine_that_is_named_needs_no_note(given: dict[str, Any]) -> None:
    made = plan(SIMULATED + COMMAND, **given)
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


def test_start_scripts_are_not_the_engines() -> None:
    parallel = '[parallel]\nenabled = true\nmode = "single_node"\nnode_string = "127.0.0.1"\nnpus_per_node = 0\n'
    made = plan(f'{SIMULATED}{parallel}start_script = "./serve.sh"\nhealth_check_timeout = 9\n')
    (note,) = [n for n in made.notices if "ParticleDispatcher" in n]
    assert note.startswith("parallel.start_script, parallel.health_check_timeout: only ParticleDispatcher uses this")
    assert not [n for n in plan(SIMULATED + parallel).notices if "ParticleDispatcher" in n]
