"""The tokenizer that estimates: the model's own where its file and the library are at hand, else the built-in one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from swarmtune.loadgen.read.tokenizer import BUILT_IN, counter
from swarmtune.workload import tokens

VOCABULARY = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"},
              "pre_tokenizer": {"type": "Whitespace"}, "truncation": None, "padding": None, "added_tokens": [],
              "normalizer": None, "post_processor": None, "decoder": None}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder whose tokenizer knows words only: extraordinary is one token, and not two."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(VOCABULARY))
    return tmp_path


@pytest.mark.parametrize("given", ["--tokenizer", "--tokenizer with the file", "--model"])
def test_the_models_own_counts(folder: Path, given: str) -> None:
    where = str(folder / "tokenizer.json" if "file" in given else folder)
    found = counter("", where) if given == "--model" else counter(where, "m")
    assert (found.name, found.note) == (f"the tokenizer of {where}", "")
    assert found.count("extraordinary a") == 2
    assert found.count("\ud800") == 1


def test_without_the_library_the_built_in_one_counts_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = counter(str(folder), "m")
    assert (found.count, found.name) == (tokens.count, BUILT_IN)
    assert "pip install 'swarmtune[tokenizer]'" in found.note


@pytest.mark.parametrize("tokenizer", ["", "builtin"])
def test_no_tokenizer_is_no_mistake(tokenizer: str) -> None:
    found = counter(tokenizer, "org/model")
    assert (found.count, found.name, found.note) == (tokens.count, BUILT_IN, "")


@pytest.mark.parametrize("tokenizer", ["org/model", "x" * 5000, "a\0b"])
def test_a_name_of_no_folder_is_told(tokenizer: str) -> None:
    assert "none is downloaded" in counter(tokenizer, "m").note


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}', "\x00"])
def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    found = counter(str(tmp_path), "m")
    assert found.name == BUILT_IN
    assert found.note
