"""Two mistakes of different kinds: both are named in one run, whatever finds each of them, and each sentence once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Cli

from swarmtune.apps.cli.init import toml
from swarmtune.tuner.planning.inquiry import Inquiry

MAKE = Inquiry.make  # a fixture of all tests replaces it


@dataclass(frozen=True)
class Slip:
    """A mistake: what it adds to a configuration without one, and words of the sentence that names it. ``beside``: kinds of
    mistakes beside which it cannot be seen.
    """

    added: dict[str, Any]
    words: str
    variables: dict[str, str] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()


def entry(name: str, **keys: Any) -> dict[str, Any]:
    return {"vllm": {"target_field": [{"name": name, **keys}]}}


VALID: dict[str, Any] = {
    "optimizer": {"engine": "vllm"},
    "vllm": {
        "executable": "./vllm",
        "command": {"model": "org/model", "others": "--max-model-len 4096"},
        "target_field": [
            {"name": "seqs", "config_position": "--max-num-seqs", "min": 1, "max": 64, "value": 8},
            {"name": "tokens", "config_position": "--max-num-batched-tokens", "min": 4096, "max": 9000, "value": 8192},
        ],
    },
}
HOSTS = frozenset({"hosts"})
SLIPS = {
    "unknown key": Slip({"evalutions": 5}, "evalutions: unknown key"),
    "number": Slip({"optimizer": {"seed": -1}}, "optimizer.seed: "),
    "infinite": Slip({"particles_time_out": float("inf")}, "particles_time_out: inf"),
    "variable": Slip({}, "SWARMTUNE_LGO_LEVEL: there is no such setting", {"SWARMTUNE_LGO_LEVEL": "x"}),
    "json": Slip({}, "health_check: not valid JSON", {"SWARMTUNE_HEALTH_CHECK": "{"}),
    "text as a number": Slip(entry("a", min="1", max=4), "target_field.2.min: a number is written without quotes"),
    "bounds": Slip(entry("b", min=9, max=4), "b: min 9.0 is larger than max 4.0"),
    "constant": Slip(entry("c", min=1, max=4, constant="abc"), "c: constant 'abc' is not a number"),
    "value": Slip(entry("d", min=1, max=4, value=7), "d: value 7 is outside its range"),
    "step": Slip(entry("e", dtype="range", min=1, max=4, dtype_param=9), "e: a step of 9 leaves only one value"),
    "when": Slip(entry("f", min=1, max=4, when="nobody == 1"), "f: when names 'nobody'"),
    "unset": Slip(
        entry("g", dtype="env", dtype_param="NOT_SET_HERE"), "g: the environment variable NOT_SET_HERE is not"
    ),
    "flag of a field": Slip(
        entry("h", config_position="--max-nums-seqs", min=1, max=4), "no parameter --max-nums-seqs"
    ),
    "flag": Slip({"vllm": {"command": {"others": "--swap-space 16"}}}, "no parameter --swap-space"),
    "port": Slip({"vllm": {"command": {"port": "port"}}}, "vllm.command.port: 'port' is not a port"),
    "memory": Slip(
        {"vllm": {"memory": {"model_config_path": "/absent/x", "tokens_per_sequence": 100}}}, "/absent/x cannot be read"
    ),
    "rule": Slip({"constraints": ["seqs < nothing"]}, "'nothing' is not a field"),
    "no rule": Slip({"constraints": ["seqs >"]}, "'seqs >': not an expression"),
    "baseline": Slip({"constraints": ["seqs > tokens"]}, "breaks it with seqs = 8 and tokens = 8192"),
    "setting": Slip({"optimizer": {"user_settings": [{"seqs": 999}]}}, "seqs = 999 is outside"),
    "SLO": Slip({"objective": {"slo": {"p95_tft_ms": 5.0}}}, "objective.slo.p95_tft_ms: not an SLO"),
    "price": Slip({"objective": {"per": "dollar"}}, "'dollar' needs one price"),
    "load": Slip({"load_search": {"low": 9}}, "load_search: start 4 must lie between"),
    "requests": Slip({"loadgen": {"input_file": "/absent/requests.jsonl"}}, "requests.jsonl is not a file"),
    "duration": Slip(
        {"loadgen": {"benchmark_duration": 9999.0}}, "do not fit into one", beside=frozenset({"infinite"})
    ),
    "study": Slip({"optimizer": {"study": "mysql://a/b"}}, "'mysql' is not supported"),
    "output": Slip({"output": "/dev/null/x"}, "output: no folder can be made"),
    "earlier": Slip({"optimizer": {"earlier": ["/absent/study"]}}, "no such file or folder: '/absent/study'"),
    "algorithm": Slip({"optimizer": {"algorithm": "swan"}}, "no search algorithm named 'swan'"),
    "hosts": Slip({"parallel": {"enabled": True, "node_string": "n1:99999,n2"}}, "99999"),
    "executor": Slip({"parallel": {"enabled": True, "executor": "sssh"}}, "sssh"),
    "script": Slip({"parallel": {"enabled": True, "start_script": "./absent.sh"}}, "./absent.sh"),
}
PAIRS = list(itertools.combinations(SLIPS, 2))


def laid(low: Any, high: Any) -> Any:
    """Tables laid over tables, lists and texts added."""
    if isinstance(low, dict):
        return {
            k: laid(low[k], high[k]) if k in low and k in high else high.get(k, low.get(k)) for k in {**low, **high}
        }
    if isinstance(low, list):
        return [*low, *high]
    return f"{low} {high}" if isinstance(low, str) else high


def written(data: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in data.items()).replace("Infinity", "inf")


def sentences(cli: Cli, folder: Path, *slips: Slip, command: tuple[str, ...] = ("check",)) -> list[str]:
    """What one run says of a configuration with these mistakes."""
    data: dict[str, Any] = VALID
    for slip in slips:
        data = laid(data, slip.added)
    (folder / "config.toml").write_text(written(data))
    with pytest.MonkeyPatch.context() as patch:
        for slip in slips:
            for name, value in slip.variables.items():
                patch.setenv(name, value)
        ended = cli(*command)
    assert ended.code == 2, ended
    return [line for line in ended.err.splitlines() if line.startswith("  - ")]


def test_without_a_mistake_there_is_none(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text(written(VALID))
    ended = cli("check")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("kind", SLIPS)
def test_both_of_two_mistakes_are_named(clean: Path, cli: Cli, kind: str) -> None:
    alone = sentences(cli, clean, SLIPS[kind])
    assert any(SLIPS[kind].words in sentence for sentence in alone), alone
    for other in (b for a, b in PAIRS if a == kind):
        slips = (SLIPS[kind], SLIPS[other])
        if {kind, other} & (slips[0].beside | slips[1].beside):
            continue
        said = sentences(cli, clean, *slips)
        assert [s.words for s in slips if not any(s.words in sentence for sentence in said)] == [], (kind, other, said)
        facts = [sentence.rpartition(": ")[2] for sentence in said if ": " in sentence]
        assert len(set(said)) == len(said), (kind, other, said)
        assert len(set(facts)) == len(facts), (kind, other, said)


def test_all_at_once(clean: Path, cli: Cli) -> None:
    slips = [slip for kind, slip in SLIPS.items() if not slip.beside and kind != "infinite"]
    for command in (("check",), ("optimizer",), ("optimizer", "--dry-run")):
        said = sentences(cli, clean, *slips, command=command)
        assert [s.words for s in slips if not any(s.words in sentence for sentence in said)] == [], said


@pytest.mark.parametrize("kind", [kind for kind in SLIPS if "parallel" not in SLIPS[kind].added])
def test_what_is_not_installed_is_named_too(clean: Path, cli: Cli, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inquiry, "make", MAKE)
    monkeypatch.setenv("HOME", str(clean))
    said = sentences(cli, clean, SLIPS[kind])
    assert any(SLIPS[kind].words in sentence for sentence in said), said
    assert any("there is no program" in sentence and "vllm" in sentence for sentence in said), said
