"""Which sources this machine has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from swarmtune.devices.host import HostSource
from swarmtune.devices.npu_smi import open_npu_smi
from swarmtune.devices.nvml import open_nvml
from swarmtune.devices.rapl import open_rapl
from swarmtune.devices.readings import ReadError, Source

POWER = ("gpu_power_watts", "npu_power_watts", "cpu_power_watts")  # what our own sources call it


def open_sources(
    devices: Sequence[int] | None, service: Callable[[], Collection[int]] = tuple
) -> tuple[list[Source], list[str]]:
    """The accelerators with these indices (None: all), the processors' power where there are none, and the host.

    The other list says what is there and cannot be read. ``service`` tells the processes of the service, for sources
    that can tell what others use.
    """
    found: list[Source] = []
    notes: list[str] = []
    makers: tuple[Callable[[], Source | None], ...] = (
        lambda: open_nvml(devices, service=service),
        lambda: open_npu_smi(devices),
    )
    for make in makers:
        _open(make, found, notes)
    if not found and not devices:
        _open(open_rapl, found, notes)
    return [*found, HostSource()], notes


def _open(make: Callable[[], Source | None], found: list[Source], notes: list[str]) -> None:
    try:
        source = make()
    except ReadError as error:
        notes.append(str(error))
        return
    if source is not None:
        found.append(source)


def memory_in_use(devices: Sequence[int] | None) -> dict[str, tuple[float, float]]:
    """Memory in use and in all, bytes, of these accelerators (None: all) by their index; those that tell it.

    Each source is read once; one that cannot be read tells nothing.
    """
    found: dict[str, dict[str, float]] = {}
    for source in open_sources(devices)[0]:
        try:
            for reading in source.read():
                if (index := dict(reading.labels).get("device")) is not None:
                    found.setdefault(index, {})[reading.name.partition("_")[2]] = reading.value
        except ReadError:
            continue
        finally:
            source.close()
    used, total = "memory_used_bytes", "memory_total_bytes"
    return {index: (one[used], one[total]) for index, one in found.items() if {used, total} <= one.keys()}


def no_power(devices: Sequence[int] | None) -> str:
    """Why this machine does not tell the power of these accelerators (or, without any, of its processors); empty: it does.

    Each source is read once.
    """
    sources, notes = open_sources(devices)
    told = False
    for source in sources:
        try:
            told |= any(reading.name in POWER for reading in source.read())
        except ReadError as error:
            notes.append(str(error))
        finally:
            source.close()
    if told:
        return ""
    return (
        "; ".join(notes) or "it has neither NVIDIA's driver, nor npu-smi, nor energy counters of its processors (RAPL)"
    )
