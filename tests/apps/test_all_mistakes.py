"""All mistakes of a configuration in one pass: of its structure, its names, its ranges and its commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import Cli

BROKEN = """
evalutions = 5
[optimizer]
engine = "vllm"
evaluation = 7
[objective]
slo = { p95_tft_ms = 100 }
[load_search]
low = 8
start = 4
[vllm.command]
model = "org/model"
[[vllm.target_field]]
name = "max_num_seqs"
config_position = "--max-nums-seqs"
min = 1
max = 8
colour = "red"
[loadgen]
input_file = "nowhere.jsonl"
[parallel]
enabled = true
node_string = "n1,n1"
"""
MISTAKES = (
    "evalutions: unknown key",
    "optimizer.evaluation: unknown key; did you mean evaluations?",
    "p95_tft_ms",
    "load_search: start 4 must lie between low 8",
    "--max-nums-seqs",
    "colour: unknown key",
    "nowhere.jsonl is not a file",
    "n1 is given twice",
)


def test_one_pass_finds_all(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text(BROKEN)
    ended = cli("check")
    assert ended.code == 2
    text = " ".join(ended.err.split())
    assert [mistake for mistake in MISTAKES if mistake not in text] == []
    assert "Traceback" not in text
    assert cli("optimizer", "--dry-run").err.splitlines()[1:] == ended.err.splitlines()[1:]


@pytest.mark.parametrize(
    ("wrong", "consequences"),
    [
        (
            '[vllm.command]\nmodel = 3\n[[vllm.target_field]]\nname = "a"',
            ("vllm.command.model: needed", "target_field"),
        ),
        ('[[vllm.target_field]]\nname = "a"\nmin = "x"\n[vllm.command]\nmodel = "m"\n', ("constraints",)),
        ('constraints = ["max_num_seqs >= nothing"]\n[[vllm.target_field]]\nname = 1\n', ("constraints",)),
    ],
)
def test_a_mistake_is_not_followed_by_its_consequences(
    clean: Path, cli: Cli, wrong: str, consequences: tuple[str, ...]
) -> None:
    (clean / "config.toml").write_text(f'{wrong}\n[optimizer]\nengine = "vllm"\n[load_search]\nlow = 8\n')
    ended = cli("check")
    assert ended.code == 2
    assert "load_search: start 4 must lie between" in ended.err
    own = [line for line in ended.err.splitlines() if line.lstrip().startswith("- ")]
    assert len([line for line in own if any(text in line for text in consequences)]) <= 1, own


def test_of_an_engine_that_is_not_known_nothing_is_guessed(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text("[optimizer]\nengine = 5\n[load_search]\nlow = 8\n")
    ended = cli("check")
    assert ended.code == 2
    assert "llamacpp" not in ended.err


def test_what_is_wrong_in_a_key_hides_nothing_in_the_others(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text(
        "[optimizer]\nengine = 'vllm'\nalgorithm = 'bayes'\nseed = -1\n[objective]\nname = 'latency'\n"
        "[vllm.command]\nmodel = 'm'\nothers = '--max-num-sqs 4'\n"
        "[vllm.memory]\nmodel_config_path = '/nowhere'\nkv_bytes = 5\ntokens_per_sequence = 0\n"
        "[[vllm.target_field]]\nname = 'a'\nconfig_position = '--bogus'\nmin = 5\nmax = 1\n"
        "[loadgen]\nisl = -1\ninput_file = '/nowhere.jsonl'\n"
    )
    ended = cli("check")
    assert ended.code == 2
    for mistake in (
        "optimizer.seed: input should be greater", "algorithm", "objective.name: input should be", "--max-num-sqs",
        "tokens_per_sequence: input should be", "--bogus", "loadgen.isl: input should be", "nowhere.jsonl is not a file",
    ):  # fmt: skip
        assert mistake in ended.err, (mistake, ended.err)
