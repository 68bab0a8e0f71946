"""Requests of a run as they were answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """Requests of one run, by the time at which they were sent. Seconds; ``ttft``, ``e2e``: NaN where not known."""

    sent: Floats
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    ttft: Floats
    e2e: Floats

    @property
    def tpot(self) -> Floats:
        """Seconds per token after the first; NaN for answers of one token."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.output > 1, (self.e2e - self.ttft) / (self.output - 1), np.nan)

    def first(self, count: int) -> Observed:
        """The first so many, and those that were sent before the last of them ended."""
        until = np.nanmax((self.sent + self.e2e)[:count])
        kept = (np.arange(len(self.sent)) < count) | (self.sent < until)
        return Observed(self.sent[kept], self.prompt[kept], self.output[kept], self.ttft[kept], self.e2e[kept])
