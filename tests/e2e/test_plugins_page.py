"""The package of docs/plugins.md as a stranger has it: copied as it stands, installed, tested by plain pytest, and used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.e2e.conftest import Workplace

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
FILES = dict(re.findall(r"`([\w.]+)`[^`]*:\n\n```(?:python|toml)\n(.*?)```", PAGE.read_text(), re.DOTALL))
PROJECT = tomllib.loads(FILES["pyproject.toml"])
# What this project's own pytest brings, a stranger's does not.
CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "SWARMTUNE", "MODEL"))
}
STRICT = ("-W", "error", "--strict-markers", "--strict-config")
AUTO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")  # the latter quiets the plugin
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, as an installer leaves it."""
    folder, project = tmp_path_factory.mktemp("site"), PROJECT["project"]
    for module in PROJECT["tool"]["setuptools"]["py-modules"]:
        (folder / f"{module}.py").write_text(FILES[f"{module}.py"])
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = [f"{name} = {target}" for name, target in project["entry-points"]["swarmtune.plugins"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[swarmtune.plugins]", *entries, ""]))
    return folder


def test_every_part_is_in_the_package() -> None:
    modules = {target.partition(":")[0] for target in PROJECT["project"]["entry-points"]["swarmtune.plugins"].values()}
    assert modules == set(PROJECT["tool"]["setuptools"]["py-modules"])
    tests = {f"test_{module}.py" for module in modules}
    assert set(FILES) == {"pyproject.toml", *(f"{module}.py" for module in modules), *tests}
    assert len(re.findall("^```", PAGE.read_text(), re.MULTILINE)) == 2 * len(FILES), "a block without a file's name"


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        pytest.param((), {}, id="as it comes"),
        pytest.param((*STRICT, *AUTO), {}, id="asyncio mode auto"),
        pytest.param(STRICT, BARE, id="no plugins"),
    ],
)
def test_the_contracts_are_kept(
    site: Path, tmp_path: Path, options: tuple[str, ...], environment: dict[str, str]
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, env={**CLEAN, "PYTHONPATH": str(site), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert re.search(r"\d\d passed", summary)
    assert not re.search(r"failed|error|skipped", summary), done.stdout


def test_all_parts_are_offered_and_planned(site: Path, workplace: Workplace) -> None:
    workplace.packages = site
    (workplace.folder / "config.toml").unlink()
    parts = ("-e", "tinyserve", "-b", "tally", "--algorithm", "nearby")
    code, out, err = workplace.run(*parts, command="check")
    assert code == 0, err
    assert "tinyserve tiny --host 127.0.0.1 --port 8000 --max-batch 8" in out
    assert "-m swarmtune_tally --url http://127.0.0.1:8000 --model tiny --requests 100" in out
    assert "nearby, 16 evaluations" in out


def test_the_benchmark_measures_a_study(site: Path, workplace: Workplace) -> None:
    workplace.packages = site
    workplace.config("""
[optimizer]
engine = "simulated"
benchmark = "tally"
algorithm = "nearby"
evaluations = 2
confirm = 0
[objective]
slo = { p95_ttft_ms = 20000, p95_tpot_ms = 5000 }
[load_search]
enabled = false
[tally]
users = 2
requests = 8
input_tokens = 8
output_tokens = 4
""")
    result = workplace.tune()
    assert (result["evaluations"], result["failures"]) == (2, 0)
    assert list(workplace.study.glob("attempts/*/load-*/tally.json"))
    assert workplace.leftovers() == []
