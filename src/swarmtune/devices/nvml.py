"""NVIDIA GPUs through NVML, where there is a driver and nvidia-ml-py (extra ``gpu``)."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from swarmtune.devices.readings import ReadError, Reading, of_device

INTERVAL_S = 0.5
OTHER_SHARE = "gpu_other_share"
NOT_FOUND = 6  # NVML_ERROR_NOT_FOUND
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
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]: ...  # noqa: N802 - .pid
    def nvmlDeviceGetProcessUtilization(self, handle: Any, since_us: int) -> list[Any]: ...  # noqa: N802


class NvmlSource:
    """The GPUs with these indices (NVML's: by PCI address), or all. A value that a GPU does not have is left out.

    Where NVML shows the processes of the service on a GPU, it is also read what others compute there. Where it does not,
    because the service uses none or has other process numbers there (a container), nothing is known of others either.
    """

    name = "nvml"
    interval_s = INTERVAL_S

    def __init__(
        self, nvml: Nvml, devices: Sequence[int] | None = None, service: Callable[[], Collection[int]] = tuple
    ) -> None:
        """``service`` tells its processes. ReadError if the driver does not start, or one of ``devices`` is not there."""
        self._nvml, self._service = nvml, service
        self._since_us: dict[int, int] = {}
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
        gpu_temperature_celsius of each GPU, and gpu_other_share where the service's processes are known.
        """
        found, last, service = [], "", set(self._service())
        for index, handle in self._handles.items():
            for ask in self._questions(index, handle, service):
                try:
                    found += [of_device(name, value, index) for name, value in ask()]
                except self._nvml.NVMLError as error:
                    last = str(error)
        if not found:
            raise ReadError(f"NVML tells nothing: {last or 'there is no GPU'}")
        return found

    def _questions(self, index: int, handle: Any, service: set[int]) -> Iterator[Callable[[], list[tuple[str, float]]]]:
        nvml = self._nvml

        def memory() -> list[tuple[str, float]]:
            told = nvml.nvmlDeviceGetMemoryInfo(handle)
            return [("gpu_memory_used_bytes", told.used), ("gpu_memory_total_bytes", told.total)]

        yield lambda: [("gpu_power_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000)]
        yield lambda: [("gpu_utilization_percent", nvml.nvmlDeviceGetUtilizationRates(handle).gpu)]
        yield memory
        sensor = nvml.NVML_TEMPERATURE_GPU
        yield lambda: [("gpu_temperature_celsius", nvml.nvmlDeviceGetTemperature(handle, sensor))]
        if service:
            yield lambda: self._others(index, handle, service)

    def _others(self, index: int, handle: Any, service: set[int]) -> list[tuple[str, float]]:
        """The share of the time since the reading before in which others computed on this GPU."""
        if service.isdisjoint(process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)):
            return []
        since_us = self._since_us.get(index, 0)
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(handle, since_us)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) != NOT_FOUND:
                raise
            samples = []  # nobody has computed
        fresh = [sample for sample in samples if sample.timeStamp > since_us]
        self._since_us[index] = max((sample.timeStamp for sample in fresh), default=since_us)
        others = sum(sample.smUtil for sample in fresh if sample.pid not in service)
        return [(OTHER_SHARE, min(1.0, others / 100))]

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(self._nvml.NVMLError):  # the process ends anyway
            self._nvml.nvmlShutdown()


def open_nvml(
    devices: Sequence[int] | None, driver: Path = DRIVER, service: Callable[[], Collection[int]] = tuple
) -> NvmlSource | None:
    """The source on this machine; None without an NVIDIA driver. ReadError: there is one, and it cannot be read."""
    try:
        nvml = cast("Nvml", importlib.import_module("pynvml"))
    except ImportError as error:
        if not driver.exists():
            return None
        raise ReadError("there is an NVIDIA driver, but not nvidia-ml-py: pip install 'swarmtune[gpu]'") from error
    try:
        source = NvmlSource(nvml, devices, service)
    except ReadError:
        if not driver.exists():
            return None
        raise
    return source if source.count else None
