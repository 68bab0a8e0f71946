"""docs/coming-from.md: what its tables say about our commands is what their parsers take."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmtune.apps.cli import COMMANDS, CommandParser

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
CELLS = re.compile(r"(?<!\\)\|")


def rows() -> Iterator[tuple[str, str]]:
    """(command, words) of every code span in the right columns."""
    command = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|") or line.startswith("|---"):
            continue
        cells = [cell.strip() for cell in CELLS.split(line)][1:-1]
        assert len(cells) == 3, line
        if cells[1].startswith("swarmtune "):
            command = cells[1].removeprefix("swarmtune ")
            continue
        for words in re.findall(r"`([^`]+)`", cells[1]):
            yield command, words


def test_the_page_has_a_table_for_each_tool() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for tool in ("AIPerf", "vLLM", "GuideLLM", "The older tuner", "Its multi-node extension"):
        assert f"\n## {tool}\n" in text
    assert len(list(rows())) > 80


@pytest.mark.parametrize(("command", "words"), list(rows()))
def test_the_right_column_is_understood(command: str, words: str) -> None:
    if words.startswith("swarmtune "):
        assert words.split()[1] in COMMANDS
        return
    module = importlib.import_module(f"swarmtune.apps.cli.{COMMANDS[command][0]}")
    parser = CommandParser(command)
    module.add_arguments(parser)
    parser.add_shared()
    parser.parse_args(getattr(module, "translated", list)(shlex.split(words)))
