"""The flags of an engine's command line: how each is spelled, what follows it, and what the engine would refuse."""

from __future__ import annotations

import difflib
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from swarmtune.engines.json_parts import level_hint, part_refusal
from swarmtune.records import Value

SWITCH, PAIR, OPTIONAL, LIST, ANY, TEXT = "switch", "pair", "optional", "list", "any", "text"
JSON, CONFIG, OBJECT = "json", "config", "object"
INT, SIZE, FLOAT = "int", "size", "float"
KINDS = (SWITCH, PAIR, OPTIONAL, LIST, ANY, TEXT, JSON, CONFIG, OBJECT, INT, SIZE, FLOAT)
PARTED = (JSON, CONFIG)  # --x.key gives a part of their value
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "!=": operator.ne}
)
_UNITS = {unit: base ** (i + 1) for base, units in ((1000, "kmgt"), (1024, "KMGT")) for i, unit in enumerate(units)}
_READABLE = re.compile(r'("(?:[^"\\]|\\.)*")|\b([0-9]+(?:\.[0-9]+)?)[kmgtKMGT]\b')  # in JSON, outside of its texts
_SEVERAL = re.compile(r"\[?\s*-?\d+(\s*[ ,]\s*-?\d+)+\s*\]?")
_BOUND = re.compile(r"([<>]=?|!=)(-?[0-9.]+)")
NOTHING = ("", "None", "null")
COUNTS = frozenset({"num_speculative_tokens"})  # parts of JSON that must be whole numbers above 0


