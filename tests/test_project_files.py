"""What surrounds the code is well-formed: container, hooks, licence. Checked without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import swarmtune

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
INSTRUCTIONS = {
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "ONBUILD", "RUN"),
    *("SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) of every line."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_dockerfile_instructions() -> None:
    lines = dockerfile()
    assert lines[0][0] == "FROM"
    assert {word for word, _ in lines} <= INSTRUCTIONS
    assert all(rest for _, rest in lines)
    for word, rest in lines:
        if word in ("CMD", "ENTRYPOINT"):
            assert all(isinstance(argument, str) for argument in json.loads(rest))


def test_dockerfile_images_are_pinned_and_stages_exist() -> None:
    stages = set()
    for word, rest in dockerfile():
        if word == "FROM":
            image, _, stage = rest.partition(" AS ")
            assert re.fullmatch(r"[\w./-]+:[\w.-]+", image)
            assert not image.endswith(":latest")
            stages.add(stage)
        for source in re.findall(r"--from=(\S+)", rest):
            assert source in stages


def test_dockerfile_copies_what_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in dockerfile():
        if word == "COPY" and "--from=" not in rest:
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists()
                assert f"!{source.removeprefix('./')}" in ignored


def test_the_container_is_no_root() -> None:
    users = [rest for word, rest in dockerfile() if word == "USER"]
    assert users
    assert users[-1].partition(":")[0] not in ("root", "0")


def test_devcontainer_runs_what_exists() -> None:
    content = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", content["image"])
    for target in re.findall(r"\bmake ([a-z-]+)", content["postCreateCommand"]):
        assert target in MAKE_TARGETS
    for program in re.findall(r"\.venv/bin/([\w-]+)", content["postCreateCommand"]):
        assert (BIN / program).exists()


def test_hooks_are_valid_and_installed() -> None:
    done = subprocess.run(
        [BIN / "pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {"ruff", "ruff-format", "mypy", "import-linter"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/")
        assert (BIN / Path(program).name).exists()


def test_licence_and_version_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert project["version"] == swarmtune.__version__


def test_changelog_has_a_place_for_what_comes() -> None:
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text()


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True)
    assert {t for t in MAKE_TARGETS if f"make {t} " not in done.stdout} == set()


def test_no_file_names_a_folder_of_the_machine_it_was_made_on() -> None:
    folder = re.compile(rb"(?<![\w.~$})-])/(work|root|home|tmp)/")
    places = [*(ROOT / name for name in ("docs", "examples", "benchmarks")), *(ROOT / "tests").rglob("data")]
    files = [p for place in places for p in place.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    named = {str(p.relative_to(ROOT)): found for p in files if (found := folder.search(p.read_bytes()))}
    assert named == {}
