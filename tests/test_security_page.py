"""Each line of docs/security.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_each_line_names_tests_that_exist() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and "| shown by |" not in line]
    assert len(lines) > 20
    for line in lines:
        named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", line)
        assert named, line
        for file, test in named:
            assert (ROOT / file).is_file(), file
            assert not test or f"def {test}(" in (ROOT / file).read_text(), (file, test)
