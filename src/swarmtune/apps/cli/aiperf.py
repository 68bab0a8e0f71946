"""AIPerf's names for the options of ``swarmtune bench``, from aiperf.toml: what each means here, or why it is refused.

A command line is translated word by word before it is parsed: argparse, too, takes a word that begins with a dash for an
option wherever it stands.
"""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from swarmtune.apps.cli import CommandParser, near
from swarmtune.apps.cli.actions import END_OF_FILE
from swarmtune.errors import ConfigPathError, ConfigValidationError, one_line
from swarmtune.files import opened
from swarmtune.sources import MAX_DEPTH, too_deep

VERSION = "0.13.0"
TABLE = Path(__file__).with_name("aiperf.toml")
CONFIG = ("--config", "-f")
LIMIT = re.compile(r"[A-Za-z_]+:[\d.]+")  # of --goodput
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
LARGEST_FILE = 1_000_000  # bytes of a file of options
SHAPES = {"constant": "constant", "poisson": "poisson", "gamma": "gamma"}  # phase types that are arrivals of a rate
LOADS = (*SHAPES, "concurrency", "fixed_schedule", "user_centric")
PATHS = ("/chat/completions", "/completions", "/embeddings", "/responses")
IDLE = frozenset(  # keys of AIPerf's file that say nothing that could differ here
    ("dataset.type", "schemaVersion", "profiling.name", "warmup.name", "warmup.excludeFromResults", "artifacts.summary",
     "artifacts.records", "profiling.excludeFromResults", "serverMetrics.enabled", "gpuTelemetry.enabled")
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """Why an option of AIPerf is not taken, and what comes near to it."""

    reason: str
    near: str

    def text(self, name: str) -> str:
        """One line for people."""
        return f"{name} is not supported, because {self.reason}; near: {self.near}"


@dataclass(frozen=True)
class Names:
    """The table. ``alias``: our option; ``words``: what stands for an option without a value; ``only``: the one value that
    is accepted, and why; ``values``: for an option's value, what stands for both; ``unlike``: values that are refused;
    ``elsewhere``: options of other tools, and what they are here; ``config``: keys of AIPerf's file.
    """

    alias: Mapping[str, str]
    words: Mapping[str, Sequence[str]]
    only: Mapping[str, Mapping[str, str]]
    values: Mapping[str, Mapping[str, Sequence[str]]]
    elsewhere: Mapping[str, str]
    config: Mapping[str, str]
    refused: Mapping[str, Refusal]
    unlike: Mapping[str, Mapping[str, Refusal]]


@cache
def names() -> Names:
    """The table of the file beside this module."""
    data = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    refused = {name: Refusal(one["reason"], one["near"]) for one in data["refused"] for name in one["names"]}
    unlike = {name: {value: Refusal(**one) for value, one in values.items()} for name, values in data["unlike"].items()}
    return Names(
        data["alias"], data["words"], data["only"], data["values"], data["elsewhere"], data["config"], refused, unlike
    )


def translated(arguments: Sequence[str]) -> list[str]:
    """The command line in our own words, those of a file of options in front. ConfigValidationError with every option that
    is refused; ConfigPathError if the file cannot be read.
    """
    given: list[str] = []
    mistakes: list[str] = []
    files: list[str] = []
    rest = iter(_one_goodput(arguments, mistakes))
    for word in rest:
        name, equals, value = _parts(word)
        if name in CONFIG:
            files.append(value if equals else next(rest, ""))
        else:
            given += _translate(name, equals, value, rest, mistakes)
    known = {_stem(word) for word in given if word.startswith("-")}
    before = [word for path in files for word in _from_file(Path(path), mistakes) if _stem(word) not in known]
    if "--json" in before:
        mistakes.append(
            "--config: --json belongs on the command line: it decides what standard output is from the start"
        )
    mistakes += [
        f"{one_line(word)[:200]} is not UTF-8 text"
        for word in (*before, *given)
        if not word.isascii() and not utf8(word)
    ]
    if mistakes:
        raise ConfigValidationError(mistakes)
    return [*before, END_OF_FILE, *given] if before else given


def utf8(text: str) -> bool:
    """Can it be written? Bytes of the command line that are no characters, and halves of characters in a file, cannot."""
    return text.encode(errors="replace").decode() == text


def _one_goodput(arguments: Sequence[str], mistakes: list[str]) -> list[str]:
    """The limits of --goodput as one word, where they come as several, as with vLLM."""
    found: list[str] = []
    for word in arguments:
        limits = found[-1].partition("=")[2] if found and found[-1].startswith("--goodput=") else ""
        if found and found[-1] == "--goodput":
            found[-1] = f"--goodput={word}"
        elif limits and LIMIT.fullmatch(word):
            found[-1] += f" {word}"
        else:
            found.append(word)
    if "--goodput=" in found:
        mistakes.append("--goodput is empty: give limits, such as time_to_first_token:200, or leave it out")
    return found


def _parts(word: str) -> tuple[str, str, str]:
    """Name, "=" and value; a short option may have its value behind it: -b4."""
    name, equals, value = word.partition("=")
    if word.startswith("--") or len(word) < 3 or word in names().words:
        return name, equals, value
    return (word[:2], "=", word[2:].removeprefix("=")) if word[:2] in (*names().alias, "-f") else (word, "", "")


def _stem(word: str) -> str:
    """The name of an option without its value, and without the "no" of a switch."""
    return word.partition("=")[0].replace("--no-", "--", 1)


def _translate(name: str, equals: str, value: str, rest: Iterator[str], mistakes: list[str]) -> list[str]:
    table = names()
    if name in table.refused:
        mistakes.append(table.refused[name].text(name))
        return []
    if name in table.elsewhere:
        here = table.elsewhere[name]
        mistakes.append(f"{name} is {here if here.startswith('needless') else f'called {here} here'}")
        return []
    if name in table.words:
        return list(table.words[name])
    if name in table.only:
        only = table.only[name]
        value = value if equals else next(rest, "")
        if value != only["value"]:
            mistakes.append(
                f"{name} {one_line(value)} is not supported, because {only['reason']}; near: {only['value']}"
            )
        return []
    name = table.alias.get(name, name)
    if name in table.values or name in table.unlike or name == "--sequence-distribution":
        value = value if equals else next(rest, "")
        if value in table.unlike.get(name, {}):
            mistakes.append(table.unlike[name][value].text(f"{name} {value}"))
            return []
        found = table.values.get(name, {}).get(value)
        return [f"{name}={pairs(value) if name == '--sequence-distribution' else value}"] if found is None else [*found]
    return [f"{name}{equals}{value}"]


def pairs(text: str) -> str:
    """Weighted pairs of lengths in our form, from any of AIPerf's: ISL,OSL:P;... as it is, [(ISL,OSL):P,...], or JSON."""
    if text.strip().startswith("{"):
        try:
            listed = json.loads(text)["pairs"]
            return ";".join(
                f"{one['isl']}|{one.get('isl_stddev', 0)},{one['osl']}|{one.get('osl_stddev', 0)}:{one['prob']}"
                for one in listed
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return text  # the parser of pairs says what is wrong
    if text.strip().startswith("["):
        return text.strip().strip("[]").replace(" ", "").replace("),(", ");(").replace(",(", ";(").translate(
            {ord(c): None for c in "()"}
        )  # fmt: skip
    return text


# --- a file of options --------------------------------------------------------------------------------------------------


def _from_file(path: Path, mistakes: list[str]) -> list[str]:
    """The options of a YAML or TOML file as words of a command line."""
    data = _read(path)
    inner = data.get("loadgen") if isinstance(data.get("loadgen"), dict) else None
    benchmark = data.get("benchmark")
    if isinstance(benchmark, dict):
        rest = {key: value for key, value in data.items() if key != "benchmark"}
        found = _aiperf_words({**rest, **benchmark}, path, mistakes)
    else:
        found = [
            (f"--{name.replace('_', '-')}", value) for name, value in (inner if inner is not None else data).items()
        ]
    words, known = [], _options()
    for name, value in found:
        if name in CONFIG:
            mistakes.append(f"--config: {path}: a file of options names no other one: give --config for each")
            continue
        for word in _checked_words(name, value, path, mistakes):
            for made in _translate(*_parts(word), iter(()), mistakes):
                if made.startswith("-") and made.partition("=")[0] not in known:
                    key = one_line(name.lstrip("-"))[:80]
                    mistakes.append(f"--config: {path}: {key} is no option of bench{near(_stem(made), known)}")
                else:
                    words.append(made)
    return words


def _options() -> frozenset[str]:
    """Every option of bench."""
    parser = CommandParser("bench")
    importlib.import_module("swarmtune.apps.cli.bench").add_arguments(parser)
    parser.add_shared()
    return frozenset(name for action in parser._actions for name in action.option_strings)  # noqa: SLF001 - none other tells


def _read(path: Path) -> dict[str, Any]:
    try:
        with opened(path.expanduser()) as file:
            text = file.read(LARGEST_FILE + 1)
        data = _parsed(text, toml=path.suffix == ".toml") if len(text) <= LARGEST_FILE else "too large"
    except OSError as error:
        raise ConfigPathError(f"--config: {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigValidationError([f"--config: {path}: {one_line(str(error))[:300]}"]) from error
    if not isinstance(data, dict):
        raise ConfigValidationError([f"--config: {path} is no table of options, or has over {LARGEST_FILE:,} bytes"])
    return {str(name): value for name, value in data.items()}


def _parsed(text: bytes, *, toml: bool) -> Any:
    """The content; ValueError says what is wrong. Aliases of YAML are refused: a small text could become a huge one."""
    import yaml

    from swarmtune.workload.files import wrong_byte

    if wrong := wrong_byte(text) if text.strip() else "it is empty":
        raise ValueError(wrong)
    if toml:
        content = tomllib.loads(text.decode("utf-8-sig"))
        if too_deep(content):
            raise ValueError(TOO_DEEP)
        return content
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases (*name) are not read")  # noqa: TRY004 - of a file
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(TOO_DEEP)
        return yaml.load(text, Loader=_once_loader())  # noqa: S506 - of SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _once_loader() -> Any:
    """YAML's safe loader, for which a key that is given twice is a mistake."""
    import yaml

    class Once(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if twice := next((key for key in keys if isinstance(key, str) and keys.count(key) > 1), None):
                raise yaml.YAMLError(f"{one_line(twice)} is given twice")
            return super().construct_mapping(node, deep=deep)

    return Once


def _checked_words(name: str, value: Any, path: Path, mistakes: list[str]) -> list[str]:
    try:
        return _words(name, value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        mistakes.append(f"--config: {path}: {one_line(name.lstrip('-'))[:80]}: its value cannot be written as text")
        return []


def _words(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [name if value else name.replace("--", "--no-", 1)]
    if isinstance(value, dict):
        if name == "--header":
            return [f"{name}={key}: {one}" for key, one in value.items()]
        return [f"{name}={json.dumps(value, default=str)}"]
    if isinstance(value, list):
        if name in ("--header", "--extra-inputs", "--server-metrics", "--gpu-telemetry"):
            return [f"{name}={one}" for one in value]
        return [f"{name}={','.join(map(str, value))}"]
    return [f"{name}={value}"]


def _aiperf_words(data: Mapping[str, Any], path: Path, mistakes: list[str]) -> list[tuple[str, Any]]:
    """The options of a document of AIPerf's form (schema 2.0)."""
    found: list[tuple[str, Any]] = []
    for phase in _phases(data):
        found += _phase_words(phase)
    plain = {key: value for key, value in data.items() if key not in ("phases", "profiling", "warmup", "slos")}
    phases = {
        str(phase["name"]): {k: v for k, v in phase.items() if k not in ("name", "type")} for phase in _phases(data)
    }
    for key, value in _flat({**plain, **phases}):
        option = names().config.get(key.replace("dataset.prompts.", "dataset."))
        if option is not None:
            found.append((option, _our_value(option, value)))
        elif key not in IDLE:
            mistakes.append(f"--config: {path}: {one_line(key)} is not understood here; give options: isl: 512")
    if isinstance(data.get("slos"), dict):
        found.append(("--goodput", " ".join(f"{name}:{value}" for name, value in data["slos"].items())))
    return found


def _phases(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = data.get("phases")
    phases = listed if isinstance(listed, list) else [] if listed is None else [listed]
    named = [{"name": name, **data[name]} for name in ("warmup", "profiling") if isinstance(data.get(name), dict)]
    return [{"name": "profiling", **phase} for phase in (*phases, *named) if isinstance(phase, dict)]


def _phase_words(phase: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the type of a phase says of its load."""
    kind = str(phase.get("type", "concurrency"))
    if phase["name"] == "warmup":
        return []
    if kind == "fixed_schedule":
        return [("--fixed-schedule", True)]
    return [("--arrival-pattern", SHAPES[kind])] if kind in SHAPES else []


def _our_value(option: str, value: Any) -> Any:
    """A value of AIPerf's file in our spelling: times without their s, addresses without the path of the API."""
    if not isinstance(value, str):
        return value
    if option == "--url":
        return next((value.removesuffix(path) for path in PATHS if value.endswith(path)), value)
    return value.removesuffix("s") if option.endswith(("-duration", "-period")) else value


def _flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; headers and extra inputs stay tables."""
    for key, value in data.items():
        place = f"{before}{key}"
        if isinstance(value, dict) and place not in ("endpoint.headers", "endpoint.extra"):
            yield from _flat(value, f"{place}.")
        else:
            yield place, value
