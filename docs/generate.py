"""Write the generated parts of the documentation: docs/options.md and docs/cli.md (``make docs``).

Nothing is typed twice: keys, types, defaults and meanings come from the settings' own models, the help from the commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from swarmtune import registry
from swarmtune.apps.cli import COMMANDS
from swarmtune.settings import section_name, settings_model
from swarmtune.sources import OLD_KEYS, OLD_TABLES

HERE = Path(__file__).parent
WIDTH = "100"  # columns of the terminal that the help is written for
NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any", Path: "path"}
USED = {"engine": "`-e`", "benchmark": "`-b`"}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}

OPTIONS_HEAD = """\
# Every key of config.toml

Written by `make docs` from the settings' own models; do not edit.
Precedence: command line, then environment, then file, then default. In the environment a key is written
`SWARMTUNE_LOG_LEVEL`, one inside a table `SWARMTUNE_OPTIMIZER__SEED`. An unknown key is a mistake, and so is a
variable `SWARMTUNE_...` that names none; all mistakes are reported at once. The older tuner's `MODEL_EVAL_STATE_...` do
the same where no variable of ours is set, and those of them that name no key have no effect.
"""
CLI_HEAD = """\
# The command line

Written by `make docs`; do not edit.
"""


def documents() -> dict[str, str]:
    """File name in docs/ -> the text that it must hold."""
    return {"options.md": options(), "cli.md": command_line()}


def options() -> str:
    """The reference of all settings, table by table."""
    model = settings_model()
    plain = {n: f for n, f in model.model_fields.items() if not _model_of(f) and n not in (*OLD_KEYS, *OLD_TABLES)}
    parts = [OPTIONS_HEAD, "## Keys outside any table\n", table(plain)]
    kinds = {
        section_name(known.load(n)): known.kind for known in (registry.engines, registry.benchmarks) for n in known
    }
    repeated: dict[type, str] = {}
    for name, field in sorted(model.model_fields.items(), key=lambda item: (item[0] in kinds, kinds.get(item[0], ""))):
        section = _model_of(field)
        if section is not None:
            kind = kinds.get(name)
            said = f"The {kind}'s own table ({USED[kind]}).\n" if kind else _summary(section)
            parts += [f"## `[{name}]`\n", said]
            parts += list(section_tables(name, section, repeated))
    old = ", ".join(f"`{name}`" for name in OLD_KEYS)
    old_tables = ", ".join(f"`[{name}]`" for name in OLD_TABLES)
    parts += [
        "## Keys of the older tuner without effect\n",
        "They are read, so that an old file stays valid, and named in a note when they are given.\n",
        f"Keys: {old}.\n",
        f"Tables: {old_tables}.",
    ]
    return "\n".join(parts) + "\n"


def section_tables(name: str, section: type[BaseModel], repeated: dict[type, str]) -> Iterator[str]:
    """The table of a section, then those of the tables inside it; what was shown before is only named."""
    plain = {n: f for n, f in section.model_fields.items() if not _model_of(f)}
    if plain:
        yield table(plain)
    for key, field in section.model_fields.items():
        inner = _model_of(field)
        if inner is None:
            continue
        heading = f"[[{name}.{key}]]" if get_origin(field.annotation) is tuple else f"[{name}.{key}]"
        said = f" {_sentence(field.description)}" if field.description else ""
        if inner in repeated:
            yield f"`{heading}`:{said} The keys of `{repeated[inner]}`.\n"
            continue
        repeated[inner] = heading
        yield f"### `{heading}`\n\n{said.strip()}\n"
        yield from section_tables(f"{name}.{key}", inner, repeated)


def table(fields: Mapping[str, FieldInfo]) -> str:
    """Keys as a Markdown table."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`{name}`", _type_of(field) + _bounds(field), _default(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def command_line() -> str:
    """The help of the program and of each command."""
    parts = [CLI_HEAD]
    for name in ("", *COMMANDS):
        shown = f"swarmtune {name}".strip()
        parts.append(f"## `{shown}`\n\n```text\n{help_of(name)}```\n")
    return "\n".join(parts)


def help_of(command: str) -> str:
    """What ``swarmtune COMMAND --help`` prints."""
    program = "from swarmtune.apps.cli import main; main()"
    argv = [sys.executable, "-P", "-c", program, *([command] if command else []), "--help"]
    environment = {**os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model behind a table, whether it stands alone, may be absent, or comes in a list."""
    found = [field.annotation, *get_args(field.annotation)]
    return next((a for a in found if isinstance(a, type) and issubclass(a, BaseModel)), None)


def _type_of(field: FieldInfo) -> str:
    """The registered names where the values are those, else what the annotation says."""
    extra = field.json_schema_extra
    kind = extra.get("registered") if isinstance(extra, dict) else None
    if not kind:
        return _type_text(field.annotation)
    return ", ".join(f"`{json.dumps(name)}`" for name in getattr(registry, str(kind))) + ", or a plugin's"


def _type_text(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(a)}`" for a in arguments)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(a) for a in arguments if a is not type(None)))
    if origin in (list, tuple):
        return f"list of {_type_text(arguments[0])}"
    if origin is dict:
        return f"table of {_type_text(arguments[1])}"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(field: FieldInfo) -> str:
    found = [f"{sign} {_number(value)}" for m in field.metadata for name, sign in BOUNDS.items()
             if (value := getattr(m, name, None)) is not None]  # fmt: skip
    return f", {' and '.join(found)}" if found else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or value == Path():
        return ""
    return f"`{json.dumps(value)}`"


def _sentence(text: str | None) -> str:
    return f"{(text or '')[:1].upper()}{(text or '')[1:]}."


def _summary(section: type[BaseModel]) -> str:
    """The first line of a section's docstring, without the table's name that the heading has."""
    line = (section.__doc__ or "").strip().splitlines()[0]
    _, _, said = line.partition("]: ")
    return f"{_sentence((said or line).rstrip('.'))}\n"


def main() -> None:
    """Write the files that changed."""
    for name, text in documents().items():
        path = HERE / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote docs/{name}\n")


if __name__ == "__main__":
    main()
