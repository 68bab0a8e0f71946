"""The simulated engine (``python -m swarmtune.simulator``): a real server without a model, with simulated step times."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pydantic import Field as Option

from swarmtune.engines.base import Engine, Probe, installed
from swarmtune.engines.batch_memory import BatchMemory
from swarmtune.engines.diagnosis import diagnose
from swarmtune.engines.flag_checks import FlagChecks
from swarmtune.engines.flags import read_flags
from swarmtune.engines.memory import KvMemory
from swarmtune.engines.placement import place, split, substitute, tokens, without_given
from swarmtune.engines.readiness import serves
from swarmtune.engines.scheduling import flag_values
from swarmtune.engines.schema import Parameter, Schema, underscored
from swarmtune.engines.service_config import ServiceConfig, others_mistakes
from swarmtune.errors import SimulatorStartError
from swarmtune.records import Command, Group, Setting
from swarmtune.scheduling import Rules
from swarmtune.space import Field

# The flags of ``python -m swarmtune.simulator``; one of a parameter takes what the parameter is.
FLAGS = """
--help -h = switch
--host = text
--port = int
--model = text
--nodes = int >=1
--node-rank = int
--max-num-seqs = int >=1
--max-num-batched-tokens = int >=1
--kv-cache-tokens = int >=1
--block-size = int >=1
--enable-chunked-prefill = pair
--base-s = float >=0
--per-prefill-token-s = float >=0
--per-decode-seq-s = float >=0
--per-context-token-s = float >=0
--per-token-above-knee-s = float >=0
--knee-tokens = int >=1
--noise = float >=0
--seed = int
--memory-gib = float >=0
--weights-gib = float >=0
--kv-bytes-per-token = int >=1
--record = text
--startup-delay = float >=0
--fail-start = text
--crash-after-requests = int
"""
SCHEMA = Schema(
    "the simulated engine",
    "0.1",
    (
        Parameter("--max-num-seqs", default=16, min=1, max=256, log=True, live="POST /settings"),
        Parameter("--max-num-batched-tokens", default=512, min=16, max=8192, log=True),
        Parameter("--kv-cache-tokens", default=16384, min=1024, max=65536, log=True, note="too many: out of memory"),
        Parameter("--block-size", "enum", 16, dtype_param=[8, 16, 32, 64]),
        Parameter("--enable-chunked-prefill", "bool", True),
    ),
    flags=read_flags(FLAGS),
    complete=True,
    rules=("{max_num_batched_tokens} >= {max_num_seqs}",),
)
STEP_COST = {  # of its command, where no flag says another
    "base_s": 0.0025,
    "per_prefill_token_s": 10e-6,
    "per_decode_seq_s": 80e-6,
    "per_context_token_s": 1e-7,
    "knee_tokens": 1024,
    "per_token_above_knee_s": 10e-6,
}
OWN = {"--port": "", "--model": "; simulated.model sets it"}


class SimulatedConfig(ServiceConfig):
    """The section ``[simulated]``."""

    model: str = Option("simulated", min_length=1, description="model name that requests must carry")
    seed: int = Option(0, description="of the noise on step times")
    noise: float = Option(0.0, ge=0, description="sigma of the lognormal noise on step times")
    startup_delay_s: float = Option(0.0, ge=0, description="seconds before it listens")
    record: str = Option("", description="file for one JSON line of true times per finished request")
    others: str | tuple[str, ...] = Option("", description="further arguments, for example --crash-after-requests 10")


class SimulatedEngine(Engine):
    """Runs on this Python."""

    name = "simulated"
    metrics_path = "/metrics"
    config: SimulatedConfig
    Config = SimulatedConfig
    spans_nodes = True

    def __init__(self, config: SimulatedConfig) -> None:
        super().__init__(config)
        self.memory = KvMemory(config.memory, config.baselines, lambda: self._flags.usual)
        self._bound = BatchMemory(self.memory, "simulated", config.baselines)
        self._flags = FlagChecks(SCHEMA, "simulated", config.others, "simulated.others", OWN, env=config.variables)

    @property
    def model(self) -> str:
        """As configured."""
        return self.config.model

    @property
    def version(self) -> str:
        """Our own."""
        return installed("swarmtune")

    def fields(self) -> tuple[Field, ...]:
        """The user's, or all of its parameters."""
        defaults = [p.to_field(underscored(p.name)) for p in SCHEMA.parameters]
        fields = SCHEMA.fields(self.config.target_field, defaults, self._flags.known)
        return self._bound.bounded(fields, self._batch(fields))

    def _batch(self, fields: Sequence[Field]) -> str | None:
        return SCHEMA.fields_by_parameter(fields).get("max_num_seqs")

    def constraints(self) -> tuple[str, ...]:
        """Rules that it checks at its start, as vLLM does, and the bound of the KV cache."""
        fields = self.fields()
        return SCHEMA.constraints(fields, self._flags.known) + self._bound.rules(fields, self._batch(fields))

    def notes(self) -> list[str]:
        """Also a baseline that is more than the KV cache holds."""
        fields = self.fields()
        return [*super().notes(), *self._flags.notes(), *self._bound.notes(fields, self._batch(fields))]

    def unused(self) -> tuple[tuple[Field, str], ...]:
        """All others of its schema."""
        return SCHEMA.unused(self.fields())

    def mistakes(self) -> list[str]:
        """Flags that it would refuse, and arguments that cannot be split."""
        fields = self.fields()
        found = others_mistakes(self.config.others, "simulated.others")
        found += self._bound.mistakes(fields, self._batch(fields))
        return found + self._flags.mistakes(fields, bool(self.config.target_field))

    def command(self, setting: Setting, group: Group) -> Command:
        """``python -m swarmtune.simulator --host H --port P --model M`` with the setting's flags."""
        config = self.config
        placed = place(self.fields(), setting, SCHEMA.flag_of, SCHEMA.write)
        others = substitute(split(config.others), {**config.env, **tokens(setting, PORT=str(group.port))})
        own = ["--seed", str(config.seed), "--noise", str(config.noise)]
        own += ["--startup-delay", str(config.startup_delay_s)] if config.startup_delay_s else []
        own += ["--record", config.record] if config.record else []
        where: tuple[str, ...] = ("--host", group.master, "--port", str(group.port), "--model", config.model)
        if len(group.nodes) > 1:
            where += ("--nodes", str(len(group.nodes)), "--node-rank", str(group.rank))
        return Command(
            argv=(
                *(sys.executable, "-P", "-m", "swarmtune.simulator", *where),
                *(*without_given((*own, *placed.flags), others), *others),
            ),
            env={**config.env, **placed.env},
            cwd=config.work_path,
            memory_limit_bytes=config.memory_limit_bytes,
        )

    def scheduling(self, setting: Setting) -> Rules:
        """By the rules of vLLM, without a prefix cache."""
        own = {underscored(parameter.name): parameter.default for parameter in SCHEMA.parameters}
        values = {**own, **flag_values(self.command(setting, Group("local", port=1)).argv, SCHEMA)}
        names = ("max_num_seqs", "max_num_batched_tokens", "kv_cache_tokens", "block_size")
        sequences, batched, held, block = (int(values[name] or 0) for name in names)
        chunked = values["enable_chunked_prefill"] is not False
        return Rules(sequences, batched, held // block + 1, block, chunked_prefill=chunked)

    def declared_cost(self, setting: Setting) -> Mapping[str, float]:
        """Its flags say what a step takes."""
        given = flag_values(self.command(setting, Group("local", port=1)).argv, SCHEMA)
        return {name: float(given.get(name, usual)) for name, usual in STEP_COST.items()}

    async def ready(self, probe: Probe) -> bool:
        """GET /health, then one completion."""
        return await serves(probe, self.model)

    def diagnose(self, exit_code: int | None, log: str) -> SimulatorStartError:
        """By the common patterns: it fails with the messages of real engines."""
        return diagnose("The simulated engine", exit_code, log)
