"""``swarmtune init``: a commented config.toml for the engine, model and hardware found here."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from typing import Any

import psutil

from swarmtune import registry
from swarmtune.apps.cli import EXIT_DONE
from swarmtune.apps.cli.init_load import load_lines
from swarmtune.apps.cli.options import add_plan_arguments
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.files import expanded
from swarmtune.settings import BaseSections, ObjectiveSection, Optimizer, read_settings
from swarmtune.sources import UNUSED, section_name
from swarmtune.space import Field
from swarmtune.study.place import write_private
from swarmtune.tuner.planning.aims import DEFAULT_SLOS
from swarmtune.tuner.planning.make import DEFAULT_EVALUATIONS

TEMPLATE = {"argv": ["./start.sh", "--port", "$PORT"]}  # of an engine of which nothing is known
EXAMPLE = Field("max_num_seqs", "--max-num-seqs", 1, 256, value=16, log=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_plan_arguments(parser)
    parser.add_argument("--model", help="model for the service: a name or a folder")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


def run(args: argparse.Namespace) -> int:
    """Write the file (-c, default config.toml)."""
    path = expanded("config.toml" if args.config is None else args.config)
    if not args.config and args.config is not None:
        raise ConfigPathError("-c needs the name of a file, not an empty text.")
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigPathError(f"{path}: {'is a folder' if path.is_dir() else 'its folder is not there'}.")
    if path.exists() and not args.force:
        raise ConfigPathError(f"{path} already exists; use --force to overwrite it or -c FILE for another.")
    engine_name = registry.engines.spelled(args.engine or found_engine())
    benchmark_name = registry.benchmarks.spelled(args.benchmark or "swarmtune")
    settings = read_settings(None, {"optimizer": {"engine": engine_name, "benchmark": benchmark_name}})
    model = str(expanded(args.model)) if args.model and args.model.startswith("~") else args.model
    text = config_text(settings, engine_name, benchmark_name, model)
    write_private(path, text)
    print(f"Wrote {path}: engine {engine_name}, benchmark {benchmark_name}. Next: swarmtune check -c {path}")
    return EXIT_DONE


def found_engine() -> str:
    """The first engine whose service is installed here; the simulated one if none is."""
    for name in registry.engines.by_registration:
        with contextlib.suppress(ConfigurationError):  # a plugin whose module is broken
            if registry.engines.load(name).found():
                return name
    return "simulated"


def config_text(settings: BaseSections, engine_name: str, benchmark_name: str, model: str | None) -> str:
    """The whole file."""
    engine_class = registry.engines.load(engine_name)
    engine = engine_class(getattr(settings, section_name(engine_class)))
    memory = psutil.virtual_memory().total / 2**30
    lines = [
        f"# SwarmTune configuration for {engine_name}, written by `swarmtune init`.",
        f"# Found here: {os.cpu_count()} CPUs, {memory:.0f} GiB of memory.",
        "# Check it with `swarmtune check`, run it with `swarmtune optimizer`. Every key: docs/options.md.",
        "",
        "[optimizer]",
        *key(Optimizer, "engine", engine_name),
        *key(Optimizer, "benchmark", benchmark_name),
        *key(Optimizer, "evaluations", DEFAULT_EVALUATIONS),
        "",
        "[objective]",
        *key(ObjectiveSection, "name", "goodput"),
        f"# {ObjectiveSection.model_fields['slo'].description}",
        f"slo = {toml(DEFAULT_SLOS)}",
        *load_lines(registry.benchmarks.load(benchmark_name).Config),
        "",
        *engine_lines(engine, model),
    ]
    return "\n".join(lines) + "\n"


def key(section: Any, name: str, value: Any) -> list[str]:
    """A key with what it means."""
    return [f"# {section.model_fields[name].description}", f"{name} = {toml(value)}"]


def engine_lines(engine: Any, model: str | None) -> list[str]:
    """The engine's own table and its parameters."""
    name = section_name(engine)
    lines = [f"[{name}]"]
    options = type(engine).Config.model_fields
    loaded = engine.model_fields(model) if model else ()
    for option, info in options.items():
        if option in ("target_field", *TEMPLATE) or not info.description or info.description.startswith(UNUSED):
            continue
        mine = option in ("model", "model_path") and (bool(model) or "argv" in options) and not loaded
        shown = model or "" if mine else getattr(engine.config, option)
        if isinstance(shown, (bool, int, float, str)):
            lines += [f"# {info.description}", f"{'' if mine else '# '}{option} = {toml(shown)}"]
    if "argv" in options:
        lines += [f"# {options['argv'].description}", f"argv = {toml(TEMPLATE['argv'])}"]
    if hasattr(getattr(engine.config, "command", None), "model"):
        given = f"model = {toml(model)}" if model else '# model = "name or path of the model"'
        lines += ["", f"[{name}.command]", given, "# port = 8000"]
    try:
        fields = engine.fields()
        rules, unused = engine.constraints(), engine.unused()
    except ConfigurationError as error:
        return [*lines, f"# its parameters could not be read yet: {error.message.splitlines()[0]}"]
    lines += ["", "# What may change. `value` is the baseline; `constant = ...` takes a parameter out of the search."]
    own = engine.own_choices()
    for field in (*loaded, *(fields or [EXAMPLE])):
        lines += field_lines(name, field, own.get(field.name, ""))
    if unused:
        lines += ["", "# What else the engine has: remove the # in front of an entry to search it, too."]
    for field, note in unused:
        first, *rest = field_lines(name, field)
        lines += [first, *([f"# {note}"] if note else []), *(f"# {line}" for line in rest)]
    return [*[f"# rule of the engine: {rule}" for rule in rules], *lines]


def field_lines(name: str, field: Field, own: str = "") -> list[str]:
    """One [[ENGINE.target_field]] entry. ``own``: by what the service chooses the value today."""
    names = ("name", "config_position", "dtype", "min", "max", "dtype_param", "log", "value", "constant")
    given = {k: getattr(field, k) for k in names if getattr(field, k) is not None and (k != "log" or field.log)}
    chosen = (
        f"# value = {toml(given.pop('value'))}  # as long as it is not given, the service chooses: {own}" if own else ""
    )
    lines = ["", f"[[{name}.target_field]]", *(f"{k} = {toml(v)}" for k, v in given.items())]
    return [*lines, chosen] if chosen else lines


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {toml(v)}' for k, v in value.items())} }}"
    return "".join(c if c.isprintable() else _escape(c) for c in json.dumps(value, ensure_ascii=False))


def _escape(character: str) -> str:
    """As TOML writes what is not shown."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
