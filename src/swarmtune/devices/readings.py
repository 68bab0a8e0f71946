"""The vocabulary of the reader: one value of one device, and a source of such values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Labels = tuple[tuple[str, str], ...]  # names and values, in order of the names


@dataclass(frozen=True)
class Reading:
    """A value at one time. The unit is part of the name (``gpu_power_watts``), unless an exporter gave the name.

    ``kind``: counter, gauge, histogram or summary, as Prometheus has them.
    """

    name: str
    value: float
    labels: Labels = ()
    kind: str = "gauge"


def of_device(name: str, value: float, device: int | str) -> Reading:
    """A reading of the device with this index."""
    return Reading(name, float(value), (("device", str(device)),))


class ReadError(OSError):
    """A source cannot be read; the message says why. A reader notes it and tries again."""


class Source(Protocol):
    """Something that is read again and again, always from the same thread."""

    name: str
    interval_s: float

    def read(self) -> Sequence[Reading]:
        """All values of now. ReadError if there are none; another call may succeed."""
        ...

    def close(self) -> None:
        """Let go of the driver. Closing twice does no harm."""
        ...
