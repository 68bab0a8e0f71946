"""docs/vllm-result.md: a table for each test that tunes the real vLLM, a row for each run."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "vllm-result.md"


def add_row(cells: Sequence[object], below: str, replaces: Callable[[str], bool] = lambda _: False) -> None:
    """Add a row with the date to the table below this heading; rows of that table that it ``replaces`` go."""
    sections = PAGE.read_text().split("\n## ")
    (number,) = (i for i, section in enumerate(sections) if section.startswith(f"{below}\n"))
    lines = [line for line in sections[number].rstrip().split("\n") if not (line.startswith("| 20") and replaces(line))]
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    sections[number] = "\n".join([*lines, f"| {date} | {' | '.join(str(cell) for cell in cells)} |\n"])
    PAGE.write_text("\n## ".join(sections))
