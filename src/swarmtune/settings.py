"""Settings: config.toml, environment and command line, read in one place, with all mistakes reported at once.

Precedence: command line > environment > file > default. The tables of engines, benchmarks and plugins are declared by
those parts; reading settings creates no directory and has no other side effect.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from swarmtune import registry
from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.search.swarm import Strategy

MAX_CONFIG_BYTES = 4 * 1024 * 1024
ENVIRONMENT_PREFIX = "SWARMTUNE_"
CONFIG_PATH_VARIABLES = ("SWARMTUNE_CONFIG_PATH", "MODEL_EVAL_STATE_CONFIG_PATH")
OLD_VARIABLES = {"simulate": "MODEL_EVAL_STATE_SIMULATE", "log_level": "MODELEVALSTATE_LEVEL"}

# Tables and keys of the older tuner that are read and have no effect here, because what they steered is gone or done
# in another way. They are listed so that an old file stays valid and a typing error does not.
OLD_TABLES = (
    "ais_bench", "benchmark", "benchmark_early_exit", "cbo", "communication", "data_storage", "deploy", "health_check",
    "kubectl", "latency_model", "parallel", "suggrogate", "surrogate",
)  # fmt: skip
OLD_KEYS = (
    "ftol", "ftol_iter", "max_fine_tune", "mem_coefficient", "scaling_coefficient", "service", "simulator_output",
    "slo_coefficient", "step_size", "theory_guided_enable", "use_request_rate_calibration", "use_surrogate",
)  # fmt: skip


class Section(BaseModel):
    """A table of config.toml: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PsoOptions(Section):
    """[pso_options]: coefficients of the swarm."""

    c1: float = Field(1.496, ge=0, le=4, description="pull towards a particle's own best")
    c2: float = Field(1.496, ge=0, le=4, description="pull towards the best of its neighbours")
    w: float = Field(0.73, ge=0, le=2, description="inertia")
    topology: Literal["gbest", "ring"] = Field("gbest", description="who is a neighbour")


class PsoStrategy(Section):
    """[pso_strategy]: how the coefficients change over the budget."""

    c1: Strategy = Field("constant", description="course of c1")
    c2: Strategy = Field("constant", description="course of c2")
    w: Strategy = Field("constant", description="course of w")


class Optimizer(Section):
    """[optimizer]: what is run, and for how long."""

    engine: str = Field("llamacpp", description="service under tune (-e)")
    benchmark: str = Field("swarmtune", description="load generator (-b)")
    algorithm: str = Field("swarm", description="search algorithm")
    evaluations: int | None = Field(
        None, ge=1, le=100_000, description="settings to measure, baseline included; default n_particles x iters, or 16"
    )
    timeout: float | None = Field(
        None, gt=0, le=1e8, allow_inf_nan=False, description="seconds for the search, without the final confirmation"
    )
    seed: int = Field(0, ge=0, le=2**31, description="same seed, same questions")
    study: str | None = Field(
        None,
        description="database of the study: a path, sqlite:///PATH or postgresql://...; default a new folder in output",
    )
    confirm: int = Field(3, ge=0, le=50, description="re-measurements of winner and baseline each; 0 = none")
    groups: int = Field(1, ge=1, le=64, description="services measured side by side on this machine")
    max_attempts: int = Field(3, ge=1, le=20, description="tries of a trial whose port, node or load generator failed")
    backup: bool = Field(False, description="keep each attempt's service files and logs (--backup)")
    user_settings: list[dict[str, bool | int | float | str]] = Field(
        [], description="own settings, measured right after the baseline"
    )


