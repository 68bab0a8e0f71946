"""Synthetic sessions: drawn lengths, shared and private prefixes, turns with think times, users that come back
evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarmtune.errors import ConfigValidationError
from swarmtune.workload.draws import LONGEST, Distribution, Draws
from swarmtune.workload.session import Dataset, Session, Turn
from swarmtune.workload.tokens import NoTexts, Texts
from swarmtune.workload.users import UserPlan

NS_PER_MS = 1_000_000
PERCENT_SLACK = 0.01


@dataclass(frozen=True)
class Lengths:
    """A prompt length and an answer length that belong together, in tokens, and how often they are drawn."""

    isl: float
    osl: float
    isl_stddev: float = 0.0
    osl_stddev: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class SyntheticSpec:
    """What synthetic sessions look like. Lengths in tokens, times in ms, the rate in requests per second.

    ``texts``: texts of one request (embeddings; rankings: the query and its passages), each of a drawn prompt length.
    ``answers`` False: no answer length is asked for. ``users``: with ``user_rate``, sessions of a fixed number of users
    that send at even intervals of users / user_rate seconds.
    """

    lengths: tuple[Lengths, ...]
    isl_distribution: Distribution = "normal"
    osl_distribution: Distribution = "normal"
    system_tokens: int = 0
    context_tokens: int = 0
    prefixes: int = 0
    prefix_tokens: int = 0
    texts: int = 1
    answers: bool = True
    turns_mean: float = 1.0
    turns_stddev: float = 0.0
    delay_mean_ms: float = 0.0
    delay_stddev_ms: float = 0.0
    delay_ratio: float = 1.0
    users: int | None = None
    user_rate: float = 0.0
    entries: int = 0  # different sessions, used again in their order; 0: all differ


class SyntheticDataset(Dataset):
    """Any number of sessions, each made from (seed, index) alone; users' sessions also know when they start."""

    def __init__(self, spec: SyntheticSpec, seed: int, texts: Callable[[int, str], Texts] = Texts) -> None:
        self.spec, self.seed = spec, seed
        self._prompts, self._contexts = texts(seed, "prompts"), texts(seed, "contexts")
        prefixes = texts(seed, "prefixes")
        self._prefixes = [prefixes.text(number, spec.prefix_tokens) for number in range(spec.prefixes)]
        self._system = texts(seed, "system").text(0, spec.system_tokens)
        self._total_weight = sum(one.weight for one in spec.lengths)
        self._plan = None
        if spec.users is not None:
            self._plan = UserPlan(spec.users, spec.user_rate, seed, self._turn_count)

    @property
    def size(self) -> None:
        return None

    def without_texts(self) -> SyntheticDataset:
        return SyntheticDataset(self.spec, self.seed, NoTexts)

    def session(self, index: int) -> Session:
        entry = self._entry(index)
        draws = Draws(f"{self.seed}:session:{entry}")
        if self._plan is None:
            start_ns, turns = None, self._turn_count(index)
        else:
            start_ns, turns = self._plan.session(index)
        made = tuple(self._turn(entry, number, draws) for number in range(turns))
        return Session(index, made, start_ns)

    def _entry(self, index: int) -> int:
        return index % self.spec.entries if self.spec.entries else index

    def _turn_count(self, index: int) -> int:
        if self.spec.turns_stddev == 0:
            return max(1, round(self.spec.turns_mean))
        return Draws(f"{self.seed}:turns:{self._entry(index)}").length(self.spec.turns_mean, self.spec.turns_stddev)

    def _turn(self, index: int, number: int, draws: Draws) -> Turn:
        spec = self.spec
        chosen = self._lengths(draws)
        sizes = [draws.length(chosen.isl, chosen.isl_stddev, spec.isl_distribution) for _ in range(spec.texts)]
        output = draws.length(chosen.osl, chosen.osl_stddev, spec.osl_distribution) if spec.answers else None
        if number > 0:
            texts = tuple(self._prompts.text(draws.bits(), size) for size in sizes)
            delay = max(0.0, draws.value(spec.delay_mean_ms, spec.delay_stddev_ms)) * spec.delay_ratio
            interval = None if self._plan is None else self._plan.interval_ns
            return Turn(texts, sum(sizes), output, delay_ns=round(delay * NS_PER_MS), interval_ns=interval)
        first = index * spec.texts
        texts = tuple(self._prompts.text(first + place, size) for place, size in enumerate(sizes))
        before = self._before(index, draws)
        if before:
            texts = tuple(" ".join([*before, text]) for text in texts)
        private = spec.context_tokens + (spec.prefix_tokens if spec.prefixes else 0)
        total = sum(sizes) + private * spec.texts + spec.system_tokens
        return Turn(texts, total, output, system=self._system)

    def _before(self, index: int, draws: Draws) -> list[str]:
        """What stands before the first prompt of a session."""
        before = [self._prefixes[draws.below(len(self._prefixes))]] if self._prefixes else []
        if self.spec.context_tokens:
            before.append(self._contexts.text(index, self.spec.context_tokens))
        return before

    def _lengths(self, draws: Draws) -> Lengths:
        if len(self.spec.lengths) == 1:
            return self.spec.lengths[0]
        at = draws.uniform() * self._total_weight
        for one in self.spec.lengths:
            at -= one.weight
            if at < 0:
                return one
        return self.spec.lengths[-1]


def parse_lengths(text: str) -> tuple[Lengths, ...]:
    """Read AIPerf's ``ISL|stddev,OSL|stddev:percent;...``, e.g. "256|10,128|5:40;512,256:60"; the percents sum to
    100.
    """
    pairs: list[Lengths] = []
    mistakes: list[str] = []
    for part in (part.strip() for part in text.removesuffix(";").split(";")):
        try:
            pairs.append(_pair(part))
        except ValueError:
            mistakes.append(
                f"sequence_distribution: {part!r} is not of the form 'ISL|stddev,OSL|stddev:percent' "
                f"(lengths from 1 to {LONGEST:,}, deviations and percent not negative), e.g. '256|10,128|5:40;512,256:60'"
            )
    total = sum(pair.weight for pair in pairs)
    if not mistakes and abs(total - 100) > PERCENT_SLACK:
        mistakes.append(f"sequence_distribution: the percents of {text!r} sum to {total:g}, they must sum to 100")
    if mistakes:
        raise ConfigValidationError(mistakes)
    return tuple(pairs)


def _pair(part: str) -> Lengths:
    lengths, colon, percent = part.rpartition(":")
    isl, comma, osl = lengths.partition(",")
    (isl_mean, isl_stddev), (osl_mean, osl_stddev) = _mean(isl), _mean(osl)
    weight = float(percent)
    if not colon or not comma or not 0 <= weight <= 100 + PERCENT_SLACK:
        raise ValueError(part)
    return Lengths(isl_mean, osl_mean, isl_stddev, osl_stddev, weight)


def _mean(text: str) -> tuple[float, float]:
    mean, bar, stddev = text.partition("|")
    value, spread = float(mean), float(stddev) if bar else 0.0
    if not (1 <= value <= LONGEST and 0 <= spread <= LONGEST):
        raise ValueError(text)
    return value, spread
