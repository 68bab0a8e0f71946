"""Settings: config.toml, environment and command line, read in one place, with all mistakes reported at once.

Precedence: command line > environment > file > default. The tables of engines, benchmarks and plugins are declared by
those parts; reading settings creates no directory and has no other side effect.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from swarmtune import registry
from swarmtune.engines.surroundings import Deploy, HealthCheck
from swarmtune.engines.target_field import HABITS as FIELD_HABITS
from swarmtune.errors import ConfigPathError, ConfigurationError, ConfigValidationError
from swarmtune.execution.config import ParallelConfig
from swarmtune.files import expanded, opened
from swarmtune.redaction import looks_secret, ours
from swarmtune.search.swarm import Strategy
from swarmtune.sources import (
    CONFIG_PATH_VARIABLES,
    ENVIRONMENT_PREFIX,
    FIELDS,
    MAX_DEPTH,
    MOST_WRONG,
    OLD_KEYS,
    OLD_TABLES,
    Layer,
    Rest,
    dotted,
    environment,
    in_lower_case,
    items,
    merged,
    of_engines,
    origin,
    replaced,
    rest_of,
    section_name,
    table_origin,
    too_deep,
    unusable_text,
)

MAX_CONFIG_BYTES = 4 * 1024 * 1024
# pydantic's names of the mistakes of a number that lies outside its limits
OUT_OF_RANGE = ("finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal")


class Section(BaseModel):
    """A table of config.toml: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PsoOptions(Section):
    """[pso_options]: coefficients of the swarm."""

    c1: float = Field(1.496, ge=0, le=4, description="pull towards a particle's own best")
    c2: float = Field(1.496, ge=0, le=4, description="pull towards the best of its neighbours")
    w: float = Field(0.73, ge=0, le=2, description="inertia")
    topology: Literal["gbest", "ring"] = Field("gbest", description="neighbours: the whole swarm, or one on each side")


class PsoStrategy(Section):
    """[pso_strategy]: how the coefficients change over the budget."""

    c1: Strategy = Field("constant", description="course of c1: down to 0.5 of its start")
    c2: Strategy = Field("constant", description="course of c2: up to 1.5 of its start")
    w: Strategy = Field("constant", description="course of w: down to 0.4 of its start")


class Optimizer(Section):
    """[optimizer]: the parts of a run, and its budgets."""

    engine: str = Field("llamacpp", description="service under tune (-e)")
    benchmark: str = Field("swarmtune", description="load generator (-b)")
    algorithm: str = Field("swarm", description="search algorithm")
    evaluations: int | None = Field(
        None, ge=1, le=100_000, description="settings to measure, baseline included; default n_particles x iters, or 16"
    )
    timeout: float | None = Field(
        None, gt=0, le=1e8, allow_inf_nan=False, description="seconds for the search, without the final confirmation"
    )
    accelerator_seconds: float | None = Field(
        None,
        gt=0,
        le=1e12,
        allow_inf_nan=False,
        description="accelerators of a group (at least 1) x seconds of each attempt, failed ones too, for the search",
    )
    warm_start: bool = Field(True, description="learn from earlier studies of the same engine and model")
    earlier: list[str] | None = Field(
        None, max_length=1000, description="folders or databases of earlier studies; default those in output"
    )
    seed: int = Field(0, ge=0, le=2**31, description="same seed, same sequence of settings")
    study: str | None = Field(
        None,
        description="database of the study: a path, sqlite:///PATH or postgresql://...; default a new folder in output",
    )
    confirm: int | None = Field(
        None,
        ge=0,
        le=50,
        description="rounds of the proof, each measuring the best finalist and the baseline again; 0 = no proof; default "
        "as many as proof_seconds allow",
    )
    proof_seconds: float | None = Field(
        None,
        gt=0,
        le=1e8,
        allow_inf_nan=False,
        description="seconds for the proof; at least 3 rounds are measured; default a quarter of the search's time",
    )
    finalists: int = Field(3, ge=1, le=20, description="best settings that enter the proof")
    groups: int = Field(1, ge=1, le=64, description="services measured side by side on this machine")
    max_attempts: int = Field(3, ge=1, le=20, description="tries of a trial whose port, node or load generator failed")
    backup: bool = Field(False, description="keep each attempt's service files and logs (--backup)")
    user_settings: list[dict[str, bool | int | float | str]] = Field(
        [], max_length=1000, description="own settings, measured right after the baseline"
    )

    @field_validator("engine", "benchmark", "algorithm")
    @classmethod
    def _spelled(cls, name: str, info: ValidationInfo) -> str:
        known = {"engine": registry.engines, "benchmark": registry.benchmarks, "algorithm": registry.searches}
        return known[str(info.field_name)].spelled(name)


