"""Flags: every spelling, what follows them, and what an engine would refuse of fields and of further arguments."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engine_contract import make

from swarmtune.engines import arguments, llamacpp, llamacpp_server, serving, simulated
from swarmtune.engines.flag_checks import MOST
from swarmtune.engines.flags import KINDS, TEXT, Flag, Flags, read_flags, size
from swarmtune.engines.sglang_schema import sglang_schema
from swarmtune.engines.vllm_schema import vllm_schema
from swarmtune.records import Group, Setting
from swarmtune.simulator.__main__ import build_parser as simulator_parser
from swarmtune.space import Space

ENGINES: dict[str, dict[str, Any]] = {
    "vllm": {"command": {"model": "some/model"}},
    "sglang": {"command": {"model": "some/model"}},
    "simulated": {},
    "llamacpp": {"max_threads": 2},
}


def section(engine: str, others: str = "", *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A section with these further arguments and fields."""
    made = dict(ENGINES[engine])
    place = {"command": {**made["command"], "others": others}} if "command" in made else {"others": others}
    return {**made, **place, "target_field": list(fields), **more}


def mistakes(engine: str, others: str = "", *fields: dict[str, Any], **more: Any) -> list[str]:
    return make(engine, **section(engine, others, *fields, **more)).mistakes()


def field(position: str, **more: Any) -> dict[str, Any]:
    return {"name": "x", "config_position": position, **({"min": 1, "max": 2} if not more else {}), **more}


# --- spellings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "others"),
    [
        ("vllm", "-tp 2 -pp=2 -dp 1"),
        ("vllm", "--tensor-parallel-size=2 --tensor_parallel_size 2"),
        ("vllm", "-q fp8 -O3 -O 2 --optimization-level 1"),
        ("vllm", "--speculative-config.num_speculative_tokens 3 --speculative_config.method=ngram"),
        ("vllm", '--compilation-config \'{"cudagraph_mode": "NONE"}\' -cc.mode 3'),
        ("vllm", "--no-enable-chunked-prefill --enforce-eager --max-num-batched-tokens 40k"),
        ("vllm", "--max-model-len 4096 --max-num-batched-tokens 1k --long-prefill-token-threshold 0"),
        ("vllm", "--lora-modules a=/x b=/y"),
        ("vllm", "--hf-token --seed -1 --lora-modules a b"),
        ("vllm", "--max-model-len -1 --max-model-len auto --enable-auto-tool-choice --tool-call-parser hermes"),
        ("sglang", "--tp 2 --dp-size=2 --enable-metrics --mem-fraction-static 0.8"),
        ("sglang", "--tensor-parallel-size 4 --enable-dp-attention --cuda-graph-bs-decode 1 2 4"),
        ("llamacpp", "--flash-attn on --no-kv-unified --cache-ram 0"),
        ("llamacpp", "-c 4096 -np 2 -b 512 -ub 256 -t 2 -tb 2 -fa on -ctk q8_0 -ctv q8_0 -kvu -cb -cram 0 -ngl 0"),
        ("llamacpp", "--ctx-size 4096 --parallel 2 --batch-size 512 --ubatch-size=256 --threads 2 --threads-batch=2"),
        ("llamacpp", "--gpu-layers 99 --n-gpu-layers=-1 --threads-http 2"),
        ("llamacpp", "--n-gpu-layers all -ngl auto -ngl -2"),
        ("llamacpp", "-t -1 -tb -1 -c 0 -cram -1"),
        ("llamacpp", "-t 0 --threads_batch -1 --ctx_size=4096 --n_parallel 2"),
        ("llamacpp", "-ctk bf16 -ctv f32 -fa off"),
        ("llamacpp", "-ctk q5_1 -ctv iq4_nl"),
        ("llamacpp", "-b 64"),
        ("llamacpp", "-b 8"),
        ("llamacpp", "-ub 4096"),
        ("llamacpp", "--batch-size 64 --ubatch-size 512"),
        ("simulated", "--crash-after-requests 10 --fail-start oom --no-enable-chunked-prefill"),
    ],
)
def test_what_the_engine_takes_is_no_mistake(engine: str, others: str) -> None:
    assert mistakes(engine, others) == []


