"""Known parameters of an engine: defaults, ranges, rules; and a check against the installed engine's --help."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from swarmtune.engines.placement import load_field
from swarmtune.engines.target_field import TargetField
from swarmtune.records import Value
from swarmtune.space import Dimension, Field
from swarmtune.space.field import MAX_NUMBER

_FLAG = re.compile(r"(?<![\w-])--[A-Za-z0-9][\w.-]*")
# The start of an option in the help of argparse and of most others: its own line, indented by a few spaces.
_OPTION_LINE = re.compile(r"^\s{0,8}(-{1,2}[A-Za-z0-9].*)$", re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """One parameter: the name of its flag or path, the engine's default, the range worth searching, and a note.

    ``default`` None: the engine computes it. ``dtype`` and ``dtype_param`` as in ``space.Field``. ``live``: the method and
    path by which the running engine takes a new value; empty: only at its start.
    """

    name: str
    dtype: str = "int"
    default: Value | None = None
    min: float | None = None
    max: float | None = None
    dtype_param: Any = None
    log: bool = False
    note: str = ""
    live: str = ""

    def to_field(self, name: str, config_position: str | None = None) -> Field:
        """A field of the search space for this parameter, with the engine's default as its value."""
        made = Field(
            name, config_position or self.name, self.min, self.max, self.dtype, None, self.dtype_param, None, self.log
        )
        return with_default(made, self.default)


def with_default(made: Field, default: Any) -> Field:
    """The field with the engine's default as its baseline where the user gave none: the nearest value of its range."""
    usable = (isinstance(default, (bool, str)) or is_number(default)) and made.searched and made.dtype != "ratio"
    if made.value is not None or not usable or made.mistakes({made.name, *made.targets}):
        return made
    dimension = Dimension.of(made)
    if dimension.contains(default):
        return replace(made, value=default)
    if not is_number(default) or dimension.kind == "category":
        return made
    return replace(made, value=dimension.decode(dimension.encode(default)))


