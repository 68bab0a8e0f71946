"""Where a study goes: what cannot be used is a mistake before anything runs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from swarmtune.tuner.planning.places import check_study, output_folder


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only file system refuses root, too; here the question is answered as the kernel does there."""
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
    mistakes: list[str] = []
    output_folder(str(tmp_path / "new" / "studies"), mistakes)
    assert mistakes == [f"output: no folder can be made at '{tmp_path}/new/studies': '{tmp_path}' cannot be written to"]
    (tmp_path / "mine").mkdir()
    mistakes.clear()
    assert output_folder(str(tmp_path / "mine" / "new"), mistakes) == tmp_path / "mine" / "new"
    assert mistakes == []


def test_a_database_whose_driver_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    mistakes: list[str] = []
    check_study("postgresql://user:geheim@host/db", mistakes)
    assert mistakes == ["optimizer.study: PostgreSQL needs an extra: pip install 'swarmtune[postgres]'"]


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    for address in (str(tmp_path), f"sqlite:///{tmp_path}"):
        mistakes: list[str] = []
        check_study(address, mistakes)
        assert f"{str(tmp_path)!r} is a folder, and a database is a file" in mistakes[0]
    mistakes = []
    check_study(str(tmp_path / "new.db"), mistakes)
    assert mistakes == []
