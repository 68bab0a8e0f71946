"""Precedence, places of files, every way a file can be wrong, and files of the older tuner."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import swarmtune
from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.settings import MAX_CONFIG_BYTES, config_path, read_settings, settings_model
from swarmtune.sources import CONFIG_PATH_VARIABLES, OLD_KEYS, OLD_TABLES, OWN_VARIABLES, environment
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan

DATA = Path(__file__).with_name("data")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an environment without our variables."""
    for name in list(os.environ):
        if name.upper().startswith(("SWARMTUNE_", "MODEL_EVAL_STATE", "MODELEVALSTATE", "OPTIX_", "MIES_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def mistakes_of(path: Path | None, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigValidationError) as caught:
        read_settings(path, overrides or {})
    return caught.value.mistakes


# --- precedence --------------------------------------------------------------------------------------------------------


def test_command_line_over_environment_over_file_over_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(None, {}).optimizer.seed == 0
    path = written(folder, "[optimizer]\nseed = 1\nevaluations = 11\nalgorithm = 'tpe'\n")
    assert read_settings(path, {}).optimizer.seed == 1
    monkeypatch.setenv("SWARMTUNE_OPTIMIZER__SEED", "2")
    monkeypatch.setenv("swarmtune_optimizer__evaluations", "12")
    settings = read_settings(path, {})
    assert (settings.optimizer.seed, settings.optimizer.evaluations, settings.optimizer.algorithm) == (2, 12, "tpe")
    settings = read_settings(path, {"optimizer": {"seed": 3}})
    assert (settings.optimizer.seed, settings.optimizer.evaluations, settings.optimizer.algorithm) == (3, 12, "tpe")


def test_a_table_may_come_as_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder, "[optimizer]\nseed = 1\ngroups = 2\n")
    monkeypatch.setenv("SWARMTUNE_OPTIMIZER", '{"seed": 5}')
    settings = read_settings(path, {})
    assert (settings.optimizer.seed, settings.optimizer.groups) == (5, 2)


def test_where_the_file_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_path(None) is None
    written(folder, "")
    assert config_path(None) == Path("config.toml")
    monkeypatch.setenv("MODEL_EVAL_STATE_CONFIG_PATH", "older.toml")
    assert config_path(None) == Path("older.toml")
    monkeypatch.setenv("SWARMTUNE_CONFIG_PATH", "~/newer.toml")
    assert config_path(None) == Path.home() / "newer.toml"
    assert config_path("given.toml") == Path("given.toml")
    assert CONFIG_PATH_VARIABLES[0] == "SWARMTUNE_CONFIG_PATH"


@pytest.mark.parametrize(
    ("variables", "simulate", "level"),
    [
        ({}, False, "INFO"),
        ({"MODEL_EVAL_STATE_SIMULATE": "true", "MODELEVALSTATE_LEVEL": "debug"}, True, "DEBUG"),
        ({"MODEL_EVAL_STATE_SIMULATE": "1", "SWARMTUNE_SIMULATE": "false"}, False, "INFO"),
        ({"MODELEVALSTATE_LEVEL": "ERROR", "SWARMTUNE_LOG_LEVEL": "trace"}, False, "TRACE"),
        ({"MODELEVALSTATE_LEVEL": "fatal"}, False, "ERROR"),
        ({"MODEL_EVAL_STATE_SIMULATE": "", "MODELEVALSTATE_LEVEL": ""}, False, "INFO"),
        (
            {"OPTIX_LOG_LEVEL": "warn", "MODEL_EVAL_STATE_ALL": "1", "MODEL_EVAL_STATE_IS_SLEEP_FLAG": "1"},
            False,
            "WARNING",
        ),
    ],
)
def test_older_names(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], simulate: bool, level: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(None, {})
    assert (settings.simulate, settings.log_level) == (simulate, level)


def test_the_older_name_of_the_services_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder, '[deploy]\npath_prefix = "/file"\n')
    monkeypatch.setenv("OPTIX_DEPLOY_PATH", "/old")
    assert read_settings(path, {}).deploy.path_prefix == "/old"
    monkeypatch.setenv("SWARMTUNE_DEPLOY__PATH_PREFIX", "/new")
    assert read_settings(path, {}).deploy.path_prefix == "/new"


