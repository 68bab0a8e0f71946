"""What PyPI would have: built here, installed into an empty environment, run where no checkout is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import swarmtune
from tests.e2e.conftest import QUICK
from tests.pythons import ROOT, uv_program

pytestmark = pytest.mark.e2e

WHERE = "import swarmtune; from swarmtune.loadgen.wire import native; print(swarmtune.__file__, native.available())"
CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("COV", "SWARMTUNE", "PYTHON", "VIRTUAL"))
}
NO_COMPILER = {"CC": "no-such-compiler"}


def call(
    *command: str | Path, cwd: Path, codes: tuple[int, ...] = (0,), **extra: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env={**CLEAN, **extra}, capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Installed:
    """An environment with what SwarmTune needs, into which its packages are installed in turn."""

    folder: Path
    python: Path
    sdist: Path
    wheel: Path

    def install(self, package: Path, **extra: str) -> list[str]:
        """The package, in place of any other; where it lies, and whether it has the part in C."""
        options = ("--quiet", "--no-deps", "--reinstall", "--no-cache", "--python", self.python)
        call(uv_program(), "pip", "install", *options, package, cwd=self.folder, **extra)
        return call(self.python, "-c", WHERE, cwd=self.folder).stdout.split()

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        return call(self.python.with_name("swarmtune"), *arguments, cwd=self.folder, codes=codes)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("packages")
    uv, python = uv_program(), folder / "environment" / "bin" / "python"
    call(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, cwd=folder)
    ((sdist,), (wheel,)) = ((folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl"))
    locked = call(
        uv, "export", "--quiet", "--frozen", "--no-hashes", "--no-default-groups", "--no-emit-project", cwd=ROOT
    ).stdout
    (folder / "requirements.txt").write_text(locked)
    call(uv, "venv", "--quiet", "--python", sys.executable, folder / "environment", cwd=folder)
    call(
        uv, "pip", "install", "--quiet", "--no-deps", "--python", python, "-r", folder / "requirements.txt", cwd=folder
    )
    return Installed(folder, python, sdist, wheel)


def test_the_wheel_tunes_and_measures_where_no_checkout_is(installed: Installed) -> None:
    assert "-py3-none-linux_" in installed.wheel.name
    place, native = installed.install(installed.wheel)
    assert (Path(place).is_relative_to(installed.folder / "environment"), native) == (True, "True")
    assert installed.run("--version").stdout == f"swarmtune {swarmtune.__version__}\n"
    (installed.folder / "config.toml").write_text(QUICK)
    result = json.loads(installed.run("optimizer", "--json", "--evaluations", "2").stdout)
    assert (result["engine"], result["evaluations"], result["failures"]) == ("simulated", 2, 0)
    done = installed.run("bench", "--self-test", codes=(0, 5))  # 5: this machine is too busy for a valid result
    assert json.loads((installed.folder / "swarmtune-bench" / "self-test.json").read_text())["steps"]
    assert "hot path" not in done.stderr


def test_the_source_compiles(installed: Installed) -> None:
    place, native = installed.install(installed.sdist)
    assert (Path(place).is_relative_to(installed.folder / "environment"), native) == (True, "True")
    assert installed.run("--version").stdout == f"swarmtune {swarmtune.__version__}\n"


def test_without_a_compiler_it_works_and_says_what_is_slower(installed: Installed) -> None:
    _, native = installed.install(installed.sdist, **NO_COMPILER)
    assert native == "False"
    done = installed.run("bench", "-m", "m", "--url", "http://127.0.0.1:9", codes=(3,))
    assert "note: the load generator's hot path in C was not built" in done.stderr
