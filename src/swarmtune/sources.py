"""Sources of settings: what each of them gives, the settings of all together, and the source of each value."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource

from swarmtune import registry
from swarmtune.errors import ConfigurationError

ENVIRONMENT_PREFIX = "SWARMTUNE_"
OLDER_PREFIX = "MODEL_EVAL_STATE_"  # of the older tuner's variables; it reads some that are no settings
CONFIG_PATH_VARIABLES = ("SWARMTUNE_CONFIG_PATH", "MODEL_EVAL_STATE_CONFIG_PATH")
OWN_VARIABLES = (  # variables with our prefix that are no settings; every other one must name a setting
    CONFIG_PATH_VARIABLES[0],
    *(
        "SWARMTUNE_API_KEY",
        "SWARMTUNE_LOADGEN_HEADERS",
        "SWARMTUNE_LOADGEN_HIDDEN",
        "SWARMTUNE_LOADGEN_OPTIONS",
        "SWARMTUNE_LOADGEN_PROXY",
        "SWARMTUNE_LOADGEN_URLS",
    ),  # ask/spec.py
    "SWARMTUNE_TOKEN",  # marks each process that SwarmTune starts (execution/supervisor.py)
    "SWARMTUNE_CONFIG",  # the file with the values, for a start script (fleet/script_job.py)
    # what a service is told about its group (execution/service_group.py)
    *(f"SWARMTUNE_{n}" for n in ("GROUP", "HOSTS", "NODES", "RANK", "DEVICES", "MASTER", "PORT")),
    *("SWARMTUNE_BUILD_NATIVE", "SWARMTUNE_DATA", "SWARMTUNE_PEERS"),  # hatch_build.py, tests/, benchmarks/
)

# Variables of the older tuner and its successor with names of their own, each with the place of its value.
OLD_VARIABLES = {
    "MODELEVALSTATE_LEVEL": ("log_level",),
    "OPTIX_LOG_LEVEL": ("log_level",),
    "OPTIX_DEPLOY_PATH": ("deploy", "path_prefix"),
}

UNUSED = "read for older files"  # how descriptions of keys without effect begin
# Tables and keys of the older tuner that are read and have no effect here, because what they steered is gone or done
# in another way. They are listed so that an old file stays valid and a typing error does not.
OLD_TABLES = (
    "benchmark", "benchmark_early_exit", "cbo", "communication", "data_storage", "kubectl", "latency_model", "suggrogate",
    "surrogate",
)  # fmt: skip
OLD_KEYS = (
    "ftol", "ftol_iter", "max_fine_tune", "mem_coefficient", "scaling_coefficient", "service", "simulator_output",
    "slo_coefficient", "step_size", "theory_guided_enable", "use_request_rate_calibration", "use_surrogate",
)  # fmt: skip

MAX_INTEGER = 2**63  # the limit of whole numbers in TOML, and in the files and databases that we write
FIELDS = "target_field"  # the list of an engine's table with the parameters to tune
MAX_DEPTH = 32  # tables and lists inside each other
MOST_WRONG = 1000  # keys that are told one by one


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


@dataclass(frozen=True)
class Wrong:
    """A sentence on what cannot be used, and its place, empty if that is not known."""

    sentence: str
    place: tuple[str, ...] = ()


def in_lower_case(content: Mapping[str, Any], model: type[BaseModel]) -> tuple[dict[str, Any], list[Wrong]]:
    """The content without keys that are a setting's but for their case, and a mistake for each of them: pydantic takes them,
    and one of two spellings is lost.
    """
    wrong = [key for key in content if key not in model.model_fields and key.lower() in model.model_fields]
    mistakes = [Wrong(f"{key}: unknown key; did you mean {key.lower()}?", (key.lower(),)) for key in wrong]
    return {key: value for key, value in content.items() if key not in wrong}, mistakes


def environment(model: type[BaseSettings], variables: Mapping[str, str]) -> tuple[list[Layer], list[Wrong]]:
    """A layer for each variable with our prefix, the innermost keys first, then those with the older tuner's prefix; and a
    mistake for each that cannot be used.
    """
    layers, mistakes = list[Layer](), list[Wrong]()
    for given in sorted(variables, key=lambda name: (_is_older(name), -name.count("__"), name)):
        name, older = given.upper(), _is_older(given)
        if not (older or name.startswith(ENVIRONMENT_PREFIX)) or name in (*OWN_VARIABLES, *CONFIG_PATH_VARIABLES):
            continue
        if older and not variables[given]:
            continue
        where = f"environment variable {name}"
        source = EnvSettingsSource(model)
        ours = ENVIRONMENT_PREFIX + name.removeprefix(OLDER_PREFIX).removeprefix(ENVIRONMENT_PREFIX)
        source.env_vars = {ours.lower(): variables[given]}
        try:
            data = source()
        except (ValueError, RecursionError) as error:  # a table or a list that is not JSON
            place = tuple(ours.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            mistakes.append(Wrong(f"{where}: {'.'.join(place)}: not valid JSON: {error.__cause__ or error}", place))
            continue
        if data:
            layers.append(Layer(where, data))
        elif not older:
            known = [variable.removeprefix(ENVIRONMENT_PREFIX) for variable in _variables(model)]
            near = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), known, n=1, cutoff=0.7)
            hint = f"; did you mean {ENVIRONMENT_PREFIX}{near[0]}?" if near else ""
            mistakes.append(Wrong(f"{where}: there is no such setting{hint}"))
    for name, path in OLD_VARIABLES.items():
        if value := variables.get(name):
            layers.append(Layer(f"environment variable {name}", replaced({}, path, value)))
    return layers, mistakes


def of_engines(layers: Sequence[Layer], variables: Mapping[str, str]) -> list[Layer]:
    """A layer for each variable of an engine (``Engine.own_variables``) that these layers name, or give a table."""
    found = []
    for name in registry.engines:
        with contextlib.suppress(ConfigurationError):  # an engine of a broken plugin
            engine = registry.engines.load(name)
            section = section_name(engine)
            if any(section in one.data or registry.engines.spelled(str(_engine(one.data))) == name for one in layers):
                found += [
                    Layer(f"environment variable {variable}", {section: {"env": {variable: variables[variable]}}})
                    for variable in getattr(engine, "own_variables", ())
                    if variables.get(variable)
                ]
    return found


def _engine(data: Mapping[str, Any]) -> Any:
    table = data.get("optimizer")
    return table.get("engine") if isinstance(table, Mapping) else None


def section_name(part: Any) -> str:
    """The table of config.toml that belongs to an engine or benchmark class."""
    return str(getattr(part, "section", part.name))


def _is_older(name: str) -> bool:
    return name.upper().startswith(OLDER_PREFIX)


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
    """Settings without what is wrong in them. ``places``: what was left out and matters, from the outside to the inside; of
    a field, a key of which was left out, that of its list and its name.
    """

    settings: Any
    places: frozenset[tuple[str, ...]]


def rest_of(
    model: type[BaseModel],
    data: dict[str, Any],
    error: ValidationError | None,
    unusable: Sequence[tuple[Any, ...]] = (),
) -> Rest | None:
    """The settings that the data give without these mistakes, and without the values at ``unusable`` places; None if they
    are still not valid.

    Unknown keys are left out alone; for other mistakes their key, of a list the whole list (of a field's table only the
    key), then what lacks a key now, and where that is not enough, the whole table.
    """
    places: set[tuple[str, ...]] = set()
    waiting = [(place, True) for place in unusable]
    waiting += [(mistake["loc"], mistake["type"] != "extra_forbidden") for mistake in error.errors()] if error else []
    for tables_too in (False, False, True):
        if len(waiting) > MOST_WRONG:
            return None
        for location, matters in waiting:
            place = followed(data, location)
            if matters or tables_too:
                place, matter = _left_out(data, place)
                place = place[:1] if tables_too else place
                places.add(matter or (str(location[0]),))
            if place:
                data = cut(data, place)
        try:
            return Rest(model(**data), frozenset(places))
        except ValidationError as further:
            waiting = [(mistake["loc"], mistake["type"] != "extra_forbidden") for mistake in further.errors()]
    return None


def _left_out(data: Mapping[str, Any], place: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """What to leave out of the data for a mistake at this place, and how ``Rest.places`` calls it."""
    whole = tuple(takewhile(lambda part: isinstance(part, str), place))
    if len(place) < 4 or place[1] != FIELDS or len(whole) != 2:
        return whole, whole
    try:
        name = data[place[0]][FIELDS][place[2]]["name"]
    except (LookupError, TypeError):
        return whole, whole
    if not isinstance(name, str) or place[3] == "name":
        return whole, whole
    return place[:4], (*whole, name)


def dotted(place: tuple[Any, ...]) -> str:
    """A place in dotted form; unusual keys are quoted, so that no message holds control characters."""
    parts = (str(part) if str(part).isprintable() else repr(part) for part in place)
    return ".".join(part if len(part) <= 80 else f"{part[:80]}..." for part in parts)


def unusable_text(value: Any) -> str:
    """The reason why no key can have this value; empty if there is none."""
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character, which no command or file name can carry"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        return "the number has more than 64 bits"
    return ""