class ObjectiveSection(Section):
    """[objective]: the objective, and the SLOs."""

    name: Literal["goodput", "throughput", "weighted"] = Field(
        "goodput",
        description="what is maximised (weighted: minimised); throughput if absent and the load generator counts no goodput",
    )
    per: Literal["accelerator", "watt", "dollar"] | None = Field(
        None, description="count goodput or throughput per accelerator that the setting uses, watt or dollar"
    )
    dollars_per_hour: float | None = Field(
        None, gt=0, le=1e6, allow_inf_nan=False, description="price of one accelerator, for per = 'dollar'"
    )
    group_dollars_per_hour: float | None = Field(
        None, gt=0, le=1e6, allow_inf_nan=False, description="price of a whole group, used or not, in its place"
    )
    pareto: list[str] = Field(
        [], max_length=3, description="2 or 3 objectives or latencies to trade off, e.g. ['throughput', 'p95_ttft_ms']"
    )
    slo: dict[str, float] | None = Field(
        None, description="hard SLOs in milliseconds, e.g. p95_ttft_ms = 500, p95_tpot_ms = 50"
    )
    min_success_rate: float = Field(0.99, gt=0, le=1, description="share of requests that must succeed")
    weights: dict[
        Literal["generate_speed", "time_to_first_token", "time_per_output_token", "success_rate"],
        Annotated[float, Field(ge=0, le=1e6)],
    ] = Field({}, description="weights of the weighted cost; default .4 .2 .3 .1")
    ttft_statistic: Literal["mean", "p50", "p90", "p95", "p99", "max"] = Field(
        "mean", description="which TTFT enters the weighted cost"
    )
    tpot_statistic: Literal["mean", "p50", "p90", "p95", "p99", "max"] = Field(
        "mean", description="which TPOT enters the weighted cost"
    )


class LoadSearchSection(Section):
    """[load_search]: the highest load that keeps the SLOs, found on one service start."""

    enabled: bool = Field(
        True, description="search the load for each setting; off = the load of the benchmark's own table"
    )
    variable: Literal["concurrency", "request_rate"] = Field("concurrency", description="what is raised")
    low: float = Field(1, gt=0, le=1e6, description="lowest load")
    high: float = Field(64, gt=0, le=1e6, description="highest load")
    start: float = Field(4, gt=0, le=1e6, description="first load tried")
    points: int = Field(4, ge=1, le=50, description="loads tried at most")
    tolerance: float = Field(0.15, gt=0, lt=1, description="relative width at which the search stops")


class EarlyStopSection(Section):
    """[early_stop]: end a measurement as soon as the rest of it cannot matter."""

    mode: Literal["off", "report", "auto", "on"] = Field(
        "auto",
        description="on: end it; report: finish it, and report what ending it would have saved; "
        "auto: on where a load is the same from its beginning to its end, else report",
    )
    confidence: float = Field(0.99, ge=0.8, lt=1, description="how sure it must be")
    margin: float = Field(
        0.1, ge=0, lt=1, description="relative distance below the best value so far that ends a measurement"
    )


class SimulationSection(Section):
    """[simulation]: what predictions are made of, where ``simulate`` is on."""

    model: str | None = Field(None, min_length=1, description="model of step times; none: the engine declares its own")
    predictions: int = Field(200, ge=2, le=100_000, description="settings that are predicted, with the baseline")
    kv_blocks: int | None = Field(None, ge=1, le=2**40, description="KV blocks of a service; default by its memory")
    front_end_ms: float = Field(0.0, ge=0, le=1e4, description="time of HTTP and tokenizer for a request")


