"""Start scripts in place of an engine's own commands, as the older extension starts services."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from swarmtune.engines.base import Engine, Probe
from swarmtune.engines.placement import load_field, place
from swarmtune.engines.readiness import serves
from swarmtune.errors import ConfigValidationError
from swarmtune.execution.config import ParallelConfig
from swarmtune.fleet.start_script import GroupScripts, script_mistakes
from swarmtune.records import Command, Group, Setting, Value
from swarmtune.space import Field

SCRIPT_KEYS = ("start", "start_script", "stop_script", "config_path", "health_check_url", "health_check_timeout")
DEFAULT = "parallel.start_script"


@dataclass(frozen=True)
class StartScripts:
    """The scripts of each group by its name, and those of groups that join later."""

    groups: Mapping[str, GroupScripts]
    later: GroupScripts

    def of(self, group: str) -> GroupScripts:
        """The scripts of this group."""
        return self.groups.get(group, self.later)

    def commands(self, fields: Sequence[Field], setting: Setting, group: Group) -> tuple[Command, ...]:
        """One command for each node. The script gets the values of the service's parameters as JSON, by the names of the
        fields, and those with the position "env" in its environment, too.
        """
        values: dict[str, Value] = {
            f.name: setting.values[f.name]
            for f in fields
            if f.name in setting.values and not (load_field(f.name) or f.live) and f.active(setting.values)
        }
        env = place(fields, setting).env
        commands = self.of(group.name).commands(values, len(group.nodes))
        return tuple(replace(command, env={**env, **command.env}) for command in commands)

    async def ready(self, engine: Engine, probe: Probe, group: Group) -> bool:
        """``health_check_url`` answers 200, and the service one completion."""
        path = getattr(engine.config, "completion_path", "/v1/completions")
        return await serves(probe, engine.model, self.of(group.name).options.health_url_of(group), path)

    @property
    def ready_s(self) -> float:
        """Seconds that a service may take to be ready: of groups that differ, the longest."""
        return max(scripts.options.health_check_timeout for scripts in (self.later, *self.groups.values()))

    @property
    def identity(self) -> str:
        """A hash of what the scripts are."""
        known = {
            json.dumps([list(s.start.argv), [f.content for f in s.start.files], s.options.start, s.options.config_path])
            for s in self.groups.values()
        }
        return sha256("\n".join(sorted(known)).encode()).hexdigest()


def start_scripts(given: ParallelConfig, parallel: ParallelConfig | None, mistakes: list[str]) -> StartScripts | None:
    """The scripts of the groups of ``parallel``, where ``given`` names one; ``mistakes`` gets those that cannot be read."""
    if not given.enabled or "start_script" not in _keys(given):
        return None
    groups = parallel.service_groups if parallel else ()
    if wrong := script_mistakes(groups or (given,)):
        mistakes += [f"{DEFAULT}: {mistake}" for mistake in wrong]
    if wrong or parallel is None:  # its groups are wrong
        return None
    try:
        later = GroupScripts.of(parallel)
    except ConfigValidationError:  # each group has a script of its own
        later = GroupScripts.of(groups[0])
    return StartScripts({group.group_id: GroupScripts.of(group) for group in groups}, later)


def script_notes(given: ParallelConfig, scripts: StartScripts | None) -> list[str]:
    """What starts the services; that keys for start scripts have no effect without one."""
    if not given.enabled:
        return []
    if scripts is not None:
        return [f"{DEFAULT} starts the services, in place of the engine's own command; -e names the parameters"]
    keys, usual = _keys(given), ParallelConfig.model_fields["start_script"].default
    unused = [f"parallel.{key}" for key in SCRIPT_KEYS if key in keys]
    notes = [f"{', '.join(unused)}: no effect without {DEFAULT}: the engine starts the service"] if unused else []
    if Path(usual).is_file():
        notes.append(f'{usual} is here and not used: the engine starts the service; {DEFAULT} = "{usual}" changes that')
    return notes


def _keys(given: ParallelConfig) -> set[str]:
    """The keys that are given for all groups or, where the groups are written one by one, for one of them."""
    listed = given.hostfile is not None or given.node_string is not None
    return {key for one in (given, *(() if listed else given.service_groups)) for key in one.model_fields_set}
