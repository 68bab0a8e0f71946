"""The flags of an engine's command line: how each is spelled, what follows it, and what the engine would refuse."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from swarmtune.records import Value

SWITCH, PAIR, OPTIONAL, LIST, ANY, JSON, TEXT = "switch", "pair", "optional", "list", "any", "json", "text"
INT, SIZE, FLOAT = "int", "size", "float"
KINDS = (SWITCH, PAIR, OPTIONAL, LIST, ANY, JSON, TEXT, INT, SIZE, FLOAT)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
)
_UNITS = {unit: base ** (i + 1) for base, units in ((1000, "kmgt"), (1024, "KMGT")) for i, unit in enumerate(units)}
_READABLE = re.compile(r"[0-9][kmgtKMGT]\b")
_BOUND = re.compile(r"([<>]=?)(-?[0-9.]+)")


@dataclass(frozen=True)
class Flag:
    """``names``: every spelling, the usual one first. ``takes``: what follows it, one of KINDS.

    ``switch``: nothing. ``pair``: nothing, and --no-x is its opposite. ``optional``: a value or nothing. ``list``: one
    value or more. ``any``: any number of values. ``size``: a whole number such as 4096 or 4k. ``choices``: all values, empty
    where there are more than these; ``bounds``: comparisons that a number must pass. ``loose``: as a help shows no more, it
    may be that choices count in any case, and with - for _.
    """

    names: tuple[str, ...]
    takes: str = TEXT
    choices: tuple[str, ...] = ()
    bounds: tuple[tuple[str, float], ...] = ()
    loose: bool = False

    @property
    def name(self) -> str:
        """The usual spelling."""
        return self.names[0]

    @property
    def boolean(self) -> bool:
        """Does nothing follow it?"""
        return self.takes in (SWITCH, PAIR)

    def refusal(self, text: str) -> str | None:
        """Why the flag refuses this value, as the end of a sentence that begins with the flag; None if it takes it."""
        if self.boolean:
            return f"is a switch and takes no value, so not {text[:60]!r}"
        if self.choices and text not in self.choices and not (self.loose and _plain(text) in map(_plain, self.choices)):
            return f"takes one of {', '.join(self.choices)}, not {text[:60]!r}"
        if self.takes == JSON and _is_broken(text):
            return f"takes JSON, not {text[:60]!r}: names and texts in double quotes, all of it in single ones"
        number: float | None = None
        try:
            if self.takes == INT:
                number = int(text)
            elif self.takes == FLOAT:
                number = float(text)
            elif self.takes == SIZE and text != "auto":
                number = size(text)
                if not isinstance(number, int):
                    return f"takes a whole number, not {text[:60]!r}"
        except ValueError:
            return f"takes a {'whole ' if self.takes == INT else ''}number, not {text[:60]!r}"
        wrong = [
            (sign, bound) for sign, bound in self.bounds if number is not None and not _COMPARE[sign](number, bound)
        ]
        return f"takes a number {wrong[0][0]} {wrong[0][1]:g}, not {text[:60]}" if wrong else None


def _is_broken(text: str) -> bool:
    """Does it begin as a JSON object and is none? An engine may take numbers such as 4k in it."""
    if not text.lstrip().startswith("{") or _READABLE.search(text):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def _plain(text: str) -> str:
    return text.lower().replace("-", "_")


@dataclass(frozen=True)
class Spelling:
    """A flag as it is written: ``path`` is the rest of --x.a.b, ``negated`` says that it is --no-x."""

    flag: Flag
    path: str = ""
    negated: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Equal for all spellings that set the same thing."""
        return self.flag.name, self.path

    def refusal(self, value: Value | None) -> str | None:
        """Why the flag refuses this value, or the lack of one, as the end of a sentence; None if it takes it."""
        if self.path:
            return None if value is not None else "needs a value"
        if self.flag.boolean:
            return None if value is None or isinstance(value, bool) else self.flag.refusal(str(value))
        if value is None:
            return None if self.flag.takes in (OPTIONAL, ANY) else f"needs a value{self._which}"
        if isinstance(value, bool):
            return f"takes a value{self._which}; true and false are not values of it"
        return self.flag.refusal(str(value))

    @property
    def _which(self) -> str:
        return f" (one of {', '.join(self.flag.choices)})" if self.flag.choices else ""


