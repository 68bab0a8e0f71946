"""The sessions of a simulated load, made once for all settings that are tried with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmtune.workload.session import Dataset, Session

MOST_KEPT = 200_000  # sessions


class Remembered(Dataset):
    """A data set whose sessions are kept; the first MOST_KEPT of them."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kept: dict[int, Session] = {}

    @property
    def size(self) -> int | None:
        return self._dataset.size

    @property
    def schedule(self) -> tuple[int, ...] | None:
        return self._dataset.schedule

    @property
    def counts(self) -> Mapping[str, Any]:
        return self._dataset.counts

    def session(self, index: int) -> Session:
        if (found := self._kept.get(index)) is None:
            found = self._dataset.session(index)
            if len(self._kept) < MOST_KEPT:
                self._kept[index] = found
        return found