def test_each_key_has_a_variable_of_the_older_tuner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder, 'n_particles = 3\noutput = "studies"\n')
    for name, value in {"OUTPUT": "results", "N_PARTICLES": "9", "MINDIE__PORT": "1025", "NO_SUCH_KEY": "1"}.items():
        monkeypatch.setenv(f"MODEL_EVAL_STATE_{name}", value)
    monkeypatch.setenv("SWARMTUNE_N_PARTICLES", "5")
    monkeypatch.setenv("OPTIX_DEPLOY_PATH", "/opt/vllm")
    settings = read_settings(path, {})
    assert (settings.output, settings.n_particles, settings.deploy.path_prefix) == ("results", 5, "/opt/vllm")
    assert settings.mindie.port == 1025  # type: ignore[attr-defined]
    monkeypatch.setenv("MODEL_EVAL_STATE_ITERS", "many")
    with pytest.raises(
        ConfigValidationError, match="environment variable MODEL_EVAL_STATE_ITERS: iters: input should be"
    ):
        read_settings(path, {})


def test_mindie_is_where_its_own_variable_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIES_INSTALL_PATH", str(folder / "mindie-service") + "/")
    assert "mindie" not in read_settings(None, {}).model_fields_set  # another engine is not tuned in its place
    (folder / "mindie-service" / "conf").mkdir(parents=True)
    (folder / "mindie-service" / "conf" / "config.json").write_text(json.dumps(DAEMON))
    path = older("older_config_mindie.toml", folder, ('config_path = "config.json"\n', ""))
    plan = plan_of(path, "mindie", "swarmtune")
    command = plan.engine.command(plan.baseline(), plan.groups[0])
    assert command.argv == (str(folder / "mindie-service" / "bin" / "mindieservice_daemon"),)
    assert [f.path for f in command.files] == [str(folder / "mindie-service" / "conf" / "config.json")]
    assert command.env["MIES_INSTALL_PATH"].startswith(str(folder))


