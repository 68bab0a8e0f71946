"""SGLang: ``python -m sglang.launch_server``.

Written from SGLang 0.5.23's documentation and source; it needs a GPU, so only its command lines are tested here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from pydantic import Field as Option

from swarmtune.engines.base import Engine, Probe
from swarmtune.engines.diagnosis import Cause, Patterns, diagnose
from swarmtune.engines.memory import KvMemory
from swarmtune.engines.parallel import parallel
from swarmtune.engines.placement import place, split, substitute, tokens, without_given
from swarmtune.engines.readiness import serves
from swarmtune.engines.schema import Parameter, Schema
from swarmtune.engines.service_config import CommandSection, ServiceConfig, program
from swarmtune.errors import SimulatorStartError
from swarmtune.records import Command, Group, Setting
from swarmtune.space import Field

POLICIES = ["lpm", "random", "fcfs", "dfs-weight", "lof", "priority", "routing-key", "hrrn", "shortest-prefill-first"]
SCHEMA = Schema(
    "SGLang",
    "0.5",
    (
        Parameter("--max-running-requests", default=256, min=1, max=2048, log=True, note="computed from free memory"),
        Parameter("--chunked-prefill-size", "enum", 8192, dtype_param=[512, 1024, 2048, 4096, 8192, 16384]),
        Parameter("--max-prefill-tokens", default=16384, min=1024, max=65536, log=True),
        Parameter("--mem-fraction-static", "float", 0.88, min=0.5, max=0.95, note="weights and KV cache of the total"),
        Parameter("--schedule-policy", "enum", "fcfs", dtype_param=POLICIES),
        Parameter("--schedule-conservativeness", "float", 1.0, min=0.1, max=2.0),
        Parameter("--page-size", "enum", 1, dtype_param=[1, 16, 32, 64, 128]),
        Parameter("--num-continuous-decode-steps", default=1, min=1, max=16),
        Parameter("--prefill-max-requests", min=1, max=256, log=True),
        Parameter("--max-queued-requests", min=1, max=4096, log=True),
        Parameter("--prefill-decode-interval", default=1, min=1, max=16),
        Parameter("--enable-mixed-chunk", "bool", False),
        Parameter("--cuda-graph-max-bs-decode", min=8, max=512, log=True),
        Parameter("--cuda-graph-max-bs-prefill", min=8, max=512, log=True),
        Parameter("--attn-dp-size", default=1, min=1, max=64),
        Parameter("--tp-size", default=1, min=1, max=64),
        Parameter("--dp-size", default=1, min=1, max=64),
        Parameter("--pp-size", default=1, min=1, max=64),
    ),
    rules=("{chunked_prefill_size} % {page_size} == 0", "{max_prefill_tokens} >= {chunked_prefill_size}"),
)
DEFAULT_FIELDS = ("max_running_requests", "chunked_prefill_size", "mem_fraction_static", "schedule_conservativeness")
PATTERNS: Patterns = {Cause.BAD_ARGUMENT: (r"launch_server(\.py)?: error: ",)}

RENDEZVOUS_OFFSET = (
    1000  # from the service's port to that where ranks meet; SGLang uses some ports right behind its own
)


class SglangConfig(ServiceConfig):
    """The section ``[sglang]``."""

    command: CommandSection = Option(default_factory=CommandSection, description="what to serve, and how")
    python: str = Option("python", min_length=1, description="the Python that has SGLang")


class SglangEngine(Engine):
    """Booleans are flags without a value; False leaves the flag out."""

    name = "sglang"
    metrics_path = "/metrics"
    config: SglangConfig
    Config = SglangConfig
    spans_nodes = True

    def __init__(self, config: SglangConfig) -> None:
        super().__init__(config)
        self.memory = KvMemory(config.memory, config.baselines, lambda: split(config.command.others))

    @classmethod
    def found(cls) -> bool:
        """Is the package ``sglang`` installed beside us?"""
        return importlib.util.find_spec("sglang") is not None

    @property
    def model(self) -> str:
        """``served_model_name``, or the model itself."""
        return self.config.command.served

    def fields(self) -> tuple[Field, ...]:
        """The user's, or running requests, prefill chunk, memory fraction and conservativeness."""
        known = [(n, SCHEMA.find(n)) for n in DEFAULT_FIELDS]
        fields = SCHEMA.fields(self.config.target_field, [p.to_field(n) for n, p in known if p])
        return self.memory.bounded(fields, self._batch(fields))

    def _batch(self, fields: Sequence[Field]) -> str | None:
        return SCHEMA.fields_by_parameter(fields).get("max_running_requests")

    def constraints(self) -> tuple[str, ...]:
        """Rules that SGLang checks at its start, and the bound of the KV cache."""
        fields = self.fields()
        return SCHEMA.constraints(fields) + self.memory.rules(self._batch(fields), fields)

    def mistakes(self) -> list[str]:
        """Placeholders, misspelled flags, and a memory table that cannot be used."""
        found = self.config.command.mistakes("sglang.command") + self.memory.mistakes(self.fields())
        return found + SCHEMA.field_mistakes(self.fields(), "sglang")

    def notes(self) -> list[str]:
        """What the memory table bounds."""
        fields = self.fields()
        return [*super().notes(), *self.memory.notes(fields, self._batch(fields))]

    def command(self, setting: Setting, group: Group) -> Command:
        """``python -m sglang.launch_server --model-path MODEL --host H --port P`` with the setting's flags."""
        config, section = self.config, self.config.command
        placed = place(self.fields(), setting, SCHEMA.flag_of, "present")
        port = section.port_for(group.port)
        values = tokens(setting, HOST=group.master, PORT=str(port), MODEL=section.model_argument)
        others = substitute(split(section.others), {**config.env, **values})
        served = ("--served-model-name", section.served) if section.served != section.model_argument else ()
        argv = (program(config.python), "-m", "sglang.launch_server", "--model-path", section.model_argument, *served)
        where: tuple[str, ...] = ("--host", group.nodes[group.rank].host, "--port", str(port))
        if len(group.nodes) > 1:
            where += ("--nnodes", str(len(group.nodes)), "--node-rank", str(group.rank))
            where += ("--dist-init-addr", f"{group.master}:{port + RENDEZVOUS_OFFSET}")
        return Command(
            argv=(
                *(*argv, *where),
                *(*without_given(placed.flags, others), *others),
            ),
            env={**config.env, **placed.env},
            directory=config.work_path,
            memory_limit_bytes=config.memory_limit_bytes,
        )

    def accelerators(self, setting: Setting, group: Group) -> int:
        """One, unless the command says otherwise."""
        return parallel(self.command(setting, group).argv) or 1

    async def ready(self, probe: Probe) -> bool:
        """GET /health, then one completion."""
        return await serves(probe, self.model)

    def diagnose(self, exit_code: int | None, log: str) -> SimulatorStartError:
        """By SGLang's own messages first."""
        return diagnose("SGLang", exit_code, log, PATTERNS)
