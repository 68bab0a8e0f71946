"""The help of an installed engine: which flags it has."""

from __future__ import annotations

import re
from collections.abc import Iterable

from swarmtune.engines.schema import normal

_FLAG = re.compile(r"(?<![\w-])--[A-Za-z0-9][\w.-]*")
# The start of an option in the help of argparse and of most others: its own line, indented by a few spaces.
_OPTION_LINE = re.compile(r"^\s{0,8}(-{1,2}[A-Za-z0-9].*)$", re.MULTILINE)


def flags_in_help(text: str) -> frozenset[str]:
    """All long flags that a help text defines (those it only mentions in running text are left out)."""
    found: set[str] = set()
    for line in _OPTION_LINE.findall(text):
        declaration = re.split(r"\s{2,}", line)[0]
        found.update(_FLAG.findall(declaration))
    return frozenset(found)


def missing_in_help(text: str, names: Iterable[str]) -> list[str]:
    """Those of these flags that the help does not list; --no-x stands behind --x."""
    known = {normal(flag).removeprefix("no-") for flag in flags_in_help(text)}
    return [name for name in names if normal(name).removeprefix("no-") not in known]
