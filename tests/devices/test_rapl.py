"""Power of the processors, from a tree like /sys/class/powercap."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmtune.devices.rapl import RaplSource, open_rapl
from swarmtune.devices.readings import ReadError


def package(folder: Path, name: str, energy_uj: int, most_uj: int = 1000_000_000) -> Path:
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{most_uj}\n")
    return path


def test_joules_since_the_reading_before_also_when_a_counter_runs_over(tmp_path: Path) -> None:
    folders = [package(tmp_path, "intel-rapl:0", 5_000_000), package(tmp_path, "intel-rapl:1", 999_000_000)]
    times = iter((10.0, 12.0))
    source = RaplSource(folders, lambda: next(times))
    package(tmp_path, "intel-rapl:0", 105_000_000)
    package(tmp_path, "intel-rapl:1", 19_000_000)
    found = source.read()
    assert [(r.name, dict(r.labels)) for r in found] == [
        ("cpu_power_watts", {"device": "0"}), ("cpu_power_watts", {"device": "1"})
    ]  # fmt: skip
    assert [r.value for r in found] == pytest.approx([50.0, 10.0], abs=1e-4)


def test_only_whole_packages_are_counted(tmp_path: Path) -> None:
    assert open_rapl(tmp_path) is None
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl-mmio:0"):
        package(tmp_path, name, 1)
    source = open_rapl(tmp_path)
    assert source is not None
    assert [dict(r.labels)["device"] for r in source.read()] == ["0"]
    source.close()


def test_a_counter_that_cannot_be_read(tmp_path: Path) -> None:
    folder = package(tmp_path, "intel-rapl:0", 1)
    source = RaplSource([folder])
    (folder / "energy_uj").write_text("no number")
    with pytest.raises(ReadError, match="energy_uj cannot be read"):
        source.read()
    with pytest.raises(ReadError, match="energy_uj"):
        open_rapl(tmp_path)
