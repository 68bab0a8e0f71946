"""Can the services and the load of a plan be run as they are described?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swarmtune.engines.base import Engine
from swarmtune.errors import ConfigurationError
from swarmtune.loadgen.base import Benchmark
from swarmtune.records import Group
from swarmtune.sources import section_name
from swarmtune.space import Space
from swarmtune.tuner.planning.parts import has_mistakes, tell_of_part
from swarmtune.tuner.planning.scripts import StartScripts
from swarmtune.workload import Workload


def not_runnable(
    engine: Engine,
    space: Space,
    groups: tuple[Group, ...],
    mistakes: list[str],
    scripts: StartScripts | None = None,
) -> None:
    """Why the services of the baseline cannot be started on these groups, to ``mistakes``; nothing that follows from what is
    wrong in the engine's table already.

    With ``scripts`` the engine starts nothing: it may be one that runs on one node, or cannot run here.
    """
    ports = [g.port for g in groups if g.port > 65535]
    if ports:
        mistakes.append(f"optimizer.groups: the ports of {len(groups)} groups would end at {ports[-1]}, above 65535")
    several = [g.name for g in groups if len(g.nodes) > 1]
    if several and not (engine.spans_nodes or scripts):
        mistakes.append(
            f"parallel: the groups {', '.join(several[:5])} have several nodes, and the engine {engine.name} runs on one; "
            'set mode = "single_node" or nodes_per_group = 1'
        )
    if groups and _has_command(section_name(engine), lambda: engine.command(space.default(), groups[0]), mistakes):
        mistakes += [] if mistakes or scripts else _shared_files(engine, space, groups)


def not_measurable(benchmark: Benchmark, workload: Workload, timeout_s: float, mistakes: list[str]) -> None:
    """Why this load cannot be put on a service, or cannot end within ``timeout_s`` seconds, to ``mistakes``."""
    section = section_name(benchmark)
    if workload.duration_s is not None and workload.duration_s >= timeout_s:
        mistakes.append(
            f"{section}.benchmark_duration: {workload.duration_s:g} s of load do not fit into one "
            f"evaluation (particles_time_out = {timeout_s:g})"
        )
    _has_command(section, lambda: benchmark.command(workload, "http://127.0.0.1:8000"), mistakes)


def _has_command(section: str, make: Callable[[], Any], mistakes: list[str]) -> bool:
    """Can a command be made? Other errors than a mistake that is named follow from what is wrong in the section."""
    try:
        make()
    except ConfigurationError as error:
        tell_of_part(error, mistakes, section)
        return False
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, OSError, RecursionError) as error:
        if not has_mistakes(section, mistakes):
            mistakes.append(f"{section}: no command can be made of these values: {error}")
        return False
    return True


def _shared_files(engine: Engine, space: Space, groups: tuple[Group, ...]) -> list[str]:
    """Files at an absolute path, such as MindIE's config.json, that several services on one machine would write."""
    services = Counter(node.host for group in groups for node in group.nodes)
    writers: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        if all(services[node.host] == 1 for node in group.nodes):
            continue
        for node, command in zip(group.nodes, engine.commands(space.default(), group), strict=True):
            for file in command.files:
                if Path(file.path).is_absolute():
                    writers.setdefault((node.host, file.path), []).append(group.name)
    return [
        f"{path} on {host} would be written by the groups {', '.join(names)}; only one group can be on that machine"
        for (host, path), names in writers.items()
        if len(names) > 1
    ]
