"""Keys that are given and change nothing beside the others, as notes: two keys for one thing, or one without its partner."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from swarmtune.loadgen.base import Benchmark
from swarmtune.search.base import Search
from swarmtune.search.load import LoadSearch
from swarmtune.settings import BaseSections
from swarmtune.sources import OLD_KEYS, OLD_TABLES, UNUSED, section_name
from swarmtune.tuner.planning.aims import needs_slos


def idle_notes(
    settings: BaseSections, benchmark: Benchmark, search: type[Search] | None, load_search: LoadSearch | None
) -> list[str]:
    """A sentence for each."""
    given, o = settings.model_fields_set, settings.optimizer
    found = []
    seconds = [name for name in ("ttft_slo", "tpot_slo") if name in given and getattr(settings, name) is not None]
    if seconds and settings.objective.slo is not None and needs_slos(settings):
        found.append(f"{' and '.join(seconds)} not used: [objective] slo is given, and says all limits")
    if settings.iters is not None and (o.evaluations is not None or settings.n_particles is None):
        why = "evaluations is given" if o.evaluations is not None else "it counts only with n_particles"
        found.append(f"iters is not used: {why}")
    tables = [
        name for name in ("pso_options", "pso_strategy") if name in given and getattr(settings, name).model_fields_set
    ]
    if tables and search is not None and not search.uses_particles:
        found.append(
            f"{' and '.join(f'[{t}]' for t in tables)} not used: the algorithm {o.algorithm} moves no particles"
        )
    variable = settings.load_search.variable
    own = variable in benchmark.config.model_fields_set and getattr(benchmark.config, variable, None) is not None
    if load_search is not None and own:
        found.append(
            f"{section_name(benchmark)}.{variable} is not used: the load search finds the load itself, between "
            f"{load_search.low:g} and {load_search.high:g} ([load_search]; enabled = false takes yours)"
        )
    check = settings.health_check
    texts = any(check.model_dump(include={"service_errors", "benchmark_errors"}, exclude_defaults=True).values())
    if "log_snippet_length" in check.model_fields_set and not texts:
        found.append("health_check.log_snippet_length is not used: no texts are given that would be searched for")
    return found


def read_only_notes(settings: BaseSections) -> list[str]:
    """Keys of the older tuner that were given and have no effect, as sentences."""
    found = [name for name in (*OLD_TABLES, *OLD_KEYS) if getattr(settings, name, None) not in (None, {}, [])]
    inside = list(_read_only(settings, ()))
    told = f"{', '.join(inside)} {'was read and has' if len(inside) == 1 else 'were read and have'} no effect here"
    return [*(f"{name} was read and has no effect here" for name in found), *([told] if inside else [])]


def _read_only(table: BaseModel, place: tuple[str, ...]) -> Iterator[str]:
    """Keys inside of tables that are only read."""
    for name in sorted(table.model_fields_set & type(table).model_fields.keys()):
        info, value = type(table).model_fields[name], getattr(table, name)
        if (info.description or "").startswith(UNUSED) and value not in ("", (), info.default):
            yield ".".join((*place, name))
        elif isinstance(value, BaseModel):
            yield from _read_only(value, (*place, name))