class Promises(Section):
    """[objective]: what better means, and what must be kept."""

    name: Literal["goodput", "throughput", "weighted"] = Field(
        "goodput", description="what is maximised (weighted: minimised)"
    )
    slo: dict[str, float] | None = Field(
        None, description="hard promises in milliseconds, e.g. p95_ttft_ms = 500, p95_tpot_ms = 50"
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
    """[load_search]: the highest load that keeps the promises, found on one service start."""

    enabled: bool = Field(
        True, description="search the load for each setting; off = the load of the benchmark's own table"
    )
    variable: Literal["concurrency", "request_rate"] = Field("concurrency", description="what is raised")
    low: float = Field(1, gt=0, le=1e6, description="lowest load")
    high: float = Field(64, gt=0, le=1e6, description="highest load")
    start: float = Field(4, gt=0, le=1e6, description="first load tried")
    points: int = Field(4, ge=1, le=50, description="loads tried at most")
    tolerance: float = Field(0.15, gt=0, lt=1, description="relative width at which the search stops")


def _level(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class BaseSections(BaseSettings):
    """What every configuration has. The tables of engines, benchmarks and plugins are added in ``settings_model``."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    optimizer: Optimizer = Optimizer()
    objective: Promises = Promises()
    load_search: LoadSearchSection = LoadSearchSection()
    pso_options: PsoOptions = PsoOptions()
    pso_strategy: PsoStrategy = PsoStrategy()
    constraints: list[str] = Field(
        [], description="rules between parameters, e.g. 'max_num_batched_tokens >= max_num_seqs'"
    )
    n_particles: int | None = Field(None, gt=0, lt=1000, description="swarm size")
    iters: int | None = Field(None, gt=0, lt=1000, description="with n_particles: the number of evaluations")
    ttft_slo: float | None = Field(
        None, gt=0, le=1e6, description="seconds; the promise on p95 TTFT, and the target of the weighted cost (0.5)"
    )
    tpot_slo: float | None = Field(
        None, gt=0, le=1e6, description="seconds; the promise on p95 TPOT, and the target of the weighted cost (0.05)"
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
    simulate: bool = Field(False, description="use the simulated engine in place of the real one (SWARMTUNE_SIMULATE)")
    log_level: Annotated[Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_level)] = Field(
        "INFO", description="how much is logged (SWARMTUNE_LOG_LEVEL)"
    )


def section_name(part: Any) -> str:
    """The table of config.toml that belongs to an engine or benchmark class."""
    return str(getattr(part, "section", part.name))


def settings_model(content: Mapping[str, Any]) -> type[BaseSections]:
    """The settings with the tables of every registered part, reading this content of a config.toml."""

    class FileSettings(BaseSections):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **sources: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            old = {key: os.environ[name] for key, name in OLD_VARIABLES.items() if name in os.environ}
            return (
                sources["init_settings"],
                sources["env_settings"],
                InitSettingsSource(settings_cls, old),
                InitSettingsSource(settings_cls, dict(content)),
            )

    registry.load_plugins()
    tables: dict[str, Any] = {}
    for known in (registry.engines, registry.benchmarks):
        for name in known:
            part = known.load(name)
            tables[section_name(part)] = (part.Config, Field(default_factory=part.Config))
    for name, model in registry.settings_sections.items():
        tables[name] = (model, Field(default_factory=model))
    for name in OLD_TABLES:
        tables.setdefault(name, (dict[str, Any] | list[Any] | None, None))
    for name in OLD_KEYS:
        tables[name] = (Any, None)
    return create_model("Settings", __base__=FileSettings, **tables)


def config_path(given: str | None) -> Path | None:
    """The file to read: the one given, else the environment's, else ./config.toml if it is there."""
    named = given or next((os.environ[v] for v in CONFIG_PATH_VARIABLES if os.environ.get(v)), None)
    if named:
        return Path(named).expanduser()
    return Path("config.toml") if Path("config.toml").is_file() else None


def read_settings(path: Path | None, overrides: Mapping[str, Any]) -> BaseSections:
    """Read everything. ``overrides`` is the command line as nested tables, with unset options left out.

    ConfigPathError if the file cannot be read, ConfigValidationError with every mistake otherwise.
    """
    content = read_toml(path) if path else {}
    model = settings_model(content)
    source = str(path) if path else "defaults"
    try:
        return model(**overrides)
    except ValidationError as error:
        raise ConfigValidationError(
            [_sentence(e, source, content, overrides, model) for e in error.errors()]
        ) from error
    except ValueError as error:  # pydantic-settings cannot parse a variable of the environment
        raise ConfigValidationError([f"environment: {error}"]) from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; every way to fail is a sentence."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigPathError(
            f"{path}: cannot be read: {error.strerror or error}", details={"path": str(path)}
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigPathError(f"{path}: larger than {MAX_CONFIG_BYTES // 2**20} MiB; that is no configuration")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigValidationError([f"{path}: not UTF-8 text (byte {error.start})"]) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigValidationError([f"{path}: not valid TOML: {error}"]) from error


def without_effect(settings: BaseSections) -> list[str]:
    """Keys of the older tuner that were given and do nothing here."""
    return [name for name in (*OLD_TABLES, *OLD_KEYS) if getattr(settings, name, None) not in (None, {}, [])]


def _sentence(
    error: Any, source: str, content: Mapping[str, Any], overrides: Mapping[str, Any], model: type[BaseModel]
) -> str:
    """One pydantic error as: where: key: what is wrong, and what would be right."""
    location = error["loc"]
    keys = ".".join(str(part) for part in location)
    if _reaches(overrides, location):
        where = "command line"
    else:
        where = source if _reaches(content, location[:1]) else "environment"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys_beside(model, location), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"{where}: {keys}: there is no such key{hint}"
    shown = repr(error.get("input"))
    shown = "" if error["type"] == "missing" else f" (it is {shown[:80]}{'...' if len(shown) > 80 else ''})"
    return f"{where}: {keys}: {error['msg'][:1].lower()}{error['msg'][1:]}{shown}"


def _reaches(data: Any, location: tuple[Any, ...]) -> bool:
    """Does this source hold the place of the mistake, or what stands in its stead?"""
    for part in location:
        if isinstance(data, Mapping):
            if part not in data:
                return False
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return True
    return True


def _keys_beside(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that would be right where an unknown one was found."""
    current: Any = model
    for part in location[:-1]:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            break
        field = current.model_fields.get(str(part))
        current = field.annotation if field else None
        arguments = [a for a in getattr(current, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        current = arguments[0] if arguments else current
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