@pytest.mark.parametrize(
    ("engine", "variable"),
    [("vllm", "VLLM_ALLOW_LONG_MAX_MODEL_LEN"), ("sglang", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN")],
)
def test_a_longer_context_may_be_allowed_where_the_tuner_is_started(
    engine: str, variable: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "own.toml").write_text(f'[{engine}.command]\nmodel = "m"\n')
    monkeypatch.setenv(variable, "1")
    assert getattr(read_settings(folder / "own.toml", {}), engine).env == {variable: "1"}


@pytest.mark.parametrize(
    ("name", "value", "alone"),
    [
        ("MODEL_EVAL_STATE_SIMULATE", "1", False),
        ("SWARMTUNE_SIMULATE", "true", False),
        ("SWARMTUNE_SIMULATE", "only", True),
    ],
)
def test_simulate_predicts_the_engine_that_is_configured(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, alone: bool
) -> None:
    monkeypatch.setenv(name, value)
    made = make_plan(read_settings(None, {"optimizer": {"engine": "vllm"}, "vllm": {"command": {"model": "m"}}}))
    assert made.engine.name == "vllm"
    assert made.simulation is not None
    assert made.simulation.alone is alone


def test_nothing_is_predicted_without_being_asked() -> None:
    assert make_plan(read_settings(None, {"optimizer": {"engine": "simulated"}})).simulation is None


def test_reading_has_no_side_effects(folder: Path) -> None:
    path = written(folder, 'output = "studies"\n[simulated]\nwork_path = "work"\n[simulated.env]\nA = "1"\n')
    before, files = dict(os.environ), sorted(folder.rglob("*"))
    make_plan(read_settings(path, {"optimizer": {"engine": "simulated"}}))
    assert dict(os.environ) == before
    assert sorted(folder.rglob("*")) == files


# --- mistakes ----------------------------------------------------------------------------------------------------------


def test_each_mistake_says_who_gave_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder, "iters = 0\n[optimizer]\nconfirm = -1\n[objective]\nname = 'goodput'\n")
    monkeypatch.setenv("SWARMTUNE_OPTIMIZER__EVALUATIONS", "none")
    monkeypatch.setenv("SWARMTUNE_OBJECTIVE", '{"min_success_rate": 7}')
    monkeypatch.setenv("MODELEVALSTATE_LEVEL", "loud")
    found = mistakes_of(path, {"optimizer": {"seed": -1}})
    starts = sorted(": ".join(m.split(": ")[:2]) for m in found)
    assert starts == sorted(
        [
            "command line: optimizer.seed",
            "environment variable MODELEVALSTATE_LEVEL: log_level",
            "environment variable SWARMTUNE_OBJECTIVE: objective.min_success_rate",
            "environment variable SWARMTUNE_OPTIMIZER__EVALUATIONS: optimizer.evaluations",
            f"{path}: iters",
            f"{path}: optimizer.confirm",
        ]
    )


def test_choices_and_near_names_are_told(folder: Path) -> None:
    path = written(folder, "[objective]\nname = 'fast'\nslos = {}\n[vllm.comand]\n[[vllm.target_field]]\nnam = 'x'\n")
    text = "\n".join(mistakes_of(path))
    assert "'goodput', 'throughput' or 'weighted'" in text
    assert "objective.slos: unknown key; did you mean slo" in text
    assert "vllm.comand: unknown key; did you mean command" in text
    assert "vllm.target_field.0.nam: unknown key; did you mean name" in text
    assert "vllm.target_field.0.name: field required" in text


def test_one_sentence_for_one_value_whatever_types_were_tried(folder: Path) -> None:
    path = written(folder, "[[simulated.target_field]]\nname = 'x'\nvalue = {a = 1}\n")
    found = mistakes_of(path)
    assert len(found) == 1
    assert found[0].startswith(f"{path}: simulated.target_field.0.value: ")


@pytest.mark.parametrize(
    ("text", "overrides", "variables", "mistakes"),
    [
        ("optimizer = 5", {}, {}, ["FILE: optimizer: input should be a table (it is 5)"]),
        ("optimizer = 5", {"optimizer": {"seed": 3}}, {}, ["FILE: optimizer: input should be a table (it is 5)"]),
        (
            "parallel = 7\n[[optimizer]]\nengine = 'simulated'\n[vllm]\ncommand = 3",
            {"optimizer": {"evaluations": 0}, "parallel": {"enabled": True}},
            {"SWARMTUNE_VLLM__COMMAND__PORT": "80"},
            [
                "FILE: parallel: input should be a table (it is 7)",
                "FILE: optimizer: input should be a table (it is [{'engine': 'simulated'}])",
                "FILE: vllm.command: input should be a table (it is 3)",
                "command line: optimizer.evaluations: input should be greater than or equal to 1 (it is 0)",
            ],
        ),
        (
            "[optimizer]\nseed = 1",
            {"optimizer": {"seed": 3}},
            {"SWARMTUNE_OPTIMIZER": "5"},
            ["environment variable SWARMTUNE_OPTIMIZER: optimizer: input should be a table (it is 5)"],
        ),
    ],
)
def test_a_table_hides_no_mistake_below_it(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    overrides: dict[str, Any],
    variables: dict[str, str],
    mistakes: list[str],
) -> None:
    path = written(folder, text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sorted(mistakes_of(path, overrides)) == sorted(m.replace("FILE", str(path)) for m in mistakes)


def test_a_table_over_a_value_is_the_tables_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMTUNE_OPTIMIZER__SEED__X", "5")
    (mistake,) = mistakes_of(written(folder, "[optimizer]\nseed = 1"))
    assert mistake.startswith("environment variable SWARMTUNE_OPTIMIZER__SEED__X: optimizer.seed: ")


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("SWARMTUNE_OPTIMIZER", "{seed", "optimizer"),
        ("SWARMTUNE_OPTIMIZER__USER_SETTINGS", "[", "optimizer.user_settings"),
    ],
)
def test_a_variable_that_is_no_json(monkeypatch: pytest.MonkeyPatch, name: str, text: str, key: str) -> None:
    monkeypatch.setenv(name, text)
    monkeypatch.setenv("SWARMTUNE_OPTIMIZER__SEED", "-1")
    first, second = mistakes_of(None)
    assert first.startswith(f"environment variable {name}: {key}: not valid JSON: ")
    assert second.startswith("environment variable SWARMTUNE_OPTIMIZER__SEED: optimizer.seed: ")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("SWARMTUNE_LOGLEVEL", "SWARMTUNE_LOG_LEVEL"),
        ("SWARMTUNE_OPTIMISER__SEED", "SWARMTUNE_OPTIMIZER__SEED"),
        ("SWARMTUNE_LOG_LEVEL__X", "SWARMTUNE_LOG_LEVEL"),
        ("SWARMTUNE_APIKEY", "SWARMTUNE_API_KEY"),
        ("SWARMTUNE_BOGUS", ""),
    ],
)
def test_a_variable_that_names_no_setting(monkeypatch: pytest.MonkeyPatch, name: str, near: str) -> None:
    monkeypatch.setenv(name, "1")
    hint = f"; did you mean {near}?" if near else ""
    assert mistakes_of(None) == [f"environment variable {name}: there is no such setting{hint}"]


