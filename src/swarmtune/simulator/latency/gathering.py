"""All sources of a training together: their steps, what was refused, and what they say of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.simulator.latency.features import FEATURES
from swarmtune.simulator.latency.readers import read
from swarmtune.simulator.latency.readers.base import Found, Reading
from swarmtune.simulator.latency.rows import Refusals, Rows, accepted, joined, rows_of

LEAST_ROWS = 20


@dataclass(frozen=True)
class Gathered:
    """The steps to learn from. ``facts``: by the names of model.Identity."""

    rows: Rows
    refusals: Refusals
    notes: tuple[str, ...]
    facts: dict[str, str]

    @classmethod
    def nothing(cls) -> Gathered:
        """No steps."""
        return cls(rows_of(np.empty((0, len(FEATURES))), np.empty(0)), Refusals(), (), {})


def gather(paths: Sequence[Path], reading: Reading, floor_s: float = 0.0, only: str = "") -> Gathered:
    """Read all sources. ``floor_s``: no step is shorter; ``only``: by this reader.

    ConfigValidationError with the mistakes of all sources: what cannot be read, or has too few steps to learn from.
    """
    mistakes: list[str] = []
    sources: list[tuple[Path, Found]] = []
    for path in paths:
        try:
            sources.append((path, read(path, reading, only)))
        except ConfigValidationError as error:
            mistakes += error.mistakes
        except ConfigurationError as error:
            mistakes.append(error.message)
    kept: list[Rows] = []
    refusals = Refusals()
    for path, found in sources:
        rows, refused = accepted(found.rows, floor_s, unit_is_sure=found.unit_is_sure)
        kept.append(rows)
        refusals.join(refused, path.name)
        if len(rows) < max(len(refused), 1):
            told = f"{len(rows):,} of {len(found.rows):,} rows can be learned from: refused were {refused.text}"
            mistakes += [f"{path}: only {told}. {line}" for line in refused.listed[:1]] or [f"{path} holds no steps."]
    facts: dict[str, str] = {}
    for path, found in sources:
        for name, fact in found.facts.items():
            if facts.setdefault(name, fact) != fact:
                mistakes.append(
                    f"{path}: {name} is {fact}, and {facts[name]} in a source before; train a model of each."
                )
    if not mistakes and (count := sum(map(len, kept))) < LEAST_ROWS:
        mistakes.append(f"{count} steps are too few to learn from; at least {LEAST_ROWS} are needed.")
    if mistakes:
        raise ConfigValidationError(mistakes)
    notes = tuple(dict.fromkeys(note for _, found in sources for note in found.notes))
    return Gathered(joined(kept), refusals, notes, facts)
