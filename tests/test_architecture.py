"""The budgets of CONTRIBUTING.md, counted over the source itself. A budget is broken only with a written reason here."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarmtune
from swarmtune.apps.cli import COMMANDS

SOURCE = Path(swarmtune.__file__).parent
PACKAGES = {
    *("apps", "testing", "report", "tuner", "settings", "sources", "search", "engines", "loadgen", "simulator"),
    *("cluster", "study", "fleet", "execution"),
    *(
        "space",
        "objective",
        "workload",
        "devices",
        "database",
        "records",
        "scheduling",
        "clock",
        "registry",
        "border",
        "errors",
        "files",
        "redaction",
    ),
}
LONG_MODULES = {"execution/supervisor.py": "must travel as one file to machines where SwarmTune is not installed"}
ENVIRONMENT_READERS = {
    "apps/cli/__init__.py": "OPENBLAS_NUM_THREADS is set while numpy loads, and taken back",
    "settings.py": "the one place where our own settings are read",
    "loadgen/ask/public_data.py": "HF_ENDPOINT belongs to the Hugging Face tools: the mirror that a site uses",
    "loadgen/ask/spec.py": "headers and the key of the service are secrets: they travel in the environment, not in files",
    "study/place.py": "the key that seals a study's command line lies in XDG_STATE_HOME, as the journals do",
    "space/space.py": "fields of dtype env take the value of a variable that the user names",
    "execution/executors/local.py": "services inherit the environment; journals go to XDG_STATE_HOME",
    "execution/executors/ssh_config.py": "OpenSSH runs commands of ssh_config with $SHELL, and expands ${NAME}",
    "execution/executors/node_agent.py": "what Slurm tells a job must not reach the services",
    "execution/executors/slurm_jobs.py": "what Slurm tells the job that we run in is no option of another",
    "execution/executors/ray_membership.py": "RAY_ENABLE_AUTO_CONNECT: Ray must not start a cluster of its own",
    "execution/supervisor.py": "travels alone: passes the environment on and finds the journals",
    "testing/executor.py": "proves that our own variables do not leak into services",
}
STANDALONE = {"execution/supervisor.py", "execution/look.py"}  # the standard library only, and nothing of ours
KILLERS_BY_NAME = re.compile(r"\b(pkill|killall|process_iter)\b")


class Module:
    """One file of the source."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(SOURCE).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.lines = len(self.text.splitlines())

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node

    def classes(self) -> Iterator[ast.ClassDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                yield node


MODULES = [Module(path) for path in sorted(SOURCE.rglob("*.py"))]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_modules_are_short() -> None:
    long = {m.name: m.lines for m in MODULES if m.lines > 500 and m.name not in LONG_MODULES}
    assert not long
    assert statistics.median(m.lines for m in MODULES) <= 150


def test_functions_are_short() -> None:
    lengths = sorted((length(f), f"{m.name}:{f.name}") for m in MODULES for f in m.functions())
    assert not [row for row in lengths if row[0] > 80]
    assert lengths[int(len(lengths) * 0.95)][0] <= 50


def test_classes_have_at_most_two_ancestors_in_the_package() -> None:
    bases = {
        c.name: [
            b.id if isinstance(b, ast.Name) else b.attr for b in c.bases if isinstance(b, (ast.Name, ast.Attribute))
        ]
        for m in MODULES
        for c in m.classes()
    }

    def ancestors(name: str) -> set[str]:
        own = {base for base in bases.get(name, []) if base in bases and base != name}
        return own.union(*(ancestors(base) for base in own))

    tall = {name: found for name in bases if len(found := ancestors(name)) > 2}
    assert not {name: found for name, found in tall.items() if not name.endswith("Error")}
    # Errors say their family by inheritance: SwarmTuneError, the layer's error, the error, and one kind of it.
    assert all(len(found) <= 3 for found in tall.values()), tall
    mixed = [c.name for m in MODULES for c in m.classes() if "mixin" in c.name.lower()]
    assert not mixed


def test_constructors_take_few_arguments() -> None:
    wide = {}
    for module in MODULES:
        for cls in module.classes():
            for node in cls.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1
                    if count > 7:
                        wide[f"{module.name}:{cls.name}"] = count
    assert not wide


def test_only_the_packages_of_the_design() -> None:
    found = {p.stem for p in SOURCE.iterdir() if (p.suffix == ".py" or (p / "__init__.py").is_file())} - {
        "__init__",
        "__main__",
    }
    assert found <= PACKAGES, found - PACKAGES


def test_no_junk_drawers() -> None:
    drawers = {"common", "utils", "util", "helpers", "misc", "schemas", "core"}
    assert not [m.name for m in MODULES if drawers & set(m.name.removesuffix(".py").split("/"))]


def test_no_shell() -> None:
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                named = ast.unparse(node.func)
                assert named not in ("os.system", "os.popen", "asyncio.create_subprocess_shell"), module.name
                shells = [k for k in node.keywords if k.arg == "shell" and getattr(k.value, "value", True)]
                assert not shells, f"{module.name}:{node.lineno}"


def test_nothing_is_killed_by_name() -> None:
    assert not {m.name for m in MODULES if KILLERS_BY_NAME.search(m.text)}


def test_the_environment_is_read_in_few_places() -> None:
    readers = set()
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.environb", "os.getenv"):
                readers.add(module.name)
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                readers |= {module.name for a in node.names if a.name in ("environ", "environb", "getenv")}
    assert readers <= set(ENVIRONMENT_READERS), readers - set(ENVIRONMENT_READERS)


def test_the_supervisor_stands_alone() -> None:
    for module in MODULES:
        if module.name in STANDALONE:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Import):
                    names = [a.name for a in node.names]
                else:
                    names = [node.module or "."] if isinstance(node, ast.ImportFrom) else []
                assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names), names


