"""Entries of a file as a dataset: order, time range, speed-up, and made-up texts for entries that have only lengths."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from swarmtune.errors import ConfigValidationError
from swarmtune.workload.arrivals import entropy
from swarmtune.workload.draws import Distribution, Draws
from swarmtune.workload.files import LATEST_NS, NS_PER_MS, Contents, Part
from swarmtune.workload.session import Dataset, Session, Turn
from swarmtune.workload.synthetic import Lengths
from swarmtune.workload.tokens import Texts
from swarmtune.workload.users import UserPlan

Sampling = Literal["sequential", "shuffle", "random"]
DAY_S = LONGEST_WAIT_S = 86_400  # for the first request of a schedule
NS_PER_S = 1_000_000_000
APART = 472_882_027  # numbers of texts between one pass through a file and the next; a prime


@dataclass(frozen=True)
class ReplaySpec:
    """How a file's entries are replayed.

    ``fixed_schedule``: sessions start at the file's timestamps (in their order; ``sampling`` has no say), of which
    those from ``start_ms`` to ``end_ms`` (both included, in the file's time) are taken; time 0 is the first of them
    (``auto_offset``) or ``start_ms``. ``speedup`` divides timestamps and think times. ``block``: tokens of a hash_id.
    ``osl``: answer lengths for entries that have none; None: the server decides. ``answers`` False: no answer length
    is asked for at all. ``users``, with ``user_rate`` in requests per second: as for synthetic sessions, instead of
    the file's think times. ``streaming`` and ``extra``: the option, and the names of the fields of extra_inputs.
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
    streaming: bool = True
    extra: frozenset[str] = frozenset()


class ReplayDataset(Dataset):
    """The sessions of a file. Its times are used with ``fixed_schedule`` only."""

    def __init__(self, contents: Contents, spec: ReplaySpec, seed: int) -> None:
        """ConfigValidationError if nothing is left of the file, or its times become longer than a century."""
        self.spec, self.seed, self.contents = spec, seed, contents
        self._texts, self._blocks = Texts(seed, "entries"), Texts(seed, "blocks")
        self._left_out = Counter(contents.left_out)
        self._entries = [
            (number, entry)
            for number, entry in enumerate(contents.entries)
            if spec.max_isl is None or max(part.input_tokens for part in entry) <= spec.max_isl
        ]
        if not self._entries:
            raise ConfigValidationError([f"{contents.path}: all entries are longer than max_isl = {spec.max_isl}"])
        self._leave_out("longer than max_isl", len(contents.entries))
        self._starts: tuple[int, ...] | None = None
        if spec.fixed_schedule:
            before = len(self._entries)
            self._starts = self._cut(str(contents.path))
            self._leave_out("outside of the slice of the schedule", before)
        self._check_times()
        self._plan = None
        if spec.users is not None:
            self._plan = UserPlan(spec.users, spec.user_rate, seed, lambda at: len(self._entries[self._place(at)][1]))

    def _leave_out(self, reason: str, before: int) -> None:
        if before > len(self._entries):
            self._left_out[reason] += before - len(self._entries)

    def _check_times(self) -> None:
        spec = self.spec
        parts = [part for _, entry in self._entries for part in entry]
        longest = max(part.delay_ns for part in parts) * spec.delay_ratio
        if spec.fixed_schedule:
            longest = max(longest, *(part.timestamp_ns or 0 for part in parts))
        if longest / spec.speedup > LATEST_NS:
            raise ConfigValidationError(
                [f"{self.contents.path}: with replay_speedup = {spec.speedup:g} its times are longer than a century"]
            )

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
        size = len(self._entries)
        if self._at_random:
            number = index  # an entry that is drawn again has another text
        turns = tuple(
            self._turn(part, entry[at - 1] if at else None, number + at * size, index // size, draws)
            for at, part in enumerate(entry)
        )
        return Session(index, turns, start_ns)

    @property
    def counts(self) -> Mapping[str, Any]:
        return {**self.contents.to_json(), "entries": self.size, "left_out": dict(self._left_out)}

    def notes(self, sessions: int, model: str) -> list[str]:
        contents = self.contents
        found = [left_out(contents, self._left_out), self._use(sessions), *self._unused()]
        found += bodies(contents, self.spec, model)
        return [f"{self.contents.path.name}: {text}" for text in found if text]

    def _use(self, sessions: int) -> str:
        """How often each entry was used."""
        contents, size = self.contents, self.size
        noun, total = contents.noun, contents.total
        if len(contents.entries) < total - contents.left_out.total():  # several lines are one session
            noun, total = "sessions", len(contents.entries)
        if self._at_random:
            return f"{sessions:,} drawn at random of {size:,} {noun}"
        if sessions < size:
            return f"{sessions:,} of {total:,} {noun} used"
        least, rest = divmod(sessions, size)
        often = f"{least:,} times" if least > 1 else "once"
        return f"{size:,} of {total:,} {noun} used, each {often if not rest else f'{least:,} to {least + 1:,} times'}"

    def _unused(self) -> list[str]:
        """Times, blocks and fields of the file that are not used."""
        spec, found = self.spec, list[str]()
        parts = [part for _, entry in self._entries for part in entry]
        if not spec.fixed_schedule and any(part.timestamp_ns is not None for part in parts):
            found.append("its timestamps are not used: fixed_schedule sends at them")
        later = [part for _, entry in self._entries for part in entry[1:]]
        if spec.fixed_schedule and any(part.delay_ns and part.timestamp_ns is not None for part in later):
            found.append("delays of turns that have timestamps are not used")
        covered = sum(len(part.hash_ids) > -(-part.input_tokens // spec.block) for part in parts)
        if covered:
            blocks = f"more hash_ids than blocks of {spec.block} tokens"
            found.append(f"{covered:,} of its requests have {blocks}: is isl_block_size right?")
        if any(part.texts or part.messages or part.payload for part in parts):
            found.append("its texts are the same in every run, so that a prefix cache may answer them")
        if self.contents.unsent:
            fields = sorted(name or repr(name) for name in self.contents.unsent)
            found.append(f"fields not sent: {', '.join(fields)}")
        if self.contents.sent:
            found.append(f"further fields sent: {', '.join(sorted(self.contents.sent))}")
        return found

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
        order = [stamp for stamp, _, _ in timed if stamp is not None]
        if moved := sum(later < earlier for earlier, later in itertools.pairwise(order)):
            self.contents.changes["entry before the one above it in time: the schedule was sorted"] = moved
        kept = sorted(
            (stamp, number, entry) for stamp, number, entry in timed if stamp is not None and low <= stamp <= high
        )
        if not kept:
            raise ConfigValidationError(
                [f"{name}: no entry from fixed_schedule_start_offset to fixed_schedule_end_offset (ms)"]
            )
        self._entries = [(number, entry) for _, number, entry in kept]
        zero = kept[0][0] if spec.auto_offset else round(low)
        waits_s = (kept[0][0] - zero) / spec.speedup / NS_PER_S
        if waits_s > LONGEST_WAIT_S:
            told = f"its first timestamp is {kept[0][0] / NS_PER_MS:.0f} ms: it would be sent in {waits_s / DAY_S:,.0f} days"
            way_out = "leave --no-fixed-schedule-auto-offset out, or give --fixed-schedule-start-offset"
            raise ConfigValidationError([f"{name}: {told}; {way_out}"])
        return tuple(round((stamp - zero) / spec.speedup) for stamp, _, _ in kept)

    @property
    def _at_random(self) -> bool:
        return self.spec.sampling == "random" and not self.spec.fixed_schedule

    def _place(self, index: int) -> int:
        size = len(self._entries)
        if self.spec.fixed_schedule or self.spec.sampling == "sequential":
            return index % size
        if self._at_random:
            return Draws(f"{self.seed}:sample:{index}").below(size)
        return int(_permutation(self.seed, index // size, size)[index % size])

    def _turn(self, part: Part, before: Part | None, number: int, time: int, draws: Draws) -> Turn:
        """``number`` of the turn in the file; ``time``: how often the file was gone through before."""
        spec, interval = self.spec, None
        stamp = part.timestamp_ns
        if self._plan is not None and before is not None:
            interval = self._plan.interval_ns
        elif spec.fixed_schedule and before is not None and stamp is not None and before.timestamp_ns is not None:
            interval = max(0, round((stamp - before.timestamp_ns) / spec.speedup))
        texts = part.texts
        if not texts and not part.messages and part.payload is None:
            texts = (self._made(part, number, time * APART),)
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
        if part.payload is not None:
            return wanted  # it is the body's
        if wanted is None and osl is not None:
            wanted = draws.length(osl.osl, osl.osl_stddev, self.spec.osl_distribution)
        if wanted is None or self.spec.max_osl is None:
            return wanted
        return min(wanted, self.spec.max_osl)

    def _made(self, part: Part, number: int, shift: int) -> str:
        """A text of the entry's length: its blocks, the last one shortened; what they do not cover is its own.

        Another ``shift`` gives other texts throughout.
        """
        missing, texts = part.input_tokens, list[str]()
        for block in part.hash_ids:
            if missing <= 0:
                break
            texts.append(self._blocks.text(block + shift, min(missing, self.spec.block)))
            missing -= self.spec.block
        if missing > 0:
            texts.append(self._texts.text(number + shift, missing))
        return " ".join(texts)


def left_out(contents: Contents, reasons: Counter[str]) -> str:
    """What of a file is not sent, and what is sent otherwise than it stands there."""
    several = len(reasons) > 1
    words = [f"{reason}: {number:,}" if several else reason for reason, number in reasons.most_common()]
    missing = reasons.total()
    found = [f"{missing:,} of {contents.total:,} {contents.noun} left out ({', '.join(words)})"] if missing else []
    found += [f"{number:,} {_named(change, number)}" for change, number in contents.changes.most_common()]
    return ", ".join(found)


def _named(change: str, number: int) -> str:
    noun, _, rest = change.partition(" ")
    return change if number == 1 or noun.endswith("s") else f"{noun}s {rest}"


def bodies(contents: Contents, spec: ReplaySpec, model: str) -> list[str]:
    """What is sent otherwise than it stands in whole bodies."""
    found = []
    if others := sum(number for name, number in contents.models.items() if name != model):
        found.append(f"{others:,} of its whole bodies name another model: {model!r} was sent")
    if others := contents.streams[not spec.streaming]:
        found.append(
            f"{others:,} of its whole bodies have another 'stream' than the option streaming: the option was sent"
        )
    fields = contents.sent + contents.bodies
    if own := sorted(spec.extra & fields.keys()):
        found.append(f"lines with a field of their own keep it, whatever extra_inputs says: {', '.join(own)}")
    if contents.bodies and (spec.osl or spec.max_osl):
        found.append("osl and max_osl do not change whole bodies")
    return found


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of one pass through the file; every pass has another."""
    generator = np.random.Generator(np.random.PCG64(entropy(f"{seed}:shuffle:{epoch}")))
    return generator.permutation(size)
