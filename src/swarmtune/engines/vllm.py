"""vLLM: ``vllm serve``."""

from __future__ import annotations

import shutil
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
from swarmtune.engines.vllm_schema import vllm_schema
from swarmtune.errors import SimulatorStartError
from swarmtune.records import Command, Group, Setting
from swarmtune.space import Field

DEFAULT_FIELDS = ("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "enable_prefix_caching")
OWN = {
    "--port": "; vllm.command.port sets it",
    "--served-model-name": "; vllm.command.served_model_name sets it",
    "--model": "; vllm.command.model sets it",
    **dict.fromkeys(("--nnodes", "--node-rank", "--master-addr"), "; the nodes of the group set it"),
}
WHOLE_LATENTS = frozenset({"minicpm3"})  # families of whose latent it keeps keys and values of all heads
TENSOR = "tensor_parallel_size"
PATTERNS: Patterns = {
    Cause.BAD_ARGUMENT: (r"vllm( serve)?: error: ",),
}


class VllmConfig(ServiceConfig):
    """The section ``[vllm]``."""

    command: CommandSection = Option(default_factory=CommandSection, description="what to serve, and how")
    executable: str = Option("vllm", min_length=1, description="the vllm program: a name on the PATH or a path")
    check_flags: bool = Option(True, description="refuse flags that SwarmTune does not know of vLLM 0.30-0.33")


class VllmEngine(Engine):
    """Flags come from fields with a flag as position, and from "env" fields whose name is a flag (MAX_NUM_SEQS)."""

    name = "vllm"
    metrics_path = "/metrics"
    config: VllmConfig
    Config = VllmConfig
    spans_nodes = True

    def __init__(self, config: VllmConfig) -> None:
        super().__init__(config)
        self.schema = vllm_schema()
        self.memory = KvMemory(config.memory, config.baselines, lambda: self._flags.usual, WHOLE_LATENTS)
        self._bound = BatchMemory(self.memory, "vllm", config.baselines)
        section = config.command
        self._flags = FlagChecks(
            self.schema,
            "vllm",
            section.others,
            "vllm.command.others",
            OWN,
            on=config.check_flags,
            env=config.variables,
        )
        path = config.memory.model_config_path if config.memory else None
        self._facts = ModelFacts(section.model, path)

    @classmethod
    def found(cls) -> bool:
        """Is the program ``vllm`` on the PATH?"""
        return shutil.which("vllm") is not None

    def questions(self) -> Questions:
        """``vllm serve --help=all``, unless flags are not checked."""
        return Questions(
            "vllm.executable",
            help=("serve", "--help=all") if self.config.check_flags else (),
            version=("--version",),
            package="vllm",
            install="pip install vllm",
            needed=local_model("vllm.command.model", self.config.command.model_argument),
        )

    def learn(self, help_text: str, version: str, host: str) -> bool:
        """See Engine."""
        made = help_schemas(vllm_schema(), help_text, f"{version} on {host}".lstrip())
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
        given = self._flags.known.get("max_model_len", self._facts.longest)
        return given if type(given) is int and given > 0 and "max_model_len" not in names else None

    def fields(self) -> tuple[Field, ...]:
        """The user's, or batch sizes, chunked prefill and prefix caching."""
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
        return self.schema.fields_by_parameter(fields).get("max_num_seqs")

    def constraints(self) -> tuple[str, ...]:
        """Rules that vLLM checks at its start, also with flags in ``others``, and the bound of the KV cache."""
        fields, known = self.fields(), self._flags.known
        longest = {"max_model_len": self._facts.longest} if self._facts.longest else {}
        rules = self.schema.constraints(fields, {**longest, **known})
        rules += head_rules(self._facts.heads, self.ranks()[TENSOR])
        return rules + self._bound.rules(fields, self._batch(fields))

    def ranks(self) -> Mapping[str, str]:
        """Tensor, pipeline and data parallel ranks."""
        return self.schema.rank_names(self.fields(), self._flags.known)

    def mistakes(self) -> list[str]:
        """Placeholders, flags that it would refuse, heads that cannot be divided, and a memory table that cannot be used."""
        fields = self.fields()
        found = self.config.command.mistakes("vllm.command") + self._bound.mistakes(fields, self._batch(fields))
        found += head_mistakes(self._facts.heads, self.ranks()[TENSOR], "vllm.command.others")
        return found + self._flags.mistakes(fields, bool(self.config.target_field))

    def command(self, setting: Setting, group: Group) -> Command:
        """``vllm serve MODEL --host H --port P`` with the setting's flags, then ``others``.

        On several nodes its multiprocessing back end joins them (--nnodes); only the first serves.
        """
        config, section = self.config, self.config.command
        fields = self.schema.passed(self.fields(), setting, config.baselines)
        placed = place(fields, setting, self.schema.flag_of, self.schema.write)
        port = section.port_for(group.port)
        values = tokens(setting, HOST=group.master, PORT=str(port), MODEL=section.model_argument)
        others = substitute(split(section.others), {**config.env, **values})
        given = self.schema.commands.usual(others)
        served = ("--served-model-name", section.served) if section.served != section.model_argument else ()
        where: tuple[str, ...] = ("--host", group.master, "--port", str(port)) if group.rank == 0 else ("--headless",)
        if len(group.nodes) > 1:
            where += ("--nnodes", str(len(group.nodes)), "--node-rank", str(group.rank), "--master-addr", group.master)
        argv = (program(config.executable), "serve", section.model_argument, *served, *where)
        return Command(
            argv=(*argv, *without_given(placed.flags, given), *others),
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
        """By vLLM's own messages first: its last line is only "See root cause above"."""
        return diagnose("vLLM", exit_code, log, PATTERNS)