class Flags:
    """All flags of one command line. ``underscores``: --max_num_seqs is the same as --max-num-seqs. ``shortened``: the flags
    for which the beginning of a name may stand, if it is that of no other name, as argparse takes it.
    """

    def __init__(self, flags: Iterable[Flag] = (), underscores: bool = False, shortened: Iterable[Flag] = ()) -> None:
        self.all = tuple(flags)
        self._underscores = underscores
        self._shortened = tuple(shortened)

    @cached_property
    def _by_name(self) -> dict[str, Flag]:
        return {name: flag for flag in self.all for name in flag.names}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every spelling, sorted."""
        return tuple(sorted(self._by_name))

    @cached_property
    def _whole_names(self) -> tuple[str, ...]:
        """Every spelling that may be cut short, --no-x of a pair included, sorted."""
        names = {name for flag in self._shortened for name in flag.names}
        pairs = (name for flag in self._shortened if flag.takes == PAIR for name in flag.names)
        return tuple(sorted(names | {f"--no-{name[2:]}" for name in pairs if name.startswith("--")}))

    def attached(self, argument: str) -> tuple[str, str] | None:
        """A flag of one letter and the value that is written at it (-O3); None if it is something else."""
        return (argument[:2], argument[2:]) if len(argument) > 2 and self._lettered(argument) else None

    def _lettered(self, argument: str) -> bool:
        flag = self._by_name.get(argument[:2])
        if flag is None or flag.boolean or argument[2] in "=." or (flag.takes == TEXT and argument[2].isalpha()):
            return False
        return self.find(argument) is None and flag.refusal(argument[2:]) is None

    def find(self, written: str) -> Spelling | None:
        """The flag that is written like this, without its value; None if there is none."""
        whole = self.whole(written)
        spelling = self._find(self._name(whole))
        _, dot, path = whole.partition(".")
        if spelling is None or not dot:
            return spelling
        return (
            Spelling(spelling.flag, path.removesuffix("+"))
            if spelling.flag.takes == JSON and path.strip(".+")
            else None
        )

    def _name(self, written: str) -> str:
        """The name before any path, with - for _ where both are the same."""
        name = written.partition(".")[0]
        return name.replace("_", "-") if name.startswith("--") and self._underscores else name

    def _find(self, name: str) -> Spelling | None:
        if flag := self._by_name.get(name):
            return Spelling(flag)
        opposite = self._by_name.get("--" + name.removeprefix("--no-")) if name.startswith("--no-") else None
        return Spelling(opposite, negated=True) if opposite and opposite.takes == PAIR else None

    def candidates(self, written: str) -> tuple[str, ...]:
        """The names that begin like this one, sorted; empty if it is the name of a flag, or may not be cut short."""
        name = self._name(written)
        if self._find(name) or not is_flag(name):
            return ()
        return tuple(whole for whole in self._whole_names if whole.startswith(name))

    def whole(self, written: str) -> str:
        """A name that is cut short, in full; any other as it is."""
        candidates = self.candidates(written)
        _, dot, path = written.partition(".")
        return candidates[0] + dot + path if len(candidates) == 1 else written

    def usual(self, argv: Iterable[str]) -> tuple[str, ...]:
        """The arguments, each known flag in its usual spelling: --max-num-seqs=4 for --max_num_se=4."""
        return tuple(self._usual(argument) for argument in argv)

    def _usual(self, argument: str) -> str:
        if not is_flag(argument):
            return argument
        name, equals, value = argument.partition("=")
        if attached := self.attached(argument):
            name, equals, value = attached[0], "=", attached[1]
        spelling = self.find(name)
        if spelling is None:
            return argument
        _, dot, path = name.partition(".")
        usual = f"--no-{spelling.flag.name.lstrip('-')}" if spelling.negated else spelling.flag.name
        return usual + dot + path + equals + value


def is_flag(argument: str) -> bool:
    """Does this argument name a flag? A negative number does not."""
    return re.match(r"--?[A-Za-z]", argument) is not None and " " not in argument.partition("=")[0]


def size(text: str) -> float | int | None:
    """The number of a text such as 4096, 0.9 or 4k (1,000; K is 1,024); None if it is none."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "")
    if not re.fullmatch(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?", number):
        return None
    value = float(number) * _UNITS.get(unit, 1)
    return int(value) if value.is_integer() else value


def read_flags(text: str) -> tuple[Flag, ...]:
    """The flags of a list with one in each line: ``--max-num-seqs -s = int >=1``, ``--mode = fast|slow``."""
    return tuple(_read(line) for line in text.splitlines() if line.startswith("-"))


def _read(line: str) -> Flag:
    names, _, rest = line.partition(" = ")
    takes, *bounds = rest.split()
    pairs = tuple((m[1], float(m[2])) for m in map(_BOUND.fullmatch, bounds) if m)
    if takes in KINDS:
        return Flag(tuple(names.split()), takes, (), pairs)
    return Flag(tuple(names.split()), TEXT, tuple(takes.split("|")))
