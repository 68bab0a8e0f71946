"""What argparse does with an option that is given: once is enough, and the command line comes before a file."""

from __future__ import annotations

import argparse
from typing import Any

END_OF_FILE = "--options-of-the-command-line"  # see Given


class Once(argparse.Action):
    """Stores a value, and refuses a second one: only one of them would count."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """See argparse."""
        given: set[str] = namespace.__dict__.setdefault("given", set())
        if self.dest in given:
            parser.error(f"{option_string} is given twice: give it once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Given(argparse.Action):
    """Stands between the options of a file and those of the command line, which may replace them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's own signature
        namespace: argparse.Namespace,
        values: Any,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """See argparse."""
        namespace.given = set()


class OnOff(argparse.BooleanOptionalAction):
    """``--NAME`` or ``--no-NAME``, once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """See argparse."""
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given beside its opposite, or twice: give it once")
        super().__call__(parser, namespace, values, option_string)
