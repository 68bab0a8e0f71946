"""What may be asked of an installed engine before anything is started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Needed:
    """A file or folder that the service reads on its node. ``what``: a noun; ``key``: where its path is written."""

    what: str
    key: str
    path: str


@dataclass(frozen=True)
class Questions:
    """What to ask the program with which ``Engine.command`` begins, in the environment and the folder of that command.

    ``key``: where the program is written in the configuration, and ``what`` it is, a noun. ``help`` and ``version``: the
    arguments behind the program that make it print all its flags, and its version; empty: it is not asked. ``package``:
    the Python package without which it cannot serve, and which tells the version; ``install``: the command that installs it.
    ``program``: what is asked where no command can be made of wrong values; empty: nothing is asked then.
    """

    key: str
    what: str = "program"
    help: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    package: str = ""
    install: str = ""
    needed: tuple[Needed, ...] = ()
    program: str = ""


def local_model(key: str, model: str) -> tuple[Needed, ...]:
    """The folder or file of a model that is named by a path; nothing for a name on a hub."""
    return (Needed("model", key, model),) if model.startswith(("/", "./", "../", "~")) else ()
