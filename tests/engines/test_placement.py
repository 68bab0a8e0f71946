"""Values go where their fields say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from swarmtune.engines import document
from swarmtune.engines.document import DocumentError
from swarmtune.engines.placement import (
    LiveRequest,
    Placed,
    flag,
    live_requests,
    load_field,
    lone_token,
    place,
    split,
    substitute,
    unknown_tokens,
    without_given,
)
from swarmtune.records import Setting
from swarmtune.space import Field

FIELDS = (
    Field("MAX_NUM_SEQS", "env"),
    Field("vllm_cpu_kvcache_space", "env"),
    Field("eager", "--enforce-eager", dtype="bool"),
    Field("tp", "ModelConfig.0.tp"),
    Field("CONCURRENCY", "env"),
    Field("RequestRate", "env", dtype="float"),
)
SETTING = Setting(
    {"MAX_NUM_SEQS": 8, "vllm_cpu_kvcache_space": 2, "eager": False, "tp": 4, "CONCURRENCY": 9, "RequestRate": 1.5}
)


def test_each_kind_of_place() -> None:
    placed = place(FIELDS, SETTING, lambda name: "--max-num-seqs" if name == "MAX_NUM_SEQS" else None)
    assert placed.flags == ("--max-num-seqs", "8", "--no-enforce-eager")
    assert dict(placed.env) == {"VLLM_CPU_KVCACHE_SPACE": "2"}
    assert dict(placed.document) == {"ModelConfig.0.tp": 4}


def test_fields_that_the_setting_lacks_go_nowhere() -> None:
    assert place(FIELDS, Setting({})) == place((), SETTING)


@pytest.mark.parametrize(
    ("value", "style", "words"),
    [
        (True, "pair", ("--x",)),
        (False, "pair", ("--no-x",)),
        (True, "present", ("--x",)),
        (False, "present", ()),
        (False, "value", ("--x", "false")),
        (0, "pair", ("--x", "0")),
        (0.5, "present", ("--x", "0.5")),
        ("a b", "pair", ("--x", "a b")),
    ],
)
def test_flags(value: bool | float | str, style: str, words: tuple[str, ...]) -> None:
    assert flag("--x", value, style) == words  # type: ignore[arg-type]


def test_load_fields_in_every_spelling() -> None:
    assert {load_field(n) for n in ("CONCURRENCY", "concurrency", "MAXCONCURRENCY")} == {"concurrency"}
    assert {load_field(n) for n in ("REQUESTRATE", "request_rate")} == {"request_rate"}
    assert load_field("MAX_NUM_SEQS") is None


def test_tokens_are_replaced_and_empty_arguments_dropped() -> None:
    argv = ("$NAME", "--port=${PORT}", "$EMPTY", "$OTHER", "$lower", "5$", "$PORTS")
    assert substitute(argv, {"NAME": "$PORT", "PORT": "80", "EMPTY": ""}) == (
        "$PORT",
        "--port=80",
        "$OTHER",
        "$lower",
        "5$",
        "$PORTS",
    )
    assert unknown_tokens(argv, {"NAME", "PORT", "EMPTY"}) == ["OTHER", "PORTS"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("--mode fast", ("--mode", "fast")),
        ("--mode '{\"a\": 1}' -x", ("--mode", '{"a": 1}', "-x")),
        ("-O 3", ("-O", "3")),
        ("--mode", ("--mode",)),
        ("", ()),
        ("a b", ("a b",)),
        ("-1 2", ("-1 2",)),
        ("--mode 'fast", ("--mode 'fast",)),
    ],
)
def test_a_value_that_is_a_whole_option_becomes_its_arguments(value: str, words: tuple[str, ...]) -> None:
    assert substitute(("$X",), {"X": value}) == words
    assert substitute(("${X}",), {"X": value}) == words
    assert substitute(("a=$X",), {"X": value}) == (f"a={value}",)


@pytest.mark.parametrize(
    ("argument", "name"), [("$A_1", "A_1"), ("${A}", "A"), ("$a", ""), ("x$A", ""), ("$A$B", ""), ("", "")]
)
def test_a_token_that_stands_alone(argument: str, name: str) -> None:
    assert lone_token(argument) == name


def test_short_flags_are_kept_beside_what_the_user_wrote() -> None:
    assert without_given(("--a", "1", "-tp", "2", "--b"), ("--a", "3")) == ("-tp", "2", "--b")


def test_what_the_user_wrote_wins() -> None:
    flags = ("--max-num-seqs", "8", "--no-enforce-eager", "--n", "-1", "--kept", "a")
    assert without_given(flags, ("--max_num_seqs=4", "--enforce-eager", "--n", "3")) == ("--kept", "a")


def test_arguments_with_json_survive() -> None:
    assert split("--config '{\"a\": [1, 2]}' -x") == ("--config", '{"a": [1, 2]}', "-x")
    assert split(["a b", "c"]) == ("a b", "c")


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_documents_are_changed_in_a_copy(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"service{suffix}"
    original = {"a": [{"tp": 1, "größe": None}, {"tp": 2}], "b": {"c": 0.5}}
    path.write_text(json.dumps(original) if suffix == ".json" else yaml.safe_dump(original), encoding="utf-8")
    loaded = document.load(path)
    changed = document.changed(loaded, {"a.1.tp": 4, "b.new": True})
    assert loaded == original
    path.write_text(document.dump(changed, path), encoding="utf-8")
    assert document.load(path) == {"a": [{"tp": 1, "größe": None}, {"tp": 4}], "b": {"c": 0.5, "new": True}}
    assert document.read(changed, "a.0.tp") == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.2.tp", "a is a list of 2"),
        ("a.x.tp", "'x' is none of its indexes"),
        ("a.-1.tp", "list of 2"),
        ("a.2", "list of 2"),
        ("z.y", "the top level has no 'z'; it has a, b"),
        ("b.c.d", "b.c is 0.5; nothing can be inside"),
    ],
)
def test_places_that_are_not_there(path: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        document.put({"a": [{"tp": 1}, {}], "b": {"c": 0.5}}, path, 1)


@pytest.mark.parametrize(("name", "content"), [("x.json", "{"), ("x.yaml", "a: [1"), ("x.json", "")])
def test_files_that_cannot_be_understood(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DocumentError, match="cannot be understood"):
        document.load(tmp_path / name)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"cannot be read.*Check config_path"):
        document.load(tmp_path / "none.json")


def test_live_fields_are_sent_and_not_part_of_the_command() -> None:
    fields = (
        Field("a", "POST /settings", 1, 9),
        Field("b", "PUT /other?x=1", 1, 9),
        Field("c", "POST /settings", dtype="bool", when="a > 5"),
        Field("d", "--d", 1, 9),
        Field("concurrency", "POST /settings", 1, 9),
    )
    setting = Setting({"a": 3, "b": 4, "c": True, "d": 5, "concurrency": 6})
    assert place(fields, setting) == Placed(("--d", "5"))
    assert live_requests(fields, setting) == (
        LiveRequest("POST", "/settings", {"a": 3, "c": True}),  # c is at rest; an earlier setting may have changed it
        LiveRequest("PUT", "/other?x=1", {"b": 4}),
    )


@pytest.mark.parametrize("position", ["POST", "POST ", "POST settings", "PUT /a b", "POST /\n", "POST /\u00e9"])
def test_what_is_no_method_and_path_is_a_mistake(position: str) -> None:
    made = Field("a", position, 1, 9)
    assert made.live is None
    assert position == "POST" or made.mistakes({"a"})
