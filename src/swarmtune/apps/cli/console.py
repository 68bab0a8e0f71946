"""The consoles of the commands: they print what they are given, be it a log, a name or a path of a user."""

from __future__ import annotations

import sys

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from swarmtune.apps.cli.output import Discreet
from swarmtune.errors import shown
from swarmtune.redaction import ours


class Shown:
    """What is drawn, without secrets and without characters that steer a terminal; styles and cursor moves are ours."""

    def __init__(self, drawn: ConsoleRenderable) -> None:
        self._drawn = drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._drawn, options):
            yield segment if segment.control else Segment(shown(ours.hide(segment.text)), segment.style)


class _Border(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [Shown(drawn) for drawn in renderables]


def console_of(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console on which ``[/b]`` and ``:fire:`` are text, not markup or emoji, and escapes of others are shown as text;
    styles come from ``style`` and Text.
    """
    stream = sys.stderr if stderr else sys.stdout
    while isinstance(stream, Discreet):  # which would take the console's own colours for those of others
        stream = stream.stream
    console = Console(file=stream, stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
    console.push_render_hook(_Border())
    return console
