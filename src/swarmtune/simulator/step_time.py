"""How long a step takes: linear in its work, as in Vidur (Agrawal et al., MLSys 2024), and steeper beyond a knee."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from swarmtune.simulator.scheduling.scheduler import Step


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step, by its work. Defaults: a decode step of 16 sequences takes about 4 ms."""

    base_s: float = 0.0025
    per_prefill_token_s: float = 10e-6
    per_decode_seq_s: float = 80e-6
    per_context_token_s: float = 1e-7
    knee_tokens: int = 1024
    per_token_above_knee_s: float = 10e-6

    def seconds(self, step: Step) -> float:
        """Time of one step, noise-free."""
        above = max(0, step.tokens - self.knee_tokens)
        return (
            self.base_s
            + self.per_prefill_token_s * (step.tokens - step.decodes)
            + self.per_decode_seq_s * step.decodes
            + self.per_context_token_s * step.context
            + self.per_token_above_knee_s * above
        )


class StepTimer:
    """Step times with multiplicative lognormal noise of mean 1; ``noise`` is the sigma of the logarithm, 0 = none."""

    def __init__(self, cost: StepCost, noise: float = 0.0, seed: int = 0) -> None:
        self.cost = cost
        self._noise = noise
        self._random = random.Random(seed)

    def seconds(self, step: Step) -> float:
        """Time of this step."""
        factor = math.exp(self._random.gauss(-(self._noise**2) / 2, self._noise)) if self._noise else 1.0
        return self.cost.seconds(step) * factor
