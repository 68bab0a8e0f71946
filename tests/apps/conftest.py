"""The command line in this process: what it printed, how it ended, and what it left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_runs import Cli, Ended

from swarmtune.apps.cli import main


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an environment without our variables."""
    for name in list(os.environ):
        if name.upper().startswith(("SWARMTUNE_", "MODEL_EVAL_STATE", "MODELEVALSTATE")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(clean: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs ``swarmtune ARGUMENTS``."""

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run
