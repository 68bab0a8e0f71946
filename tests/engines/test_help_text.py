"""The help of installed engines, read as their programs print it, and what it changes in the checks of flags."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engine_contract import make

from swarmtune.engines.flags import ANY, JSON, LIST, OPTIONAL, PAIR, SWITCH, TEXT, Flag
from swarmtune.engines.help_text import help_schemas, read_help, version_in
from swarmtune.engines.sglang_schema import sglang_schema
from swarmtune.engines.vllm_schema import vllm_schema

DATA = Path(__file__).parent / "data"
HELP = f"""\
INFO 11-26 17:00:00 [__init__.py:216] Automatically detected platform cpu.
usage: vllm serve [model_tag] [options]

Launch a local OpenAI-compatible API server to serve LLM completions via HTTP.

Search by using: `--help=<ConfigGroup>` to explore options by section (e.g.,
--help=ModelConfig, --help=Frontend)

positional arguments:
  model_tag             The model tag to serve (optional if specified in config)

options:
  -h, --help            show this help message and exit
  --headless            Run in headless mode.
  --api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT
                        How many API server processes to run.

Frontend:
  --host HOST           Host name. (default: None)
  --port PORT           Port number. (default: 8000)
  --tool-call-parser {{hermes,jamba}} or name registered in --tool-parser-plugin
                        Select the tool call parser.
  --model-impl ['auto', 'terratorch', 'vllm']
                        Which implementation to use. (default: auto)
  --gdn-backend {{flash_infer,triton}}
  --optimization-level OPTIMIZATION_LEVEL
  --api-key API_KEY [API_KEY ...]
                        If provided, the server will require one of these keys.
  --hf-token [HF_TOKEN]
                        The token to use.

SchedulerConfig:
  Scheduler configuration.

{(DATA / "vllm_help.txt").read_text()}
  --compilation-config COMPILATION_CONFIG, -cc COMPILATION_CONFIG
                        Compilation configuration.
                        Should either be a valid JSON string or JSON keys
                        passed individually. (default: {{'mode': None}})
  --brand-new BRAND_NEW
                        New in this version, beside --not-a-flag.
  --enable-expert-parallel, --no-enable-expert-parallel, -ep

When passing JSON CLI arguments, the following sets of arguments are equivalent:
   --json-arg '{{"key1": "value1"}}'
   --json-arg.key1 value1 --json-arg.key2.key3 value2
"""
LLAMA = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
--mmap, --no-mmap                       whether to memory-map model
-cb,   --cont-batching, -nocb, --no-cont-batching
                                        whether to enable continuous batching
-sm,   --split-mode {none,layer,row}    how to split the model across multiple GPUs
--draft, --draft-n, --draft-max N       the argument has been removed. use --spec-draft-n-max or
"""


def by_name(text: str) -> dict[str, Flag]:
    return {name: flag for flag in read_help(text) for name in flag.names}


def test_the_help_of_vllm() -> None:
    flags = by_name(HELP)
    kinds = {
        "--headless": SWITCH, "-asc": TEXT, "--host": TEXT, "--api-key": LIST, "--hf-token": OPTIONAL,
        "--enable-chunked-prefill": PAIR, "--max-num-seqs": TEXT, "-cc": JSON, "--tool-call-parser": TEXT, "-ep": PAIR,
        "-h": SWITCH,
    }  # fmt: skip
    assert {name: flags[name].takes for name in kinds} == kinds
    assert flags["--performance-mode"].choices == ("balanced", "interactivity", "throughput")
    assert flags["--tool-call-parser"].choices == ()  # a plugin may have more
    assert flags["-asc"].name == "--api-server-count"
    assert not {"--not-a-flag", "--json-arg", "--no-enable-chunked-prefill", "model_tag"} & flags.keys()