@pytest.mark.parametrize(
    ("engine", "others", "said"),
    [
        ("llamacpp", "-mg 0", "no parameter -mg"),
        ("llamacpp", "-md draft.gguf", "no parameter -md"),
        ("vllm", "--disable-log-requests", "no parameter --disable-log-requests. Near: "),
        ("vllm", "--swap-space 16", "no parameter --swap-space"),
        ("vllm", "--swap-space=16", "no parameter --swap-space"),
        ("vllm", "--max-num-sequences 8", "Near: --max-num-seqs"),
        ("vllm", "--tp 2", "Near: -tp"),
        ("vllm", "-tpx 2", "no parameter -tpx"),
        ("vllm", "--max-num-seqs.x 2", "no parameter --max-num-seqs.x"),
        ("vllm", "--no-max-num-seqs 2", "no parameter --no-max-num-seqs"),
        ("vllm", "--no-headless", "no parameter --no-headless"),
        ("vllm", "--max-num-seqs", "--max-num-seqs needs a value"),
        ("vllm", "--max-num-seqs --enforce-eager", "--max-num-seqs needs a value"),
        ("vllm", "--enforce-eager=true", "--enforce-eager is a switch and takes no value"),
        ("vllm", "--enforce-eager true", "'true' belongs to no flag"),
        ("vllm", "--max-num-seqs 8 16", "'16' belongs to no flag"),
        ("vllm", "--max-num-seqs many", "--max-num-seqs takes a whole number, not 'many'"),
        ("vllm", "--max-num-seqs 0", "--max-num-seqs takes a number >= 1, not 0"),
        ("vllm", "--gpu-memory-utilization 1.5", "takes a number <= 1, not 1.5"),
        ("vllm", "--api-key hunter2", "--api-key makes the service ask every request for a key"),
        ("sglang", "--api-key=hunter2", "--api-key makes the service ask every request for a key"),
        ("vllm", "--max-model-len 0", "--max-model-len takes a number != 0, not 0"),
        ("vllm", "--max-model-len=-2", "--max-model-len takes a number >= -1, not -2"),
        ("vllm", "-O5", "-O takes a number <= 3, not 5"),
        ("vllm", "-O4", "-O takes a number <= 3, not 4"),
        ("vllm", "--optimization-level 7", "--optimization-level takes a number <= 3, not 7"),
        ("vllm", "--optimization-level O2", "--optimization-level takes a whole number, not 'O2'"),
        ("vllm", "-tp2x", "no parameter -tp2x"),
        ("vllm", "--speculative-config.num_speculative_tokens x", "takes a whole number, not 'x'"),
        ("vllm", "-sc.num_speculative_tokens=0", "takes a number >= 1, not 0"),
        ("vllm", "--enable-auto-tool-choice", "breaks the engine's rule"),
        ("vllm", "--scheduling-policy sjf", "takes one of fcfs, priority, not 'sjf'"),
        ("vllm", "--nnodes 2 --node-rank 0 --master-addr n1", "--node-rank is written by SwarmTune; leave it out; the"),
        ("sglang", "--nccl-init-addr n1:5000", "--nccl-init-addr is written by SwarmTune; leave it out; the nodes"),
        ("vllm", "--port 9000", "--port is written by SwarmTune; leave it out; vllm.command.port sets it"),
        ("vllm", "--no-enable-chunked-prefill --max-model-len 8k --max-num-batched-tokens 2k", "breaks the engine's rule"),
        ("vllm", "--max-num-batched-tokens 64 --max-num-seqs 128", "breaks the engine's rule"),
        ("sglang", "--max-num-seqs 4", "SGLang 0.5.23 has no parameter --max-num-seqs"),
        ("sglang", "--max_running_requests 4", "Near: --max-running-requests"),
        ("sglang", "--enable-mixed-chunk 1", "'1' belongs to no flag"),
        ("sglang", "--schedule-policy first", "takes one of lpm, "),
        ("llamacpp", "--paralel 4", "Near: --parallel"),
        ("llamacpp", "-nlg 4", "Near: -ngl"),
        ("llamacpp", "-npp 4", "Near: -np"),
        ("llamacpp", "-ctkk f16", "Near: -ctk"),
        ("llamacpp", "-fa", "needs a value (one of auto, on, off)"),
        ("llamacpp", "-fa 1", "takes one of auto, on, off, not '1'"),
        ("llamacpp", "-c -1", "takes a number >= 0"),
        ("llamacpp", "-ngl some", "takes a whole number, auto, all, not 'some'"),
        ("llamacpp", "-ngl -3", "takes a number >= -2"),
        ("llamacpp", "-t many", "takes a whole number"),
        ("llamacpp", "-np -1", "takes a number >= 1"),
        ("llamacpp", "--mlock", "no parameter --mlock. llama-server itself may have it: tune that with -e command."),
        ("llamacpp", "-sm row -ts 1,1", "no parameter -sm. llama-server itself may have it: tune that with -e command."),
        ("llamacpp", "-nocb", "Near: -cb. llama-server itself may have it"),
        ("llamacpp", "-m x.gguf", "-m is written by SwarmTune; leave it out; llamacpp.model_path sets it"),
        ("llamacpp", "-ctv q8_0 -fa off", "breaks the engine's rule"),
        ("llamacpp", "--flash-attn", "needs a value (one of auto, on, off)"),
        ("llamacpp", "--ctv q5_1 --flash_attn off", "Near: -ctv"),
        ("llamacpp", "-ctv q5_1 --flash_attn off", "breaks the engine's rule"),
        ("simulated", "--max-num-seq 4", "Near: --max-num-seqs"),
    ],
)  # fmt: skip
def test_what_the_engine_would_refuse_in_others_is_a_mistake(engine: str, others: str, said: str) -> None:
    found = mistakes(engine, others, field("env"))
    assert any(said in sentence and "others" in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("engine", "entry", "said"),
    [
        ("llamacpp", field("--flash-attn", dtype="bool"), "takes a value (one of auto, on, off)"),
        ("llamacpp", field("--flash-attn", dtype="enum", dtype_param=["auto", "never"]), "not 'never'"),
        ("vllm", field("--enforce-eager"), "is a switch and takes no value"),
        ("vllm", field("--enforce-eager", dtype="enum", dtype_param=["true", "false"]), "is a switch"),
        ("vllm", field("--max-num-seqs", dtype="bool"), "takes a value"),
        ("vllm", field("--max-num-seqs", min=0, max=8), "takes a number >= 1, not 0"),
        ("vllm", field("--max-num-seqs", min=1, max=8, dtype="float"), "takes a whole number"),
        ("vllm", field("--gpu-memory-utilization", min=0.5, max=1.2, dtype="float"), "takes a number <= 1, not 1.2"),
        ("vllm", field("--kv-cache-dtype", dtype="enum", dtype_param=["auto", "fp7"]), "not 'fp7'"),
        ("vllm", field("--port", min=1, max=9), "--port is written by SwarmTune"),
        ("vllm", {"name": "SCHEDULING_POLICY", "dtype": "enum", "dtype_param": ["lifo"]}, "--scheduling-policy takes"),
        ("sglang", field("--page-size", min=0, max=8), "takes a number >= 1, not 0"),
        ("sglang", field("--enable-mixed-chunk", min=0, max=1), "is a switch"),
        ("simulated", field("--max-num-seqs", constant=0), "takes a number >= 1, not 0"),
    ],
)  # fmt: skip
def test_what_the_engine_would_refuse_of_a_field_is_a_mistake(engine: str, entry: dict[str, Any], said: str) -> None:
    (sentence,) = mistakes(engine, "", entry)
    assert said in sentence
    assert sentence.startswith(f"{engine}.target_field {entry['name']}: ")


@pytest.mark.parametrize(
    "entry",
    [
        field("-tp", dtype="enum", dtype_param=[1, 2]),
        field("--speculative-config.num_speculative_tokens"),
        field("--no-enable-prefix-caching", dtype="bool"),
        field("-ep", dtype="bool"),
        field("--aggregate-engine-logging", dtype="bool"),
        field("--max_num_seqs"),
        field("--max-model-len", dtype="enum", dtype_param=["4k", "8k", 16384]),
    ],
    ids=lambda entry: entry["config_position"],
)
def test_every_spelling_may_be_a_field(entry: dict[str, Any]) -> None:
    assert mistakes("vllm", "", entry) == []


