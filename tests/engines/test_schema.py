"""Known parameters: defaults as baselines, rules, slips, and the installed engine's own help."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from swarmtune.engines.schema import Parameter, Schema, flags_in_help, with_default
from swarmtune.engines.target_field import TargetField
from swarmtune.engines.vllm_schema import vllm_schema
from swarmtune.space import Field

DATA = Path(__file__).parent / "data"
SMALL = Schema("X", "1", (Parameter("--batch", default=8, min=1, max=64), Parameter("--chunk", default=4)))


@pytest.mark.parametrize("name", ["--max-num-seqs", "max_num_seqs", "MAX_NUM_SEQS"])
def test_one_parameter_by_all_its_names(name: str) -> None:
    found = vllm_schema().find(name)
    assert found is not None
    assert found.default == 256
    assert vllm_schema().flag_of(name) == "--max-num-seqs"


def test_negated_flags_are_known() -> None:
    assert vllm_schema().knows("--no-enable-prefix-caching")


def test_an_unknown_name_lists_the_near_ones() -> None:
    sentence = vllm_schema().mistake("--max-num-seq", "vllm.target_field seqs")
    assert sentence is not None
    assert sentence.startswith("vllm.target_field seqs: vLLM 0.30-0.33 has no parameter --max-num-seq. Near: --max-num")
    assert "--max-num-seqs" in sentence


def test_an_incomplete_schema_only_catches_slips() -> None:
    assert SMALL.mistake("--something-else", "k") is None
    assert SMALL.mistake("--batchs", "k") is not None


def test_slips_in_environment_variables() -> None:
    fields = [Field("MAX_NUM_SEQ", "env"), Field("VLLM_CPU_KVCACHE_SPACE", "env"), Field("CONCURRENCY", "env")]
    (sentence,) = vllm_schema().field_mistakes(fields, "vllm")
    assert "MAX_NUM_SEQ" in sentence
    assert "--max-num-seqs" in sentence


def test_a_path_needs_a_file() -> None:
    fields = [Field("tp", "ModelConfig.0.tp")]
    assert "no file" in vllm_schema().field_mistakes(fields, "vllm")[0]
    assert vllm_schema().field_mistakes(fields, "vllm", document=True) == []


def test_rules_speak_the_fields_names() -> None:
    fields = [Field("MAX_NUM_SEQS", "env"), Field("tokens", "--max-num-batched-tokens")]
    assert vllm_schema().constraints(fields) == ("tokens >= MAX_NUM_SEQS",)
    assert vllm_schema().constraints(fields[:1]) == ()


@pytest.mark.parametrize(
    ("made", "default", "value"),
    [
        (Field("x", min=1, max=64), 8, 8),
        (Field("x", min=16, max=64), 8, 16),  # the nearest that the range has
        (Field("x", min=1, max=64, value=3), 8, 3),
        (Field("x", min=1, max=64), None, None),
        (Field("x", dtype="enum", dtype_param=["a", "b"]), "b", "b"),
        (Field("x", dtype="enum", dtype_param=["a", "b"]), "c", None),
        (Field("x", dtype="enum", dtype_param=[16, 32, 64]), 40, 32),
        (Field("x", dtype="bool"), True, True),
        (Field("x", dtype="range", min=0, max=100, dtype_param=10), 42, 40),
        (Field("x", constant=0), 8, None),
        (Field("x", dtype="wrong"), 8, None),
    ],
)
def test_defaults_become_baselines(made: Field, default: object, value: object) -> None:
    assert with_default(made, default).value == value


def test_the_users_fields_take_the_engines_defaults() -> None:
    entries = [TargetField(name="BATCH", min=1, max=32), TargetField(name="n", config_position="--chunk", min=1, max=9)]
    assert [f.value for f in SMALL.fields(entries, ())] == [8, 4]


def test_unknown_keys_of_a_field_are_refused() -> None:
    with pytest.raises(ValidationError, match="maximum"):
        TargetField.model_validate({"name": "x", "maximum": 3})


@pytest.mark.parametrize("value", [True, 3, 0.5, "a"])
def test_a_value_keeps_its_type(value: bool | float | str) -> None:
    made = TargetField.model_validate({"name": "x", "value": value, "constant": value}).to_field()
    assert type(made.value) is type(value)
    assert type(made.constant) is type(value)


def test_the_installed_engines_help() -> None:
    text = (DATA / "vllm_help.txt").read_text()
    assert {"--max-num-seqs", "--enable-chunked-prefill", "--no-enable-chunked-prefill"} <= flags_in_help(text)
    checked = vllm_schema().check_against_help(text, ["--max-num-seqs", "--no-enable-chunked-prefill", "--max-num-seq"])
    assert len(checked) == 1
    assert checked[0].startswith("The installed vLLM has no --max-num-seq. Near: --max-num-seqs")