def test_the_whole_help_of_vllm_says_what_is_known_of_it() -> None:
    text = (DATA / "vllm_0_32_help.txt").read_text()
    schema, found = vllm_schema(), by_name(text)
    known = {name: flag for flag in schema.flags for name in flag.names}
    assert known.keys() - found.keys() == {"-O"}
    assert found.keys() - known.keys() == set()
    assert {name for name in found if found[name].boolean != known[name].boolean} == set()
    closed = {name for name in found if known[name].choices and set(known[name].choices) - set(found[name].choices)}
    unseen = {"--attention-backend", "--data-parallel-backend", "-dpb"}  # its help shows no values of these
    assert closed == {"--all2all-backend", "--moe-backend", *unseen}  # 0.33 and 0.19 have more
    for one in help_schemas(schema, text, "0.32.0") or ():
        assert {f.name: f.takes for f in one.flags} == {f.name: f.takes for f in schema.flags}
        assert one.commands.names == schema.commands.names


def test_the_help_of_llama_cpp() -> None:
    flags = by_name(LLAMA)
    assert flags["-fa"] == Flag(("--flash-attn", "-fa"), TEXT, ("on", "off", "auto"), loose=True)
    assert (flags["--usage"].takes, flags["-t"].takes, flags["--mmap"].takes) == (SWITCH, TEXT, PAIR)
    assert (flags["-cb"].takes, flags["-sm"].choices) == (PAIR, ("none", "layer", "row"))
    assert flags["--draft"].takes == TEXT
    assert "--spec-draft-n-max" not in flags


ARGUMENTS = st.fixed_dictionaries(
    {
        "names": st.lists(
            st.from_regex(r"--[a-z]{2,12}(-[a-z]{1,30}){0,3}", fullmatch=True).filter(lambda n: not n.startswith("--no-")),
            min_size=1, max_size=2, unique=True,
        ),
        "kind": st.sampled_from([SWITCH, PAIR, TEXT, OPTIONAL, LIST, ANY]),
        "choices": st.lists(st.from_regex(r"[a-z0-9_.]{1,12}", fullmatch=True), min_size=1, max_size=30, unique=True),
        "closed": st.booleans(),
        "help": st.sampled_from([None, "Short.", "A long text, which speaks of --other and ends late. " * 5]),
    }
)  # fmt: skip
NARGS = {TEXT: None, OPTIONAL: "?", LIST: "+", ANY: "*"}


@given(st.lists(ARGUMENTS, max_size=6), st.booleans())
def test_what_argparse_prints_is_read_back(arguments: list[dict[str, object]], colour: bool) -> None:
    parser = argparse.ArgumentParser(prog="server", conflict_handler="resolve")
    wanted: dict[str, Flag] = {}
    for one in arguments:
        names, kind = list(one["names"]), str(one["kind"])  # type: ignore[call-overload]
        if {name.replace("--", "--no-") for name in names} | set(
            names
        ) & wanted.keys() & parser._option_string_actions.keys():
            names = [name for name in names if name not in wanted]
        if not names:
            continue
        choices = tuple(one["choices"]) if one["closed"] and kind in (TEXT, OPTIONAL) else None  # type: ignore[call-overload]
        if kind == SWITCH:
            parser.add_argument(*names, action="store_true", help=one["help"])
        elif kind == PAIR:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, help=one["help"])
        else:
            parser.add_argument(*names, nargs=NARGS[kind], choices=choices, help=one["help"])
        wanted |= {name: Flag((name,), kind, choices or ()) for name in names}
    text = parser.format_help()
    text = "\n".join(f"\x1b[1;36m{line}\x1b[0m" for line in text.splitlines()) if colour else text
    found = by_name(text)
    assert {name: (found[name].takes, found[name].choices) for name in wanted} == {
        name: (flag.takes, flag.choices) for name, flag in wanted.items()
    }
    assert found.keys() == wanted.keys() | {"-h", "--help"}


