"""Power of the processors by their energy counters (RAPL), for services that compute on CPUs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from swarmtune.devices.readings import ReadError, Reading, of_device

INTERVAL_S = 0.5
POWERCAP = Path("/sys/class/powercap")


class RaplSource:
    """All packages of this machine: their power since the reading before."""

    name = "rapl"
    interval_s = INTERVAL_S

    def __init__(self, folders: list[Path], now_s: Callable[[], float] = time.monotonic) -> None:
        """ReadError if the counters cannot be read; since Linux 5.10 only root may."""
        self._now_s = now_s
        self._packages = {folder.name.rpartition(":")[2]: folder for folder in folders}
        self._ranges = {name: _number(path / "max_energy_range_uj") for name, path in self._packages.items()}
        self._before = self._look()

    def _look(self) -> tuple[float, dict[str, int]]:
        return self._now_s(), {name: _number(path / "energy_uj") for name, path in self._packages.items()}

    def read(self) -> list[Reading]:
        """cpu_power_watts of each package. A counter that ran over is counted on."""
        (then, before), (now, energy) = self._before, self._look()
        if now <= then:
            raise ReadError("the clock stands still")
        self._before = (now, energy)
        found = []
        for name, value in energy.items():
            joules = ((value - before[name]) % (self._ranges[name] + 1)) / 1e6
            found.append(of_device("cpu_power_watts", joules / (now - then), name))
        return found

    def close(self) -> None:
        """Nothing is kept open."""


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError as error:
        raise ReadError(f"{path} is readable only by root") from error
    except (OSError, ValueError) as error:
        raise ReadError(f"{path} cannot be read: {error}") from error


def open_rapl(powercap: Path = POWERCAP) -> RaplSource | None:
    """The source on this machine; None without packages. ReadError: there are some, and they cannot be read."""
    folders = [
        folder
        for folder in sorted(powercap.glob("*-rapl:*"))
        if folder.name.count(":") == 1 and "mmio" not in folder.name and (folder / "energy_uj").exists()
    ]
    return RaplSource(folders) if folders else None