def is_number(value: Any) -> bool:
    """Is it a number that a field may have? Files of services may also hold NaN, Infinity and thousands of digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


@dataclass(frozen=True)
class Schema:
    """The parameters of one engine in a range of versions.

    ``flags`` are all names that are known to exist. ``complete`` False: there may be more, and only a name that looks
    like a misspelling of a known one is a mistake. ``rules`` are constraints with parameters in braces, in lower case and
    with underscores, the last part of a dotted path alone: ``{max_num_batched_tokens} >= {max_num_seqs}``.
    """

    engine: str
    versions: str
    parameters: tuple[Parameter, ...]
    flags: frozenset[str] = field(default_factory=frozenset)
    complete: bool = False
    rules: tuple[str, ...] = ()

    def find(self, name: str) -> Parameter | None:
        """By flag (--max-num-seqs) or field name in any case (MAX_NUM_SEQS)."""
        wanted = normal(name)
        return next((p for p in self.parameters if normal(p.name) == wanted), None)

    def knows(self, name: str) -> bool:
        """Is it a flag of this engine?"""
        wanted = normal(name)
        return any(wanted in (normal(f), "no-" + normal(f)) for f in self.names())

    def names(self) -> list[str]:
        """All known flags, sorted."""
        return sorted({*self.flags, *(p.name for p in self.parameters)})

    def flag_of(self, name: str) -> str | None:
        """The flag that a field of this name sets, if the engine has one."""
        wanted = normal(name)
        return next((f for f in self.names() if normal(f) == wanted), None)

    def mistake(self, name: str, key: str) -> str | None:
        """A sentence if this engine has no such flag, with the near ones; ``key`` says where it was written."""
        if self.knows(name):
            return None
        near = _near(name, self.names(), 0.6 if self.complete else 0.85)
        if not self.complete and not near:
            return None
        hint = f" Near: {', '.join(near)}." if near else ""
        return f"{key}: {self.engine} {self.versions} has no parameter {name}.{hint}"

    def fields_by_parameter(self, fields: Iterable[Field]) -> dict[str, str]:
        """Names of the fields that set each parameter: {"max_num_seqs": "MAX_NUM_SEQS"}."""
        found: dict[str, str] = {}
        for made in fields:
            place = made.name if made.config_position == "env" or made.live else made.config_position
            key = normal(place.rpartition(".")[2]).replace("-", "_")
            if made.name.isidentifier():
                found.setdefault(key, made.name)
        return found

    def constraints(self, fields: Iterable[Field]) -> tuple[str, ...]:
        """The rules all of whose parameters are fields, in the names of those fields."""
        names = self.fields_by_parameter(fields)
        return tuple(
            rule.format_map(names) for rule in self.rules if set(re.findall(r"\{(\w+)\}", rule)) <= names.keys()
        )

    def field_mistakes(self, fields: Iterable[Field], key: str, document: bool = False) -> list[str]:
        """Fields whose ``config_position`` this engine does not have. ``document``: it has a file for dotted paths."""
        found: list[str | None] = []
        for made in fields:
            position, where = made.config_position, f"{key}.target_field {made.name}"
            if load_field(made.name):
                continue
            if made.live:
                found.append(self._live_mistake(made, where))
                continue
            if position.startswith("-"):
                found.append(self.mistake(position, where))
            elif position == "env" and not self.flag_of(made.name):
                near = _near(made.name, self.names(), 0.85)
                if near:
                    found.append(f"{where}: {self.engine} has no parameter of this name. Near: {', '.join(near)}.")
            elif position != "env" and not document:
                found.append(
                    f"{where}: config_position {position!r} is a path, but {self.engine} has no file to put it"
                )
        return [sentence for sentence in found if sentence]

    def _live_mistake(self, made: Field, where: str) -> str | None:
        """An engine that declares what it takes while it runs takes nothing else."""
        known = {p.name.removeprefix("--").replace("-", "_"): p.live for p in self.parameters if p.live}
        if not known or known.get(made.name) == made.config_position:
            return None
        ways = ", ".join(f"{name} by {way}" for name, way in known.items())
        return f"{where}: {self.engine} does not take it by {made.config_position} while it runs; it takes {ways}"

    def check_against_help(self, text: str, names: Iterable[str] | None = None) -> list[str]:
        """Which of ``names`` (default: our parameters) the installed engine's own help does not list, as sentences."""
        listed = flags_in_help(text)
        known = {normal(f) for f in listed} | {normal(f).removeprefix("no-") for f in listed}
        missing = []
        for name in names if names is not None else [p.name for p in self.parameters]:
            if normal(name).removeprefix("no-") not in known:
                near = _near(name, sorted(listed), 0.6)
                hint = f" Near: {', '.join(near)}." if near else ""
                missing.append(f"The installed {self.engine} has no {name}.{hint}")
        return missing

    def fields(self, target_fields: Sequence[TargetField], defaults: Sequence[Field]) -> tuple[Field, ...]:
        """The user's fields, each with the engine's default as baseline where none is given; else ``defaults``."""
        if not target_fields:
            return tuple(defaults)
        made = []
        for entry in target_fields:
            position = entry.config_position
            known = self.find(position if position.startswith("-") else entry.name)
            made.append(with_default(entry.to_field(), known.default if known else None))
        return tuple(made)


def normal(name: str) -> str:
    """Flags and field names in one form: max-num-seqs."""
    return name.lstrip("-").lower().replace("_", "-")


def flags_in_help(text: str) -> frozenset[str]:
    """All long flags that a help text defines (those it only mentions in running text are left out)."""
    found: set[str] = set()
    for line in _OPTION_LINE.findall(text):
        declaration = re.split(r"\s{2,}", line)[0]
        found.update(_FLAG.findall(declaration))
    return frozenset(found)


def _near(name: str, known: Sequence[str], cutoff: float) -> list[str]:
    by_normal = {normal(k): k for k in known}
    return [by_normal[n] for n in difflib.get_close_matches(normal(name), list(by_normal), n=3, cutoff=cutoff)]