def test_time_is_a_parameter() -> None:
    """Product code never sleeps by itself, except where it waits for the world: signals with a limit, sockets."""
    sleepers = {
        m.name
        for m in MODULES
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    }
    waiters = {"loadgen/wire/python.py"}  # a wire waits for real sockets; its tests use real ones
    assert not sleepers - STANDALONE - waiters


def test_import_is_light() -> None:
    program = "import sys, swarmtune; print(len(sys.modules))"
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COV")}  # coverage would be counted, too
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, env=unmeasured
    )
    assert int(done.stdout) < 200


@pytest.mark.parametrize(
    ("module", "foreign"),
    [
        ("apps.cli.benching", {"scipy", "sqlalchemy", "optuna", "swarmtune.tuner", "swarmtune.study"}),
        ("loadgen.distributed.process", {"scipy", "sqlalchemy", "optuna", "swarmtune.tuner", "swarmtune.study"}),
        ("apps.cli.optimizer", {"scipy.optimize", "scipy.stats", "pandas", "matplotlib"}),
    ],
)
def test_import_is_light_where_it_happens_often(module: str, foreign: set[str]) -> None:
    """Every run of the load generator, each of its workers, and every command pays for it."""
    program = f"import sys, swarmtune.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert not foreign & set(done.stdout.split())


def test_help_loads_no_heavy_library() -> None:
    """The budget of 0.3 s, told by what is loaded: a busy machine cannot fail this test."""
    program = (
        "import sys\n"
        "from swarmtune.apps.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded', len(sys.modules), *sorted({m.partition('.')[0] for m in sys.modules}))\n"
    )
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COV")}  # coverage would be counted, too
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, env=unmeasured
    )
    _, count, *loaded = done.stdout.splitlines()[-1].split()
    assert int(count) < 200
    assert not {"pydantic", "numpy", "optuna", "sqlalchemy", "rich", "aiohttp", "loguru", "psutil"} & set(loaded)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"swarmtune.apps.cli.{COMMANDS[command][0]}").add_arguments(parser)
    silent = [action.option_strings for action in parser._actions if not action.help]
    assert not silent


@pytest.mark.parametrize("name", swarmtune.__all__)
def test_public_names_can_be_imported(name: str) -> None:
    assert getattr(swarmtune, name) is not None


def test_modules_say_what_they_are() -> None:
    silent = [m.name for m in MODULES if m.text.strip() and not ast.get_docstring(m.tree)]
    assert not silent
