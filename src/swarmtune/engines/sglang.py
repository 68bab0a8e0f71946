"""SGLang: ``python -m sglang.launch_server``.

Written from SGLang 0.5.23's documentation and source; it needs a GPU, so only its command lines are tested here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field as Option

from swarmtune.engines.base import Engine, Probe
from swarmtune.engines.batch_memory import BatchMemory
from swarmtune.engines.diagnosis import Cause, Patterns, diagnose
from swarmtune.engines.flag_checks import FlagChecks
from swarmtune.engines.help_text import help_schemas
from swarmtune.engines.memory import KvMemory
from swarmtune.engines.model_facts import ModelFacts, head_mistakes, head_rules
from swarmtune.engines.parallel import parallel
from swarmtune.engines.placement import place, split, substitute, tokens, without_given
from swarmtune.engines.questions import Questions, local_model
from swarmtune.engines.readiness import serves
from swarmtune.engines.service_config import CommandSection, ServiceConfig, program
from swarmtune.engines.sglang_schema import sglang_schema
from swarmtune.errors import SimulatorStartError
from swarmtune.records import Command, Group, Setting
from swarmtune.space import Field

DEFAULT_FIELDS = ("max_running_requests", "chunked_prefill_size", "mem_fraction_static", "schedule_conservativeness")
OWN = {
    "--port": "; sglang.command.port sets it",
    "--served-model-name": "; sglang.command.served_model_name sets it",
    "--model-path": "; sglang.command.model sets it",
    **dict.fromkeys(("--nnodes", "--node-rank", "--dist-init-addr"), "; the nodes of the group set it"),
}
TENSOR, DATA = "tp_size", "dp_size"
PATTERNS: Patterns = {
    Cause.OUT_OF_MEMORY: (
        r"Not enough memory",
        r"Please try to (increase|decrease|reduce) --mem-fraction-static",
        r"max_total_num_tokens.*(<= 0|negative)",
    ),
}

RENDEZVOUS_OFFSET = (
    1000  # from the service's port to that where ranks meet; SGLang uses some ports right behind its own
)


class SglangConfig(ServiceConfig):
    """The section ``[sglang]``."""

    command: CommandSection = Option(default_factory=CommandSection, description="what to serve, and how")
    python: str = Option("python", min_length=1, description="the Python that has SGLang")
    check_flags: bool = Option(True, description="refuse flags that SwarmTune does not know of SGLang 0.5.23")


class SglangEngine(Engine):
    """Booleans are flags without a value; False leaves the flag out."""

    name = "sglang"
    metrics_path = "/metrics"
    config: SglangConfig
    Config = SglangConfig
    spans_nodes = True

    def __init__(self, config: SglangConfig) -> None:
        super().__init__(config)
        self.schema = sglang_schema()
        self.memory = KvMemory(config.memory, config.baselines, lambda: self._flags.usual)
        self._bound = BatchMemory(self.memory, "sglang", config.baselines)
        section = config.command
        self._flags = FlagChecks(
            self.schema,
            "sglang",
            section.others,
            "sglang.command.others",
            OWN,
            on=config.check_flags,
            env=config.variables,
        )
        path = config.memory.model_config_path if config.memory else None
        self._facts = ModelFacts(section.model, path)

    @classmethod
    def found(cls) -> bool:
        """Is the package ``sglang`` installed beside us?"""
        return importlib.util.find_spec("sglang") is not None

    def questions(self) -> Questions:
        """The help of ``sglang.launch_server``, unless flags are not checked."""
        return Questions(
            "sglang.python",
            help=("-m", "sglang.launch_server", "--help") if self.config.check_flags else (),
            package="sglang",
            install="pip install sglang",
            needed=local_model("sglang.command.model", self.config.command.model_argument),
        )

    def learn(self, help_text: str, version: str, host: str) -> bool:
        """See Engine."""
        made = help_schemas(sglang_schema(), help_text, f"{version} on {host}".lstrip())
        if made is not None:
            self._flags, self.schema = replace(self._flags, schema=made[0], written=made[1]), made[1]
        return made is not None

    @property
    def model(self) -> str:
        """``served_model_name``, or the model itself."""
        return self.config.command.served

    @property
    def longest_request(self) -> int | None:
        """As the flag says, or else the model's file; not known where it is searched."""
        names = self.schema.fields_by_parameter(self.fields())
        given = self._flags.known.get("context_length", self._facts.longest)
        return given if type(given) is int and given > 0 and "context_length" not in names else None

    def fields(self) -> tuple[Field, ...]:
        """The user's, or running requests, prefill chunk, memory fraction and conservativeness."""
        defaults = self._flags.schema.defaults(DEFAULT_FIELDS)
        fields = self.schema.fields(self.config.target_field, defaults, self._flags.known)
        return self._bound.bounded(fields, self._batch(fields))

    def notes(self) -> list[str]:
        """Also a baseline that is more than the KV cache holds."""
        fields = self.fields()
        own = self.schema.own_notes(fields, self.config.baselines)
        return [*super().notes(), *self._flags.notes(), *self._bound.notes(fields, self._batch(fields)), *own]

    def own_choices(self) -> Mapping[str, str]:
        """Those of its parameters that follow the device, the model or free memory."""
        return {name: p.own for name, p in self.schema.own(self.fields(), self.config.baselines).items()}

    def unused(self) -> tuple[tuple[Field, str], ...]:
        """All others of its schema."""
        return self.schema.unused(self.fields())

    def _batch(self, fields: Sequence[Field]) -> str | None:
        return self.schema.fields_by_parameter(fields).get("max_running_requests")

    def constraints(self) -> tuple[str, ...]:
        """Rules that SGLang checks at its start, and the bound of the KV cache."""
        fields = self.fields()
        rules = self.schema.constraints(fields, self._flags.known) + head_rules(self._heads, self.ranks()[TENSOR])
        return rules + self._bound.rules(fields, self._batch(fields))

    def ranks(self) -> Mapping[str, str]:
        """Tensor, pipeline and data parallel ranks; those of data parallel attention are among the tensor ranks."""
        known = self._flags.known
        named = self.schema.rank_names(self.fields(), known)
        return {**named, DATA: "1"} if known.get("enable_dp_attention") else named

    @property
    def _heads(self) -> int | None:
        """The attention heads that tensor ranks share; not known where attention is data parallel."""
        names = {*self.schema.fields_by_parameter(self.fields()), *self._flags.known}
        return None if names & {"enable_dp_attention", "attn_dp_size"} else self._facts.heads

    def mistakes(self) -> list[str]:
        """Placeholders, flags that it would refuse, heads that cannot be divided, and a memory table that cannot be used."""
        fields = self.fields()
        found = self.config.command.mistakes("sglang.command") + self._bound.mistakes(fields, self._batch(fields))
        found += head_mistakes(self._heads, self.ranks()[TENSOR], "sglang.command.others")
        return found + self._flags.mistakes(fields, bool(self.config.target_field))

    def command(self, setting: Setting, group: Group) -> Command:
        """``python -m sglang.launch_server --model-path MODEL --host H --port P`` with the setting's flags."""
        config, section = self.config, self.config.command
        fields = self.schema.passed(self.fields(), setting, config.baselines)
        placed = place(fields, setting, self.schema.flag_of, self.schema.write)
        port = section.port_for(group.port)
        values = tokens(setting, HOST=group.master, PORT=str(port), MODEL=section.model_argument)
        others = substitute(split(section.others), {**config.env, **values})
        given = self.schema.commands.usual(others)
        served = ("--served-model-name", section.served) if section.served != section.model_argument else ()
        argv = (program(config.python), "-m", "sglang.launch_server", "--model-path", section.model_argument, *served)
        where: tuple[str, ...] = ("--host", group.nodes[group.rank].host, "--port", str(port))
        if len(group.nodes) > 1:
            where += ("--nnodes", str(len(group.nodes)), "--node-rank", str(group.rank))
            where += ("--dist-init-addr", f"{group.master}:{port + RENDEZVOUS_OFFSET}")
        return Command(
            argv=(
                *(*argv, *where),
                *(*without_given(placed.flags, given), *others),
            ),
            env={**config.env, **placed.env},
            directory=config.work_path,
            memory_limit_bytes=config.memory_limit_bytes,
        )

    def accelerators(self, setting: Setting, group: Group) -> int:
        """One, unless the command says otherwise."""
        return parallel(self.schema.commands.usual(self.command(setting, group).argv)) or 1

    async def ready(self, probe: Probe) -> bool:
        """GET /health, then one completion."""
        return await serves(probe, self.model)

    def diagnose(self, exit_code: int | None, log: str) -> SimulatorStartError:
        """By SGLang's own messages first."""
        return diagnose("SGLang", exit_code, log, PATTERNS)