@pytest.mark.parametrize(
    ("engine", "position", "on", "off"),
    [
        ("vllm", "--enforce-eager", ["--enforce-eager"], ["--no-enforce-eager"]),
        ("vllm", "--no-enforce-eager", ["--no-enforce-eager"], ["--enforce-eager"]),
        ("vllm", "-ep", ["-ep"], ["--no-enable-expert-parallel"]),
        ("vllm", "--headless", ["--headless"], []),
        ("vllm", "-cc.draft", ["-cc.draft", "true"], ["-cc.draft", "false"]),
        ("sglang", "--enable-mixed-chunk", ["--enable-mixed-chunk"], []),
    ],
)  # fmt: skip
def test_booleans_are_written_as_the_flag_wants_them(engine: str, position: str, on: list[str], off: list[str]) -> None:
    service = make(engine, **section(engine, "", field(position, dtype="bool", value=True)))
    plain = make(engine, **section(engine, "", field("env"))).command(Setting({}), Group(port=9000)).argv
    for value, words in ((True, on), (False, off)):
        assert service.command(Setting({"x": value}), Group(port=9000)).argv == (*plain, *words)


def test_the_way_out_for_other_versions_is_named_and_works() -> None:
    for engine in ("vllm", "sglang"):
        (sentence,) = mistakes(engine, "--brand-new-flag-xyz 3", field("env"))
        assert f"{engine}.check_flags = false" in sentence
        assert mistakes(engine, "--brand-new-flag-xyz 3", field("env"), check_flags=False) == []


# --- names that are cut short -----------------------------------------------------------------------------------------


