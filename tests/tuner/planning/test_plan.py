"""From settings to a plan: what is derived, what is refused, and that nothing is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import ConfigValidationError
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.aims import DEFAULT_SLOS
from swarmtune.tuner.planning.make import DEFAULT_EVALUATIONS, make_plan
from swarmtune.tuner.planning.plan import Plan


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("SWARMTUNE_", "MODEL_EVAL_STATE", "MODELEVALSTATE")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def plan(**given: Any) -> Plan:
    optimizer = {"engine": "simulated", **given.pop("optimizer", {})}
    return make_plan(read_settings(None, {"optimizer": optimizer, **given}))


def refused(**given: Any) -> str:
    with pytest.raises(ConfigValidationError) as caught:
        plan(**given)
    return "\n".join(caught.value.mistakes)


def fields(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"simulated": {"target_field": list(entries)}}


SEQS = {"name": "seqs", "config_position": "--max-num-seqs", "min": 1, "max": 64, "value": 8}


def test_defaults() -> None:
    made = plan()
    assert made.evaluations == DEFAULT_EVALUATIONS
    assert made.objective.limits == DEFAULT_SLOS
    assert made.algorithm == "swarm"
    assert made.baseline().origin == "baseline"
    assert made.load_search is not None
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("given", "evaluations"),
    [
        ({"n_particles": 4, "iters": 3}, 12),
        ({"n_particles": 4, "iters": 3, "optimizer": {"evaluations": 5}}, 5),
        ({"iters": 3}, DEFAULT_EVALUATIONS),
    ],
)
def test_the_budget(given: dict[str, Any], evaluations: int) -> None:
    assert plan(**given).evaluations == evaluations


def test_older_promises_are_in_seconds() -> None:
    assert plan(ttft_slo=0.25).objective.limits == {"p95_ttft_ms": 250.0, "p95_tpot_ms": 50.0}
    slo = {"p99_e2el_ms": 900.0}
    assert plan(ttft_slo=0.25, objective={"slo": slo}).objective.limits == slo


def test_whole_numbers_with_a_point_become_whole() -> None:
    made = plan(**fields({**SEQS, "value": 8.0}, {"name": "b", "dtype": "bool", "value": 1, "min": 0, "max": 1}))
    values = made.baseline().values
    assert values == {"seqs": 8, "b": True}
    assert type(values["seqs"]) is int
    assert type(values["b"]) is bool


def test_user_settings_are_completed_and_exact() -> None:
    made = plan(optimizer={"user_settings": [{"seqs": 4.0}]}, **fields(SEQS, {"name": "x", "min": 1, "max": 3}))
    (mine,) = made.user_settings
    assert mine.values == {"seqs": 4, "x": 2}
    assert type(mine.values["seqs"]) is int
    assert mine.origin == "user:1"


def test_a_ratio_in_a_user_setting_is_a_number() -> None:
    ratio = {"name": "part", "dtype": "ratio", "min": 0, "max": 1, "dtype_param": "seqs"}
    text = refused(optimizer={"user_settings": [{"part": "half"}]}, **fields(SEQS, ratio))
    assert text == "optimizer.user_settings.1: part = 'half' is not a number"


def test_load_fields_are_left_to_the_load_search() -> None:
    load = {"name": "CONCURRENCY", "min": 1, "max": 100, "value": 30}
    made = plan(**fields(SEQS, load))
    assert [f.name for f in made.space.fields] == ["seqs"]
    assert any(n.startswith("CONCURRENCY is left to the load search") for n in made.notices)
    without = plan(load_search={"enabled": False}, **fields(SEQS, load))
    assert without.load_of(without.baseline()).concurrency == 30
    assert "no parameter is left to search" in refused(**fields(load))


def test_an_enum_with_equal_bounds_is_not_searched() -> None:
    policy = {"name": "policy", "dtype": "enum", "dtype_param": [0, 1, 3], "min": 1, "max": 1, "value": 3}
    made = plan(**fields(SEQS, policy))
    assert [d.name for d in made.space.dimensions] == ["seqs"]
    assert made.baseline().values["policy"] == 3


def test_a_ratio_with_equal_bounds_can_be_told_and_resumed() -> None:
    made = plan(**fields(SEQS, {"name": "half", "dtype": "ratio", "min": 0.5, "max": 0.5, "dtype_param": "seqs"}))
    space, baseline = made.space, made.baseline()
    assert baseline.values == {"seqs": 8, "half": 4}
    assert space.decode(space.encode(baseline)) == baseline


def test_large_whole_ranges_divide_a_product() -> None:
    a, b = ({"name": n, "min": 1, "max": 10**9} for n in "ab")
    c = {"name": "c", "dtype": "ternary_factories", "dtype_param": {"target_names": ["a", "b"], "product": 720720}}
    values = plan(**fields(a, b, c)).space.decode([0.5, 0.5, 0.5][:2]).values
    assert int(values["a"]) * int(values["b"]) * int(values["c"]) == 720720


def test_all_kinds_of_mistakes_come_together() -> None:
    text = refused(
        optimizer={"algorithm": "swan", "benchmark": "wrk", "study": "mysql://a/b"},
        output="/dev/null/x",
        n_particles=1,
        load_search={"low": 9},
        objective={"slo": {"ttft": 1}},
        constraints=["nobody > 1"],
        **fields({**SEQS, "dtype": "integer"}),
    )
    for key in ("optimizer.algorithm", "optimizer.benchmark", "optimizer.study", "output", "load_search",
                "objective.slo.ttft", "constraints: 'nobody > 1'", "simulated.target_field: seqs"):  # fmt: skip
        assert f"{key}: " in text


@pytest.mark.parametrize(
    "study", ["mysql://me:hunter2@h/d", "postgresql://me:hunter2@h:port/d", "sqlite://hunter2", "hunter2+x://y"]
)
def test_a_wrong_study_address_is_not_repeated(study: str) -> None:
    text = refused(optimizer={"study": study})
    assert text.startswith("optimizer.study: ")
    assert "me:hunter2" not in text


@pytest.mark.parametrize(
    "study", ["s.db", "/tmp/s.db", "sqlite:///s.db", "postgresql://me@h:5432/d", "postgresql+psycopg://h/d"]
)
def test_study_addresses(study: str) -> None:
    assert plan(optimizer={"study": study}).study == study


def test_the_fingerprint_is_plain_and_stable() -> None:
    assert plan().fingerprint() == plan(optimizer={"seed": 9, "evaluations": 3}).fingerprint()
    assert plan().fingerprint() != plan(objective={"slo": {"p95_ttft_ms": 9.0}}).fingerprint()
    busy = plan(loadgen={"max_contended_cpu_share": 0.9})
    assert (plan().fingerprint(), plan().service()) == (busy.fingerprint(), busy.service()), "such a study goes on"


# --- what is said of fields that are not searched, and of baselines -----------------------------------------------------


def test_why_nothing_is_left_to_search_is_said_of_each_field() -> None:
    load = {"name": "CONCURRENCY", "min": 1, "max": 100, "value": 30}
    times = {"name": "twice", "dtype": "times", "dtype_param": {"target_name": "c", "product": 2}}
    text = refused(**fields(load, {"name": "c", "constant": 4}, times, {"name": "one", "min": 3, "max": 3}))
    sentence = "c is constant; twice follows from c; one has only one value; CONCURRENCY is left to the load search"
    assert f"no parameter is left to search: {sentence} ([load_search] enabled = false turns it off)" in text


def test_a_field_that_the_engine_would_not_use_is_no_constant_of_the_user() -> None:
    util = {"name": "util", "config_position": "--gpu-memory-utilization", "dtype": "float", "min": 0.5, "max": 0.9}
    section = {"command": {"model": "m", "others": "--kv-cache-memory-bytes 4G"}, "target_field": [util]}
    text = refused(optimizer={"engine": "vllm"}, vllm=section)
    assert "util has no effect beside the other settings of this service" in text


def test_a_range_that_a_product_leaves_one_value_of_is_noted() -> None:
    tp = {"name": "tp", "min": 5, "max": 11, "value": 8}
    dp = {"name": "dp", "dtype": "factories", "dtype_param": {"target_name": "tp", "product": 16}}
    made = plan(**fields(SEQS, tp, dp))
    assert "tp: only 8 is left of its range, so it is not searched" in made.notices
    assert "no parameter is left to search: tp has only one value; dp follows from tp" in refused(**fields(tp, dp))


def test_a_grid_that_the_evaluations_do_not_fill_is_noted() -> None:
    wide = [{"name": name, "min": 1, "max": 100} for name in ("one", "two")]
    made = plan(optimizer={"algorithm": "grid", "evaluations": 16}, **fields(*wide))
    said = "algorithm grid: 16 evaluations do not try all 1e+04 settings; values tried: one 4 of 100, two 4 of 100"
    assert said in made.notices
    for search in ({"algorithm": "swarm"}, {"algorithm": "grid", "evaluations": 10_000}):
        made = plan(optimizer={"evaluations": 16, **search}, **fields(*wide))
        assert not any("grid" in notice for notice in made.notices)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"name": "devices", "dtype": "env", "dtype_param": "DEVICES_OF_THIS_TEST"}
    assert "devices: the environment variable DEVICES_OF_THIS_TEST is not set" in refused(**fields(SEQS, read))
    made = plan(**fields(SEQS, {**read, "value": "0"}))
    assert made.baseline().values["devices"] == "0"
    assert any(n.startswith("devices is '0', its `value`, as the environment variable") for n in made.notices)
    monkeypatch.setenv("DEVICES_OF_THIS_TEST", "")
    assert plan(**fields(SEQS, read)).baseline().values["devices"] == ""


@pytest.mark.parametrize("dtype", [None, "int"])
@pytest.mark.parametrize("constant", ["abc", 8.5, True])
def test_only_a_dtype_that_is_written_contradicts_a_constant(dtype: str | None, constant: Any) -> None:
    made: dict[str, Any] = {"name": "c", "constant": constant} if dtype is None else {"name": "c", "dtype": dtype}
    if dtype is None:
        assert plan(**fields(SEQS, made)).baseline().values["c"] == constant
    else:
        assert f"c: constant {constant!r} is not a" in refused(**fields(SEQS, {**made, "constant": constant}))


def test_a_broken_rule_says_the_values_and_whose_rule_it_is() -> None:
    tokens = {"name": "tokens", "config_position": "--max-num-batched-tokens", "min": 1, "max": 9000, "value": 4}
    seqs = {**SEQS, "config_position": "--max-num-seqs"}
    section = {"command": {"model": "m"}, "target_field": [seqs, tokens]}
    text = refused(optimizer={"engine": "vllm"}, vllm=section)
    assert "the baseline breaks it with seqs = 8 and tokens = 4; it is a rule of vllm" in text
    text = refused(constraints=["seqs > 9"], **fields(SEQS))
    assert "'seqs > 9': the baseline breaks it with seqs = 8; change the rule or the fields' value" in text


def test_a_rule_says_nothing_of_a_field_that_is_wrong_itself() -> None:
    tokens = {"name": "tokens", "config_position": "--max-num-batched-tokens", "min": 1, "max": 9000, "value": 4}
    seqs = {**SEQS, "config_position": "--max-num-seqs"}
    section = {"command": {"model": "m", "others": "--max-num-batched-tokens 900"}, "target_field": [seqs, tokens]}
    text = refused(optimizer={"engine": "vllm"}, vllm=section, constraints=["seqs > 9"])
    assert "vllm.command.others sets --max-num-batched-tokens too" in text
    assert "with seqs = 8 and tokens = 4" not in text
    assert "'seqs > 9': the baseline breaks it with seqs = 8" in text, "nothing else is wrong with it"


def test_without_a_known_engine_all_else_is_told() -> None:
    text = refused(
        optimizer={"engine": "vlm", "study": "mysql://a/b"}, parallel={"enabled": True, "node_string": "n1:99999"}
    )
    for words in ("no engine named 'vlm'", "'mysql' is not supported", "99999"):
        assert words in text


def noted(text: str, **given: Any) -> bool:
    return any(text in notice for notice in plan(**given).notices)


@pytest.mark.parametrize(
    ("text", "given", "right"),
    [
        (
            "ttft_slo not used: [objective] slo is given",
            {"ttft_slo": 0.5, "objective": {"slo": {"p95_ttft_ms": 900.0}}},
            {"ttft_slo": 0.5},
        ),
        (
            "ttft_slo not used",
            {"ttft_slo": 0.5, "objective": {"slo": {"p95_ttft_ms": 900.0}}},
            {"ttft_slo": 0.5, "objective": {"name": "weighted", "slo": {"p95_ttft_ms": 900.0}}},
        ),
        ("iters is not used: it counts only with n_particles", {"iters": 3}, {"iters": 3, "n_particles": 4}),
        (
            "[pso_options] not used: the algorithm random moves no particles",
            {"pso_options": {"c1": 2.0}, "optimizer": {"algorithm": "random"}},
            {"pso_options": {"c1": 2.0}},
        ),
        (
            "loadgen.concurrency is not used: the load search finds the load itself, between 1 and 64",
            {"loadgen": {"concurrency": 16}},
            {"loadgen": {"concurrency": 16}, "load_search": {"enabled": False}},
        ),
        (
            "loadgen.concurrency is not used",
            {"loadgen": {"concurrency": 16}},
            {"loadgen": {"concurrency": 16}, "load_search": {"variable": "request_rate"}},  # there it is the cap
        ),
        (
            "health_check.log_snippet_length is not used",
            {"health_check": {"log_snippet_length": 5}},
            {
                "health_check": {
                    "log_snippet_length": 5,
                    "service_errors": {"fatal_patterns": {"out_of_memory": ["no room"]}},
                }
            },
        ),
        (
            "nothing is left to search: of all 64 settings only the baseline keeps the rules (seqs == 8)",
            {"constraints": ["seqs == 8"], **fields(SEQS)},
            {"constraints": ["seqs >= 8"], **fields(SEQS)},
        ),
    ],
)
def test_keys_that_change_nothing_are_named(text: str, given: dict[str, Any], right: dict[str, Any]) -> None:
    assert noted(text, **given)
    assert not noted(text, **right)


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    assert "objective.slo.p95_tpot_ms: answers of one token" in refused(loadgen={"osl": 1})
    assert plan(loadgen={"osl": 1}, objective={"slo": {"p95_ttft_ms": 500.0}})
    assert plan(loadgen={"osl": 2})


def test_the_folder_of_programs_is_a_whole_path_and_is_looked_for(tmp_path: Path) -> None:
    for path in ("~/tools", "tools"):
        with pytest.raises(ConfigValidationError, match="give the whole path"):
            read_settings(None, {"deploy": {"path_prefix": path}})
    assert read_settings(None, {"deploy": {"path_prefix": str(tmp_path)}})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("default", "did you mean value"),
        ("choices", "dtype_param = [...]"),
        ("minimum", "did you mean min"),
        ("q", "key$"),
    ],
)
def test_keys_of_fields_as_other_tuners_call_them(key: str, meant: str) -> None:
    with pytest.raises(ConfigValidationError) as caught:
        read_settings(None, fields({**SEQS, key: 3}))
    text = caught.value.mistakes[0]
    assert text.endswith("unknown key") if meant == "key$" else meant in text