_OLD_LEVELS = {"WARN": "WARNING", "CRITICAL": "ERROR", "FATAL": "ERROR"}


def _level(value: Any) -> Any:
    return _OLD_LEVELS.get(value.upper(), value.upper()) if isinstance(value, str) else value


class BaseSections(BaseSettings):
    """What every configuration has. The tables of engines, benchmarks and plugins are added in ``settings_model``."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    optimizer: Optimizer = Optimizer()
    objective: ObjectiveSection = ObjectiveSection()
    load_search: LoadSearchSection = LoadSearchSection()
    early_stop: EarlyStopSection = EarlyStopSection()
    pso_options: PsoOptions = PsoOptions()
    pso_strategy: PsoStrategy = PsoStrategy()
    parallel: ParallelConfig = ParallelConfig()
    health_check: HealthCheck = HealthCheck()
    deploy: Deploy = Deploy()
    constraints: list[str] = Field(
        [], max_length=1000, description="rules between parameters, e.g. 'max_num_batched_tokens >= max_num_seqs'"
    )
    n_particles: int | None = Field(None, gt=0, lt=1000, description="swarm size")
    iters: int | None = Field(None, gt=0, lt=1000, description="with n_particles: the number of evaluations")
    ttft_slo: float | None = Field(
        None, gt=0, le=1e6, description="seconds; the SLO on p95 TTFT, and the target of the weighted cost (0.5)"
    )
    tpot_slo: float | None = Field(
        None, gt=0, le=1e6, description="seconds; the SLO on p95 TPOT, and the target of the weighted cost (0.05)"
    )
    success_rate_slo: float = Field(1.0, gt=0, le=1, description="target of the weighted cost")
    ttft_penalty: float = Field(3.0, ge=0, le=100, description="exponent slope of the weighted cost")
    tpot_penalty: float = Field(3.0, ge=0, le=100, description="exponent slope of the weighted cost")
    success_rate_penalty: float = Field(5.0, ge=0, le=100, description="exponent slope of the weighted cost")
    generate_speed_target: float = Field(
        5000.0, gt=0, le=1e9, description="tokens per second; scale of the weighted cost"
    )
    sample_size: int | None = Field(None, gt=0, le=10_000_000, description="requests per measurement")
    particles_time_out: float = Field(
        3600.0, gt=0, le=1e7, allow_inf_nan=False, description="seconds for one evaluation"
    )
    wait_start_time: float = Field(
        1800.0, gt=0, le=1e7, allow_inf_nan=False, description="seconds for a service to become ready"
    )
    output: str = Field("swarmtune-studies", min_length=1, description="folder for studies")
    simulate: bool | Literal["only"] = Field(
        False,
        description="predict settings in virtual time, measure the few worth it (SWARMTUNE_SIMULATE); 'only': measure none",
    )
    simulation: SimulationSection = SimulationSection()
    log_level: Annotated[Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_level)] = Field(
        "INFO", description="how much is logged (SWARMTUNE_LOG_LEVEL)"
    )

    _layers: tuple[Layer, ...] = PrivateAttr((Layer("defaults", {}),))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        *_: Any,
        **sources: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given is all that counts: ``read_settings`` reads the environment itself."""
        return (sources["init_settings"],)

    def origin(self, place: str) -> str:
        """The source of the value at this dotted place, as mistakes call it: the command line, a variable or the file."""
        return origin(self._layers, tuple(int(p) if p.isdecimal() else p for p in place.split(".")))[0]


