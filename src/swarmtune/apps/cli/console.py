"""The consoles of the commands: they print what they are given, be it a log, a name or a path of a user."""

from __future__ import annotations

from rich.console import Console


def console_of(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console on which ``[/b]`` and ``:fire:`` are text, not markup or emoji; styles come from ``style`` and Text."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
