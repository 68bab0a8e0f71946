"""What surrounds the code is well-formed: container, hooks, licence, packages. Checked without Docker."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import swarmtune
from tests.changed import suite_of
from tests.pythons import chosen

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) of every line."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def accepted(program: str, *arguments: str) -> None:
    """One of the tools of .venv finds nothing to say."""
    if not (BIN / program).exists() and platform.machine() != "x86_64":
        pytest.skip(f"{program} has no wheel for {platform.machine()}")
    done = subprocess.run([BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tools_accept_their_files() -> None:
    accepted("hadolint", "Dockerfile")
    accepted("pre-commit", "validate-config", ".pre-commit-config.yaml")
    schema = "tests/data/devcontainer.schema.json"
    accepted("check-jsonschema", "--check-metaschema", schema)
    accepted("check-jsonschema", "--schemafile", schema, ".devcontainer/devcontainer.json")


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
    for target in re.findall(r"\bmake ([a-z-]+)", content["postCreateCommand"]):
        assert target in MAKE_TARGETS
    for program in re.findall(r"\.venv/bin/([\w-]+)", content["postCreateCommand"]):
        assert (BIN / program).exists()


def test_hooks_run_what_is_installed() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {"ruff", "ruff-format", "mypy", "import-linter", "tests"} <= {hook["id"] for hook in hooks}
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


def test_extras_are_named_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert extras["all"] == [f"swarmtune[{','.join(name for name in extras if name not in ('all', 'dev', 'testing'))}]"]
    assert project["dependency-groups"]["dev"] == ["swarmtune[dev]"]
    dashboards = [line for name in ("dashboard", "postgres") for line in extras[name]]
    assert set(dashboards) <= set(extras["dev"])  # the tests need them, and pip installs only this extra


def test_the_oldest_release_of_each_python_is_tested() -> None:
    found = [((3, 11, 7), Path("a")), ((3, 10, 1), Path("b")), ((3, 13, 0), Path("c")), ((3, 11, 2), Path("d"))]
    assert chosen(found) == [((3, 11, 2), Path("d")), ((3, 13, 0), Path("c"))]


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("tests/test_registry.py", "tests/test_registry.py"),
        ("src/swarmtune/space/constraint.py", "tests/space/test_constraint.py"),
        ("src/swarmtune/space/field.py", "tests/space"),
        ("src/swarmtune/registry.py", "tests/test_registry.py"),
        ("src/swarmtune/loadgen/wire/native.py", "tests/loadgen/wire"),
        ("tests/test_gone.py", None),
        ("docs/generate.py", None),
    ],
)
def test_a_changed_file_has_its_tests(file: str, tests: str | None) -> None:
    assert suite_of(Path(file)) == (tests and Path(tests))


def test_every_download_is_pinned_by_hash() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    for package in lock["package"]:
        if package["source"] == {"editable": "."}:
            continue
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        assert all(file["hash"].startswith("sha256:") for file in files), package["name"]
    assert {"hatchling", "editables"} <= {package["name"] for package in lock["package"]}
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["no-build-isolation-package"] == [
        "swarmtune"
    ]
    uv = (ROOT / ".ci" / "uv.txt").read_text()
    assert re.search(r"^uv==[\d.]+ \\\n    --hash=sha256:[0-9a-f]{64}", uv, re.MULTILINE)
    for name in ("Makefile", "Dockerfile"):
        installs = [line for line in (ROOT / name).read_text().splitlines() if "pip install" in line]
        assert installs
        assert all("--require-hashes" in line for line in installs), installs


def test_the_bill_of_materials_is_whole(tmp_path: Path) -> None:
    sbom = (
        "export",
        "--quiet",
        "--frozen",
        "--no-dev",
        "--extra",
        "all",
        "--format",
        "cyclonedx1.5",
        "--preview-features",
        "sbom-export",
    )
    assert " ".join(sbom) in (ROOT / "Makefile").read_text()
    uv = shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
    subprocess.run([uv, *sbom, "-o", str(tmp_path / "sbom.json")], cwd=ROOT, check=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    found = {part["name"]: part for part in bill["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert found[re.split(r"[<>=\[]", requirement)[0]]["purl"].startswith("pkg:pypi/")


def test_the_security_rules_are_on() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("S") and rule[1:].isdigit()} == {"S311", "S603"}
    assert not [path for path, rules in lint["per-file-ignores"].items() if path.startswith("src") and "S" in rules]
