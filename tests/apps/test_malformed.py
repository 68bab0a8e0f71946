"""Malformed configurations through the real command line: exit code 2, every mistake named, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Cli, Ended, names_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import HEAD, MALFORMED, field

from swarmtune.apps.cli.init import toml


def refused(ended: Ended, folder: Path, words: str = "") -> None:
    """It ended as a wrong configuration must."""
    assert ended.code == 2, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert "config.toml: " in ended.err
    assert words in ended.err
    assert all(line.isprintable() for line in ended.err.splitlines())
    assert len(ended.err) < 20_000
    assert names_in(folder) == ["config.toml"]


@pytest.mark.parametrize(("content", "words"), [c[1:] for c in MALFORMED], ids=[c[0] for c in MALFORMED])
def test_made_by_hand(clean: Path, cli: Cli, content: str, words: str) -> None:
    (clean / "config.toml").write_text(content)
    refused(cli("check"), clean, words)


def test_there_are_many() -> None:
    assert len({content for _, content, _ in MALFORMED}) == len(MALFORMED) >= 150


def test_all_mistakes_of_a_file_are_listed(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text("iters = 0\nn_partikles = 3\n[optimizer]\nseed = 'a'\n[objective]\nname = 5\n")
    ended = cli("check")
    refused(ended, clean, "4 mistakes")
    for key in ("iters", "n_partikles", "optimizer.seed", "objective.name"):
        assert f"config.toml: {key}: " in ended.err


def test_all_mistakes_of_a_space_are_listed(clean: Path, cli: Cli) -> None:
    entries = "".join(f'[[simulated.target_field]]\nname = "f{i}"\ndtype = "no{i}"\n' for i in range(30))
    (clean / "config.toml").write_text(
        f'constraints = ["a >", "nobody > 1"]\noutput = "~nobody-there"\n{HEAD}{entries}'
    )
    ended = cli("optimizer")
    refused(ended, clean, "33 mistakes")
    assert all(f"f{i}: dtype 'no{i}'" in ended.err for i in range(30))


MEMORY = 'kv_bytes = 0\nkv_dtype = "q9"\nmodel_config_path = "/no/where"\ntokens_per_sequence = 100\n'


def test_a_wrong_value_hides_no_other_of_its_table(clean: Path, cli: Cli) -> None:
    nodes = '[[parallel.service_groups]]\ngroup_id = "g"\nnodes = ["n1", "n2"]\n'
    (clean / "config.toml").write_text(
        f'{HEAD.replace("simulated", "vllm")}[vllm.command]\nmodel = "m"\n[vllm.memory]\n{MEMORY}{nodes}'
    )
    ended = cli("check")
    refused(ended, clean, "5 mistakes")
    for told in ("memory.kv_bytes: input", "memory.kv_dtype: dtype 'q9'", "memory.model_config_path: /no/where cannot"):
        assert f"config.toml: vllm.{told}" in ended.err
    assert "after validation" not in ended.err, "the entries are there, and wrong"


def test_an_empty_list_is_still_too_short(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text(f'{HEAD}[[parallel.service_groups]]\ngroup_id = "g"\nnodes = []\n')
    ended = cli("check")
    assert ended.code == 2
    assert "parallel.service_groups.0.nodes: tuple should have at least 1 item" in ended.err


def test_circles_are_named(clean: Path, cli: Cli) -> None:
    pairs = [("a", "b"), ("b", "c"), ("c", "a")]
    entries = "".join(
        f'[[simulated.target_field]]\nname = "{x}"\ndtype = "times"\ndtype_param = {{target_name = "{y}", product = 2}}\n'
        for x, y in pairs
    )
    (clean / "config.toml").write_text(HEAD + entries)
    refused(cli("check"), clean, "in a circle: a, b, c")


def test_derived_values_that_leave_the_numbers(clean: Path, cli: Cli) -> None:
    entries = '[[simulated.target_field]]\nname = "x0"\nmin = 1\nmax = 9\n' + "".join(
        f'[[simulated.target_field]]\nname = "x{i}"\ndtype = "times"\n'
        f'dtype_param = {{target_name = "x{i - 1}", product = 1e15}}\n'
        for i in range(1, 40)
    )
    (clean / "config.toml").write_text(HEAD + entries)
    refused(cli("check"), clean, "x39: its value can become inf")


@pytest.mark.parametrize("target", ['dtype = "enum"\ndtype_param = ["a", "b"]', 'dtype = "bool"', 'constant = "a"'])
@pytest.mark.parametrize("dtype", ["ratio", "share", "times"])
def test_nothing_is_computed_from_what_is_no_number(clean: Path, cli: Cli, target: str, dtype: str) -> None:
    param = '{target_name = "words", product = 2}' if dtype == "times" else '"words"'
    text = field(name='"x"', min="0", max="1", dtype=f'"{dtype}"', dtype_param=param)
    (clean / "config.toml").write_text(f'{text}\n[[simulated.target_field]]\nname = "words"\n{target}\n')
    refused(cli("check"), clean, "x: words is not a number")


def test_too_many_fields(clean: Path, cli: Cli) -> None:
    entries = "".join(f'[[simulated.target_field]]\nname = "f{i}"\nmin = 1\nmax = 2\n' for i in range(5000))
    (clean / "config.toml").write_text(HEAD + entries)
    refused(cli("check"), clean, "5000 fields are too many")


# --- made by hypothesis: one valid configuration, changed in one to three places ---------------------------------------

VALID: dict[str, Any] = {
    "n_particles": 6,
    "iters": 4,
    "ttft_slo": 0.5,
    "particles_time_out": 100.0,
    "constraints": ["tokens >= seqs", "tp * dp == 8 or tp == 1"],
    "optimizer": {"engine": "simulated", "evaluations": 9, "seed": 3, "user_settings": [{"seqs": 4}]},
    "objective": {"name": "goodput", "slo": {"p95_ttft_ms": 500.0}, "min_success_rate": 0.9},
    "load_search": {"low": 1.0, "high": 32.0, "start": 2.0, "points": 3},
    "pso_options": {"c1": 2.0, "c2": 2.0, "w": 1.8},
    "pso_strategy": {"w": "exp_decay"},
    "loadgen": {"request_count": 10, "osl": 16},
    "simulated": {
        "noise": 0.1,
        "env": {"A": "b"},
        "target_field": [
            {"name": "seqs", "config_position": "--max-num-seqs", "min": 1, "max": 64, "value": 8, "log": True},
            {"name": "tokens", "config_position": "--max-num-batched-tokens", "dtype": "range", "min": 64, "max": 512,
             "dtype_param": 64},
            {"name": "tp", "config_position": "env", "dtype": "enum", "dtype_param": [1, 2, 4, 8]},
            {"name": "dp", "dtype": "factories", "dtype_param": {"target_name": "tp", "product": 8}},
            {"name": "part", "dtype": "ratio", "min": 0.1, "max": 0.7, "dtype_param": "seqs"},
            {"name": "rest", "dtype": "share", "dtype_param": "seqs"},
            {"name": "all", "dtype": "ternary_times", "dtype_param": {"target_names": ["tp", "dp"], "product": 2}},
            {"name": "pp", "dtype": "ternary_factories", "dtype_param": {"target_names": ["tp", "a"], "product": 16}},
            {"name": "a", "min": 1, "max": 4},
            {"name": "chunked", "config_position": "--enable-chunked-prefill", "dtype": "bool", "value": True},
        ],
    },
}  # fmt: skip


def places(data: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    found = [here] if here else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += places(value, (*here, key))
    return found


def changed(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value there; ``...`` takes the value away."""
    if not place:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data) if isinstance(data, list) else data
    if not isinstance(copy, (dict, list)):
        return data
    try:
        inner = copy[place[0]]
    except (LookupError, TypeError):
        return data
    if len(place) == 1 and value is ...:
        del copy[place[0]]
    else:
        copy[place[0]] = changed(inner, place[1:], value)
    return copy


