"""The parts that settings name (engine, benchmark, search), each made from its own table."""

from __future__ import annotations

from typing import Any

from swarmtune import registry
from swarmtune.engines.base import Engine
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.loadgen.base import Benchmark
from swarmtune.search.base import Search
from swarmtune.settings import BaseSections
from swarmtune.sources import section_name
from swarmtune.space.space import MAX_FIELDS

MAX_MISTAKE = 500  # characters; the system's messages repeat file names of any length


def engine_and_benchmark(
    settings: BaseSections, mistakes: list[str], engine_known: bool = True
) -> tuple[Engine | None, Benchmark | None]:
    """Both, each None if it cannot be made; ``mistakes`` then gets the reasons. No engine if it is not known which."""
    name, engine = engine_name(settings, mistakes) if engine_known else None, None
    before, folder = len(mistakes), None
    if name is not None:
        engine = _part(settings, registry.engines, "optimizer.engine", name, mistakes)
    if engine is not None and len(mistakes) == before:
        folder = engine.model_folder
    known = registry.benchmarks
    return engine, _part(settings, known, "optimizer.benchmark", settings.optimizer.benchmark, mistakes, folder)


def engine_name(settings: BaseSections, mistakes: list[str]) -> str | None:
    """The engine that is named, else the one whose table is given, else the default; None and a mistake if the tables of
    several are given.
    """
    given = () if _is_named(settings) else engines_with_table(settings)
    if len(given) > 1:
        tables = ", ".join(f"[{section_name(registry.engines.load(name))}]" for name in given)
        mistakes.append(
            f"optimizer.engine: the tables of several engines are given, {tables}; choose one of them with -e"
        )
        return None
    return given[0] if given else settings.optimizer.engine


def part_notes(settings: BaseSections, engine: Engine) -> list[str]:
    """That the engine follows from its table, where nothing names it and it is not the default; that tables of load
    generators are not used, where none is named.
    """
    notes = []
    if not _is_named(settings) and engine.name != settings.optimizer.engine:
        notes.append(f"the engine is {engine.name}, because its table is given and no engine is named (-e)")
    chosen = settings.optimizer.benchmark
    others = [n for n in registry.benchmarks if n in settings.model_fields_set and n != chosen]
    if others and "benchmark" not in settings.optimizer.model_fields_set:
        tables, ways = ", ".join(f"[{n}]" for n in others), " or ".join(f"-b {n}" for n in others)
        notes.append(f"{tables} is not used: the load is that of {chosen}; {ways} takes it")
    return notes


def _is_named(settings: BaseSections) -> bool:
    return "engine" in settings.optimizer.model_fields_set


def engines_with_table(settings: BaseSections) -> tuple[str, ...]:
    """The engines whose tables are given."""
    named = {}
    for name in registry.engines.by_registration:
        try:
            named[section_name(registry.engines.load(name))] = name
        except ConfigurationError:  # an engine of a broken plugin
            continue
    return tuple(name for section, name in named.items() if section in settings.model_fields_set)


def _part(
    settings: BaseSections,
    known: registry.Registry,
    key: str,
    name: str,
    mistakes: list[str],
    model_folder: str | None = None,
) -> Any:
    """The engine or benchmark of this name, made from its table; None and the reasons in ``mistakes`` if that fails.
    ``model_folder`` is for the benchmark (``Benchmark.learn_model``).
    """
    try:
        part = known.load(name)
    except ConfigurationError as error:
        mistakes.append(f"{key}: {error.message}")
        return None
    section = section_name(part)
    table = getattr(settings, section, None)
    if why := registry.skipped(f"{known.kind} {name!r}"):
        mistakes.append(f"{key}: {why}")
        return None
    if table is None:
        needed = ", ".join(n for n, field in part.Config.model_fields.items() if field.is_required())
        mistakes.append(f"{section}: the table [{section}] is needed, with at least {needed or 'its keys'}")
        return None
    if len(getattr(table, "target_field", ())) > MAX_FIELDS:
        mistakes.append(f"{section}.target_field: {len(table.target_field)} fields are too many; at most {MAX_FIELDS}")
        return None
    try:
        made = part(table)
        if isinstance(made, Benchmark):
            made.learn_model(model_folder)
        mistakes += [keyed(m, section) for m in made.mistakes()]
    except ConfigurationError as error:
        mistakes += [keyed(m, section) for m in getattr(error, "mistakes", [error.message])]
        return None
    except OSError as error:  # such as a file name that is too long
        mistakes.append(f"{section}: {error}"[:MAX_MISTAKE])
        return None
    return made


def keyed(mistake: str, section: str) -> str:
    """The mistake, with the name of its table in front unless it begins with that already."""
    if mistake.startswith("memory."):  # the table inside the engine's
        return f"{section}.{mistake}"
    return mistake if mistake.startswith((f"{section}.", f"{section}:")) else f"{section}: {mistake}"


def tell(error: ConfigurationError, mistakes: list[str], place: str) -> None:
    """Add the mistakes of this error, at this place, to ``mistakes``, unless they are there, whatever place they name."""
    for text in getattr(error, "mistakes", [error.message]):
        if not any(mistake.endswith(text) for mistake in mistakes):
            mistakes.append(keyed(text, place))


def tell_of_part(error: ConfigurationError, mistakes: list[str], section: str) -> None:
    """The same for what a part raised that has told its mistakes: a file that it cannot use is one of them."""
    if not (isinstance(error, ConfigPathError) and has_mistakes(section, mistakes)):
        tell(error, mistakes, section)


def has_mistakes(section: str, mistakes: list[str]) -> bool:
    """Is one of these mistakes in this table?"""
    return any(mistake.startswith((f"{section}.", f"{section}:")) for mistake in mistakes)


def search_class(name: str, mistakes: list[str]) -> type[Search] | None:
    """The search algorithm of this name; None and the reason in ``mistakes`` if there is none."""
    try:
        found: type[Search] = registry.searches.load(name)
    except ConfigurationError as error:
        mistakes.append(f"optimizer.algorithm: {error.message}")
        return None
    return found
