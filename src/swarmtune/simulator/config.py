"""Everything about one simulated server, as read from its command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarmtune.scheduling import Rules
from swarmtune.simulator.step_time import StepCost

GIB = 2**30
FAILURES = ("oom", "bad-argument", "hang", "missing-model")


@dataclass(frozen=True)
class DeviceMemory:
    """The pretended accelerator: weights and KV cache must fit. Defaults: a 7B model in bfloat16 on 24 GiB."""

    memory_gib: float = 24.0
    weights_gib: float = 13.0
    kv_bytes_per_token: int = 2 * 32 * 32 * 128 * 2  # K and V, layers, heads, head size, bytes of bfloat16

    def missing_gib(self, kv_cache_tokens: int) -> float:
        """GiB that are lacking; <= 0 when everything fits."""
        return self.weights_gib + kv_cache_tokens * self.kv_bytes_per_token / GIB - self.memory_gib


@dataclass(frozen=True)
class Faults:
    """Faults to inject."""

    startup_delay_s: float = 0.0
    fail_start: str | None = None
    crash_after_requests: int | None = None


@dataclass(frozen=True)
class SimulatorConfig:
    """One simulated server. ``record``: the file of its true times, one JSON line per finished request."""

    model: str = "simulated"
    rules: Rules = field(default_factory=Rules)
    cost: StepCost = field(default_factory=StepCost)
    noise: float = 0.0
    seed: int = 0
    memory: DeviceMemory = field(default_factory=DeviceMemory)
    faults: Faults = field(default_factory=Faults)
    record: str | None = None
    nodes: int = 1
