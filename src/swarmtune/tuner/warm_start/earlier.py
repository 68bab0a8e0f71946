"""Reads earlier studies without writing a byte to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swarmtune.errors import StoreError
from swarmtune.records import Trial, TrialState
from swarmtune.study.reader import reading
from swarmtune.study.tables import SCHEMA_VERSION


@dataclass(frozen=True)
class EarlierStudy:
    """An earlier study with its finished trials in order. ``busy``: a live tuner owns it."""

    name: str
    place: str
    fingerprint: dict[str, Any]
    created_at: float
    busy: bool
    trials: tuple[Trial, ...]


def read_studies(place: str, now: float) -> list[EarlierStudy]:
    """All studies of a database (a path or an address), newest first. StoreError says why it cannot be used."""
    with reading(place) as reader:
        heads = reader.heads()
        if not heads:
            raise StoreError("; ".join(reader.notes) or "it holds no studies of SwarmTune")
        if any(head.schema_version != SCHEMA_VERSION for head in heads):
            raise StoreError("it was written by another version of SwarmTune")
        return [
            EarlierStudy(
                head.name,
                place,
                head.fingerprint,
                head.created_at,
                head.busy(now),
                tuple(t for t in reader.trials(head.name) if t.state is TrialState.COMPLETE),
            )
            for head in heads
        ]
