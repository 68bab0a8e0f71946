"""vLLM: ``vllm serve``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field as Option

from swarmtune.engines.base import Engine, Probe
from swarmtune.engines.batch_memory import BatchMemory
from swarmtune.engines.diagnosis import Cause, Patterns, diagnose
from swarmtune.engines.flag_checks import BY_SCRIPT, KEYED, NO_HTTP, NO_TEXT, Barred, FlagChecks
from swarmtune.engines.help_text import help_schemas
from swarmtune.engines.memory import KvMemory
from swarmtune.engines.model_facts import NO_FACTS, ModelFacts
from swarmtune.engines.model_files import READ_FORMATS, SILENT, TRANSCRIBING, Reader
from swarmtune.engines.parallel import parallel
from swarmtune.engines.placement import place, split, substitute, tokens, without_given
from swarmtune.engines.questions import Questions, local_model
from swarmtune.engines.readiness import serves
from swarmtune.engines.rules import (
    Rule,
    broken_rules,
    context_rules,
    head_rules,
    length_rules,
    open_rules,
    quantization_rules,
)
from swarmtune.engines.scheduling import flag_values, step_time_values, vllm_rules
from swarmtune.engines.service_config import CommandSection, ServiceConfig, program
from swarmtune.engines.vllm_schema import vllm_schema
from swarmtune.errors import SimulatorStartError
from swarmtune.records import Command, Group, Setting, Value
from swarmtune.scheduling import Rules
from swarmtune.space import Field

DEFAULT_FIELDS = ("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "enable_prefix_caching")
OWN = {
    "--port": "; vllm.command.port sets it",
    "--served-model-name": "; vllm.command.served_model_name sets it",
    "--model": "; vllm.command.model sets it",
    **dict.fromkeys(("--nnodes", "--node-rank", "--master-addr"), "; the nodes of the group set it"),
}
_PART = Barred(
    "makes it one of several services that others must start and balance; leave it out, as SwarmTune starts all data "
    f"parallel ranks on the nodes of the group (parallel.nodes_per_group); or {BY_SCRIPT}"
)
BARRED = {
    "--headless": Barred(
        "starts no server that answers; leave it out, as SwarmTune writes it for all nodes of a group but the first "
        f"(parallel.nodes_per_group); or {BY_SCRIPT}"
    ),
    "--data-parallel-rank": _PART,
    "--data-parallel-external-lb": _PART,
    "--data-parallel-hybrid-lb": _PART,
    "--data-parallel-multi-port-external-lb": _PART,
    "--data-parallel-start-rank": replace(_PART, harmless=frozenset({"0"})),
    "--data-parallel-address": Barred(
        f"is one address for all groups; leave it out, as the nodes of the group set it, or write $HOST; or {BY_SCRIPT}",
        frozenset({"127.0.0.1", "localhost", "::1"}),
    ),
    **dict.fromkeys(("--uds", "--grpc", "--ssl-certfile", "--ssl-keyfile"), NO_HTTP),
    "--api-key": KEYED,
    "--kv-transfer-config": Barred(
        f"makes it a part of a disaggregated service, whose others SwarmTune does not start; leave it out, or {BY_SCRIPT}",
        harmful=r"kv_(producer|consumer)\b",
    ),
    "--runner": Barred(NO_TEXT, harmful="pooling|draft"),
    "--convert": Barred(NO_TEXT, harmful="embed|classify|reward"),
}
SILENT_HERE = re.compile(f"{SILENT.pattern}|{TRANSCRIBING}")
WHOLE = ("model_max_length",)  # the key of config.json that alone says how long a context may be
LENGTHS = (  # those of which the smallest says it where that one is absent
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)
LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"  # the variable with which it takes a longer context than that
KEY_VARIABLE = "VLLM_API_KEY"  # the same as --api-key
WHOLE_LATENTS = frozenset({"minicpm3"})  # families of whose latent it keeps keys and values of all heads
TENSOR, DATA, PREFILL = "tensor_parallel_size", "data_parallel_size", "prefill_context_parallel_size"
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
    own_variables = (LONGER,)

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
            barred=BARRED,
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
            program=program(self.config.executable),
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
    def model_folder(self) -> str:
        """What the service is told to load; a name on a hub is no folder."""
        return self.config.command.model_argument

    @property
    def model_reader(self) -> Reader:
        """Only --runner keeps the folder of a model of embeddings from serving as one."""
        fields = self.fields()
        reads = self._flags.value("load_format", fields, "auto") in READ_FORMATS
        pools = self._flags.value("runner", fields, "auto") == "auto"
        return Reader(reads, pools, None if self._flags.gives("--hf-overrides") else SILENT_HERE)

    @property
    def longest_request(self) -> int | None:
        """As the flag says, or else the model's file; not known where it is searched."""
        names = self.schema.fields_by_parameter(self.fields())
        given = self._flags.known.get("max_model_len", self._model_facts.longest)
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
        if self.config.variables.get("VLLM_MLA_DISABLE", "0") not in ("", "0") and self.config.memory is not None:
            own = [*own, "vllm.env.VLLM_MLA_DISABLE: the heads that are kept in place of a latent are not counted"]
        return [*super().notes(), *self._flags.notes(), *self._bound.notes(fields, self._batch(fields)), *own]

    def own_choices(self) -> Mapping[str, str]:
        """Those of its parameters that follow the device, the model or free memory."""
        return {name: p.own for name, p in self.schema.own(self.fields(), self.config.baselines).items()}

    def unused(self) -> tuple[tuple[Field, str], ...]:
        """All others of its schema."""
        return self.schema.unused(self.fields())

    @property
    def _model_facts(self) -> ModelFacts:
        """The facts of the model's file, or no facts if a flag overrides parts of that file."""
        return NO_FACTS if self._flags.gives("--hf-overrides") else self._facts

    def _batch(self, fields: Sequence[Field]) -> str | None:
        return self.schema.fields_by_parameter(self._flags.placed(fields)).get("max_num_seqs")

    def constraints(self) -> tuple[str, ...]:
        """Rules that vLLM checks at its start, also with flags in ``others``, and the bound of the KV cache."""
        fields, known = self.fields(), self._flags.known
        longest = {"max_model_len": self._model_facts.longest} if self._model_facts.longest else {}
        rules = self.schema.constraints(self._flags.placed(fields), {**longest, **known})
        return rules + tuple(self.reasons()) + self._bound.rules(fields, self._batch(fields))

    def reasons(self) -> Mapping[str, str]:
        """Why the rules that follow from the model hold."""
        return open_rules(self._model_rules())

    @property
    def _terms(self) -> Mapping[str, str]:
        return self.schema.expressions(self._flags.placed(self.fields()), self._flags.known)

    def _model_rules(self) -> tuple[Rule, ...]:
        """Heads, experts and the ranks that share them; the length of the context; how the weights are quantized."""
        facts, terms = self._model_facts, self._terms
        tensor, expert, balanced = terms[TENSOR], terms["enable_expert_parallel"], terms["enable_eplb"]
        heads, kv_heads, context = facts.heads, facts.kv_heads, terms["decode_context_parallel_size"]
        rules = [*head_rules(heads, kv_heads, tensor), *context_rules(heads, kv_heads, tensor, context)]
        if facts.dense:
            rules.append(
                Rule(f"not {expert}", "--enable-expert-parallel wants a model with experts, and this has none")
            )
        if facts.experts and not self._flags.gives("--eplb-config"):
            ranks = " * ".join(terms[name] for name in (TENSOR, PREFILL, DATA) if terms[name] != "1") or "1"
            why = f"--enable-eplb wants experts that {ranks} ranks share evenly, and the model has {facts.experts}"
            rules.append(Rule(f"not {balanced} or {facts.experts} % ({ranks}) == 0", why))
        rules += self._length_rules(facts, terms.get("max_model_len", ""))
        if self.config.check_flags and not self._flags.gives("--quantization-config"):
            rules += quantization_rules(terms.get("quantization"), facts.quantization, facts.unquantized)
        return tuple(rules)

    def _prefill_mistakes(self, fields: Sequence[Field]) -> list[str]:
        """Without chunked prefill a whole prompt is one batch (vLLM, ``SchedulerConfig.verify_max_model_len``). Where fields
        or flags set the length, the rule of the schema says it.
        """
        batched = self._flags.value("max_num_batched_tokens", fields, 0)
        length, own = self._model_facts.longest, self._flags.value("max_model_len", fields, 0)
        chunked = self._flags.value("enable_chunked_prefill", fields, True)
        if (
            chunked is not False
            or own != 0
            or length is None
            or not isinstance(batched, int)
            or not 0 < batched < length
        ):
            return []
        return [
            (
                f"vllm.command.others: --no-enable-chunked-prefill wants --max-num-batched-tokens of {length} or more, the "
                f"model's length (its config.json), and it is {batched}; or set a smaller --max-model-len"
            )
        ]

    def _length_rules(self, facts: ModelFacts, length: str) -> tuple[Rule, ...]:
        """As ``_get_and_verify_max_len`` has it."""
        elsewhere = self._flags.gives("--hf-config-path") or self._flags.gives("--config-format")
        most = (
            None
            if elsewhere or self.config.may_set(LONGER)
            else min(facts.lengths(WHOLE) or facts.lengths(LENGTHS), default=None)
        )
        why = (
            f"--max-model-len {length} is more than the {most} tokens of the model (its config.json), which vLLM refuses "
            f"unless {LONGER} is 1 in vllm.env"
        )
        return length_rules(length, self.fields(), most, why)

    def ranks(self) -> Mapping[str, str]:
        """Tensor, pipeline and data parallel ranks; also those of prefill context parallelism, where there are any."""
        named, prefill = (
            self.schema.rank_names(self._flags.placed(self.fields()), self._flags.known),
            self._terms[PREFILL],
        )
        return named if prefill == "1" else {**named, PREFILL: prefill}

    def node_rules(self, nodes: int) -> Mapping[str, str]:
        """Data parallel ranks fill the nodes of the group, which its multiprocessing back end joins."""
        terms = self._terms
        data, local = terms[DATA], terms.get("data_parallel_size_local")
        rules: dict[str, str] = {}
        if local is not None:
            share = data if nodes == 1 else f"max({data} // {nodes}, 1)"
            share = str(max(int(data) // nodes, 1)) if data.isdecimal() else share
            rules[f"{local} == {share}"] = (
                f"SwarmTune starts all of the {data} data parallel ranks, {share} on each node, and with "
                f"--data-parallel-size-local {local} vLLM waits for others; leave it out, or {BY_SCRIPT}"
            )
        if nodes > 1:
            several = f"a service runs on {nodes} nodes"
            rules[f"{data} % {nodes} == 0 or {nodes} % {data} == 0"] = (
                f"{several}, and each has whole data parallel ranks, or each rank has whole nodes"
            )
            rules[f"{terms['data_parallel_backend']} == 'mp'"] = f"{several}, so --data-parallel-backend must be mp"
            rules[f"{terms['distributed_executor_backend']} != 'ray'"] = (
                f"{several}, which SwarmTune joins by --nnodes: --distributed-executor-backend must be mp, not ray"
            )
        return rules

    def mistakes(self) -> list[str]:
        """Placeholders, flags that it would refuse, heads that cannot be divided, and a memory table that cannot be used."""
        fields = self.fields()
        found = self.config.command.mistakes("vllm.command") + self._bound.mistakes(fields, self._batch(fields))
        found += broken_rules(self._model_rules(), "vllm.command.others")
        if self.config.env.get(KEY_VARIABLE):
            found.append(f"vllm.env: {KEY_VARIABLE} {KEYED.why}")
        found += self._prefill_mistakes(fields) if self.config.check_flags else []
        return found + self._flags.mistakes(fields, bool(self.config.target_field))

    def scheduling(self, setting: Setting) -> Rules:
        """With the flags of the setting and ``others``, and the KV cache that the table of memory gives."""
        values = flag_values(self.command(setting, Group("local", port=1)).argv, self.schema)
        return vllm_rules(values, self.schema, self._model_facts.longest, self.memory.tokens)

    def of_step_times(self, setting: Setting) -> Mapping[str, Value]:
        """Its layout, kernels, formats and threads."""
        command = self.command(setting, Group("local", port=1))
        return step_time_values(flag_values(command.argv, self.schema), command.env)

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
            cwd=config.work_path,
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
