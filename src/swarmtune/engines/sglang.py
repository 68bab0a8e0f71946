"""SGLang: ``python -m sglang.launch_server``.

Written from SGLang 0.5.23's documentation and source; it needs a GPU, so only its command lines are tested here.
"""

from __future__ import annotations

import importlib.util
import math
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
from swarmtune.engines.model_files import READ_FORMATS, SILENT, Reader
from swarmtune.engines.parallel import parallel
from swarmtune.engines.placement import place, split, substitute, tokens, without_given
from swarmtune.engines.questions import Questions, local_model
from swarmtune.engines.readiness import serves
from swarmtune.engines.rules import Rule, broken_rules, head_rules, length_rules, open_rules
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
_PART = Barred(
    f"makes it a part of a service whose other parts SwarmTune does not start; leave it out, or {BY_SCRIPT}",
    frozenset({"null"}),
)
BARRED = {
    **dict.fromkeys(("--grpc-mode", "--smg-grpc-mode", "--ssl-certfile", "--ssl-keyfile"), NO_HTTP),
    "--api-key": KEYED,
    "--is-embedding": Barred(NO_TEXT),
    **dict.fromkeys(("--disaggregation-mode", "--encoder-only", "--elastic-ep-join-mode"), _PART),
    "--gated-launch-port": Barred(f"makes the start wait for a request to that port; leave it out, or {BY_SCRIPT}"),
}
LENGTHS = (
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "max_position_embeddings",
)  # the first
LONGER = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"  # the variable with which it takes a longer context than that says
# Back ends by which the experts are shared by all tensor ranks, whatever --ep-size says.
SPANNING = ("deepep", "deepep_v2", "mooncake", "nixl", "ascend_fuseep", "flashinfer", "mori", "pplx", "megamoe")
TENSOR, PIPELINE, DATA = "tp_size", "pp_size", "dp_size"
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
    own_variables = (LONGER,)

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
            barred=BARRED,
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
            program=program(self.config.python),
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
    def model_folder(self) -> str:
        """What the service is told to load; a name on a hub is no folder."""
        return self.config.command.model_argument

    @property
    def model_reader(self) -> Reader:
        """A load format may make up the weights, or fetch them from elsewhere."""
        reads = self._flags.value("load_format", self.fields(), "auto") in READ_FORMATS
        return Reader(reads, silent=None if self._flags.gives("--json-model-override-args") else SILENT)

    @property
    def longest_request(self) -> int | None:
        """As the flag says, or else the model's file; not known where it is searched."""
        names = self.schema.fields_by_parameter(self.fields())
        given = self._flags.known.get("context_length", self._model_facts.longest)
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

    @property
    def _model_facts(self) -> ModelFacts:
        """The facts of the model's file, or no facts if a flag overrides parts of that file."""
        return NO_FACTS if self._flags.gives("--json-model-override-args") else self._facts

    def _batch(self, fields: Sequence[Field]) -> str | None:
        return self.schema.fields_by_parameter(self._flags.placed(fields)).get("max_running_requests")

    def constraints(self) -> tuple[str, ...]:
        """Rules that SGLang checks at its start, and the bound of the KV cache."""
        fields = self.fields()
        rules = self.schema.constraints(self._flags.placed(fields), self._flags.known)
        return rules + tuple(self.reasons()) + self._bound.rules(fields, self._batch(fields))

    def reasons(self) -> Mapping[str, str]:
        """Why the rules that follow from the model hold."""
        return open_rules(self._model_rules())

    @property
    def _terms(self) -> Mapping[str, str]:
        return self.schema.expressions(self._flags.placed(self.fields()), self._flags.known)

    def _model_rules(self) -> tuple[Rule, ...]:
        """Heads and experts, and the ranks that share them; the length of the context."""
        facts = self._model_facts
        terms = self._terms
        attention, experts = _attention_ranks(terms), _expert_ranks(terms)
        rules: list[Rule] = [] if attention is None else [*head_rules(facts.heads, facts.kv_heads, attention)]
        more = terms["ep_num_redundant_experts"]
        if facts.experts and experts is not None:
            count = str(facts.experts) if more == "0" else f"({facts.experts} + {more})"
            why = f"the model's {count} experts cannot be divided by {experts} ranks of expert parallelism"
            rules.append(Rule(f"{count} % {experts} == 0", why))
        length = terms.get("context_length", "")
        most = None if self.config.may_set(LONGER) else next(iter(facts.lengths(LENGTHS)), None)
        why = (
            f"--context-length {length} is more than the {most} tokens of the model (its config.json), which SGLang refuses "
            f"unless {LONGER} is 1 in sglang.env"
        )
        rules += length_rules(length, self.fields(), most, why)
        return tuple(rules)

    def ranks(self) -> Mapping[str, str]:
        """Tensor, pipeline and data parallel ranks; those of data parallel attention are among the tensor ranks."""
        named = self.schema.rank_names(self._flags.placed(self.fields()), self._flags.known)
        return {**named, DATA: "1"} if self._flags.known.get("enable_dp_attention") else named

    def node_rules(self, nodes: int) -> Mapping[str, str]:
        """Only data parallel attention spreads data parallel ranks over nodes; a stage has whole nodes, or a node stages."""
        if nodes == 1:
            return {}
        terms, several = self._terms, f"a service runs on {nodes} nodes"
        data, pipeline = terms[DATA], terms[PIPELINE]
        return {
            f"{terms['enable_dp_attention']} or {data} == 1": (
                f"{several}, and SGLang spreads data parallel ranks over nodes only with --enable-dp-attention"
            ),
            f"{pipeline} % {nodes} == 0 or {nodes} % {pipeline} == 0": (
                f"{several}, and each has whole pipeline stages, or each stage has whole nodes"
            ),
        }

    def mistakes(self) -> list[str]:
        """Placeholders, flags that it would refuse, heads that cannot be divided, and a memory table that cannot be used."""
        fields = self.fields()
        found = self.config.command.mistakes("sglang.command") + self._bound.mistakes(fields, self._batch(fields))
        found += broken_rules(self._model_rules(), "sglang.command.others")
        served = self.config.command.served_model_name
        if ":" in served and "://" not in served:
            found.append(
                f"sglang.command.served_model_name: {served!r} has a colon, behind which SGLang looks for a LoRA adapter"
            )
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
        """By SGLang's own messages first."""
        return diagnose("SGLang", exit_code, log, PATTERNS)


def _attention_ranks(terms: Mapping[str, str]) -> str | None:
    """The tensor ranks among which attention heads are divided: those of one data and one context rank of attention; None
    if a field decides whether there are such.
    """
    shared, among = terms["enable_dp_attention"], [terms["attn_dp_size"], terms["attn_cp_size"]]
    if shared not in ("true", "false") or terms["dwdp_size"] != "1":
        return None
    if shared == "true" and among[0] == "1":
        among[0] = terms[DATA]
    tensor, parts = terms[TENSOR], [part for part in among if part != "1"]
    if all(part.isdecimal() for part in (tensor, *parts)):
        return str(max(1, int(tensor) // max(1, math.prod(map(int, parts)))))
    return f"({tensor} // ({' * '.join(parts)}))" if parts else tensor


def _expert_ranks(terms: Mapping[str, str]) -> str | None:
    """The ranks that share the experts; None if a field decides it, and for back ends that are not known here."""
    backend = terms["moe_a2a_backend"].strip("'")
    return terms["ep_size"] if backend == "none" else terms[TENSOR] if backend in SPANNING else None
