"""Sources of settings: what each of them gives, the settings of all together, and the source of each value."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource

ENVIRONMENT_PREFIX = "SWARMTUNE_"
CONFIG_PATH_VARIABLES = ("SWARMTUNE_CONFIG_PATH", "MODEL_EVAL_STATE_CONFIG_PATH")
OWN_VARIABLES = (  # variables with our prefix that are no settings; every other one must name a setting
    CONFIG_PATH_VARIABLES[0],
    *("SWARMTUNE_API_KEY", "SWARMTUNE_LOADGEN_HEADERS", "SWARMTUNE_LOADGEN_PROXY"),  # loadgen/ask/spec.py
    "SWARMTUNE_TOKEN",  # marks each process that SwarmTune starts (execution/supervisor.py)
    "SWARMTUNE_CONFIG",  # the file with the values, for a start script (fleet/script_job.py)
    # what a service is told about its group (execution/service_group.py)
    *(f"SWARMTUNE_{n}" for n in ("GROUP", "HOSTS", "NODES", "RANK", "DEVICES", "MASTER", "PORT")),
    *("SWARMTUNE_BUILD_NATIVE", "SWARMTUNE_DATA", "SWARMTUNE_PEERS"),  # hatch_build.py, tests/, benchmarks/
)

MAX_DEPTH = 32  # tables and lists inside each other


@dataclass(frozen=True)
class Layer:
    """What one source gives, as nested tables. ``name``: how a mistake calls the source."""

    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Hidden:
    """A value that a table of a higher layer took the place of; ``layer``: the number of the layer that gave it."""

    place: tuple[str, ...]
    value: Any
    layer: int


def environment(model: type[BaseSettings], variables: Mapping[str, str]) -> tuple[list[Layer], list[str]]:
    """A layer for each variable with our prefix, the innermost keys first, and a mistake for each that cannot be used."""
    layers, mistakes = [], []
    for given in sorted(variables, key=lambda name: (-name.count("__"), name)):
        name = given.upper()
        if not name.startswith(ENVIRONMENT_PREFIX) or name in OWN_VARIABLES:
            continue
        where = f"environment variable {name}"
        source = EnvSettingsSource(model)
        source.env_vars = {given.lower(): variables[given]}
        try:
            data = source()
        except (ValueError, RecursionError) as error:  # a table or a list that is not JSON
            place = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            mistakes.append(f"{where}: {place}: not valid JSON: {error.__cause__ or error}")
            continue
        if data:
            layers.append(Layer(where, data))
        else:
            known = [variable.removeprefix(ENVIRONMENT_PREFIX) for variable in _variables(model)]
            near = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), known, n=1, cutoff=0.7)
            hint = f"; did you mean {ENVIRONMENT_PREFIX}{near[0]}?" if near else ""
            mistakes.append(f"{where}: there is no such setting{hint}")
    return layers, mistakes


def _variables(model: type[BaseModel]) -> Iterator[str]:
    """The variables of all keys, and of those in tables."""
    yield from OWN_VARIABLES
    for name, field in model.model_fields.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        yield variable
        for table in (field.annotation, *get_args(field.annotation)):
            if isinstance(table, type) and issubclass(table, BaseModel):
                yield from (f"{variable}__{key.upper()}" for key in table.model_fields)


def merged(layers: Sequence[Layer]) -> tuple[dict[str, Any], list[Hidden]]:
    """The tables of all layers, of which the first wins, and the values that a table took the place of."""
    result: dict[str, Any] = {}
    owners: dict[tuple[str, ...], int] = {}
    hidden: list[Hidden] = []

    def lay(number: int, low: dict[str, Any], high: Mapping[str, Any], above: tuple[str, ...]) -> None:
        for key, value in high.items():
            place = (*above, key)
            if not isinstance(value, Mapping):
                low[key], owners[place] = value, number
                continue
            if key in low and not isinstance(low[key], dict):
                hidden.append(Hidden(place, low[key], owners[place]))
                del low[key]
            lay(number, low.setdefault(key, {}), value, place)

    for number in reversed(range(len(layers))):
        lay(number, result, layers[number].data, ())
    return result, hidden


def replaced(data: Mapping[str, Any], place: Sequence[str], value: Any) -> dict[str, Any]:
    """The data with this value at this place."""
    first, *rest = place
    return {**data, first: replaced(data.get(first, {}), rest, value) if rest else value}


def items(data: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(data, Mapping):
        yield from data.items()
    elif isinstance(data, (list, tuple)):
        yield from enumerate(data)


def too_deep(content: Any) -> tuple[Any, ...]:
    """The beginning of a place that is nested too deep; empty if there is none."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    while waiting:
        place, data = waiting.pop()
        if len(place) > MAX_DEPTH:
            return place[:3]
        waiting += [((*place, key), value) for key, value in items(data) if isinstance(value, (dict, list, tuple))]
    return ()


def cut(data: Any, place: Sequence[Any]) -> Any:
    """The data without the value at this place of tables and lists."""
    first, *rest = place
    if isinstance(data, Mapping) and first in data:
        return {k: cut(v, rest) if rest and k == first else v for k, v in data.items() if rest or k != first}
    if isinstance(data, (list, tuple)) and isinstance(first, int) and rest:
        return [cut(v, rest) if i == first else v for i, v in enumerate(data)]
    return data


def origin(layers: Sequence[Layer], location: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The source of the value at this place, and the place without the names of types that pydantic adds.

    The last layer is the source of what no layer has.
    """
    found = [(layer.name, place) for layer in layers if (place := followed(layer.data, location))]
    return max(found, key=lambda one: len(one[1]), default=(layers[-1].name, location))


def table_origin(layers: Sequence[Layer], table: Any) -> str:
    """The source to complete where a table lacks a key: the lowest layer that has the table."""
    return next((layer.name for layer in reversed(layers) if table in layer.data), layers[-1].name)


def followed(data: Any, location: tuple[Any, ...]) -> tuple[Any, ...]:
    """The longest beginning of the location that exists in this data; () if it is no more than a table."""
    for i, part in enumerate(location):
        inside = isinstance(data, Mapping) and part in data
        if inside or (isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)):
            data = data[part]
            continue
        return () if i == 0 or (i == 1 and isinstance(data, Mapping)) else location[:i]
    return location


@dataclass(frozen=True)
class Rest:
    """Settings without what is wrong in them. ``tables``: in which something that matters was left out."""

    settings: Any
    tables: frozenset[str]


def rest_of(model: type[BaseModel], data: dict[str, Any], error: ValidationError) -> Rest | None:
    """The settings that the data give without these mistakes; None if they are still not valid.

    Unknown keys are left out alone; for other mistakes their key, of a list the whole list, and where that is not enough,
    the whole table.
    """
    tables: set[str] = set()
    for tables_too in (False, True):
        for mistake in error.errors():
            place = followed(data, mistake["loc"])
            if mistake["type"] != "extra_forbidden" or tables_too:
                place = tuple(takewhile(lambda part: isinstance(part, str), place))
                tables.add(str(mistake["loc"][0]))
            if place:
                data = cut(data, place[:1] if tables_too else place)
        try:
            return Rest(model(**data), frozenset(tables))
        except ValidationError as further:
            error = further
    return None
