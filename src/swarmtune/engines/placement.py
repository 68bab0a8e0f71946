"""Where the values of a setting go, by the ``config_position`` of their fields. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from swarmtune.records import Setting, Value
from swarmtune.space import Field

# Names, in lower case, of fields that set the load; the service itself never gets them.
LOAD_FIELDS: Mapping[str, Literal["concurrency", "request_rate"]] = MappingProxyType(
    {
        "concurrency": "concurrency",
        "maxconcurrency": "concurrency",
        "max_concurrency": "concurrency",
        "request_rate": "request_rate",
        "requestrate": "request_rate",
    }
)
_NAME = re.compile(r"--?[A-Za-z]")
_OPTION = re.compile(r"--?[A-Za-z]\S*\s")  # the name of a flag, and something behind it
_CONTINUED = re.compile(r"\\\r?\n")  # the end of a line that goes on
_TOKEN = re.compile(r"\$(?:\{([A-Z][A-Z0-9_]*)\}|([A-Z][A-Z0-9_]*))")


@dataclass(frozen=True)
class LiveRequest:
    """A request that sets parameters of a running service: ``body`` is one JSON object of names and values."""

    method: str
    path: str
    body: Mapping[str, Value]


BoolStyle = Literal["pair", "present", "value"]  # --x / --no-x; --x or nothing; --x true


@dataclass(frozen=True)
class Placed:
    """The values of one setting by the kind of place they go to."""

    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Value] = field(default_factory=dict)


def load_field(name: str) -> Literal["concurrency", "request_rate"] | None:
    """The part of the load that a field of this name sets; None: it sets a parameter of the service."""
    return LOAD_FIELDS.get(name.lower())


def text(value: Value) -> str:
    """A value as environment variables and arguments show it: booleans as true/false, whole floats as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def flag(name: str, value: Value, style: BoolStyle = "pair") -> tuple[str, ...]:
    """One flag as arguments; ``style`` is how this engine writes booleans."""
    if isinstance(value, bool) and style != "value":
        if value:
            return (name,)
        return (opposite(name),) if style == "pair" else ()
    return (name, text(value))


def opposite(name: str) -> str:
    """--no-x of --x, and --x of --no-x."""
    return "--" + name.removeprefix("--no-") if name.startswith("--no-") else "--no-" + name.removeprefix("--")


def place(
    fields: Iterable[Field],
    setting: Setting,
    flag_of: Callable[[str], str | None] = lambda _: None,
    write: Callable[[str, Value], tuple[str, ...]] = flag,
) -> Placed:
    """The values of a setting that are part of how the service is started, by place.

    ``flag_of`` maps the names of fields with the position "env" to the flags of this engine; None: it has no such flag.
    ``write`` makes the arguments of one flag and its value.
    """
    flags: list[str] = []
    env: dict[str, str] = {}
    document: dict[str, Value] = {}
    for f in fields:
        if f.name not in setting.values or load_field(f.name) or f.live or not f.active(setting.values):
            continue
        value = setting.values[f.name]
        name = f.config_position if f.config_position.startswith("-") else None
        if f.config_position == "env":
            name = flag_of(f.name)
            if name is None:
                env[f.name.upper()] = text(value)
        if name is not None:
            flags += write(name, value)
        elif f.config_position != "env":
            document[f.config_position] = value
    return Placed(tuple(flags), env, document)


def placed_twice(fields: Iterable[Field], key: str) -> list[str]:
    """A sentence for each field whose place an earlier one has, unless conditions keep them apart."""
    owners: dict[str, Field] = {}
    found = []
    for made in fields:
        first = owners.setdefault(made.config_position, made)
        if first is not made and not made.live and made.config_position != "env" and not (first.when and made.when):
            found.append(
                f"{key}.target_field {made.name}: {first.name} sets {made.config_position} too; leave one of them out"
            )
    return found


def live_requests(fields: Iterable[Field], setting: Setting) -> tuple[LiveRequest, ...]:
    """The values that are sent to the running service, one request for each method and path.

    A field that is at rest (``when``) is sent with its resting value: the service may still have that of an earlier setting.
    """
    bodies: dict[tuple[str, str], dict[str, Value]] = {}
    for f in fields:
        if f.live and f.name in setting.values and not load_field(f.name):
            bodies.setdefault(f.live, {})[f.name] = setting.values[f.name]
    return tuple(LiveRequest(method, path, body) for (method, path), body in bodies.items())


PLACES = ("HOST", "PORT", "MODEL")  # what engines add to the values of fields


def tokens(setting: Setting, **more: str) -> dict[str, str]:
    """The values of ``$UPPER_NAME``: every value of the setting, and what the engine adds (PORT, MODEL, ...)."""
    return {**{name.upper(): text(value) for name, value in setting.values.items()}, **more}


def unknown_tokens(argv: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names of ``$UPPER_NAME`` tokens in the arguments that have no value."""
    names = set(known)
    found = (a or b for argument in argv for a, b in _TOKEN.findall(argument))
    return [n for n in dict.fromkeys(found) if n not in names]


def lone_token(argument: str) -> str:
    """The NAME of an argument that is $NAME or ${NAME} and nothing else; empty if it is not."""
    match = _TOKEN.fullmatch(argument)
    return (match[1] or match[2]) if match else ""


def substitute(argv: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Replace ``$UPPER_NAME`` and ``${UPPER_NAME}``; unknown names stay as they are. Empty arguments are dropped.

    A $NAME that stands alone and whose value is a whole option with its argument (``--mode fast``) becomes several
    arguments, by the quoting rules of a shell.
    """

    def known(match: re.Match[str]) -> str:
        return values.get(match[1] or match[2], match[0])

    replaced: list[str] = []
    for argument in argv:
        made = _TOKEN.sub(known, argument)
        replaced += _words(made) if lone_token(argument) and _OPTION.match(made) else [made]
    return tuple(argument for argument in replaced if argument)


def _words(option: str) -> Sequence[str]:
    try:
        return split(option)
    except ValueError:  # a quote that is not closed; the engine's mistakes name it
        return [option]


def without_given(flags: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """``flags`` without those that ``given`` already has in any form (--x, --no-x, --x=1)."""
    names = {_bare(g) for g in given if g.startswith("--")}
    kept: list[str] = []
    skipping = False
    for argument in flags:
        if _NAME.match(argument):
            skipping = _bare(argument) in names
        if not skipping:
            kept.append(argument)
    return tuple(kept)


def _bare(argument: str) -> str:
    name = argument.partition("=")[0].removeprefix("--").replace("_", "-")
    return name.removeprefix("no-")


def split(arguments: str | Sequence[str]) -> tuple[str, ...]:
    """Extra arguments as the user wrote them: a list as it is, a text by the quoting rules of a shell, a line that ends in a
    backslash joined with the next one.

    ValueError if a quote is not closed.
    """
    return tuple(shlex.split(_CONTINUED.sub("", arguments))) if isinstance(arguments, str) else tuple(arguments)