def settings_model() -> type[BaseSections]:
    """The settings with the tables of every registered part."""
    registry.load_plugins()
    tables: dict[str, Any] = {}
    for parts in (registry.engines, registry.benchmarks):
        for name in parts:
            try:
                part = parts.load(name)
                section = section_name(part)
                tables[section] = _table(section, part.Config)
            except Exception as error:  # noqa: BLE001 - a broken part of a plugin must not stop a run that does without it
                registry.skip(f"{parts.kind} {name!r}", error)
    for name, model in registry.settings_sections.items():
        try:
            tables[name] = _table(name, model)
        except (ConfigurationError, TypeError) as error:
            registry.skip(f"settings table {name!r}", error)
    for name in OLD_TABLES:
        tables.setdefault(name, (dict[str, Any] | list[Any] | None, None))
    for name in OLD_KEYS:
        tables[name] = (Any, None)
    return create_model("Settings", __base__=BaseSections, **tables)


def _table(name: str, model: Any) -> Any:
    """The field of a part's table. Where it has keys without a default, leaving the table out leaves it None."""
    if not name.isidentifier() or name.startswith(("_", "model_")) or name in BaseSections.model_fields:
        raise ConfigurationError(f"a table of config.toml cannot be named {name!r}")
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigurationError(f"its Config must be a pydantic model, not {model!r}")
    if any(field.is_required() for field in model.model_fields.values()):
        return (model | None, None)
    return (model, Field(default_factory=model))


def config_path(given: str | None) -> Path | None:
    """The file to read: the one given, else the environment's, else ./config.toml if it is there."""
    if given is not None and not given.strip():
        raise ConfigPathError("-c needs the name of a file, not an empty text.")
    named = given or next((os.environ[v] for v in CONFIG_PATH_VARIABLES if os.environ.get(v)), None)
    if named:
        return expanded(named)
    return Path("config.toml") if Path("config.toml").is_file() else None


