"""The plan of a run: everything that it needs, checked and frozen."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from swarmtune import registry
from swarmtune.engines.base import Engine, Probe
from swarmtune.engines.placement import LOAD_FIELDS
from swarmtune.engines.surroundings import Deploy, HealthCheck
from swarmtune.execution.config import ParallelConfig
from swarmtune.loadgen.base import Benchmark
from swarmtune.objective import Objective
from swarmtune.records import Command, Group, Measurement, Setting
from swarmtune.redaction import looks_secret
from swarmtune.search.base import Search
from swarmtune.search.load import LoadSearch
from swarmtune.search.swarm import SwarmOptions
from swarmtune.space import Field, Space
from swarmtune.tuner.planning.scripts import StartScripts
from swarmtune.tuner.planning.simulation import Simulation
from swarmtune.workload import Load, StopRules, Workload

LEAST_ROUNDS, MOST_ROUNDS = 3, 30  # of the proof, when their number follows from the time
PROOF_SHARE = 0.25  # of the search's time is the proof's, where nothing is said
# Options that say which measurements count, and so can be changed while a study goes on.
TRUST = frozenset({"max_contended_cpu_share", "max_other_device_share"})
# Options of engines and load generators that studies of schema 1 may not have.
ADDED = frozenset(
    {"benchmark_min_requests", "benchmark_min_requests_per_user", "warmup_until_steady", "client_cert", "client_key"}
    | {"tokenizer", "num_dataset_entries", "slice_duration"}
)


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs, checked. Times in seconds."""

    engine: Engine
    benchmark: Benchmark
    space: Space
    objective: Objective
    workload: Workload
    load_search: LoadSearch | None
    load_variable: str
    algorithm: str
    swarm: SwarmOptions
    evaluations: int
    timeout_s: float | None
    seed: int
    confirm: int | None
    groups: tuple[Group, ...]
    user_settings: tuple[Setting, ...]
    start_timeout_s: float
    evaluation_timeout_s: float
    max_attempts: int
    backup: bool
    output: Path
    study: str | None
    notices: tuple[str, ...] = ()
    early_stop: StopRules | None = None
    early_stop_text: str = ""  # what early stopping does, and why it does not act
    finalists: int = 3
    proof_s: float | None = None
    accelerator_s: float | None = None
    warm_start: bool = False
    earlier: tuple[str, ...] | None = None  # folders and databases; None: the studies in ``output``
    parallel: ParallelConfig | None = None  # resolved; None: only this machine
    hostfile: ParallelConfig | None = None  # as it was given, to be read again when its hostfile changes
    health_check: HealthCheck = field(default_factory=HealthCheck)
    deploy: Deploy = field(default_factory=Deploy)
    scripts: StartScripts | None = None  # None: the engine's own commands start the services
    simulation: Simulation | None = None  # None: nothing is predicted
    installed: tuple[str, ...] = ()  # what is there on the nodes, as sentences; empty: nothing was asked

    def baseline(self) -> Setting:
        """The setting that is measured first: the values that are in use today."""
        return replace(self.space.default(), origin="baseline")

    def commands(self, setting: Setting, group: Group) -> tuple[Command, ...]:
        """The commands of the service with this setting, one for each node of the group."""
        if self.scripts is None:
            commands = self.engine.commands(setting, group)
        else:
            commands = self.scripts.commands(self.space.fields, setting, group)
        return tuple(_placed(self.deploy.on_path(command)) for command in commands)

    async def ready(self, probe: Probe, group: Group) -> bool:
        """Is the service of this group up? The engine's check, or that of the start scripts."""
        return await (self.scripts.ready(self.engine, probe, group) if self.scripts else self.engine.ready(probe))

    @property
    def load_python(self) -> str | None:
        """The Python by which load generators run on the groups' masters; None: they run on this machine."""
        return self.parallel.load_python if self.parallel else None

    def proof_rounds(self, search_s: float, round_s: float, qualifying_s: float, groups: int) -> int:
        """How many rounds the proof has: ``confirm``, else as many as fit into its time without ``qualifying_s``."""
        if self.confirm is not None:
            return self.confirm
        total_s = PROOF_SHARE * search_s if self.proof_s is None else self.proof_s
        waves = math.floor(max(0.0, total_s - qualifying_s) / round_s) if round_s > 0 else 0
        return max(LEAST_ROUNDS, min(MOST_ROUNDS, waves * groups))

    def new_search(self) -> Search:
        """A search without results."""
        search: Search = registry.searches.load(self.algorithm)(self.space, self.seed, self.evaluations, self.swarm)
        return search

    def load_of(self, setting: Setting) -> Load:
        """The load of a setting without a load search: the workload's, changed by the setting's load fields."""
        load = self.workload.load
        for name, value in setting.values.items():
            variable = LOAD_FIELDS.get(name.lower())
            if variable == "concurrency":
                load = replace(load, concurrency=max(1, int(value)))
            elif variable == "request_rate" and float(value) > 0:
                load = replace(load, request_rate=float(value))
        return load

    def at(self, load: float) -> Load:
        """The workload's load with the searched variable at this value."""
        if self.load_variable == "concurrency":
            return replace(self.workload.load, concurrency=int(load), request_rate=None)
        return replace(self.workload.load, request_rate=load, concurrency=self.benchmark.concurrency_cap)

    def load_value(self, measurement: Measurement) -> float:
        """The searched load variable of a measurement."""
        return float(measurement.load.get(self.load_variable, math.nan))

    def fingerprint(self) -> dict[str, Any]:
        """All that must be equal for two results to be comparable, as plain data (study/fingerprint.py)."""
        return {
            "engine": self.engine.name,
            "benchmark": self.benchmark.name,
            "model": self.engine.model,
            "fields": [_plain(f) for f in self.space.fields],
            "constraints": [c.text for c in self.space.constraints],
            "objective": self.objective.identity(),
            "workload": self.workload.identity(),
            "load_search": self.load_search.identity() if self.load_search else None,
            "sections": _digest(self.engine.config, self.benchmark.config),
            **({"path_prefix": self.deploy.path_prefix} if self.deploy.path_prefix else {}),
            **({"start_script": self.scripts.identity} if self.scripts else {}),
        }

    def service(self) -> str:
        """A hash of the tables of engine and benchmark, without the fields that are searched."""
        return _digest(self.engine.config, self.benchmark.config, without="target_field")


