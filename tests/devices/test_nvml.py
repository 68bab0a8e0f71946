"""NVIDIA GPUs, against a stand-in for the ten functions that we call of pynvml."""
# ruff: noqa: N802 - the names are NVIDIA's

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarmtune.devices.nvml import NvmlSource, open_nvml
from swarmtune.devices.readings import ReadError


class DriverError(Exception):
    pass


@dataclass
class Driver:
    """``count`` GPUs; what is named in ``broken`` is not supported."""

    count: int = 2
    broken: set[str] = field(default_factory=set)
    running: tuple[int, ...] = ()
    samples: list[tuple[int, int, int]] = field(default_factory=list)  # pid, CPU time stamp in us, percent
    open: int = 0
    NVMLError: type[Exception] = DriverError
    NVML_TEMPERATURE_GPU: int = 0

    def _call(self, name: str, value: Any) -> Any:
        if name in self.broken:
            raise DriverError(f"{name}: Not Supported")
        return value

    def nvmlInit(self) -> None:
        self._call("init", None)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1
        self._call("shutdown", None)

    def nvmlDeviceGetCount(self) -> int:
        return self._call("count", self.count)  # type: ignore[no-any-return]

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self._call("power", 100_000 + handle)  # type: ignore[no-any-return]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._call("utilization", SimpleNamespace(gpu=50 + handle, memory=1))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._call("memory", SimpleNamespace(total=80 * 2**30, used=2**30, free=79 * 2**30))

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return self._call("temperature", 40)  # type: ignore[no-any-return]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self._call("processes", self.running)]

    def nvmlDeviceGetProcessUtilization(self, handle: int, since_us: int) -> list[Any]:
        found = [SimpleNamespace(pid=p, timeStamp=at, smUtil=share) for p, at, share in self.samples if at > since_us]
        if not found:
            error = DriverError("Not Found")
            error.value = 6  # type: ignore[attr-defined]
            raise error
        return found


def others(source: NvmlSource) -> list[float]:
    return [reading.value for reading in source.read() if reading.name == "gpu_other_share"]


def test_what_others_compute_counts_once_where_the_service_is_seen() -> None:
    driver = Driver(count=1, running=(7, 8), samples=[(7, 10, 60), (8, 10, 25), (9, 11, 10)])
    source = NvmlSource(driver, service=lambda: (7, 70))
    assert others(source) == [0.35]
    assert others(source) == [0.0], "nothing new"
    driver.samples = [(7, 20, 10), (8, 20, 90), (9, 20, 90)]
    assert others(source) == [1.0]
    assert others(NvmlSource(driver)) == []
    assert others(NvmlSource(driver, service=lambda: (1, 2))) == [], "a service that is not seen: nothing is known"
    driver.broken = {"processes"}
    assert others(source) == []


def test_only_the_devices_asked_for_in_honest_units() -> None:
    source = NvmlSource(Driver(count=4), (1,))
    values = {(r.name, dict(r.labels)["device"]): r.value for r in source.read()}
    assert values == {
        ("gpu_power_watts", "1"): 100.001,
        ("gpu_utilization_percent", "1"): 51.0,
        ("gpu_memory_used_bytes", "1"): 2**30,
        ("gpu_memory_total_bytes", "1"): 80 * 2**30,
        ("gpu_temperature_celsius", "1"): 40.0,
    }


def test_what_a_gpu_does_not_have_is_left_out() -> None:
    found = NvmlSource(Driver(broken={"power", "utilization"})).read()
    assert {r.name for r in found} == {"gpu_memory_used_bytes", "gpu_memory_total_bytes", "gpu_temperature_celsius"}


def test_a_driver_that_fails_is_one_error_and_is_tried_again() -> None:
    driver = Driver(broken={"power", "utilization", "memory", "temperature"})
    source = NvmlSource(driver)
    with pytest.raises(ReadError, match="tells nothing: temperature: Not Supported"):
        source.read()
    driver.broken.clear()
    assert source.read()


@pytest.mark.parametrize(("broken", "devices", "word"), [("init", None, "does not start"), ("", (0, 7), "index 7")])
def test_what_cannot_be_opened_is_closed_again(broken: str, devices: tuple[int, ...] | None, word: str) -> None:
    driver = Driver(broken={broken})
    with pytest.raises(ReadError, match=word):
        NvmlSource(driver, devices)
    assert driver.open == 0


def test_it_is_closed_once_whatever_the_driver_says() -> None:
    driver = Driver(broken={"shutdown"})
    source = NvmlSource(driver)
    source.close()
    source.close()
    assert driver.open == 0


def test_without_a_driver_there_is_nothing_and_without_the_library_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = tmp_path / "version"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml(None, version) is None
    version.touch()
    with pytest.raises(ReadError, match=r"pip install 'swarmtune\[gpu\]'"):
        open_nvml(None, version)
    monkeypatch.setitem(sys.modules, "pynvml", Driver(broken={"init"}))  # type: ignore[arg-type]
    with pytest.raises(ReadError, match="does not start"):
        open_nvml(None, version)
    version.unlink()
    assert open_nvml(None, version) is None
    monkeypatch.setitem(sys.modules, "pynvml", Driver(count=0))  # type: ignore[arg-type]
    assert open_nvml(None, version) is None