@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda raw: raw.decode(errors="replace")))
def test_any_text_is_read(text: str) -> None:
    read_help(text)
    read_help(f"  --x {text}")
    assert len(version_in(text)) <= 80
    assert help_schemas(vllm_schema(), text, "x") is None


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.32.0\n", "0.32.0"), ("vllm 0.33.1rc2.dev5+gabc1234.cu129", "0.33.1rc2.dev5+gabc1234.cu129"),
     ("INFO 11-26 17:00:00 platform\nv0.5.23", "0.5.23"), ("version: 6710 (abc)", ""), ("", ""),
     ("vLLM API server version 0.9.1 (cuda)", "0.9.1"),
     ("usage: vllm serve [options]\nDefaults to Qwen/Qwen3-0.6B if no model is specified.\n  --x X  (default: 0.9)", "")],
)  # fmt: skip
def test_a_version(text: str, version: str) -> None:
    assert version_in(text) == version


# --- what it changes ---------------------------------------------------------------------------------------------------


def mistakes(others: str, *fields: dict[str, object], text: str = HELP, **more: object) -> list[str]:
    engine = make("vllm", command={"model": "org/model", "others": others}, target_field=list(fields), **more)
    assert engine.learn(text, "0.40.0", "n1")
    return engine.mistakes()


@pytest.mark.parametrize(
    "others",
    ["--brand-new 5", "--brand_new=5", "--max-num-seqs 8 -asc 2", "--no-enable-chunked-prefill", "-ep --hf-token",
     "--tool-call-parser mine", "--model-impl mine",
     "--gdn-backend FLASH-INFER", "-asc 1 -O3", "--compilation-config.mode 3 -cc.x 1"],
)  # fmt: skip
def test_what_the_installed_engine_has_is_taken(others: str) -> None:
    assert mistakes(others) == []


OLDER = HELP.replace("COMPILATION_CONFIG, -cc", "COMPILATION_CONFIG, -O").replace(
    "  --optimization-level OPTIMIZATION_LEVEL\n", ""
)


@pytest.mark.parametrize(
    "others", ["--compilation-config 3", "-O 3", "-O3", "-O=0", "-O.level=3", "-O '{\"level\": 3}'"]
)
def test_older_versions_take_a_level_in_place_of_json(others: str) -> None:
    assert mistakes(others, text=OLDER) == []
    assert len(mistakes("-O 4", text=OLDER)) == 1
    assert "write -O3, or -cc.mode=3" in mistakes("--compilation-config 3")[0]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ("--swap-space 4", "vllm.command.others: vLLM 0.40.0 on n1 has no parameter --swap-space."),
        ("--block-size 16", "vLLM 0.40.0 on n1 has no parameter --block-size."),  # SwarmTune's list has it
        ("-tp 2", "has no parameter -tp"),
        ("--max-num-sequences 8", "Near: --max-num-seqs"),
        ("--performance-mode fast", "takes one of balanced, interactivity, throughput, not 'fast'; if it takes it all"),
        ("--max-num-seqs", "needs a value"),
        ("--max-num-seqs 0", "takes a number >= 1"),  # the help does not tell, SwarmTune knows
        ("--headless=1", "is a switch and takes no value"),
        ("--no-headless", "no parameter --no-headless"),
        ("--brand-new", "--brand-new needs a value"),
        ("--model-impl", "--model-impl needs a value"),
        ("--gdn-backend flash", "takes one of flash_infer, triton, not 'flash'"),
        ("--performance-mode Balanced", "not 'Balanced'"),  # SwarmTune knows that it is strict
    ],
)
def test_what_the_installed_engine_has_not_is_refused(others: str, said: str) -> None:
    (sentence,) = mistakes(others)
    assert said in sentence


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ("--brand 5", ""),
        ("--brand", "--brand needs a value"),
        ("--max-num-se 8", ""),
        ("--hf x", ""),  # clear here, as this version has no other flag that begins so
        ("--max-num 8", "--max-num is ambiguous: vLLM 0.40.0 on n1 could take it for --max-num-active-seqs, "),
        ("--block 16", "no parameter --block"),  # the beginning of a flag that only SwarmTune's list has
        ("--no-enable-chunked 1", "'1' belongs to no flag"),
    ],
)
def test_beginnings_are_those_of_the_installed_engines_flags(others: str, said: str) -> None:
    found = mistakes(others)
    assert found == [] if not said else said in found[0]