def written(value: Any) -> str:
    """Inline TOML of any of our values; strings by the rules of JSON, which TOML shares but for DEL."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml(str(k))} = {written(v)}' for k, v in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(written(v) for v in value)}]"
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else {True: "inf", False: "nan"}[value > 0]
    return toml(value).replace("\x7f", "\\u007f")


def document(data: dict[str, Any]) -> str:
    """A whole TOML file."""
    return "".join(f"{toml(str(key))} = {written(value)}\n" for key, value in data.items())


TEXTS = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["", " ", "env", "--x", "[/a]", "[red]", "a.b", "tp", "nan", "-1", "\x00", "\n", "é", "\u202e", "x" * 3000]
    ),
)
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.integers(-3, 100),
    st.floats(),
    st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63, 10**400, 1e308, -1e308, 5e-324, float("inf"), float("nan")]),
)
SCALARS = st.one_of(st.booleans(), NUMBERS, TEXTS)
VALUES = st.one_of(
    st.just(...),
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.dictionaries(st.sampled_from(["target_name", "target_names", "product", "zzz", ""]), SCALARS, max_size=3),
    st.sampled_from(["int", "float", "bool", "enum", "range", "ratio", "share", "factories", "times", "env",
                     "ternary_factories", "ternary_times", "seqs", "tokens", "dp", "weighted", "throughput"]),
    st.integers(1, 60).map(lambda depth: eval("[" * depth + "]" * depth)),
)  # fmt: skip
MUTATIONS = st.lists(st.tuples(st.sampled_from(places(VALID)), VALUES), min_size=1, max_size=3)


def test_the_configuration_to_be_changed_is_valid(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text(document(VALID))
    ended = cli("check")
    assert (ended.code, ended.err) == (0, "")


def test_mutations(clean: Path, cli: Cli) -> None:
    counts = {0: 0, 2: 0}

    @given(MUTATIONS)
    @settings(
        max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def one(mutations: list[tuple[tuple[Any, ...], Any]]) -> None:
        data = VALID
        for place, value in mutations:
            data = changed(data, place, value)
        (clean / "config.toml").write_text(document(data), encoding="utf-8")
        ended = cli("check")
        counts[ended.code] += 1
        if ended.code == 2:
            refused(ended, clean)
        else:
            assert "Configuration OK" in ended.out
            assert ended.err == ""
            assert names_in(clean) == ["config.toml"]

    one()
    assert counts[2] >= 40


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes(clean: Path, cli: Cli, content: bytes) -> None:
    (clean / "config.toml").write_bytes(content)
    assert cli("check", "-e", "simulated").code in (0, 2)


# --- the command line itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--evaluations", "0"], "command line: optimizer.evaluations: "),
        (["--evaluations", "1e3"], "--evaluations"),
        (["--evaluations", "-5"], "command line: optimizer.evaluations: "),
        (["--seed", "-1"], "command line: optimizer.seed: "),
        (["--seed", "9" * 30], "command line: optimizer.seed: "),
        (["--timeout", "soon"], "use 300, 90s, 20m or 4h"),
        (["--timeout", "0"], "above 0"),
        (["--timeout", "inf"], "above 0"),
        (["--timeout", "1e12"], "command line: optimizer.timeout: "),
        (["--algorithm", "swan"], "command line: optimizer.algorithm: There is no search algorithm named 'swan'"),
        (["-b", "vllm"], "command line: optimizer.benchmark: "),
        (["-e", ""], "command line: optimizer.engine: "),
        (["-e", "simulatd"], "Did you mean 'simulated'"),
        (["--study", "oracle://a"], "command line: optimizer.study: "),
        (["-c", ""], "-c needs the name of a file"),
        (["-c", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["-c", "."], "Is a directory"),
        (["-c", "a\0b"], "cannot be read"),
        (["-c", "x" * 5000], "cannot be read"),
        (["-c", "~nobody-of-that-name/c.toml"], "no such home"),
        (["--no-such-option"], "--no-such-option"),
        (["stray"], "stray"),
        (["-d", "many"], "-d"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["check", "optimizer"])
def test_arguments(clean: Path, cli: Cli, command: str, arguments: list[str], words: str) -> None:
    given_engine = [] if "-e" in arguments else ["-e", "simulated"]
    ended = cli(command, *given_engine, *arguments)
    assert ended.code == 2, ended
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert names_in(clean) == []


@pytest.mark.parametrize(
    ("arguments", "variables", "source"),
    [
        (["--node-string", "a,,b"], {}, "command line: parallel.node_string: node string, group 1: "),
        (["--hostfile", "nodes.txt"], {}, "command line: parallel.hostfile: nodes.txt, line 1: "),
        (["--parallel"], {"SWARMTUNE_PARALLEL__NODE_STRING": "a,,b"},
         "environment variable SWARMTUNE_PARALLEL__NODE_STRING: parallel.node_string: "),
        ([], {"SWARMTUNE_OPTIMIZER": '{"algorithm": "nope"}'}, "environment variable SWARMTUNE_OPTIMIZER: optimizer.alg"),
    ],
)  # fmt: skip
def test_a_mistake_of_the_plan_names_its_source(
    clean: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str], source: str
) -> None:
    (clean / "nodes.txt").write_text("[::1\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = cli("check", "-e", "simulated", *arguments)
    assert ended.code == 2
    assert f"  - {source}" in ended.err


def test_a_seed_of_zero_on_the_command_line_counts(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text(HEAD + "seed = 5\n")
    assert "seed 5" in cli("check").out
    assert "seed 0" in cli("check", "--seed", "0").out


def test_markup_in_values_is_shown_as_it_is(clean: Path, cli: Cli) -> None:
    text = field(name='"x"', dtype='"enum"', dtype_param='["[/red]", "[bold]"]', config_position='"--record"')
    (clean / "config.toml").write_text(text.replace(HEAD, HEAD + '[simulated]\nmodel = "[/model]"\n'))
    ended = cli("check")
    assert ended.code == 0, ended
    assert "[/red], [bold]" in ended.out
    assert "simulated ([/model])" in ended.out


@pytest.mark.parametrize("case", MALFORMED[::12], ids=[c[0] for c in MALFORMED[::12]])
def test_in_a_process_of_its_own(clean: Path, case: tuple[str, str, str]) -> None:
    (clean / "config.toml").write_text(case[1])
    done = subprocess.run([swarmtune(), "check"], cwd=clean, capture_output=True, text=True, timeout=60, check=False)
    refused(Ended(done.returncode, done.stdout, done.stderr), clean, case[2])


def swarmtune() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("swarmtune"))
