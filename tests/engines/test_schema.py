"""Known parameters: defaults as baselines, rules, slips, and the installed engine's own help."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from swarmtune.engines.baseline import range_notes, with_default, with_result
from swarmtune.engines.flag_checks import FlagChecks
from swarmtune.engines.help_text import flags_in_help, missing_in_help
from swarmtune.engines.schema import Parameter, Schema, plain
from swarmtune.engines.target_field import TargetField
from swarmtune.engines.vllm_schema import vllm_schema
from swarmtune.space import Field, Space

DATA = Path(__file__).parent / "data"
SMALL = Schema("X", "1", (Parameter("--batch", default=8, min=1, max=64), Parameter("--chunk", default=4)))


@pytest.mark.parametrize("name", ["--max-num-seqs", "max_num_seqs", "MAX_NUM_SEQS"])
def test_one_parameter_by_all_its_names(name: str) -> None:
    found = vllm_schema().find(name)
    assert found is not None
    assert found.default == 256
    assert vllm_schema().flag_of(name) == "--max-num-seqs"


def checks(schema: Schema) -> FlagChecks:
    return FlagChecks(schema, "vllm", "", "vllm.command.others", {})


def test_an_unknown_name_lists_the_near_ones() -> None:
    sentence = checks(vllm_schema()).unknown("--max-num-sequ", "vllm.target_field seqs")
    assert sentence is not None
    assert sentence.startswith(
        "vllm.target_field seqs: vLLM 0.30-0.33 has no parameter --max-num-sequ. Near: --max-num"
    )
    assert "--max-num-seqs" in sentence


def test_an_incomplete_schema_only_catches_slips() -> None:
    assert checks(SMALL).unknown("--something-else", "k") is None
    assert checks(SMALL).unknown("--batchs", "k") is not None


def test_slips_in_environment_variables() -> None:
    fields = [Field("MAX_NUM_SEQ", "env"), Field("VLLM_CPU_KVCACHE_SPACE", "env"), Field("CONCURRENCY", "env")]
    (sentence,) = checks(vllm_schema()).mistakes(fields, by_user=True)
    assert "MAX_NUM_SEQ" in sentence
    assert "--max-num-seqs" in sentence


def test_a_path_needs_a_file() -> None:
    fields = [Field("tp", "ModelConfig.0.tp")]
    assert "no file" in checks(vllm_schema()).mistakes(fields, by_user=True)[0]


def test_rules_speak_the_fields_names() -> None:
    fields = [Field("MAX_NUM_SEQS", "env"), Field("tokens", "--max-num-batched-tokens")]
    assert vllm_schema().constraints(fields) == ("tokens >= MAX_NUM_SEQS",)
    assert vllm_schema().constraints(fields[:1]) == ()


@pytest.mark.parametrize(
    ("made", "default", "value"),
    [
        (Field("x", min=1, max=64), 8, 8),
        (Field("x", min=1, max=64, value=3), 8, 3),
        (Field("x", min=1, max=64), None, None),
        (Field("x", dtype="enum", dtype_param=["a", "b"]), "b", "b"),
        (Field("x", dtype="bool"), True, True),
        (Field("x", constant=0), 8, None),
        (Field("x", dtype="wrong"), 8, None),
    ],
)
def test_defaults_become_baselines(made: Field, default: object, value: object) -> None:
    assert with_default(made, default).value == value


@pytest.mark.parametrize(
    ("made", "default", "low", "high", "choices"),
    [
        (Field("x", min=16, max=64), 8, 8, 64, None),
        (Field("x", min=16, max=64), 5000, 16, 5000, None),
        (Field("x", min=16, max=64, log=True), 8, 8, 64, None),
        (Field("x", dtype="float", min=0.5, max=0.9), 0.92, 0.5, 0.92, None),
        (Field("x", dtype="range", min=0, max=100, dtype_param=10), 120, 0, 120, 10),
        (Field("x", dtype="range", min=0, max=30, dtype_param=10), 25, None, None, [0, 10, 20, 25, 30]),
        (Field("x", dtype="enum", dtype_param=[16, 64]), 40, None, None, [16, 40, 64]),
        (Field("x", dtype="enum", dtype_param=["a", "b"]), "c", None, None, ["a", "b", "c"]),
    ],
)
def test_ranges_are_widened_for_the_service_of_today_and_that_is_said(
    made: Field, default: float | str, low: float | None, high: float | None, choices: object
) -> None:
    widened = with_default(made, default)
    assert (widened.value, widened.min, widened.max, widened.dtype_param) == (default, low, high, choices)
    assert Space([widened]).default().values["x"] == default
    (note,) = range_notes([made], [widened])
    assert note.startswith(f"x: the range is widened for the baseline {default}")
    assert range_notes([widened], [widened]) == []


@pytest.mark.parametrize(("result", "target", "share"), [(0, 200, 0.0025), (1, 200, 0.0075), (200, 200, 1.0)])
def test_a_resulting_number_is_no_share(result: int, target: int, share: float) -> None:
    made = with_result(Field("r", "--r", 0, 1, "ratio", dtype_param="x"), target, result)
    assert made.value == share
    assert Space([Field("x", "--x", 1, 500, value=target), made]).default().values["r"] == result


@pytest.mark.parametrize("result", [10, 190, 300])
def test_a_resulting_number_outside_the_shares_widens_them(result: int) -> None:
    space = Space(
        [
            Field("x", "--x", 1, 500, value=200),
            with_result(Field("r", "--r", 0.1, 0.7, "ratio", dtype_param="x"), 200, result),
        ]
    )
    baseline = space.default()
    assert baseline.values["r"] == result
    assert space.decode(space.encode(baseline)) == baseline


def test_the_users_fields_take_the_engines_defaults() -> None:
    entries = [TargetField(name="BATCH", min=1, max=32), TargetField(name="n", config_position="--chunk", min=1, max=9)]
    assert [f.value for f in SMALL.fields(entries, ())] == [8, 4]


def test_unknown_keys_of_a_field_are_refused() -> None:
    with pytest.raises(ValidationError, match="maximum"):
        TargetField.model_validate({"name": "x", "maximum": 3})


@pytest.mark.parametrize(
    ("rule", "rest"),
    [
        ("a >= b", "a >= b"),
        ("a or b >= 1", "a or b >= 1"),
        ("true or b >= 1", "true"),
        ("false or b >= 1", "b >= 1"),
        ("false and a", "false"),
        ("a and true", "a"),
        ("'f16' == \"f16\" or a != 'off'", "true"),
        ("'q4' == 'f16' or a != 'off'", "a != 'off'"),
        ("false or 2 >= 4", "false"),
        ("not true", "not true"),
    ],
)
def test_what_is_known_of_a_rule_leaves_it(rule: str, rest: str) -> None:
    assert plain(rule) == rest


@pytest.mark.parametrize("value", [True, 3, 0.5, "a"])
def test_a_value_keeps_its_type(value: bool | float | str) -> None:
    made = TargetField.model_validate({"name": "x", "value": value, "constant": value}).to_field()
    assert type(made.value) is type(value)
    assert type(made.constant) is type(value)


def test_the_installed_engines_help() -> None:
    text = (DATA / "vllm_help.txt").read_text()
    assert {"--max-num-seqs", "--enable-chunked-prefill", "--no-enable-chunked-prefill"} <= flags_in_help(text)
    names = ["--max-num-seqs", "--no-enable-chunked-prefill", "--max-num-seq"]
    assert missing_in_help(text, names) == ["--max-num-seq"]
