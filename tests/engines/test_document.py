"""The files of services: read once, bounded, and every way to fail is one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from swarmtune.engines import document
from swarmtune.engines.command import CommandConfig, CommandEngine
from swarmtune.engines.document import MAX_BYTES, DocumentError, ServiceFile
from swarmtune.engines.mindie import MindieConfig, MindieEngine, corrected
from swarmtune.errors import ConfigValidationError
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.make import make_plan

FIELD = {"name": "x", "config_position": "a.b", "min": 1, "max": 4}
DAEMON = {
    "ServerConfig": {"port": 1025},
    "BackendConfig": {
        "ModelDeployConfig": {"ModelConfig": [{"modelName": "m"}]},
        "ScheduleConfig": {"maxBatchSize": 20, "maxPrefillBatchSize": 10, "maxPreemptCount": 0},
    },
}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "cannot be understood"),
        ("a.json", "[" * 100_000, "cannot be understood"),
        ("a.json", "[" * 101 + "]" * 101, "deeper than 100"),
        ("a.yaml", "a: [", "cannot be understood"),
        ("a.yaml", "a: !!int ''", "cannot be understood"),
        ("a.yaml", "a: !!bool x", "cannot be understood"),
        ("a.yaml", "a: !!timestamp x", "cannot be understood"),
        ("a.yaml", "a: !!python/object/apply:os.getpid []", "cannot be understood"),
        ("a.yaml", "a: &a [*a]", "deeper than 100"),
        ("a.yaml", "\ud800", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DocumentError, match=words):
        document.load(path)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge.json").write_bytes(b" " * (MAX_BYTES + 1))
    for name in ("no", "pipe", "huge.json", "x" * 300, "."):
        with pytest.raises(DocumentError, match="cannot be read"):
            document.load(tmp_path / name)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_a_file_may_begin_with_a_mark_and_end_its_lines_as_on_windows(tmp_path: Path, name: str, mark: str) -> None:
    (tmp_path / name).write_bytes(f'{mark}{{\r\n "a": [1,\r\n 2]\r\n}}\r\n'.encode())
    assert document.load(tmp_path / name) == {"a": [1, 2]}


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    file = ServiceFile(str(path))
    with pytest.raises(DocumentError, match="no such file"):
        _ = file.content
    path.write_text('{"a": {"b": 1}}')
    with pytest.raises(DocumentError, match="no such file"):
        _ = file.content
    engine = CommandEngine(
        CommandConfig.model_validate({"argv": ["x"], "model": "m", "config_path": str(path), "target_field": [FIELD]})
    )
    assert engine.mistakes() == []
    path.unlink()
    assert engine.mistakes() == []


def test_aliases_of_yaml_are_no_circle(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {b: 1}\nc: [*a, *a, *a]\n")
    assert document.load(path)["c"] == [{"b": 1}] * 3


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1" + "0" * 400, "true", '"5"', "null", "[]", "{}"])
@pytest.mark.parametrize("place", ["maxBatchSize", "maxPrefillBatchSize", "maxPreemptCount"])
def test_a_daemons_file_with_strange_values(tmp_path: Path, place: str, number: str) -> None:
    """They cannot be the baseline, and nothing else takes its place without a word."""
    path = tmp_path / "config.json"
    daemon: Any = json.loads(json.dumps(DAEMON))
    daemon["BackendConfig"]["ScheduleConfig"][place] = "HERE"
    path.write_text(json.dumps(daemon).replace('"HERE"', number))
    settings = {"optimizer": {"engine": "mindie"}, "mindie": {"config_path": str(path)}, "output": str(tmp_path)}
    with pytest.raises(ConfigValidationError, match=f"{place} is .*, not a number; correct the file"):
        make_plan(read_settings(None, settings))


def said(tmp_path: Path, text: str, *entries: dict[str, Any]) -> list[str]:
    path = tmp_path / "config.json"
    path.write_text(text)
    section = {"config_path": str(path), "target_field": list(entries)}
    with pytest.raises(ConfigValidationError) as caught:
        make_plan(read_settings(None, {"optimizer": {"engine": "mindie"}, "mindie": section, "output": str(tmp_path)}))
    return [sentence.replace(str(path), "FILE") for sentence in caught.value.mistakes]


BATCH = {"name": "batch", "config_position": "BackendConfig.ScheduleConfig.maxBatchSize", "min": 10, "max": 400}


@pytest.mark.parametrize("entries", [(), (BATCH,)])
@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"a"', "null", "[{}]", "\x00"])
def test_what_is_wrong_with_a_daemons_file_is_told_once(
    tmp_path: Path, text: str, entries: tuple[dict[str, Any], ...]
) -> None:
    (sentence,) = said(tmp_path, text, *entries)
    assert sentence.startswith("mindie.config_path: ")
    assert "FILE" in sentence


@pytest.mark.parametrize("entries", [(), (BATCH,)])
def test_a_section_that_is_not_in_the_file_is_told_once(tmp_path: Path, entries: tuple[dict[str, Any], ...]) -> None:
    backend = {key: value for key, value in DAEMON["BackendConfig"].items() if key != "ScheduleConfig"}
    sentences = said(tmp_path, json.dumps({**DAEMON, "BackendConfig": backend}), *entries)
    assert len([sentence for sentence in sentences if "has no 'ScheduleConfig'" in sentence]) == 1, sentences


@pytest.mark.parametrize(
    ("value", "keys", "words"),
    [(200.5, {}, "is 200.5, not a whole number; correct the file, or write `value`"),
     (0, {"log": True}, "is 0, not above 0, where a logarithmic scale begins; leave out `log`, or write `value`"),
     (-4, {"log": True}, "is -4, not above 0")],
)  # fmt: skip
def test_a_value_that_no_range_can_hold_is_named(
    tmp_path: Path, value: float, keys: dict[str, Any], words: str
) -> None:
    daemon: Any = json.loads(json.dumps(DAEMON))
    daemon["BackendConfig"]["ScheduleConfig"]["maxBatchSize"] = value
    sentences = said(tmp_path, json.dumps(daemon), {**BATCH, **keys})
    assert any(f"maxBatchSize {words}" in sentence for sentence in sentences), sentences


@pytest.mark.parametrize("port", ["x", None, True, 0, 65536, [1]])
def test_a_daemons_port_that_is_none_is_a_mistake(tmp_path: Path, port: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**DAEMON, "ServerConfig": {"port": port}}))
    (sentence,) = MindieEngine(MindieConfig(config_path=str(path), port_path="")).mistakes()
    assert "is not a port; give a number from 1 to 65535" in sentence


def test_a_schedule_that_is_no_object_is_left_alone() -> None:
    assert corrected({"BackendConfig": {"ScheduleConfig": [1]}}) == {"BackendConfig": {"ScheduleConfig": [1]}}
