"""An executor from a package of its own runs a study: one class and one entry point, as docs/plugins.md shows (C8)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from swarmtune.fleet.service_run import free_port
from tests.e2e.conftest import QUICK, Workplace

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"
CODE = next(
    code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "register_executor(" in code
)
START = f"""#!/bin/sh
echo "niceness $(nice)"
exec {sys.executable} -P -m swarmtune.simulator --port "$1" --max-num-seqs "$2" --model m
"""
SECTION = """
[command]
argv = ["{folder}/start.sh", "$PORT", "$SEQS"]
model = "m"
[[command.target_field]]
name = "SEQS"
min = 1
max = 64
value = 8
"""


@pytest.fixture
def installed(workplace: Workplace) -> Workplace:
    """A place where the package is installed, and where the service says with which priority it runs."""
    workplace.packages = workplace.folder / "packages"
    info = workplace.packages / "swarmtune_nice-1.0.dist-info"
    info.mkdir(parents=True)
    (workplace.packages / "swarmtune_nice.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: swarmtune-nice\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[swarmtune.plugins]\nnice = swarmtune_nice:register\n")
    script = workplace.folder / "start.sh"
    script.write_text(START)
    script.chmod(0o755)
    nodes = f"[parallel]\nport = {free_port()}\n"
    workplace.config(QUICK.replace('"simulated"', '"command"') + SECTION.format(folder=workplace.folder) + nodes)
    return workplace


NODES = ("--node-string", "localhost", "--nodes-per-group", "1", "--npus-per-node", "0")


def test_a_study_through_an_executor_of_a_plugin(installed: Workplace) -> None:
    result = installed.tune("--evaluations", "2", *NODES, "--executor", "nice")
    assert result["evaluations"] == 2
    assert result["failures"] == 0
    logs = list(installed.study.glob("attempts/*/service/output.log"))
    assert logs
    assert all(log.read_text().startswith("niceness 19\n") for log in logs)
    assert installed.leftovers() == []


def test_the_command_line_offers_it_and_names_it_where_another_is_wanted(installed: Workplace) -> None:
    code, out, _ = installed.run("--help")
    assert code == 0
    assert "nice: this machine, with the lowest priority" in " ".join(out.split())
    code, _, err = installed.run(*NODES, "--executor", "nicest")
    assert code == 2
    assert "unknown executor 'nicest'; use local, nice" in " ".join(err.split())
