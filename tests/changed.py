"""Run the unit tests that belong to the files named: ``python tests/changed.py FILE...``, as the hook of git does.

A test file is run itself; a module's tests are those of its own name, else of its folder, else of the nearest folder above.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path("src/swarmtune")


def suite_of(file: Path) -> Path | None:
    """The test file or folder for this file, relative to the root; None if there is none but the whole suite."""
    if file.match("test_*.py") and file.parts[0] == "tests":
        return file if (ROOT / file).is_file() else None
    if not file.is_relative_to(SOURCE):
        return None
    inside = file.relative_to(SOURCE)
    beside = [Path("tests", *inside.parent.parts, f"test_{inside.stem.lstrip('_')}.py")]
    above = [Path("tests", folder) for folder in inside.parents if folder != Path()]
    root = Path("tests", f"test_{inside.stem.lstrip('_')}.py")
    return next((place for place in (*beside, *above, root) if (ROOT / place).exists()), None)


def main(files: Iterable[str]) -> int:
    """pytest's exit code; 0 where no test belongs to these files."""
    chosen = sorted({str(found) for file in files if (found := suite_of(Path(file)))})
    if not chosen:
        return 0
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not processes", *chosen]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return 0 if code == 5 else code  # 5: only tests that start processes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
