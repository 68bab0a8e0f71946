"""The help of an installed engine: which flags it has, what follows each, and which values it takes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from swarmtune.engines.flags import ANY, CONFIG, JSON, LIST, OPTIONAL, PAIR, PARTED, SWITCH, TEXT, Flag
from swarmtune.engines.schema import Schema, normal

MOST_BYTES = 2**21  # of a help text
ALWAYS = frozenset({"--host", "--port"})  # a help without these is not that of a server
LEVELS = (
    (">=", 0.0),
    ("<=", 3.0),
)  # that vLLM takes in place of JSON where -O is --compilation-config and no flag of its own
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# The start of an option: its own line, indented by a few spaces. Two spaces end it, unless they follow a comma.
_OPTION_LINE = re.compile(r"^[ \t]{0,8}(-{1,2}[A-Za-z0-9].*)$")
_DESCRIPTION = re.compile(r"(?<=[^,\s])\s{2,}")
_SPELLING = re.compile(r"(--?[A-Za-z0-9][\w-]*)(?: (\S.*))?")
_CHOICES = re.compile(r"\{([^{}]+)\}|\[([\w.+-]+(?:\|[\w.+-]+)+)\]")
_USUAL = re.compile(r"\{([^{}]+)\} or name registered in .*|\[('[^\[\]]+')\]")  # as vLLM writes: it takes others, too
_VERSION = re.compile(r"^(?:[A-Za-z][\w.-]*[ :,]+){0,5}v?(\d+\.\d+[\w.+!-]*)[ \r]*(?:\(.*)?$", re.MULTILINE)


def read_help(text: str) -> tuple[Flag, ...]:
    """The flags that a help text of argparse or of llama.cpp defines, in their order; not those that it only mentions.

    ``--x, --no-x`` is a pair. ``{a,b}`` lists all values, ``['a', 'b']`` the usual ones. Any other line defines nothing and
    raises nothing.
    """
    found: dict[str, Flag] = {}
    body: list[str] = []
    last = ""
    for line in [*_ESCAPE.sub("", text[:MOST_BYTES]).splitlines(), "--end"]:
        match = _OPTION_LINE.match(line)
        if match is None:
            body.append(line)
            continue
        if last and found[last].takes == TEXT and "valid JSON" in " ".join(" ".join(body).split()):
            found[last] = replace(found[last], takes=JSON)  # --x.key value is taken, too
        flag = _defined(_DESCRIPTION.split(match[1], maxsplit=1)[0])
        body, last = [match[1]], flag.name if flag and flag.name not in found else ""
        if flag is not None:
            found.setdefault(flag.name, flag)
    found.pop("--end", None)
    return tuple(found.values())


def _defined(declaration: str) -> Flag | None:
    """The flag that the beginning of an option's lines defines; None if it defines none."""
    parts = [_SPELLING.fullmatch(part.strip()) for part in re.split(r"\s*[,/|]\s+(?=-)", declaration)]
    spelled = [match for match in parts if match]
    value = next((match[2] for match in spelled if match[2]), "").strip()
    if parts[0] is None or value[:1] in ("'", '"'):  # an example
        return None
    names = [match[1] for match in spelled]
    positive = [
        name for name in names if "--" + name.removeprefix("--no-") not in names or not name.startswith("--no-")
    ]
    names = sorted(positive, key=lambda name: not name.startswith("--"))  # the long spelling is the usual one
    if not value:
        return Flag(tuple(names), SWITCH if len(positive) == len(spelled) else PAIR)
    choices = _CHOICES.fullmatch(value.removeprefix("[").removesuffix("]") if value.startswith("[{") else value)
    values = tuple((choices[1] or choices[2].replace("|", ",")).split(",")) if choices else ()
    values = () if any(one.strip() in ("", "...") for one in values) else tuple(one.strip() for one in values)
    usual = _USUAL.fullmatch(value)
    known = tuple(one.strip(" '") for one in (usual[1] or usual[2]).split(",")) if usual else ()
    return Flag(tuple(names), _takes(value), values, loose=bool(values), usual=known)


def _takes(value: str) -> str:
    if value.startswith("['"):  # some of the values that it takes
        return TEXT
    if value.startswith("[") and "..." in value:
        return ANY
    if " " in value:
        return LIST if "..." in value or re.fullmatch(r"[\w-]+( [\w-]+)+", value) else TEXT
    return OPTIONAL if value.startswith("[") and value.endswith("]") and "|" not in value else TEXT


def help_schemas(schema: Schema, text: str, versions: str) -> tuple[Schema, Schema] | None:
    """Two schemas of an engine whose help is ``text``; None if that is not the help of a server.

    The first has the flags of the help alone, for what it would refuse; the second has also those of ``schema``, so that
    fields keep their parameters. What the help does not tell (kinds of numbers, bounds) is taken over from ``schema``.
    ``versions``: as in ``Schema``.
    """
    printed = read_help(text)
    flags, rest = [], {flag.name: flag for flag in schema.flags}
    spellings = {name for flag in printed for name in flag.names}
    if not spellings >= ALWAYS:
        return None
    for flag in printed:
        near = next((f for f in rest.values() if not set(f.names).isdisjoint(flag.names)), None)
        if near is not None:
            hidden = tuple(n for n in rest.pop(near.name).names if n in flag.names or n not in spellings)
            flag = _merged(flag, replace(near, names=hidden))  # noqa: PLW2901
        flags.append(flag)
    names = {normal(name) for flag in flags for name in flag.names}
    parameters = tuple(p for p in schema.parameters if normal(p.name) in names or not p.name.startswith("-"))
    alone = replace(schema, flags=tuple(flags), parameters=parameters, versions=versions, complete=True)
    taken = {name for flag in flags for name in flag.names}
    others = [replace(f, names=free) for f in rest.values() if (free := tuple(n for n in f.names if n not in taken))]
    return alone, replace(schema, flags=(*flags, *others), installed=tuple(flags))


def _merged(flag: Flag, known: Flag) -> Flag:
    """The flag of a help, with what is known of it besides. Its usual name stays, and so do spellings that no help shows."""
    names = (*known.names, *(n for n in flag.names if n not in known.names))
    loose = flag.loose and not known.choices
    if flag.takes in (TEXT, LIST, JSON) and not known.boolean and known.takes != OPTIONAL:
        takes = known.takes if flag.takes == TEXT or (flag.takes == JSON and known.takes in PARTED) else flag.takes
        bounds = LEVELS if takes == CONFIG and "-O" in flag.names else known.bounds
        return Flag(names, takes, flag.choices, () if flag.choices else bounds, loose, usual=flag.usual)
    return replace(flag, names=names, loose=loose)


def version_in(text: str) -> str:
    """The version number in the first line that says little else, such as ``vllm 0.32.0``; empty if there is none."""
    match = _VERSION.search(_ESCAPE.sub("", text[:10_000]))
    return match[1][:80].rstrip(".-!") if match else ""


def flags_in_help(text: str) -> frozenset[str]:
    """All long flags that a help text defines, --no-x of a pair included."""
    flags = read_help(text)
    names = {name for flag in flags for name in flag.names if name.startswith("--")}
    pairs = {f"--no-{name[2:]}" for flag in flags if flag.takes == PAIR for name in flag.names if name.startswith("--")}
    return frozenset(names | pairs)


def missing_in_help(text: str, names: Iterable[str]) -> list[str]:
    """Those of these flags that the help does not list; --no-x stands behind --x."""
    known = {normal(flag).removeprefix("no-") for flag in flags_in_help(text)}
    return [name for name in names if normal(name).removeprefix("no-") not in known]