def test_a_field_that_is_cut_short_is_that_of_the_installed_engine() -> None:
    seqs = {"name": "seqs", "config_position": "--tool", "dtype": "enum", "dtype_param": ["hermes", "jamba"]}
    engine = make("vllm", command={"model": "m"}, target_field=[seqs])
    assert "is ambiguous" in engine.mistakes()[0]
    assert engine.learn(HELP, "0.40.0", "n1")
    assert engine.mistakes() == []
    assert engine.fields()[0].config_position == "--tool-call-parser"


def test_fields_are_checked_against_the_help_too() -> None:
    new = {"name": "x", "config_position": "--brand-new", "min": 1, "max": 2}
    gone = {"name": "BLOCK_SIZE", "config_position": "--block-size", "min": 1, "max": 2}
    switch = {"name": "y", "config_position": "--headless", "min": 1, "max": 2}
    found = mistakes("", new, gone, switch)
    assert ["target_field BLOCK_SIZE" in found[0], "target_field y: --headless is a switch" in found[1]] == [True, True]
    assert len(found) == 2
    assert "set vllm.check_flags = false" in found[0]


def test_a_flag_that_is_new_is_written_as_the_engine_wants_it() -> None:
    text = HELP.replace("--brand-new BRAND_NEW", "--brand-new")
    engine = make("vllm", command={"model": "m"}, target_field=[{"name": "BRAND_NEW", "dtype": "bool", "value": True}])
    assert engine.learn(text, "", "n1")
    assert engine.schema.write("--brand-new", False) == ()  # type: ignore[attr-defined]
    assert "--enforce-eager" in engine.schema.commands.names  # type: ignore[attr-defined]  # fields keep their parameters


def test_a_study_does_not_change_when_the_engine_was_asked() -> None:
    engine = make("vllm", command={"model": "m", "others": "--performance-mode=balanced -cc.x 1"}, target_field=[
        {"name": "seqs", "config_position": "--max-num-seqs"}, {"name": "KV_CACHE_DTYPE"},
    ])  # fmt: skip
    before = engine.fields(), engine.constraints(), engine.ranks()
    assert engine.learn(HELP, "0.40.0", "n1")
    assert (engine.fields(), engine.constraints(), engine.ranks()) == before


def test_the_help_of_another_program_changes_nothing() -> None:
    engine = make("sglang", command={"model": "m", "others": "--swap-space 4"})
    before = engine.mistakes()
    assert not engine.learn(LLAMA, "1.0", "n1")
    assert engine.mistakes() == before


def test_the_static_list_of_the_same_version_is_taken_as_it_is() -> None:
    schema = sglang_schema()
    lines = [f"  {', '.join(flag.names)}{'' if flag.boolean else ' X'}" for flag in schema.flags]
    made = help_schemas(schema, "\n".join(lines), "0.5.23")
    assert made is not None
    for one in made:
        assert one.commands.names == schema.commands.names
        assert replace(one.find("--tp-size") or one.parameters[0], note="") == replace(schema.parameters[-3], note="")


@pytest.mark.parametrize(
    ("flag", "value", "meant"),
    [
        ("--tool-call-parser", "hermse", "hermes"),
        ("--tool-call-parser", "Hermes", None),
        ("--tool-call-parser", "hermes-of-ours", None),
        ("--tool-call-parser", "mine", None),
        ("--model-impl", "vlm", "vllm"),
        ("--model-impl", "vllm", None),
        ("--model-impl", "package.Executor", None),
    ],
)
def test_a_usual_value_may_not_be_misspelt_but_others_may_be_registered(
    flag: str, value: str, meant: str | None
) -> None:
    schemas = help_schemas(vllm_schema(), HELP, "0.32")
    assert schemas is not None
    for schema in schemas:
        taken = next(f for f in schema.flags if flag in f.names)
        refusal = taken.refusal(value)
        assert refusal == (meant and f"takes {meant!r}, not {value!r}, unless that is registered, too")
