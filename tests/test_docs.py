"""The documentation is tested like code: nothing in it may drift."""

from __future__ import annotations

import ast
import inspect
import io
import re
import runpy
import sys
import tokenize
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from swarmtune import errors, registry
from swarmtune.apps.cli import COMMANDS
from swarmtune.engines.diagnosis import CULPRITS, Cause
from swarmtune.errors import Culprit, SwarmTuneError
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.exports.report import report
from swarmtune.loadgen.judge.statistics import PERCENTILES
from swarmtune.objective import OBJECTIVES
from swarmtune.objective.slo import LATENCIES
from swarmtune.settings import read_settings
from swarmtune.space.field import DTYPES
from swarmtune.study.tables import metadata
from swarmtune.testing.fake_records import fake_records
from swarmtune.tuner.planning.make import make_plan

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
DECISION_PARTS = ["Context", "Decision", "Rivals", "Consequences"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(path: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    made: dict[str, str] = runpy.run_path(str(DOCS / "generate.py"))["documents"]()
    return made


def test_the_option_reference_is_up_to_date(generated: dict[str, str]) -> None:
    assert text_of("docs/options.md") == generated["options.md"], "run `make docs`"


def test_the_command_reference_is_up_to_date(generated: dict[str, str]) -> None:
    """Newer Pythons lay the help out in another way, so that only 3.11 and 3.12 are compared word by word."""
    written, now = text_of("docs/cli.md"), generated["cli.md"]
    if sys.version_info < (3, 13):
        assert written == now, "run `make docs`"
    assert options_in(written) == options_in(now)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_are_short_and_name_no_machine(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        assert "/work/" not in line, f"{name_of(page)}:{number}"
        assert not re.search(r"/(root|home)/", line), f"{name_of(page)}:{number}"
        if not line.startswith(("|", "Keys:", "Tables:", "`[")):
            assert len(line) <= 125, f"{name_of(page)}:{number}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = LINK.findall(page.read_text(encoding="utf-8")) if page.suffix == ".md" else []
        waiting += [p for t in targets if (p := (page.parent / t.partition("#")[0]).resolve()).is_file()]
    assert not {name_of(p) for p in DOCS.rglob("*.md")} - {name_of(p) for p in reached}


def test_make_targets_in_the_docs_exist() -> None:
    known = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for page in PAGES:
        code = [c for pair in FENCE.findall(page.read_text(encoding="utf-8")) for c in pair]
        code += re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
        for target in re.findall(r"(?m)^make ([a-z-]+)", "\n".join(code)):
            assert target in known, f"{name_of(page)}: make {target}"


def test_commands_and_options_in_the_docs_exist(generated: dict[str, str]) -> None:
    for page in PAGES:
        for line in "\n".join(fences(page, "sh")).splitlines():
            found = re.search(r"swarmtune ([a-z-]+)(.*)", line.partition("#")[0])
            if found and "optuna" not in line and "pip install" not in line and "-m swarmtune" not in line:
                assert found[1] in COMMANDS, f"{name_of(page)}: {line}"
                assert options_in(found[2]) <= options_in(generated["cli.md"]), f"{name_of(page)}: {line}"


@pytest.mark.parametrize("page", [p for p in PAGES if fences(p, "toml")], ids=name_of)
def test_configurations_are_right(page: Path, tmp_path: Path) -> None:
    """Every block parses; those that name an engine are whole, and pass what `swarmtune check` asks."""
    for number, block in enumerate(fences(page, "toml")):
        content = tomllib.loads(block)
        if "project" in content:
            continue
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        settings = read_settings(file, {})
        if "engine" in content.get("optimizer", {}):
            make_plan(settings)


def test_every_part_is_explained() -> None:
    pages = {
        "docs/engines.md": [*registry.engines, *(c.value for c in Cause)],
        "docs/loadgen.md": list(registry.benchmarks),
        "docs/search.md": [*registry.searches, *DTYPES, *OBJECTIVES],
        "docs/study.md": list(metadata.tables),
        "docs/errors.md": [c.value for c in Culprit],
    }
    for page, names in pages.items():
        for name in names:
            assert f"`{name}`" in text_of(page), f"{page} does not explain {name}"


def test_every_metric_is_explained() -> None:
    text = text_of("docs/loadgen.md")
    made = report(Spec(url=("http://x",), model="m", request_slos={"ttft_ms": 5.0}), fake_records(100))
    statistics = {name.removesuffix("_ms") for name in made.results.statistics} - {"reasoning_tokens"}
    for name in {*made.results.scalars, *statistics}:
        assert f"`{name}`" in text, name
    for name in ("request_throughput", "output_throughput", "total_token_throughput", "request_goodput", *LATENCIES):
        assert f"`{name}`" in text, name
    for statistic in ("mean", "std", "min", "max", *PERCENTILES):
        assert f"`{statistic}_`" in text, statistic


def test_causes_are_shown_with_who_must_act() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (setting|infrastructure|user) \|", text_of("docs/engines.md"), re.MULTILINE)
    assert dict(rows) == {c.value: CULPRITS.get(c, Culprit.SETTING).value for c in Cause}


def test_errors_are_shown_as_they_are() -> None:
    text = text_of("docs/errors.md")
    shown = re.findall(r"^( *)(\w+Error) +(user|setting|infrastructure|bug)\b", text, re.MULTILINE)
    known = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SwarmTuneError)
    ]  # fmt: skip
    assert {name for _, name, _ in shown} == {c.__name__ for c in known}
    path: list[str] = []
    for indent, name, culprit in shown:
        cls = getattr(errors, name)
        path[len(indent) // 2 :] = [name]
        assert culprit == cls.culprit.value, name
        assert len(path) == 1 or cls.__base__.__name__ == path[-2], name


@pytest.mark.parametrize(("page", "least"), [("docs/map.md", 30), ("docs/glossary.md", 60)])
def test_the_names_in_a_page_exist(page: str, least: int) -> None:
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", text_of(page))
    assert len(named) > least
    for file, name in named:
        tree: ast.AST = ast.parse((ROOT / "src" / "swarmtune" / file).read_text(encoding="utf-8"))
        for part in name.split("."):
            found = [n for n in ast.iter_child_nodes(tree) if part in _defined(n)]
            assert found, f"{file} has no {name}"
            tree = found[0]


def _defined(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def test_the_glossary_has_each_word_once() -> None:
    words = re.findall(r"^\| ([A-Z][\w -]+) \|", text_of("docs/glossary.md"), re.MULTILINE)
    assert len(words) > 60
    assert not [word for word, count in Counter(map(str.lower, words)).items() if count > 1]


FORBIDDEN = re.compile(r"\b(promises?|ledgers?|simulators?)\b", re.IGNORECASE)
ALLOWED = {  # places where a word that the glossary forbids stays, and why
    "docs/glossary.md": "it forbids them",
    "CONTRIBUTING.md": "the package",
    "docs/errors.md": "explains the names of errors that the older tuner's plugins use",
    "docs/map.md": "the package",
    "src/swarmtune/errors.py": "explains the names of errors that the older tuner's plugins use",
    "src/swarmtune/registry.py": "explains the alias register_simulator",
}


def test_one_word_for_one_thing() -> None:
    """In the words that people read: pages, docstrings, comments and texts; not in names."""
    pages = [p for p in PAGES if p.parent.name != "decisions"]  # decisions are dated, and stay as they were
    for path in [*pages, *sorted((ROOT / "src").rglob("*.py"))]:
        name = name_of(path)
        if name in ALLOWED or "/simulator/" in name:
            continue
        text = path.read_text(encoding="utf-8")
        for prose in _prose(text) if path.suffix == ".py" else [text]:
            found = FORBIDDEN.search(re.sub(r"swarmtune\.simulator|benchmarks/simulator\.py", "", prose))
            assert not found, f"{name}: {prose.strip()[:100]!r}; see docs/glossary.md"


def _prose(code: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    texts = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return [token.string for token in tokens if token.type in texts and " " in token.string.strip()]


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda p: p.stem)
def test_decisions_have_one_form(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.name[:4]}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == DECISION_PARTS
    assert f"({page.name})" in text_of("docs/decisions/README.md")


def test_every_dependency_has_a_decision() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["llamacpp"], *extras["postgres"]]
    decided = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "decisions").glob("0*.md")).lower()
    for requirement in wanted:
        name = re.split(r"[\[>=<; ]", requirement)[0]
        assert name in decided, name


def test_the_picture_is_drawn_from_the_recorded_run() -> None:
    draw = runpy.run_path(str(DOCS / "assets" / "make_picture.py"))["picture"]
    assert draw(text_of("docs/assets/demo.txt")) == text_of("docs/assets/demo.svg"), "run docs/assets/make_picture.py"


def messages() -> list[str]:
    """The texts of the program, with ... for what is filled in."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_what_troubleshooting_quotes_is_what_the_program_says() -> None:
    rows = [line for line in text_of("docs/troubleshooting.md").splitlines() if line.startswith("| `")]
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    known = messages()
    assert len(quoted) > 20
    assert [quote for quote in quoted if not any(quote in message for message in known)] == []
