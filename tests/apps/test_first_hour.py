"""The commands of docs/first-hour.md, run as they stand there, by a shell in an empty folder."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "first-hour.md"
CONFIG_JSON = (Path(__file__).parents[1] / "data" / "older_mindie_config.json").read_text()
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLED = "/usr/local/Ascend/mindie/latest/mindie-service"


def blocks(heading: str) -> list[tuple[str, str]]:
    """The blocks of a part of the page, each with its language."""
    part = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = BLOCK.findall(part)
    assert found
    return found


def as_run(block: str) -> str:
    """A block for the shell, without installations.

    A run is minutes or hours long: its plan is made, and nothing is started. One that goes on with it is left out.
    """
    lines = []
    for line in block.splitlines():
        words = line.partition("#")[0].split()
        if words[:2] == ["pip", "install"]:
            continue
        if words[:2] != ["swarmtune", "optimizer"]:
            lines.append(line)
        elif "-lb" not in words:
            lines.append(f"{' '.join(words)} --dry-run")
    return "\n".join(lines)


def run(script: str, folder: Path) -> str:
    """What it prints; it must end well."""
    others = {k: v for k, v in os.environ.items() if not k.upper().startswith(("SWARMTUNE", "MODEL", "OPTIX", "MIES"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder, env={**others, "PATH": path, "COLUMNS": "120"}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_shows(printed: str, excerpt: str) -> None:
    """Each line of the page is there: "..." stands for anything, one space for several."""
    for line in filter(None, map(str.strip, excerpt.splitlines())):
        parts = (r"\s+".join(map(re.escape, part.split())) for part in line.split("..."))
        assert re.search(".*".join(parts), printed), f"{line!r} is not in\n{printed}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("heading", ["llama.cpp", "vLLM", "MindIE"])
def test_each_engine_from_nothing_to_a_plan(heading: str, tmp_path: Path) -> None:
    """vLLM and MindIE are not installed here, and need not be for that; of MindIE its file is there."""
    if heading == "llama.cpp" and importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the extra llamacpp is not installed")
    home, folder = tmp_path / "mindie-service", tmp_path / "empty"
    (home / "conf").mkdir(parents=True)
    (home / "conf" / "config.json").write_text(CONFIG_JSON)
    folder.mkdir()
    checked = ""
    for language, block in blocks(heading):
        if language == "text" and checked:
            assert_shows(checked, block)
        elif language == "sh":
            script = as_run(block).replace(INSTALLED, str(home))
            if heading == "MindIE" and "export" not in script:
                script = f"export MIES_INSTALL_PATH={home}\n{script}"
            printed = run(script, folder)
            checked = printed if "swarmtune check" in script else ""
    assert [p.name for p in folder.iterdir()] == ["config.toml"]


def test_each_engine_says_what_goes_wrong_first() -> None:
    text = PAGE.read_text(encoding="utf-8")
    parts = {heading: text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0] for heading in ("llama.cpp", "vLLM")}
    assert all("What goes wrong first: " in part and "troubleshooting.md#" in part for part in parts.values())
