"""Random numbers that depend on a name only: the same in every process, on every machine and in every release.

A keyed hash in counter mode instead of a stateful generator, so that entry one million can be drawn without the others,
for about a microsecond; libraries may change the streams of their generators, BLAKE2 (RFC 7693) stays.
"""

from __future__ import annotations

import math
import struct
from hashlib import blake2b
from statistics import NormalDist
from typing import Literal

Distribution = Literal["normal", "lognormal", "uniform", "exponential"]
WORDS = 8  # 64-bit numbers of one hash
UNPACK = struct.Struct("<8Q").unpack
LONGEST = 10_000_000  # tokens of a text
SCALE = 2.0**-53
STANDARD = NormalDist()


class Draws:
    """The random numbers that belong to ``name``, e.g. "7:session:12" (seed, purpose, index)."""

    __slots__ = ("_block", "_left", "_name")

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._block = 0
        self._left: list[int] = []

    def bits(self) -> int:
        """A number of 64 random bits."""
        if not self._left:
            self._left = list(UNPACK(blake2b(b"%b:%d" % (self._name, self._block), digest_size=8 * WORDS).digest()))
            self._block += 1
        return self._left.pop()

    def uniform(self) -> float:
        """A number between 0 and 1, neither included."""
        return ((self.bits() >> 11) + 0.5) * SCALE

    def below(self, limit: int) -> int:
        """A whole number from 0 to ``limit`` - 1; its bias is below limit / 2**64."""
        return self.bits() * limit >> 64

    def value(self, mean: float, stddev: float, distribution: Distribution = "normal") -> float:
        """A number of this distribution with this mean and standard deviation, by inversion.

        Exponential: the mean alone decides. Lognormal: sigma^2 = ln(1 + stddev^2/mean^2), mu = ln(mean) - sigma^2/2.
        Uniform: mean +- sqrt(3) stddev. A ``stddev`` of 0 is a constant, except for the exponential distribution.
        """
        if distribution == "exponential":
            return -mean * math.log(self.uniform())
        if stddev == 0:
            return mean
        if distribution == "uniform":
            return mean + (2 * self.uniform() - 1) * math.sqrt(3) * stddev
        z = STANDARD.inv_cdf(self.uniform())
        if distribution == "normal":
            return mean + stddev * z
        variance = math.log1p((stddev / mean) ** 2)
        return math.exp(math.log(mean) - variance / 2 + math.sqrt(variance) * z)

    def length(self, mean: float, stddev: float, distribution: Distribution = "normal") -> int:
        """The same as a length in tokens: rounded, from 1 to LONGEST."""
        return max(1, round(min(LONGEST, self.value(mean, stddev, distribution))))