@dataclass(frozen=True)
class Flag:
    """``names``: every spelling, the usual one first. ``takes``: what follows it, one of KINDS.

    ``switch``: nothing. ``pair``: nothing, and --no-x is its opposite. ``optional``: a value or nothing. ``list``: one
    value or more. ``any``: any number of values. ``object``: a JSON object; ``config``: the same, and --x.key gives a part;
    ``json``: a part, a JSON object, or a text. ``size``: a whole number such as 4096 or 4k. ``choices``: all values, empty
    where there are more than these; ``bounds``: comparisons that a number must pass; that of
    a ``config`` may then be a number, too. ``loose``: as a help shows no more, it
    may be that choices count in any case, and with - for _. ``words``: what it takes in place of a number. ``usual``: values
    that it takes among others, which may be registered elsewhere: only a misspelling of one is refused.
    """

    names: tuple[str, ...]
    takes: str = TEXT
    choices: tuple[str, ...] = ()
    bounds: tuple[tuple[str, float], ...] = ()
    loose: bool = False
    words: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The usual spelling."""
        return self.names[0]

    @property
    def boolean(self) -> bool:
        """Does nothing follow it?"""
        return self.takes in (SWITCH, PAIR)

    def _json_refusal(self, text: str) -> str | None:
        """An engine may take numbers such as 4k in JSON."""
        opened = text.lstrip().startswith("{")
        if not opened and (self.takes == JSON or text in NOTHING or (self.bounds and text.isdecimal())):
            return None
        try:
            read = json.loads(_READABLE.sub(lambda match: match[1] or match[2], text))
        except (ValueError, RecursionError):
            return f"takes JSON, not {text[:60]!r}: names and texts in double quotes, all of it in single ones"
        if not opened or not isinstance(read, dict):
            return f"takes a JSON object, not {text[:60]!r}{level_hint(self.name, text)}"
        return next(filter(None, (part_refusal(self.name, part, value) for part, value in read.items())), None)

    def refusal(self, text: str) -> str | None:
        """Why the flag refuses this value, as the end of a sentence that begins with the flag; None if it takes it."""
        if text in self.words:
            return None
        if self.boolean:
            return f"is a switch and takes no value, so not {text[:60]!r}"
        if self.choices and text not in self.choices and not (self.loose and _plain(text) in map(_plain, self.choices)):
            return f"takes one of {', '.join(self.choices)}, not {text[:60]!r}"
        if meant := _meant(text[:60], self.usual):
            return f"takes {meant!r}, not {text[:60]!r}, unless that is registered, too"
        if self.takes in (LIST, ANY) and _SEVERAL.fullmatch(text.strip()):
            return (
                f"takes several arguments, and {text[:60]!r} is one; let the value be the whole option, "
                f"{f'{self.name} 1 2 4'!r}, and write $NAME of the field in others"
            )
        if self.takes in (JSON, CONFIG, OBJECT) and (wrong_json := self._json_refusal(text)):
            return wrong_json
        number: float | None = None
        try:
            if self.takes == INT or (self.takes == CONFIG and self.bounds and text.isdecimal()):
                number = int(text)
            elif self.takes == FLOAT:
                number = float(text)
            elif self.takes == SIZE and text != "auto":
                number = size(text)
                if not isinstance(number, int):
                    return f"takes a whole number, not {text[:60]!r}"
        except ValueError:
            words = "".join(f", {word}" for word in self.words)
            return f"takes a {'whole ' if self.takes == INT else ''}number{words}, not {text[:60]!r}"
        wrong = [
            (sign, bound) for sign, bound in self.bounds if number is not None and not _COMPARE[sign](number, bound)
        ]
        return f"takes a number {wrong[0][0]} {wrong[0][1]:g}, not {text[:60]}" if wrong else None


def _meant(text: str, usual: tuple[str, ...]) -> str | None:
    """The usual value that this text misspells; None if it is one, resembles none, or begins or ends as one does."""
    plain = {_plain(one): one for one in usual}
    if _plain(text) in plain:
        return None
    near = difflib.get_close_matches(_plain(text), list(plain), n=1, cutoff=0.8)
    return plain[near[0]] if near and near[0] not in _plain(text) and _plain(text) not in near[0] else None


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
            if value is not None and self.path in COUNTS:
                return Flag((self.flag.name,), INT, (), ((">=", 1),)).refusal(str(value))
            return "needs a value" if value is None else part_refusal(self.flag.name, self.path, value)
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
        return self.find(argument) is None and (argument[2].isdecimal() or flag.refusal(argument[2:]) is None)

    def find(self, written: str) -> Spelling | None:
        """The flag that is written like this, without its value; None if there is none."""
        whole = self.whole(written)
        spelling = self._find(self._name(whole))
        _, dot, path = whole.partition(".")
        if spelling is None or not dot:
            return spelling
        return (
            Spelling(spelling.flag, path.removesuffix("+"))
            if spelling.flag.takes in PARTED and path.strip(".+")
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
    """The number of a text such as 4096, 0.9, 1.5k (1,500) or 4K (4,096); None if it is none, as 1.5K is for vLLM."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "")
    if not re.fullmatch(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?", number):
        return None
    if unit.isupper() and "." in number:
        return None
    value = float(number) * _UNITS.get(unit, 1)
    return int(value) if value.is_integer() else value


def read_flags(text: str) -> tuple[Flag, ...]:
    """The flags of a list, one a line: ``--max-num-seqs -s = int >=1``, ``--mode = fast|slow``, ``--layers = int all``."""
    return tuple(_read(line) for line in text.splitlines() if line.startswith("-"))


def with_values(flags: Iterable[Flag], known: Iterable[Flag]) -> tuple[Flag, ...]:
    """The flags, each with the choices that ``known`` has for it; they count in any case, and with - for _."""
    choices = {flag.name: flag.choices for flag in known}
    return tuple(
        replace(flag, choices=choices[flag.name], loose=True) if flag.name in choices else flag for flag in flags
    )


def _read(line: str) -> Flag:
    names, _, rest = line.partition(" = ")
    takes, *more = rest.split()
    pairs = tuple((m[1], float(m[2])) for m in map(_BOUND.fullmatch, more) if m)
    if takes in KINDS:
        return Flag(tuple(names.split()), takes, (), pairs, words=tuple(w for w in more if not _BOUND.fullmatch(w)))
    return Flag(tuple(names.split()), TEXT, tuple(takes.split("|")))
