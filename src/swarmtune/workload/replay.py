"""Entries of a file as a dataset: order, time range, speed-up, and made-up texts for entries that have only lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from swarmtune.errors import ConfigValidationError
from swarmtune.workload.arrivals import entropy
from swarmtune.workload.draws import Distribution, Draws
from swarmtune.workload.files import NS_PER_MS, Entry, Part
from swarmtune.workload.session import Dataset, Session, Turn
from swarmtune.workload.synthetic import Lengths
from swarmtune.workload.tokens import Texts
from swarmtune.workload.users import UserPlan

Sampling = Literal["sequential", "shuffle", "random"]


@dataclass(frozen=True)
class ReplaySpec:
    """How a file's entries are replayed.

    ``fixed_schedule``: sessions start at the file's timestamps (in their order; ``sampling`` has no say), of which
    those from ``start_ms`` to ``end_ms`` (both included, in the file's time) are taken; time 0 is the first of them
    (``auto_offset``) or ``start_ms``. ``speedup`` divides timestamps and think times. ``block``: tokens of a hash_id.
    ``osl``: answer lengths for entries that have none; None: the server decides. ``answers`` False: no answer length
    is asked for at all. ``users``, with ``user_rate`` in requests per second: as for synthetic sessions, instead of
    the file's think times.
    """

    sampling: Sampling = "sequential"
    fixed_schedule: bool = False
    start_ms: float | None = None
    end_ms: float | None = None
    auto_offset: bool = True
    speedup: float = 1.0
    block: int = 512
    max_isl: int | None = None
    max_osl: int | None = None
    osl: Lengths | None = None
    osl_distribution: Distribution = "normal"
    answers: bool = True
    delay_ratio: float = 1.0
    users: int | None = None
    user_rate: float = 0.0


class ReplayDataset(Dataset):
    """The sessions of a file. Its times are used with ``fixed_schedule`` only."""

    def __init__(self, entries: Sequence[Entry], spec: ReplaySpec, seed: int, name: str = "input_file") -> None:
        self.spec, self.seed = spec, seed
        self._texts, self._blocks = Texts(seed, "entries"), Texts(seed, "blocks")
        self._entries = [
            (number, entry)
            for number, entry in enumerate(entries)
            if spec.max_isl is None or max(part.input_tokens for part in entry) <= spec.max_isl
        ]
        if not self._entries:
            raise ConfigValidationError([f"{name}: all entries are longer than max_isl = {spec.max_isl}"])
        self._starts: tuple[int, ...] | None = None
        if spec.fixed_schedule:
            self._starts = self._cut(name)
        self._plan = None
        if spec.users is not None:
            self._plan = UserPlan(spec.users, spec.user_rate, seed, lambda at: len(self._entries[self._place(at)][1]))

    @property
    def size(self) -> int:
        return len(self._entries)

    @property
    def schedule(self) -> tuple[int, ...] | None:
        return self._starts

    def session(self, index: int) -> Session:
        place = self._place(index)
        number, entry = self._entries[place]
        start_ns = None if self._starts is None else self._starts[place]
        if self._plan is not None:
            start_ns, turns_left = self._plan.session(index)
            entry = entry[:turns_left]
        draws = Draws(f"{self.seed}:answers:{index}")
        turns = tuple(
            self._turn(part, entry[at - 1] if at else None, number + at * len(self._entries), draws)
            for at, part in enumerate(entry)
        )
        return Session(index, turns, start_ns)

    def _cut(self, name: str) -> tuple[int, ...]:
        """Keep the slice, in order of time; the starts of what is kept."""
        spec = self.spec
        timed = [(entry[0].timestamp_ns, number, entry) for number, entry in self._entries]
        without = sum(stamp is None for stamp, _, _ in timed)
        if without:
            raise ConfigValidationError(
                [f"{name}: fixed_schedule needs a timestamp in every entry, {without} of {len(timed)} have none"]
            )
        low = 0 if spec.start_ms is None else spec.start_ms * NS_PER_MS
        high = float("inf") if spec.end_ms is None else spec.end_ms * NS_PER_MS
        kept = sorted(
            (stamp, number, entry) for stamp, number, entry in timed if stamp is not None and low <= stamp <= high
        )
        if not kept:
            raise ConfigValidationError(
                [f"{name}: no entry from fixed_schedule_start_offset to fixed_schedule_end_offset (ms)"]
            )
        self._entries = [(number, entry) for _, number, entry in kept]
        zero = kept[0][0] if spec.auto_offset else round(low)
        return tuple(round((stamp - zero) / spec.speedup) for stamp, _, _ in kept)

    def _place(self, index: int) -> int:
        size = len(self._entries)
        if self.spec.fixed_schedule or self.spec.sampling == "sequential":
            return index % size
        if self.spec.sampling == "random":
            return Draws(f"{self.seed}:sample:{index}").below(size)
        return int(_permutation(self.seed, index // size, size)[index % size])

    def _turn(self, part: Part, before: Part | None, number: int, draws: Draws) -> Turn:
        spec, interval = self.spec, None
        stamp = part.timestamp_ns
        if self._plan is not None and before is not None:
            interval = self._plan.interval_ns
        elif spec.fixed_schedule and before is not None and stamp is not None and before.timestamp_ns is not None:
            interval = max(0, round((stamp - before.timestamp_ns) / spec.speedup))
        texts = part.texts
        if not texts and not part.messages and part.payload is None:
            texts = (self._made(part, number),)
        return Turn(
            texts,
            part.input_tokens,
            self._output(part, draws) if spec.answers else None,
            part.system,
            part.messages,
            part.payload,
            0 if before is None else round(part.delay_ns * spec.delay_ratio / spec.speedup),
            interval,
            part.extra,
        )

    def _output(self, part: Part, draws: Draws) -> int | None:
        wanted, osl = part.output_tokens, self.spec.osl
        if wanted is None and osl is not None:
            wanted = draws.length(osl.osl, osl.osl_stddev, self.spec.osl_distribution)
        if wanted is None or self.spec.max_osl is None:
            return wanted
        return min(wanted, self.spec.max_osl)

    def _made(self, part: Part, number: int) -> str:
        """A text of the entry's length: its blocks, the last one shortened; what they do not cover is its own."""
        missing, texts = part.input_tokens, list[str]()
        for block in part.hash_ids:
            if missing <= 0:
                break
            texts.append(self._blocks.text(block, min(missing, self.spec.block)))
            missing -= self.spec.block
        if missing > 0:
            texts.append(self._texts.text(number, missing))
        return " ".join(texts)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of one pass through the file; every pass has another."""
    generator = np.random.Generator(np.random.PCG64(entropy(f"{seed}:shuffle:{epoch}")))
    return generator.permutation(size)
