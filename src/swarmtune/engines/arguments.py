"""The further arguments of a service (``others``), read as the engine reads them, and what it would refuse of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarmtune.engines.flags import ANY, LIST, Flags, Spelling, is_flag
from swarmtune.engines.placement import lone_token, split
from swarmtune.space import Field

_TOKEN = re.compile(r"\$\{?[A-Z]")


@dataclass
class Given:
    """One flag as it was written, and the arguments that belong to it. ``where``: the key of the configuration."""

    written: str
    where: str
    spelling: Spelling | None  # None: the engine has no such flag
    values: list[str] = field(default_factory=list)

    @property
    def literal(self) -> str | None:
        """What it sets: its only value, "true" or "false" of a switch; None if that is open or the value of a field."""
        if self.spelling and self.spelling.flag.boolean and not self.values:
            return "false" if self.spelling.negated else "true"
        return self.values[0] if len(self.values) == 1 and not _TOKEN.search(self.values[0]) else None

    @property
    def effect(self) -> tuple[str, ...]:
        """Equal for all that set the same value of the same flag."""
        return tuple(self.values) if self.literal is None else (self.literal,)

    @property
    def adds(self) -> bool:
        """May its values be added to those of the same flag before it?"""
        listed = self.spelling is not None and self.spelling.flag.takes in (LIST, ANY)
        return listed or self.written.endswith("+")

    @property
    def token(self) -> str:
        """The NAME of $NAME, if that is its only value."""
        return lone_token(self.values[0]) if len(self.values) == 1 else ""

    @property
    def full(self) -> bool:
        """Can no further argument belong to it?"""
        if self.spelling is None:
            return bool(self.values)
        flag = self.spelling.flag
        return flag.boolean or (bool(self.values) and (flag.takes not in (LIST, ANY) or bool(self.spelling.path)))

    def refusal(self) -> str | None:
        """What the engine would refuse, as the rest of a sentence that begins with the flag; None: nothing."""
        if self.spelling is None or any(_TOKEN.search(value) for value in self.values):
            return None
        takes = self.spelling.flag.takes
        if takes in (LIST, ANY) and not self.spelling.path:
            return None if self.values or takes == ANY else "needs a value"
        return self.spelling.refusal(self.values[0] if self.values else None)


@dataclass(frozen=True)
class Arguments:
    """Arguments taken apart. ``words``: those that belong to no flag. ``tokens``: the NAMEs of $NAMEs that stand alone, each
    with the number of flags before it, the last time that it stands there.
    """

    given: tuple[Given, ...]
    words: tuple[str, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)


def read(argv: Sequence[str], flags: Flags, where: str) -> Arguments:
    """Take arguments apart; ``where`` is the key of the configuration that holds them."""
    given: list[Given] = []
    words: list[str] = []
    tokens: dict[str, int] = {}
    for argument in argv:
        if is_flag(argument):
            name, equals, value = argument.partition("=")
            if attached := flags.attached(argument):
                name, value = attached
            given.append(Given(name, where, flags.find(name), [value] if equals or attached else []))
        elif given and not given[-1].full:
            given[-1].values.append(argument)
        elif token := lone_token(argument):
            tokens[token] = len(given)
        elif given and given[-1].spelling is None:
            given[-1].values.append(argument)
        else:
            words.append(argument)
    return Arguments(tuple(given), tuple(words), tokens)


def options(made: Field, flags: Flags, where: str) -> tuple[Given, ...]:
    """The flags in the values of a field whose $NAME stands alone: each value is a whole option with its argument."""
    choices = made.dtype_param if isinstance(made.dtype_param, (list, tuple)) else ()
    texts = dict.fromkeys(
        v for v in (made.value, made.constant, *choices) if isinstance(v, str) and is_flag(v.split(" ")[0])
    )
    found: list[Given] = []
    for text in texts:
        try:
            found += read(split(text), flags, where).given
        except ValueError:
            found.append(Given(text, where, None))
    return tuple(found)


def literals(given: Iterable[Given]) -> dict[tuple[str, str], str]:
    """The values that the arguments fix, by the key of the flag. The last of equal flags counts."""
    last = {one.spelling.key: one.literal for one in given if one.spelling}
    return {key: literal for key, literal in last.items() if literal is not None}