def test_variables_that_belong_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN_VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SWARMTUNE_VLLM__COMMAND__MODEL", "m")  # the table of an engine that is not in use
    assert read_settings(None, {}).optimizer.engine == "llamacpp"


def test_every_variable_in_the_source_is_known() -> None:
    """Each name with our prefix in the source, or in the documentation, names a setting or is in OWN_VARIABLES."""
    root = Path(swarmtune.__file__).parent
    model = settings_model()
    for path in root.rglob("*.py"):
        for name in re.findall(r"\bSWARMTUNE_[A-Z_]*[A-Z]\b", path.read_text("utf-8")):
            _, mistakes = environment(model, {name: "1"})
            assert not mistakes or "not valid JSON" in mistakes[0], (path, name)


def test_an_infinite_number_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMTUNE_LOADGEN__REQUEST_RATE", "inf")
    name = "SWARMTUNE_LOADGEN__REQUEST_RATE"
    assert mistakes_of(None) == [f"environment variable {name}: loadgen.request_rate: inf is not a finite number"]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            "[optimizer]\nevaluations = 99999999999999999999999999",
            "optimizer.evaluations: the number has more than 64 bits",
        ),
        ("[load_search]\nlow = nan", "load_search.low: nan is not a finite number"),
        ("[load_search]\nhigh = inf", "load_search.high: inf is not a finite number"),
        ("[load_search]\nlow = 'nan'", "load_search.low: nan is not a finite number"),
        ("[optimizer]\ntimeout = -inf", "optimizer.timeout: -inf is not a finite number"),
    ],
)
def test_a_number_that_is_never_usable_is_one_mistake(folder: Path, text: str, mistake: str) -> None:
    path = written(folder, text)
    assert mistakes_of(path) == [f"{path}: {mistake}"]


def test_an_infinite_number_written_as_text(folder: Path) -> None:
    path = written(folder, "[loadgen]\nrequest_rate = 'inf'\n")
    assert mistakes_of(path) == [f"{path}: loadgen.request_rate: inf is not a finite number"]