def parser_of(flags: Flags) -> argparse.ArgumentParser:
    """A real parser with these flags."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for flag in flags.all:
        names = [name for name in flag.names if name != "-O"]  # which vLLM spells out before it parses
        kind: dict[str, Any] = {"nargs": "*" if flag.takes in ("list", "any") else "?"}
        if flag.takes == "pair":
            kind = {"action": argparse.BooleanOptionalAction}
        elif flag.takes == "switch":
            kind = {"action": "store_true"}
        parser.add_argument(*names, dest=flag.name, **kind)
    return parser


SCHEMAS = {"vllm": vllm_schema(), "sglang": sglang_schema()}
PARSERS = {name: parser_of(schema.commands) for name, schema in SCHEMAS.items()}
NAMES = {name: [n for n in PARSERS[name]._option_string_actions if n.startswith("--")] for name in SCHEMAS}


@given(st.data())
def test_a_name_that_is_cut_short_is_that_of_argparse(data: st.DataObject) -> None:
    engine = data.draw(st.sampled_from(sorted(SCHEMAS)))
    name = data.draw(st.sampled_from(NAMES[engine]))
    written = name[: data.draw(st.integers(3, len(name)))]
    flags, found = SCHEMAS[engine].commands, PARSERS[engine]._get_option_tuples(written)
    spelling = flags.find(written)
    if written in NAMES[engine]:
        assert spelling is not None
        assert spelling.flag.name == PARSERS[engine]._option_string_actions[written].dest
    elif len(found) == 1:
        assert spelling is not None
        assert (spelling.flag.name, spelling.negated) == (found[0][0].dest, found[0][1].startswith("--no-"))
    else:
        assert spelling is None
        assert flags.candidates(written) == tuple(sorted(option for _, option, *_ in found))


@pytest.mark.parametrize(
    "others",
    [
        "--max-num-se 5", "--max_num_se 5", "--max-num-se=5", "--tensor-parallel-s 2 --pipe 2", "--no-enable-pref",
        "--no_enable_pref", "--speculative-c.num_speculative_tokens 3", "--compilation.pass_config.x=true", "-t 2",
        "--enforce", "--kv-cache-dtype-s a b", "--lora-mod a=/x b=/y", "--optim 3",
    ],
)  # fmt: skip
def test_a_clear_beginning_of_a_flag_is_the_flag(others: str) -> None:
    assert mistakes("vllm", others) == []
    assert mistakes("vllm", others, check_flags=False) == []


@pytest.mark.parametrize(
    ("engine", "others", "said"),
    [
        ("vllm", "--max-num-se 0", "--max-num-se takes a number >= 1, not 0"),
        ("vllm", "--max-num-se many", "takes a whole number"),
        ("vllm", "--max-num-se", "needs a value"),
        ("vllm", "--enforce=1", "is a switch"),
        ("vllm", "--por 80", "is written by SwarmTune"),
        ("vllm", "--max-num-se 64 --max-num-b 8", "breaks the engine's rule"),
        (
            "vllm",
            "--max-num-s 8",
            "--max-num-s is ambiguous: vLLM 0.30-0.33 could take it for --max-num-scheduled-tokens, --max-num-se",
        ),
        ("vllm", "--max-num.x 8", "--max-num.x is ambiguous"),
        ("vllm", "-d 2", "-d is ambiguous: "),
        ("vllm", "--no-enable 8", "--no-enable is ambiguous"),
        ("vllm", "--max-num-se.x 2", "no parameter --max-num-se.x"),
        ("vllm", "--no-max-num-s 2", "no parameter --no-max-num-s"),
        ("sglang", "--max-runn 0", "takes a number >= 1"),
        ("sglang", "--max_running_request 4", "Near: --max-running-requests"),
        ("llamacpp", "--flash on", "Near: --flash-attn"),  # its parser takes whole names only
        ("simulated", "--max-num-se 4", "Near: --max-num-seqs"),
    ],
)
def test_rules_see_the_flag_that_is_cut_short(engine: str, others: str, said: str) -> None:
    found = mistakes(engine, others, field("env"))
    assert any(said in sentence for sentence in found), found


def test_a_long_list_of_candidates_is_cut() -> None:
    (sentence,) = mistakes("vllm", "--enable 1", field("env"))
    assert " more; write the whole name" in sentence
    assert sentence.count("--enable") <= MOST + 1


@pytest.mark.parametrize("position", ["--max-num-se", "--max_num_se", "--max-num-seqs"])
def test_a_field_may_cut_its_flag_short(position: str) -> None:
    engine = make("vllm", **section("vllm", "", field(position, min=1, max=2000)))
    assert engine.mistakes() == []
    assert engine.fields()[0].value == 256  # the baseline of the flag
    assert engine.command(Setting({"x": 4}), Group(port=9000)).argv[-2:] in [
        ("--max-num-seqs", "4"), ("--max_num_se", "4")
    ]  # fmt: skip
    (sentence,) = mistakes("vllm", "--max-num-se 4", field(position, min=1, max=2000))
    assert "vllm.command.others sets --max-num-se too" in sentence


def test_ranks_devices_and_memory_see_flags_that_are_cut_short(tmp_path: Path) -> None:
    model = {"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64, "architectures": ["X"]}
    (tmp_path / "config.json").write_text(json.dumps(model))
    memory = {"model_config_path": str(tmp_path), "kv_bytes": 2**20, "tokens_per_sequence": 256}
    found = []
    for others in (
        "--tensor-parallel-size 4 --max-model-len 64",
        "--tensor-par=4 --max-model 64",
        "-t 4 --max_model=64",
    ):
        engine = make("vllm", **section("vllm", others, memory=memory))
        found.append((engine.ranks(), engine.notes(), engine.accelerators(Setting({}), Group(port=9000))))
        assert found[-1] == found[0]
    assert found[0][0]["tensor_parallel_size"] == "4"
    assert found[0][2] == 4


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_memory_knows_flags_by_their_usual_names(schema: Any) -> None:
    for name in (*serving.FLAGS, *serving.NOT_COUNTED):
        spelling = schema.commands.find(name)
        assert spelling is None or spelling.flag.name in (*serving.FLAGS, *serving.NOT_COUNTED)


# --- flags that are given again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "others", "note"),
    [
        (
            "vllm",
            "--max-num-seqs 8 --max_num_seqs=16",
            "--max-num-seqs is given 2 times, 8, then 16: the last one counts",
        ),
        ("vllm", "--max-num-se 8 --max-num-seqs 8 --max-num-seqs 4", "given 3 times, 8, then 8, then 4"),
        ("vllm", "-tp 2 --tensor-parallel-size 4", "--tensor-parallel-size is given 2 times, 2, then 4"),
        ("vllm", "--enforce-eager --no-enforce-eager", "--enforce-eager is given 2 times, true, then false"),
        ("vllm", "-cc.mode 3 -cc.mode=2", "--compilation-config.mode is given 2 times"),
        ("vllm", "-O3 --optimization-level 1", "--optimization-level is given 2 times, 3, then 1"),
        ("vllm", "--compilation-config '{}' -cc.mode 2", "--compilation-config does not count beside its parts"),
        ("vllm", "-cc.mode 3 --compilation-config.x 2", "-cc and --compilation-config are the same flag, and only"),
        ("sglang", "--tp 2 --tp-size 4", "--tp-size is given 2 times"),
        ("llamacpp", "-np 2 --parallel 4", "--n-parallel is given 2 times, 2, then 4"),
        ("simulated", "--noise 1 --noise 2", "--noise is given 2 times"),
    ],
)
def test_a_flag_that_is_given_again_gets_one_note(engine: str, others: str, note: str) -> None:
    tuned = make(engine, **section(engine, others))
    assert tuned.mistakes() == []
    (sentence,) = [text for text in tuned.notes() if "count" in text and "others" in text]
    assert note in sentence


@pytest.mark.parametrize(
    ("engine", "others"),
    [
        ("vllm", "--max-num-seqs 8 --max_num_seqs=8 --max-num-se 8"),
        ("vllm", "--enforce-eager --enforce"),
        ("vllm", "--middleware a --middleware b"),
        ("vllm", "--lora-modules a=/x --lora-modules b=/y"),
        ("vllm", "--speculative-config.a 1 --speculative-config.b 1"),
        ("vllm", "-cc.x+ a -cc.x+ b"),
        ("sglang", "--enable-metrics --enable-metrics"),
        ("llamacpp", "-fa on --flash-attn on"),
    ],
)
def test_what_is_the_same_or_adds_gets_no_note(engine: str, others: str) -> None:
    tuned = make(engine, **section(engine, others))
    assert tuned.mistakes() == []
    assert not [text for text in tuned.notes() if "count" in text and "others" in text]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    "others", ["--host 0.0.0.0", "--host=::", "--host 127.0.0.1 --host 10.0.0.5", "--host $ADDRESS"]
)
def test_another_host_gets_a_note(engine: str, others: str) -> None:
    tuned = make(engine, **section(engine, others, env={"ADDRESS": "0.0.0.0"}))
    assert tuned.mistakes() == []
    (note,) = [text for text in tuned.notes() if "group's address" in text]
    assert f"{tuned.name}.command.others: --host is given again behind SwarmTune's, and " in note


@pytest.mark.parametrize("others", ["", "--host $HOST", "--host 127.0.0.1", "--host 0.0.0.0 --host $HOST"])
def test_the_same_host_gets_no_note(others: str) -> None:
    assert not [text for text in make("vllm", **section("vllm", others)).notes() if "group's address" in text]


def test_rules_see_the_last_value() -> None:
    assert mistakes("vllm", "--max-num-batched-tokens 64 --max-num-seqs 128 --max-num-seqs 32") == []
    found = mistakes("vllm", "--max-num-seqs 32 --max-num-seqs 128 --max-num-batched-tokens 64")
    assert any("breaks the engine's rule" in sentence for sentence in found)
    engine = make("vllm", **section("vllm", "--tensor-parallel-size 8 -tp 2"))
    assert engine.ranks()["tensor_parallel_size"] == "2"


@pytest.mark.parametrize(
    ("others", "wrong"),
    [
        ("--max-num-seqs 8 --max-num-seqs $SEQS", False),
        ("--max-num-seqs $SEQS --max-num-seqs 8", True),
        ("--max-num-seqs $SEQS --max-num-se=8", True),
        ("--max-num-seqs $SEQS --max-num-seqs $SEQS", False),
    ],
)
def test_a_field_in_others_counts_if_it_comes_last(others: str, wrong: bool) -> None:
    for made in (SEQS, {**SEQS, "config_position": "env"}):
        found = mistakes("vllm", others, made)
        assert len(found) == wrong
        assert not wrong or "so that no value of the field would count" in found[0]


# --- one flag, two places ----------------------------------------------------------------------------------------------


SEQS = {"name": "seqs", "config_position": "--max-num-seqs", "min": 1, "max": 64}


@pytest.mark.parametrize(
    ("engine", "others", "entries"),
    [
        ("simulated", "--max-num-seqs 4", [SEQS]),
        ("simulated", "--max-num-seqs=4", [SEQS]),
        ("simulated", "--max-num-seqs 4", [{"name": "MAX_NUM_SEQS", "min": 1, "max": 64}]),
        ("simulated", "--max-num-seqs $OTHER", [SEQS, {"name": "other", "min": 1, "max": 4}]),
        ("vllm", "--max_num_seqs 4", [SEQS]),
        ("vllm", "-tp 2", [field("--tensor-parallel-size")]),
        ("vllm", "--no-enforce-eager", [field("--enforce-eager", dtype="bool")]),
        ("vllm", "--speculative-config.k 2", [field("--speculative-config.k")]),
        ("vllm", "$GRAPH", [
            field("--compilation-config.mode"),
            {"name": "GRAPH", "dtype": "enum", "dtype_param": ["", "--compilation-config.mode 3"]},
        ]),
        ("llamacpp", "--n-parallel 4", [field("--n-parallel")]),
        ("llamacpp", "-np 4", [field("--n-parallel")]),
        ("llamacpp", "--n-parallel 4", [field("-np")]),
        ("llamacpp", "--ubatch-size=4", [field("-ub")]),
        ("llamacpp", "-c 4", [field("--ctx-size")]),
    ],
)  # fmt: skip
def test_a_flag_in_a_field_and_in_others_names_both_places(
    engine: str, others: str, entries: list[dict[str, Any]]
) -> None:
    (sentence,) = mistakes(engine, others, *entries)
    assert sentence.startswith(f"{engine}.target_field {entries[0]['name']}: ")
    assert "others" in sentence or "target_field GRAPH" in sentence


def test_a_flag_in_two_fields_is_a_mistake_unless_only_one_is_in_use() -> None:
    again = {**SEQS, "name": "MAX_NUM_SEQS", "config_position": "env"}
    (sentence,) = mistakes("vllm", "", SEQS, again)
    assert sentence == "vllm.target_field MAX_NUM_SEQS: seqs sets --max-num-seqs too; leave one of them out"
    caching = {"name": "caching", "config_position": "--enable-prefix-caching", "dtype": "bool"}
    ways = [{**SEQS, "when": "caching"}, {**again, "when": "not caching"}]
    assert mistakes("vllm", "", caching, *ways) == []


def test_the_value_of_a_field_may_stand_in_others() -> None:
    assert mistakes("vllm", "--max-num-seqs $SEQS", SEQS) == []
    assert mistakes("vllm", "--max-num-seqs=${SEQS}", SEQS) == []


def test_variables_of_the_section_count_as_their_values() -> None:
    (sentence,) = mistakes("vllm", "--max-num-seqs $N", SEQS, env={"N": "8"})
    assert "vllm.command.others sets --max-num-seqs too" in sentence
    assert mistakes("vllm", "--max-num-seqs $SEQS", SEQS, env={"SEQS": "8"}) == []
    (sentence,) = mistakes(
        "vllm", "--max-num-seqs $N $MORE", field("env"), env={"N": "many", "MORE": "--enforce-eager"}
    )
    assert "takes a whole number, not 'many'" in sentence


def test_what_others_fixes_leaves_the_engines_own_fields() -> None:
    engine = make("vllm", **section("vllm", "--max-num-seqs 4 --no-enable-chunked-prefill"))
    assert [f.name for f in engine.fields()] == ["max_num_batched_tokens", "enable_prefix_caching"]
    assert engine.mistakes() == []


@pytest.mark.parametrize("batch", [8, 16, 40, 64, 512, 1000, 4096])
def test_a_physical_batch_is_searched_below_the_batch_that_is_fixed(batch: int) -> None:
    engine = make("llamacpp", **section("llamacpp", f"-b {batch}"))
    fields = {f.name: f for f in engine.fields()}
    usual = [16, 32, 64, 128, 256, 512]
    kept = sorted({min(value, batch) for value in usual})
    assert ("n_ubatch" in fields) == (len(kept) > 1)
    if "n_ubatch" in fields:
        assert (fields["n_ubatch"].dtype_param, fields["n_ubatch"].value) == (kept, min(512, batch))
    space = Space(engine.fields(), engine.constraints())
    assert space.broken(space.default()) == []
    chosen = make(
        "llamacpp", **section("llamacpp", f"-b {batch}", {"name": "n_ubatch", "min": 16, "max": 512, "value": 64})
    )
    assert chosen.fields()[0].value == 64
    assert chosen.constraints() == (f"n_ubatch <= {batch}",)


def test_a_batch_that_llama_cpp_lowers_is_noted() -> None:
    both = make("llamacpp", **section("llamacpp", "-b 64 -ub 512"))
    assert both.notes() == ["llamacpp.others: llama.cpp lowers --n-ubatch 512 to --n-batch 64"]
    assert both.constraints() == make("llamacpp", **section("llamacpp", "-ub 4096")).constraints() == ()
    assert make("llamacpp", **section("llamacpp", "-b 512 -ub 64")).notes() == []


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("-t -1", "n_threads", len(os.sched_getaffinity(0))),
        ("--threads_batch 0", "n_threads_batch", len(os.sched_getaffinity(0))),
        ("-c 0", "n_ctx", 0),
        ("-ngl all", "n_gpu_layers", -2),
        ("--n_gpu_layers=auto", "n_gpu_layers", -1),
        ("--n-gpu-layers 7", "n_gpu_layers", 7),
        ("--ctx_size=64", "n_ctx", 64),
        ("-a my_model", "alias", "my_model"),
        ("--alias=my_model", "alias", "my_model"),
        ("-b 64", "n_ubatch", 512),  # which llama.cpp lowers itself
    ],
)
def test_our_llama_cpp_server_reads_what_llama_server_means(argv: str, name: str, value: object) -> None:
    given = llamacpp_server.spelled(["--model", "m.gguf", "--port", "8000", *argv.split()])
    options = llamacpp_server.build_parser().parse_args(given)
    assert getattr(options, name) == value
    assert llamacpp_server.mistake(options) is None


def test_llama_servers_own_names_set_slots_context_and_memory() -> None:
    plain = make("llamacpp", **section("llamacpp", "--n-parallel 2 --n-batch 64"))
    short = make("llamacpp", **section("llamacpp", "-np 2 -b 64"))
    assert short.fields() == plain.fields()
    assert short.constraints() == plain.constraints()
    argv = short.command(Setting({}), Group(port=9000)).argv
    assert argv[argv.index("--n-ctx") + 1] == "4096"  # two slots of the default context
    assert llamacpp_server.build_parser().parse_args(argv[4:]).n_parallel == 2
    for others, entries in (("-c 4096", []), ("--ctx-size=$C", []), ("", [field("-c", min=64, max=128)])):
        fixed = make("llamacpp", **section("llamacpp", others, *entries))
        assert fixed.longest_request is None
        argv = fixed.command(Setting({"x": 100}), Group(port=9000)).argv
        assert ("--n-ctx" in argv) != bool(others)
    assert plain.longest_request == 2048


# --- whole options as values -------------------------------------------------------------------------------------------


BATCH = {"vllm": "--max-num-seqs", "sglang": "--max-running-requests", "llamacpp": "--n-parallel"}


@pytest.mark.parametrize("engine", BATCH)
@pytest.mark.parametrize("between", ["", "--n-gpu-layers 3 ", "--enforce-eager "])
@pytest.mark.parametrize("join", [" ", "="])
@pytest.mark.parametrize("choices", [["", "{} 64"], ["{} 16", "{}=32"]])
def test_an_option_of_a_field_that_never_counts_is_named(
    engine: str, between: str, join: str, choices: list[str]
) -> None:
    name = BATCH[engine]
    made = {"name": "G", "dtype": "enum", "dtype_param": [choice.format(name) for choice in choices]}
    sentence = f"{engine}.target_field G: {name} in its values never counts, as "
    behind, before = f"$G {between}{name}{join}8", f"{between}{name}{join}8 $G"
    assert any(said.startswith(sentence) for said in mistakes(engine, behind, made)), mistakes(engine, behind, made)
    assert not any("never counts" in said for said in mistakes(engine, before, made))
    assert not any("never counts" in said for said in mistakes(engine, f"$G {between}", made))


GRAPH = {
    "name": "GRAPH",
    "dtype": "enum",
    "dtype_param": ["", '--compilation-config \'{"cudagraph_mode": "NONE"}\''],
    "value": '--compilation-config \'{"cudagraph_mode": "NONE"}\'',
}


def test_a_whole_option_becomes_its_arguments_and_an_empty_one_none() -> None:
    engine = make("vllm", **section("vllm", "--max-model-len 4096 $GRAPH", GRAPH))
    assert engine.mistakes() == []
    space = Space(engine.fields(), engine.constraints())
    argv = engine.command(space.default(), Group(port=9000)).argv
    assert argv[-4:] == ("--max-model-len", "4096", "--compilation-config", '{"cudagraph_mode": "NONE"}')
    assert engine.command(space.setting({"GRAPH": ""}), Group(port=9000)).argv[-2:] == ("--max-model-len", "4096")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("--compilation-confg x", "no parameter --compilation-confg"),
        ("--max-num-seqs many", "takes a whole number"),
        ("--compilation-config '{", "no parameter"),
    ],
)
def test_whole_options_are_checked(value: str, said: str) -> None:
    (sentence,) = mistakes("vllm", "$GRAPH", {"name": "GRAPH", "dtype": "enum", "dtype_param": ["", value]})
    assert sentence.startswith("vllm.target_field GRAPH: ")
    assert said in sentence


# --- the lists of flags ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [vllm_schema(), sglang_schema()], ids=["vllm", "sglang"])
def test_every_line_of_a_list_is_understood(schema: Any) -> None:
    assert all(flag.takes in KINDS and flag.name.startswith("--") for flag in schema.flags)
    assert len(schema.commands.names) == sum(len(flag.names) for flag in schema.flags)
    assert all(schema.commands.find(parameter.name) for parameter in schema.parameters)


@pytest.mark.parametrize(
    ("parser", "flags"),
    [(llamacpp_server.build_parser(), llamacpp.FLAGS), (simulator_parser(), simulated.FLAGS)],
    ids=["llamacpp", "simulated"],
)
def test_our_own_servers_have_the_flags_that_are_listed(parser: argparse.ArgumentParser, flags: str) -> None:
    listed = {flag.name: flag for flag in read_flags(flags)}
    parsed = {next(n for n in a.option_strings if n.startswith("--")): a for a in parser._actions}
    assert listed.keys() == parsed.keys()
    for name, action in parsed.items():
        assert listed[name].boolean == (action.nargs == 0), name
        assert set(listed[name].names) == {n for n in action.option_strings if not n.startswith("--no-")}, name
        assert not listed[name].choices or set(listed[name].choices) == set(action.choices or ()), name


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4096", 4096),
        ("4k", 4000),
        ("4K", 4096),
        ("25.6k", 25600),
        ("1.5K", None),
        ("0.9", 0.9),
        ("-1", -1),
        ("x", None),
        ("k", None),
    ],
)
def test_sizes(text: str, number: float | None) -> None:
    assert size(text) == number


@given(st.lists(st.text("-=.$ABab1 {}\"'k", max_size=12), max_size=6))
def test_no_arguments_make_it_stumble(argv: list[str]) -> None:
    flags = Flags(
        [Flag(("--a", "-a"), "int"), Flag(("--b",), "list"), Flag(("--ab",), "json"), Flag(("-b",), "pair")], True
    )
    found = arguments.read(argv, flags, "k")
    for one in found.given:
        one.refusal()
    assert len(found.words) + len(found.tokens) + len(found.given) <= len(argv)


def test_a_list_of_flags_is_a_file_of_the_package() -> None:
    folder = Path(llamacpp.__file__).parent
    assert (folder / "vllm_flags.txt").is_file()
    assert (folder / "sglang_flags.txt").is_file()


@pytest.mark.parametrize("others", ["--max-num-seqs $MAX_SEQS", "--seed ${SEED}", "--chat-template $HOME/x.jinja"])
def test_a_token_without_a_value_is_a_mistake(others: str) -> None:
    (mistake,) = make("vllm", command={"model": "/m", "others": others}, check_flags=False).mistakes()
    assert mistake.startswith("vllm.command.others: $")
    assert mistake.endswith("is not a field, not one of HOST, PORT, MODEL, and not in vllm.env")
    name = mistake.partition("$")[2].partition(" ")[0]
    assert make("vllm", command={"model": "/m", "others": others}, env={name: "1"}, check_flags=False).mistakes() == []


@pytest.mark.parametrize("engine", ["llamacpp", "simulated"])
def test_the_port_is_ours(engine: str) -> None:
    (mistake,) = make(engine, others="--port 80").mistakes()
    assert mistake == f"{engine}.others: --port is written by SwarmTune; leave it out"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_file_of_flags_is_not_seen_and_that_is_said(engine: str) -> None:
    tuned = make(engine, command={"model": "/m", "others": "--config serve.yaml"})
    assert any("the flags in the file of --config are not seen" in note for note in tuned.notes())
    assert not any("--config" in note for note in make(engine, command={"model": "/m"}).notes())


@pytest.mark.parametrize(
    ("engine", "others"),
    [
        ("sglang", "--chunked-prefill-size -1 --page-size 64"),
        ("vllm", "--max-model-len auto --long-prefill-token-threshold 2048"),
        ("vllm", "--max-model-len -1 --no-enable-chunked-prefill --max-num-batched-tokens 512"),
    ],
)
def test_a_value_that_stands_for_off_or_auto_breaks_no_rule(engine: str, others: str) -> None:
    assert mistakes(engine, others, field("env")) == []


def test_a_size_that_is_compared_still_breaks_it() -> None:
    (mistake,) = mistakes("sglang", "--chunked-prefill-size 100 --page-size 64", field("env"))
    assert "breaks the engine's rule" in mistake


@pytest.mark.parametrize("value", ['{"method":"ngram"}', "'{bad'", "\"{'temperature': 1}\""])
def test_json_that_the_shell_rules_or_the_user_broke(value: str) -> None:
    (mistake,) = mistakes("vllm", f"--speculative-config {value}", field("env"))
    assert "--speculative-config takes JSON, not '{" in mistake or '--speculative-config takes JSON, not "{' in mistake


@pytest.mark.parametrize("value", ['\'{"method": "ngram"}\'', "'{\"image\": 4k}'", '\'{"a": "4k", "b": [1.5M]}\''])
def test_json_as_the_engine_takes_it(value: str) -> None:
    assert mistakes("vllm", f"--compilation-config {value}", field("env")) == []


@pytest.mark.parametrize(
    "written", ["--compilation-config 3", "-cc 3", "-cc=0", "--compilation_config=2", "--compilation-c 1"]
)
def test_a_level_in_place_of_json(written: str) -> None:
    (mistake,) = mistakes("vllm", written, field("env"))
    assert re.search(r"takes a JSON object, not '(\d)': write -O\1, or -cc.mode=\1$", mistake)
    assert not mistakes("vllm", "-O3 -cc.mode=3", field("env"))
    assert len(mistakes("vllm", "", field("--compilation-config", constant=3))) == 1


NO_OBJECTS = ["[]", "[1]", '"x"', "x", "image=2", "/a.json", "{a:1}", "{'a': 1}", '{"a": 4k', '{"a": 4kk}', "{"]


@pytest.mark.parametrize("text", [*NO_OBJECTS, "3", "true"])
@pytest.mark.parametrize(
    ("engine", "flag"),
    [("vllm", "--speculative-config"), ("vllm", "-sc"), ("vllm", "--limit-mm-per-prompt"), ("vllm", "--kv-transfer-config"),
     ("sglang", "--json-model-override-args")],
)  # fmt: skip
def test_a_flag_of_a_json_object_takes_no_other_text(engine: str, flag: str, text: str) -> None:
    (mistake,) = mistakes(engine, f"{flag} {shlex.quote(text)}", field("env"))
    assert f"others: {flag} takes " in mistake
    assert "JSON" in mistake
    entry = field(flag, dtype="enum", dtype_param=["{}", text])
    assert f"target_field x: {flag} takes " in mistakes(engine, "", entry)[0]


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_no_text_stands_for_the_compilation(text: str) -> None:
    assert mistakes("vllm", f"-cc {shlex.quote(text)}", field("env")) != []
    assert mistakes("vllm", "-cc 4", field("env")) == ["vllm.command.others: -cc takes a JSON object, not '4'"]


@pytest.mark.parametrize("text", ["null", "None", "'{}'", '\' {"a": {"b": 1}} \''])
def test_no_object_or_an_empty_one_is_taken(text: str) -> None:
    assert mistakes("vllm", f"--speculative-config {text}", field("env")) == []


def test_a_key_that_the_environment_gives_is_named_too() -> None:
    (mistake,) = mistakes("vllm", "", field("env"), env={"VLLM_API_KEY": "hunter2"})
    assert mistake.startswith("vllm.env: VLLM_API_KEY makes the service ask every request for a key")
    assert "hunter2" not in mistake
    assert mistakes("vllm", "", field("env"), env={"VLLM_API_KEY": ""}) == []


@pytest.mark.parametrize("text", ["pkg.module.function", "/a.json", "3", "null"])
def test_a_text_may_stand_where_the_engine_takes_both(text: str) -> None:
    assert mistakes("vllm", f"--hf-overrides {text} --model-loader-extra-config {text}", field("env")) == []


@pytest.mark.parametrize(
    ("others", "values", "said"),
    [
        ("--max-model-len $N", ["4096", "lots"], "target_field N: --max-model-len takes a whole number, not 'lots'"),
        ("--max-model-len=${N}", ["4096", "0"], "target_field N: --max-model-len takes a number != 0, not 0"),
        ("-tp $N", [1, 0], "target_field N: -tp takes a number >= 1, not 0"),
        ("--scheduling-policy $N", ["fcfs", "lifo"], "target_field N: --scheduling-policy takes one of fcfs, priority"),
        (
            "--speculative-config $N",
            ["{}", "[1]"],
            "target_field N: --speculative-config takes a JSON object, not '[1]'",
        ),
        ("--max-num-batched-tokens $N", ["4k", "8192"], ""),
        ("--enforce-eager $N", ["--block-size 16", ""], ""),
    ],
)
def test_values_that_stand_in_others_are_checked(others: str, values: list[Any], said: str) -> None:
    found = mistakes("vllm", others, field("env", name="N", dtype="enum", dtype_param=values))
    assert [said in mistake for mistake in found] == ([True] if said else []), found


@pytest.mark.parametrize("end", ["\\\n", "\\\r\n", "\\\n  "])
def test_lines_that_go_on_are_one(end: str) -> None:
    assert mistakes("vllm", f"--block-size 16 {end}--enforce-eager") == []


def test_a_name_that_is_near_to_a_flag_is_no_mistake_where_the_further_arguments_use_it() -> None:
    made = field("env", name="TP", value=1, min=1, max=2)
    assert mistakes("vllm", "--tensor-parallel-size $TP", made) == []
    assert mistakes("vllm", "", made) != []


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_nothing_expands_a_home_in_the_model(name: str) -> None:
    (sentence,) = make(name, command={"model": "~/models/m"}).mistakes()
    assert "write the whole path" in sentence


@pytest.mark.parametrize(
    ("engine", "words", "refused"),
    [
        ("vllm", "--attention-backend FLASH_ATTN", False),
        ("vllm", "--attention-backend flash-attn", False),
        ("vllm", "--attention-backend XFORMERS", True),
        ("vllm", "--moe-backend triton", False),
        ("vllm", "--moe-backend tritn", True),
        ("vllm", "--linear-backend cublas", True),
        ("vllm", "-dpb ray", False),
        ("vllm", "-dpb gloo", True),
        ("vllm", "--distributed-executor-backend my.package.Executor", False),
        ("sglang", "--attention-backend fa3", False),
        ("sglang", "--attention-backend flash_attn", True),
        ("sglang", "--prefill-attention-backend fa5", True),
        ("sglang", "--moe-runner-backend flashinfer_cutlass", False),
        ("sglang", "--quantization int4", True),
        ("sglang", "--quantization w8a8_int8", False),
        ("sglang", "--sampling-backend torch", True),
    ],
)
def test_back_ends_that_the_engine_does_not_have_are_refused(engine: str, words: str, refused: bool) -> None:
    made = make(engine, command={"model": "m", "others": words})
    found = [one for one in made.mistakes() if "takes one of" in one]
    assert bool(found) is refused, found
    assert all(f"set {engine}.check_flags = false" in one for one in found)


def test_known_values_are_of_flags_whose_help_shows_none() -> None:
    folder = Path(llamacpp.__file__).parent
    for engine in ("vllm", "sglang"):
        takes = {f.name: f for f in read_flags((folder / f"{engine}_flags.txt").read_text(encoding="utf-8"))}
        for known in read_flags((folder / f"{engine}_values.txt").read_text(encoding="utf-8")):
            assert takes[known.name].takes == TEXT, known.name
            assert takes[known.name].choices == (), known.name


LORAS = {"name": "loras", "config_position": "--max-loras", "min": 1, "max": 4}
IDLE = [
    ("vllm", "", LORAS, True),
    ("vllm", "--enable-lora", LORAS, False),
    ("vllm", "--config more.yaml", LORAS, False),  # which may turn it on
    ("vllm", "--enforce-eager", {"config_position": "-cc.cudagraph_mode", "dtype_param": ["NONE", "FULL"]}, True),
    ("vllm", "", {"config_position": "-cc.cudagraph_mode", "dtype_param": ["NONE", "FULL"]}, False),
    ("vllm", "", {"config_position": "--eplb-config.window_size", "min": 100, "max": 1000}, True),
    ("vllm", "", {"config_position": "--kv-offloading-backend", "dtype_param": ["native", "lmcache"]}, True),
    ("vllm", "--kv-offloading-size 4", {"config_position": "--kv-offloading-backend", "dtype_param": ["native", "lmcache"]},
     False),
    ("vllm", "-tp 1", {"config_position": "--disable-custom-all-reduce", "dtype": "bool"}, True),
    ("vllm", "-tp 2", {"config_position": "--disable-custom-all-reduce", "dtype": "bool"}, False),
    ("sglang", "", {"config_position": "--hicache-ratio", "dtype": "float", "min": 1.5, "max": 4}, True),
    ("sglang", "--enable-hierarchical-cache", {"config_position": "--hicache-ratio", "dtype": "float", "min": 1.5, "max": 4},
     False),
    ("sglang", "", {"config_position": "--max-loras-per-batch", "min": 1, "max": 4}, True),
    ("sglang", "--lora-paths a=/x", {"config_position": "--max-loras-per-batch", "min": 1, "max": 4}, False),
    ("sglang", "--disable-radix-cache", {"config_position": "--radix-eviction-policy", "dtype_param": ["lru", "lfu"]}, True),
    ("sglang", "", {"config_position": "--radix-eviction-policy", "dtype_param": ["lru", "lfu"]}, False),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "others", "field", "idle"), IDLE)
def test_a_flag_without_what_it_belongs_to_is_not_searched(
    engine: str, others: str, field: dict[str, Any], idle: bool
) -> None:
    kind = {"dtype": "enum", "value": field["dtype_param"][0]} if "dtype_param" in field else {}
    batch = {"vllm": "--max-num-seqs", "sglang": "--max-running-requests"}[engine]
    fields = [{"name": "x", **kind, **field}, {"name": "batch", "config_position": batch, "min": 1, "max": 64}]
    made = make(engine, command={"model": "m", "others": others}, target_field=fields)
    name = field.get("name", "x")
    assert (
        f"{name} has no effect beside the other settings of this service: it is not searched" in made.notes()
    ) == idle
    assert next(one.searched for one in made.fields() if one.name == name) != idle


def test_a_flag_is_searched_where_what_it_belongs_to_is() -> None:
    fields = [LORAS, {"name": "on", "config_position": "--enable-lora", "dtype": "bool"}]
    made = make("vllm", command={"model": "m"}, target_field=fields)
    space = Space(made.fields(), made.constraints())
    assert {dimension.name for dimension in space.dimensions} == {"loras", "on"}
    assert space.setting({"on": False, "loras": 4}).values["loras"] == 1, "at rest"