def read_settings(path: Path | None, overrides: Mapping[str, Any]) -> BaseSections:
    """Read everything. ``overrides`` is the command line as nested tables, with unset options left out.

    ConfigPathError if the file cannot be read, ConfigValidationError with every mistake otherwise; its ``details["rest"]``
    is a ``sources.Rest``, or None.
    """
    model = settings_model()
    variables, wrong = environment(model, os.environ)
    try:
        content = read_toml(path) if path else {}
    except ConfigValidationError as error:
        raise ConfigValidationError([*error.mistakes, *(one.sentence for one in wrong)]) from error
    content, other_case = in_lower_case(content, model)
    mistakes = [one.sentence for one in wrong] + [f"{path}: {one.sentence}" for one in other_case]
    given = (Layer("command line", overrides), *variables)
    file = Layer(str(path) if path else "defaults", content)
    layers = (*given, *of_engines((*given, file), os.environ), file)
    data, hidden = merged(layers)
    unusable = _unusable(content)
    mistakes += [f"{layers[-1].name}: {dotted(place)}: {what}" for place, what in unusable]
    for one in hidden:  # where a table is laid over what is no table, the mistake would be lost
        try:
            model(**replaced(data, one.place, one.value))
        except ValidationError as error:
            mistakes += _sentences(error, layers[one.layer :], model, below=one.place)
    ours.learn_environment(os.environ)
    ours.learn_in(data)
    settings, invalid = None, None
    try:
        settings = model(**data)
    except ValidationError as error:
        invalid = error
        mistakes += _sentences(error, layers, model)
    rest = Rest(settings, frozenset()) if settings else rest_of(model, data, invalid)
    more = _unusable(rest.settings.model_dump(warnings=False)) if rest else []
    more = [(place, what) for place, what in more if (place, what) not in unusable]
    mistakes += [f"{origin(layers, place)[0]}: {dotted(place)}: {what}" for place, what in more]
    if mistakes:
        failed = ConfigValidationError(mistakes)
        rest = rest_of(model, data, invalid, [place for place, _ in (*unusable, *more)])
        places = [one.place for one in (*wrong, *other_case) if one.place]
        failed.details["rest"] = rest = rest and Rest(rest.settings, rest.places.union(places))
    if rest is not None:
        rest.settings._layers = layers  # noqa: SLF001 - it is our own
    if mistakes or settings is None:
        raise failed from invalid
    return settings


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; every way to fail is a sentence."""
    try:
        with opened(path) as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigPathError(f"{path}: cannot be read: {reason}", details={"path": str(path)}) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigPathError(f"{path}: larger than {MAX_CONFIG_BYTES // 2**20} MiB, the limit of a configuration")
    try:
        content = tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigValidationError([f"{path}: not UTF-8 text (byte {error.start})"]) from error
    except RecursionError as error:
        raise ConfigValidationError([f"{path}: not valid TOML: nested too deep"]) from error
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise ConfigValidationError([f"{path}: not valid TOML: {error}"]) from error
    if deep := too_deep(content):
        raise ConfigValidationError([f"{path}: {dotted(deep)} ...: nested deeper than {MAX_DEPTH} levels"])
    return content


def _unusable(content: Mapping[str, Any]) -> list[tuple[tuple[Any, ...], str]]:
    """Mistakes for values that are valid TOML but never usable: infinite or enormous numbers, text with NUL characters.

    The older tuner's keys without effect may have them, because it wrote ftol = -inf.
    """
    mistakes = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [
        ((key,), value) for key, value in content.items() if key not in (*OLD_KEYS, *OLD_TABLES)
    ]
    while waiting:
        place, value = waiting.pop()
        if what := unusable_text(value):
            mistakes.append((place, what))
        waiting += [((*place, key), inner) for key, inner in items(value)]
        waiting += [((*place, "name"), key) for key, _ in items(value) if isinstance(key, str) and "\0" in key]
    return mistakes


def _sentences(
    error: ValidationError, layers: Sequence[Layer], model: type[BaseModel], below: tuple[str, ...] = ()
) -> list[str]:
    """One sentence for each place ``below`` this one that is wrong, however many types were tried on it."""
    by_place: dict[tuple[str, str], list[str]] = {}
    mistakes = error.errors()[:MOST_WRONG]
    inside = {mistake["loc"][:depth] for mistake in mistakes for depth in range(len(mistake["loc"]))}
    for mistake in mistakes:
        location = mistake["loc"]
        if location[: len(below)] != below or (mistake["type"] == "too_short" and location in inside):
            continue  # a list is counted without its wrong entries
        where, place = origin(layers, location)
        if mistake["type"] == "missing":
            where = table_origin(layers, location[0]) if len(location) == 2 else where
        if mistake["type"] in ("missing", "extra_forbidden"):
            place = location
        what = _what(mistake, model)
        texts = by_place.setdefault((where, dotted(place)), [])
        if what not in texts:
            texts.append(what)
    found = [f"{where}: {place}: {'; or '.join(texts)}" for (where, place), texts in by_place.items()]
    more = error.error_count() - MOST_WRONG
    return [*found, f"{layers[0].name}: {more:,} further keys or values are wrong"] if more > 0 else found


def _what(error: Any, model: type[BaseModel]) -> str:
    """The mistake, and a correct form."""
    location, given = error["loc"], error.get("input")
    if error["type"] == "extra_forbidden":
        beside = _keys_beside(model, location)
        near = difflib.get_close_matches(str(location[-1]), beside, n=3)
        if (meant := FIELD_HABITS.get(str(location[-1]))) and meant.split(" ")[0] in beside and FIELDS in location:
            near = [meant]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"unknown key{hint}" + (registry.unloaded() if len(location) == 1 else "")
    if unusable := unusable_text(_number(given) if error["type"] in OUT_OF_RANGE else given):
        return unusable
    text = f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        text = "input should be a table"
    if error["type"] == "missing" or "env" in location or any(looks_secret(str(part)) for part in location):
        return text
    shown = repr(given)
    return f"{text} (it is {shown[:80]}{'...' if len(shown) > 80 else ''})"


def _number(given: Any) -> Any:
    """The number that pydantic read from a text."""
    try:
        return float(given) if isinstance(given, str) else given
    except ValueError:
        return given


def _keys_beside(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The valid keys at the place of an unknown one."""
    current: Any = model
    for part in location[:-1]:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            break
        if isinstance(part, int):  # an entry of a list, whose model is known already
            continue
        field = current.model_fields.get(str(part))
        current = field.annotation if field else None
        arguments = [a for a in getattr(current, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        current = arguments[0] if arguments else current
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
