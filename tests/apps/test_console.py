"""Texts from outside, such as logs and names, appear as they are: no markup, no emoji."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_runs import Cli
from rich.table import Table

from swarmtune.apps.cli.console import console_of

SOURCES = Path(console_of.__code__.co_filename).parents[2]
HOSTILE = ["[/m]:100:", ":fire:", "n1:1234:1290", "[bold]b[/bold]", "[link=x]y[/]", "\\[red]", ":smiley-text:"]
COMMAND = """
[command]
model = "{}"
argv = ["sh", "-c", "echo 'RuntimeError: :fire: [/x] n1:1234:1290'; exit 1", "$N", "$PORT"]
[[command.target_field]]
name = "n"
dtype = "enum"
dtype_param = ["[/a]", ":100:"]
value = ":100:"
"""


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("stderr", [False, True])
def test_a_console_prints_what_it_is_given(text: str, stderr: bool, capsys: pytest.CaptureFixture[str]) -> None:
    console = console_of(stderr=stderr)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(text, style="bold", soft_wrap=True)
    console.print(table)
    out, err = capsys.readouterr()
    assert (err if stderr else out).count(text) == 4
    assert not (out if stderr else err)


def test_consoles_are_built_in_one_place() -> None:
    places = [path for path in SOURCES.rglob("*.py") if re.search(r"\bConsole\(|from_markup", path.read_text())]
    assert [path.name for path in places] == ["console.py"]


@pytest.mark.parametrize("model", ["[/m]:100:", "[red]x[/red]"])
def test_check_shows_names_as_they_are(model: str, clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text('[optimizer]\nengine = "command"\n' + COMMAND.format(model))
    ended = cli("check")
    assert ended.code == 0, ended
    for text in (f"command ({model})", "[/a], :100:", "RuntimeError: :fire: [/x] n1:1234:1290"):
        assert text in ended.out


def test_the_line_of_a_log_is_shown_as_it_is(clean: Path, cli: Cli) -> None:
    options = '[optimizer]\nengine = "command"\nevaluations = 1\nconfirm = 0\nmax_attempts = 1\n'
    (clean / "config.toml").write_text(options + "[load_search]\nenabled = false\n" + COMMAND.format("[/m]:100:"))
    ended = cli("optimizer")
    assert ended.code == 1
    assert "[RuntimeError: :fire: [/x] n1:1234:1290]" in ended.err
    assert "Tuning command ([/m]:100:)" in ended.err