def test_secrets_are_not_quoted(folder: Path) -> None:
    path = written(folder, "[vllm.env]\nA = ['hunter2']\n[vllm_benchmark.env]\nTOKEN = {x = 'hunter2'}\n")
    assert len(mistakes_of(path)) == 2
    assert "hunter2" not in "".join(mistakes_of(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a = [1,\nb = 2", "line 2"),
        (b"\xff\xfe", "not UTF-8 text (byte 0)"),
        (b"\x7fELF\x01\x00", "not valid TOML"),
        (b"a = " + b"[" * 3000, "nested too deep"),
        (b"[" + b".".join([b"a"] * 100) + b"]", "nested deeper than 32"),
    ],
)
def test_files_that_are_no_toml(folder: Path, content: bytes, words: str) -> None:
    path = folder / "config.toml"
    path.write_bytes(content)
    (mistake,) = mistakes_of(path)
    assert mistake.startswith(f"{path}: ")
    assert words in mistake


def test_files_that_cannot_be_read(folder: Path) -> None:
    huge = folder / "huge.toml"
    with huge.open("wb") as file:
        file.truncate(MAX_CONFIG_BYTES + 1)
    loop = folder / "loop.toml"
    loop.symlink_to(loop)
    for path, words in (
        (folder / "none.toml", "No such file"),
        (folder, "Is a directory"),
        (huge / "x.toml", "Not a directory"),
        (huge, "larger than 4 MiB"),
        (loop, "symbolic links"),
        (Path("/proc/self/mem"), "cannot be read"),  # what permissions forbid looks the same to everybody but root
        (Path("/dev/zero"), "larger than"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(ConfigPathError, match=words) as caught:
            read_settings(path, {})
        assert str(path) in caught.value.message


def test_a_mark_of_byte_order_is_no_mistake(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_bytes(b"\xef\xbb\xbfiters = 7\r\n")
    assert read_settings(path, {}).iters == 7


# --- files of the older tuner ------------------------------------------------------------------------------------------


REAL = (
    ('port = "port"', 'port = "8123"'),
    ('model = "model_path"', 'model = "/models/m"'),
    ('dataset_name = "dataset_name"', 'dataset_name = "random"'),
    ('num_prompts = "num_prompts"', "num_prompts = 77"),
)


def older(name: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """The sample file with real values in place of its placeholders."""
    text = (DATA / name).read_text()
    for placeholder, value in changes:
        assert placeholder in text
        text = text.replace(placeholder, value)
    return written(folder, text)


DAEMON = {
    "ServerConfig": {"port": 1025},
    "BackendConfig": {
        "ModelDeployConfig": {"ModelConfig": [{"modelName": "llama", "tp": 1, "dp": 1, "moe_ep": 1, "moe_tp": 1}]},
        "ScheduleConfig": {
            "maxBatchSize": 200, "maxPrefillBatchSize": 50, "prefillTimeMsPerReq": 150, "decodeTimeMsPerReq": 50,
            "supportSelectBatch": False, "maxQueueDelayMicroseconds": 5000, "maxPreemptCount": 0,
            "prefillPolicyType": 0, "maxIterTimes": 512,
        },
    },
}  # fmt: skip
"""MindIE's config.json, as far as an older file names its keys."""


def plan_of(path: Path, engine: str, benchmark: str) -> Plan:
    return make_plan(read_settings(path, {"optimizer": {"engine": engine, "benchmark": benchmark}}))


@pytest.mark.parametrize("name", ["older_config_vllm.toml", "older_config_mindie.toml"])
def test_an_older_file_is_read_as_it_is(name: str) -> None:
    settings = read_settings(DATA / name, {})
    assert settings.n_particles in (8, 10)
    assert settings.ttft_slo in (1, 2)


def test_placeholders_are_named_when_they_are_needed() -> None:
    with pytest.raises(ConfigValidationError) as caught:
        plan_of(DATA / "older_config_vllm.toml", "vllm", "vllm_benchmark")
    text = "\n".join(caught.value.mistakes)
    assert "vllm.command.model: 'model_path' is not a model" in text
    assert "vllm.command.port: 'port' is not a port" in text


def test_an_older_vllm_file_gives_a_plan(folder: Path) -> None:
    path = older("older_config_vllm.toml", folder, *REAL)
    plan = plan_of(path, "vllm", "vllm_benchmark")
    assert plan.evaluations == 50
    swarm = plan.swarm
    assert (swarm.n_particles, swarm.c1, swarm.c2, swarm.w) == (10, 2.0, 1.5, 1.8)
    assert (swarm.c1_strategy, swarm.c2_strategy, swarm.w_strategy) == ("nonlin_mod", "lin_variation", "exp_decay")
    assert plan.objective.limits == {"p95_ttft_ms": 1000.0, "p95_tpot_ms": 50.0}
    assert [d.name for d in plan.space.dimensions] == ["MAX_NUM_BATCHED_TOKENS", "MAX_NUM_SEQS"]
    assert plan.baseline().values == {"MAX_NUM_BATCHED_TOKENS": 8192, "MAX_NUM_SEQS": 64}
    assert (plan.start_timeout_s, plan.evaluation_timeout_s) == (1800.0, 3600.0)
    assert plan.workload.requests == 1000  # sample_size
    assert (plan.groups[0].port, plan.output) == (8123, Path("result"))
    command = plan.engine.command(plan.baseline(), plan.groups[0])
    assert command.argv[:3] == ("vllm", "serve", "/models/m")
    assert command.argv.count("--max-num-seqs") == 1
    assert "64" in command.argv
    load = plan.benchmark.command(plan.workload, plan.groups[0].url)
    assert load.argv[:3] == ("vllm", "bench", "serve")


def test_keys_without_effect_are_named(folder: Path) -> None:
    path = older("older_config_vllm.toml", folder, *REAL)
    named = {n.split()[0] for n in plan_of(path, "vllm", "vllm_benchmark").notices if "has no effect" in n}
    given = {*OLD_KEYS, *OLD_TABLES} - {
        "benchmark",
        "cbo",
        "parallel",
        "suggrogate",
        "surrogate",
        "use_surrogate",
    }
    assert named == given


def test_the_older_weighted_cost(folder: Path) -> None:
    path = older("older_config_vllm.toml", folder, *REAL)
    overrides = {"optimizer": {"engine": "vllm"}, "objective": {"name": "weighted"}}
    plan = make_plan(read_settings(path, overrides))
    weights = plan.objective.weights  # type: ignore[attr-defined]
    assert (weights.ttft_slo, weights.tpot_slo, weights.ttft_penalty, weights.tpot_penalty) == (1.0, 0.05, 1.0, 0.0)
    assert plan.load_search is None
    assert plan.load_of(plan.baseline()).concurrency == 100


def test_the_statistics_of_the_older_cost(folder: Path) -> None:
    """[objective]'s own key wins; one that we do not have is noted."""
    path = older("older_config_vllm.toml", folder, *REAL, ('"average"', '"p90"'))
    overrides = {"optimizer": {"engine": "vllm", "benchmark": "vllm_benchmark"}, "objective": {"name": "weighted"}}
    plan = make_plan(read_settings(path, overrides))
    weights = plan.objective.weights  # type: ignore[attr-defined]
    assert (weights.ttft_statistic, weights.tpot_statistic) == ("p90", "mean")
    (note,) = [n for n in plan.notices if "performance_config" in n]
    assert note.startswith(
        "vllm_benchmark.performance_config: 'slo_p90' is no statistic here, so the cost takes the mean"
    )
    chosen = {**overrides, "objective": {"name": "weighted", "ttft_statistic": "p50"}}
    assert make_plan(read_settings(path, chosen)).objective.weights.ttft_statistic == "p50"  # type: ignore[attr-defined]
    goodput = plan_of(path, "vllm", "vllm_benchmark")
    assert [n for n in goodput.notices if "only the weighted objective" in n and "performance_config" in n]


def test_tables_of_load_generators_that_nobody_named_are_noted(folder: Path) -> None:
    path = older("older_config_vllm.toml", folder, *REAL)
    note = "[vllm_benchmark] is not used: the load is that of swarmtune; -b vllm_benchmark takes it"
    assert note in make_plan(read_settings(path, {"optimizer": {"engine": "vllm"}})).notices
    assert note not in plan_of(path, "vllm", "swarmtune").notices


def test_an_older_mindie_file_gives_a_plan(folder: Path) -> None:
    path = older("older_config_mindie.toml", folder)
    (folder / "config.json").write_text(json.dumps(DAEMON))
    plan = plan_of(path, "mindie", "swarmtune")
    values = plan.baseline().values
    assert values["max_prefill_batch_size"] == 50
    assert values["support_select_batch"] is False
    assert (values["tp"], values["dp"], values["devices"]) == (1, 16, 16)
    assert values["default_p_rate"] + values["default_d_rate"] == 4
    assert values["tokens_of_a_batch"] == 200 * 128
    assert values["max_iter_times"] == 512
    assert plan.evaluations == 32
    assert plan.engine.model == "llama"
    notices = "\n".join(plan.notices)
    assert "ais_bench was read" not in notices  # a real table by now: the settings of -b ais_bench
    for word in ("kubectl", "ftol", "service", "CONCURRENCY", "REQUESTRATE"):
        assert word in notices
    (file,) = plan.engine.command(plan.baseline(), plan.groups[0]).files
    assert file.restore
    assert json.loads(file.content)["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]["dp"] == 16


def test_an_older_mindie_file_is_tuned_with_ais_bench(folder: Path) -> None:
    """The tokenizer is the one beside the weights, and the objective is one that the tool's metrics allow."""
    path, weights = older("older_config_mindie.toml", folder), folder / "weights"
    daemon = json.loads(json.dumps(DAEMON))
    daemon["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]["modelWeightPath"] = str(weights)
    (folder / "config.json").write_text(json.dumps(daemon))
    with pytest.raises(ConfigValidationError) as caught:
        plan_of(path, "mindie", "ais_bench")
    (mistake,) = caught.value.mistakes
    assert f"ais_bench.tokenizer: ais_bench needs the model's tokenizer, and {weights} holds none" in mistake
    weights.mkdir()
    (weights / "tokenizer.json").write_text("{}")
    plan = plan_of(path, "mindie", "ais_bench")
    assert plan.objective.kind == "throughput"
    assert dict(plan.objective.limits) == {"p95_ttft_ms": 2000, "p95_tpot_ms": 50}
    assert "the objective is throughput, because the benchmark ais_bench does not count" in "\n".join(plan.notices)
    files = plan.benchmark.command(plan.workload, "http://127.0.0.1:1025").files
    assert f'path="{weights}"' in files[0].content
    assert plan.workload.requests == 1000


def test_a_tokenizer_is_not_missed_while_the_model_is_not_known(folder: Path) -> None:
    with pytest.raises(ConfigValidationError) as caught:
        plan_of(older("older_config_mindie.toml", folder), "mindie", "ais_bench")  # its config.json is not there
    text = "\n".join(caught.value.mistakes)
    assert "mindie.config_path" in text
    assert "ais_bench.tokenizer" not in text


@pytest.mark.parametrize(("name", "known"), [("{folder}/weights", True), ("weights", True), ("org/model", False)])
def test_the_folder_of_a_model_that_vllm_serves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, known: bool
) -> None:
    monkeypatch.chdir(folder)
    (folder / "weights").mkdir()
    (folder / "weights" / "tokenizer_config.json").write_text("{}")
    settings = {"optimizer": {"engine": "vllm", "benchmark": "ais_bench"}}
    table = {"command": {"model": name.format(folder=folder)}, "check_flags": False}
    if known:
        plan = make_plan(read_settings(None, {**settings, "vllm": table}))
        assert plan.benchmark.model_folder == str(folder / "weights")
    else:
        with pytest.raises(ConfigValidationError, match="org/model holds none"):
            make_plan(read_settings(None, {**settings, "vllm": table}))