def _placed(command: Command) -> Command:
    """A relative folder is one below the executor's own, for all attempts; their logs are there, too."""
    if not command.cwd or command.cwd.startswith(("/", "~")):
        return command
    return replace(command, directory=command.cwd, cwd="")


def _plain(field: Field) -> dict[str, Any]:
    """Without defaults, so that an attribute which fields get later changes no study."""
    defaults = {f.name: f.default for f in dataclass_fields(field)}
    return {name: value for name, value in vars(field).items() if value != defaults[name] and value is not None}


def _digest(*sections: BaseModel, without: str = "") -> str:
    """A hash of the tables of engine and benchmark, without what looks secret: a new token does not change a service.

    Options that were added after the first studies count only where they are set, so that those studies go on.
    """
    tables = [
        {
            k: v
            for k, v in s.model_dump(mode="json").items()
            if k not in (without, *TRUST) and (k not in ADDED or _set(s, k))
        }
        for s in sections
    ]
    plain = json.dumps([_known(table) for table in tables], sort_keys=True)
    return sha256(plain.encode()).hexdigest()


def _set(section: BaseModel, option: str) -> bool:
    return bool(getattr(section, option) != type(section).model_fields[option].default)


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items() if not looks_secret(str(k))}
    return [_known(v) for v in value] if isinstance(value, list) else value
