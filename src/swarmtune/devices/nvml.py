"""NVIDIA GPUs through NVML, where there is a driver and nvidia-ml-py (extra ``gpu``)."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from swarmtune.devices.readings import ReadError, Reading, of_device

INTERVAL_S = 0.5
DRIVER = Path("/proc/driver/nvidia/version")


class Nvml(Protocol):
    """What we call of the module ``pynvml``. Handles are opaque; every call may raise ``NVMLError``."""

    NVMLError: type[Exception]
    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> None: ...  # noqa: N802 - NVIDIA's names
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: N802 - mW
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: N802 - .gpu, .memory in percent
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802 - .total, .used in bytes
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: N802 - degrees Celsius


class NvmlSource:
    """The GPUs with these indices (NVML's: by PCI address), or all. A value that a GPU does not have is left out."""

    name = "nvml"
    interval_s = INTERVAL_S

    def __init__(self, nvml: Nvml, devices: Sequence[int] | None = None) -> None:
        """ReadError if the driver does not start, or one of ``devices`` is not there."""
        self._nvml = nvml
        self._lock = threading.Lock()
        self._closed = False
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise ReadError(f"NVML does not start: {error}") from error
        try:
            self.count = count = nvml.nvmlDeviceGetCount()
            wanted = range(count) if devices is None else devices
            if absent := [index for index in wanted if not 0 <= index < count]:
                listed = ", ".join(map(str, absent))
                raise ReadError(f"NVML has {count} GPUs, and none with the index {listed}")  # noqa: TRY301 - closes
            self._handles = {index: nvml.nvmlDeviceGetHandleByIndex(index) for index in wanted}
        except (nvml.NVMLError, ReadError) as error:
            self.close()
            raise ReadError(str(error)) from error

    def read(self) -> list[Reading]:
        """gpu_power_watts, gpu_utilization_percent, gpu_memory_used_bytes, gpu_memory_total_bytes and
        gpu_temperature_celsius of each GPU.
        """
        found, last = [], ""
        for index, handle in self._handles.items():
            for ask in self._questions(handle):
                try:
                    found += [of_device(name, value, index) for name, value in ask()]
                except self._nvml.NVMLError as error:
                    last = str(error)
        if not found:
            raise ReadError(f"NVML tells nothing: {last or 'there is no GPU'}")
        return found

    def _questions(self, handle: Any) -> Iterator[Callable[[], list[tuple[str, float]]]]:
        nvml = self._nvml

        def memory() -> list[tuple[str, float]]:
            told = nvml.nvmlDeviceGetMemoryInfo(handle)
            return [("gpu_memory_used_bytes", told.used), ("gpu_memory_total_bytes", told.total)]

        yield lambda: [("gpu_power_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000)]
        yield lambda: [("gpu_utilization_percent", nvml.nvmlDeviceGetUtilizationRates(handle).gpu)]
        yield memory
        sensor = nvml.NVML_TEMPERATURE_GPU
        yield lambda: [("gpu_temperature_celsius", nvml.nvmlDeviceGetTemperature(handle, sensor))]

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(self._nvml.NVMLError):  # the process ends anyway
            self._nvml.nvmlShutdown()


def open_nvml(devices: Sequence[int] | None, driver: Path = DRIVER) -> NvmlSource | None:
    """The source on this machine; None without an NVIDIA driver. ReadError: there is one, and it cannot be read."""
    try:
        nvml = cast("Nvml", importlib.import_module("pynvml"))
    except ImportError as error:
        if not driver.exists():
            return None
        raise ReadError("there is an NVIDIA driver, but not nvidia-ml-py: pip install 'swarmtune[gpu]'") from error
    try:
        source = NvmlSource(nvml, devices)
    except ReadError:
        if not driver.exists():
            return None
        raise
    return source if source.count else None
