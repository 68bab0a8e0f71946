"""Arrival processes: when requests are meant to be sent, as blocks of numpy int64, ns after the start of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pattern = Literal["constant", "poisson", "gamma", "concurrency_burst"]
Times = NDArray[np.int64]
NS = 1_000_000_000
BLOCK = 65_536


@dataclass(frozen=True)
class ArrivalProcess:
    """A rate and its shape.

    constant: one arrival every 1/rate s, the first at 0. poisson: independent exponential gaps of mean 1/rate. gamma:
    gaps of the gamma distribution with shape ``smoothness`` and the same mean (coefficient of variation
    1/sqrt(smoothness); 1 is Poisson; vLLM's burstiness, AIPerf's arrival smoothness). concurrency_burst: all at 0, so
    that the ceiling of concurrency alone paces. Times are never rescaled to count/rate: the count over a duration
    varies as the process says.

    ``ramp_s``: the rate rises linearly from 0 to ``rate`` over this time, and the process keeps its shape: the
    arrivals s of the process of rate 1 are moved to t with L(t) = s, L the integral of the rate (inversion method:
    Cinlar, Introduction to Stochastic Processes, 1975, ch. 4.7).
    """

    pattern: Pattern
    rate: float  # arrivals per second; of no meaning for a burst
    seed: int = 0
    smoothness: float = 1.0
    ramp_s: float = 0.0

    def blocks(
        self, count: int | None = None, duration_s: float | None = None, *, block: int = BLOCK
    ) -> Iterator[Times]:
        """Ascending times until ``count`` arrivals or before ``duration_s``, whichever ends first; else without end.

        The times do not depend on ``block``. A burst has no duration: its times never pass.
        """
        generator = np.random.Generator(np.random.PCG64(entropy(f"{self.seed}:arrivals")))
        done, at = 0, 0.0
        while count is None or done < count:
            size = block if count is None else min(block, count - done)
            units = self._units(generator, done, at, size)
            times = self._times(units)
            if duration_s is not None and self.pattern != "concurrency_burst":
                inside = int(np.searchsorted(times, round(duration_s * NS), side="left"))
                if inside < size:
                    if inside:
                        yield times[:inside]
                    return
            yield times
            done, at = done + size, float(units[-1])

    def _units(self, generator: np.random.Generator, done: int, at: float, size: int) -> NDArray[np.float64]:
        """The next arrivals of the process of rate 1."""
        if self.pattern == "concurrency_burst":
            return np.zeros(size)
        if self.pattern == "constant":
            return np.arange(done, done + size, dtype=np.float64)
        if self.pattern == "poisson":
            gaps = generator.standard_exponential(size)
        else:
            gaps = generator.standard_gamma(self.smoothness, size) / self.smoothness
        gaps[0] += at
        return np.cumsum(gaps)

    def _times(self, units: NDArray[np.float64]) -> Times:
        if self.pattern == "concurrency_burst":
            return np.zeros(len(units), dtype=np.int64)
        seconds = units / self.rate
        if self.ramp_s > 0:
            rising = np.sqrt(2 * self.ramp_s * seconds)  # L(t) = rate t^2 / (2 ramp), then rate (t - ramp/2)
            seconds = np.where(seconds < self.ramp_s / 2, rising, seconds + self.ramp_s / 2)
        return np.rint(seconds * NS).astype(np.int64)


def entropy(name: str) -> int:
    """A seed for numpy's generators, from any text."""
    return int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")
