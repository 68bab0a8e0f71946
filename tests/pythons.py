"""Run the unit suite on the Pythons of this machine, each in an environment of its own made from the lock file.

``python tests/pythons.py [--ends] [--others] [pytest arguments]``, as ``make test-pythons`` calls it. Of each version from
3.11 on the oldest release found is taken; ``--ends`` takes only the oldest and the newest version, and ``--others`` leaves
out the release that runs this file: .venv's, on which ``make test`` runs that suite. Environments are below .cache/.
``--oldest`` only prints the path of the oldest release.
Where packages of an extra have no wheel for a Python, the suite runs without that extra, and the extra is named.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 11), (3, 14)
Version = tuple[int, int, int]


def candidates() -> Iterator[Path]:
    """Every program that is called like a Python: on the path, in /usr/bin, of pyenv and of uv."""
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep)), Path("/usr/bin"), Path("/usr/local/bin")]
    folders = [folder for folder in folders if folder.name != "shims"]  # of pyenv: they need a version to be chosen
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    folders += [*pyenv.glob("*/bin"), *uv.glob("cpython-*/bin")]
    for folder in folders:
        if ROOT not in folder.parents:  # our own environments are no installations
            yield from (path for path in folder.glob("python3*") if re.fullmatch(r"python3(\.\d+)?", path.name))


def version_of(python: Path) -> Version | None:
    """Its release; None if it does not run, or is a virtual environment's."""
    code = "import sys; print(*sys.version_info[:3], sys.prefix == sys.base_prefix)"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
        major, minor, micro, installed = done.stdout.split()
        return (int(major), int(minor), int(micro)) if installed == "True" else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def chosen(found: Iterable[tuple[Version, Path]]) -> list[tuple[Version, Path]]:
    """The oldest release of each version that SwarmTune supports, oldest first."""
    releases: dict[tuple[int, int], tuple[Version, Path]] = {}
    for version, python in sorted(found):
        if OLDEST <= version[:2] <= NEWEST:
            releases.setdefault(version[:2], (version, python))
    return list(releases.values())


def environment(uv: str, version: Version, python: Path) -> Path:
    """The environment's Python, with every extra that has wheels for it. CalledProcessError if there can be none."""
    folder = ROOT / ".cache" / f"python-{version[0]}.{version[1]}"
    variables = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder), "UV_PYTHON_DOWNLOADS": "never"}
    variables.pop("VIRTUAL_ENV", None)
    sync = [
        uv,
        "sync",
        "--quiet",
        "--frozen",
        "--python",
        str(python),
        "--no-build",
        "--no-binary-package",
        "swarmtune",
    ]

    def works(*arguments: str) -> bool:
        done = subprocess.run([*sync, *arguments], cwd=ROOT, env=variables, capture_output=True, check=False)
        return done.returncode == 0

    if not works("--all-extras"):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = [extra for extra in project["optional-dependencies"] if extra not in ("all", "dev")]
        usable = [extra for extra in extras if works("--dry-run", "--extra", extra)]
        say(f"Python {version[0]}.{version[1]} has no wheels for: {', '.join(sorted({*extras} - {*usable}))}")
        subprocess.run([*sync, *(f"--extra={extra}" for extra in usable)], cwd=ROOT, env=variables, check=True)
    return folder / "bin" / "python"


def uv_program() -> str:
    """The uv of the path, else the one that `make install` brings."""
    return shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")


def say(line: str) -> None:
    """Print it before what the programs that are started print."""
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """The number of Pythons on which the suite fails."""
    programs = {path.resolve(): path for path in candidates()}
    pythons = chosen((version, path) for path in programs.values() if (version := version_of(path)))
    if "--oldest" in arguments:
        say(str(pythons[0][1]))
        return 0
    absent = [f"3.{n}" for n in range(OLDEST[1], NEWEST[1] + 1) if (3, n) not in {v[:2] for v, _ in pythons}]
    if absent:
        say(f"Not on this machine, and so not tested: Python {', '.join(absent)}")
    if "--ends" in arguments:
        arguments = [a for a in arguments if a != "--ends"]
        pythons = [pythons[0], pythons[-1]] if len(pythons) > 1 else pythons
    if "--others" in arguments:
        arguments = [a for a in arguments if a != "--others"]
        pythons = [(version, path) for version, path in pythons if version != sys.version_info[:3]]
    uv = uv_program()
    failed = []
    for version, path in pythons:
        name = ".".join(map(str, version))
        say(f"== Python {name} ({path})")
        suite = ["-m", "pytest", "-q", "-n", "2", "-m", "not processes", *arguments]
        if subprocess.run([environment(uv, version, path), *suite], cwd=ROOT, check=False).returncode:
            failed.append(name)
    say(f"The unit suite fails on Python {', '.join(failed)}" if failed else "The unit suite passes on all of them")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
