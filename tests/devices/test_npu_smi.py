"""Ascend NPUs, from tables as npu-smi prints them, given by a program on PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmtune.devices import npu_smi
from swarmtune.devices.npu_smi import NpuSmiSource, open_npu_smi, parse
from swarmtune.devices.readings import ReadError

TRAINING = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 93.6        40                0    / 0             |
| 0                         | 0000:C1:00.0  | 87          0    / 0          3358 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | OK            | 91.0        41                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3350 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 4242          | python                   | 100                     |
+===========================+===============+====================================================+
"""
TWO_CHIPS = """\
| NPU     Name              | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device            | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===========================+=================+======================================================+
| 5       310P3             | OK              | NA           50                0     / 0             |
| 0       0                 | 0000:01:00.0    | 3            1525 / 21527                            |
+---------------------------+-----------------+------------------------------------------------------+
| 5       310P3             | OK              | -            52                0     / 0             |
| 1       1                 | 0000:01:00.0    | 4            1527 / 21527                            |
"""


def values(text: str) -> dict[tuple[str, str], float]:
    return {(dict(r.labels)["device"], r.name.removeprefix("npu_")): r.value for r in parse(text)}


def test_one_chip_on_each_npu() -> None:
    found = values(TRAINING)
    assert {key: found[key] for key in found if key[0] == "0"} == {
        ("0", "power_watts"): 93.6,
        ("0", "temperature_celsius"): 40.0,
        ("0", "utilization_percent"): 87.0,
        ("0", "memory_used_bytes"): 3358 * 2**20,
        ("0", "memory_total_bytes"): 65536 * 2**20,
    }
    assert {device for device, _ in found} == {"0", "1"}


def test_two_chips_on_an_npu_are_two_devices_and_what_is_not_there_is_left_out() -> None:
    found = values(TWO_CHIPS)
    assert found[("1", "memory_used_bytes")] == 1527 * 2**20
    assert found[("0", "utilization_percent")] == 3.0
    assert not [key for key in found if key[1] == "power_watts"]


@pytest.mark.parametrize(
    "text", ["", "DrvMngGetConsoleLogLevel failed.", "|||\n| 0 |\n", "| 0 910 | OK |\n| 0 | x | |"]
)
def test_other_text_has_no_readings(text: str) -> None:
    assert parse(text) == []


def program(folder: Path, script: str) -> None:
    path = folder / "npu-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_program_on_path_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert open_npu_smi(None) is None
    (tmp_path / "table").write_text(TRAINING)
    program(tmp_path, f'test "$*" = info && cat {tmp_path}/table')
    source = open_npu_smi((1,))
    assert source is not None
    assert {dict(r.labels)["device"] for r in source.read()} == {"1"}
    source.close()
    missing = open_npu_smi((6,))
    assert missing is not None
    with pytest.raises(ReadError, match="none of the devices"):
        missing.read()


def test_a_program_that_fails_hangs_or_talks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = NpuSmiSource(str(tmp_path / "npu-smi"))
    with pytest.raises(ReadError, match="cannot be run"):
        source.read()
    program(tmp_path, "exit 3")
    with pytest.raises(ReadError, match="code 3"):
        source.read()
    program(tmp_path, "head -c 9000000 /dev/zero | tr '\\\\0' '|'")
    with pytest.raises(ReadError, match="none of the devices"):
        source.read()
    monkeypatch.setattr(npu_smi, "TIMEOUT_S", 0.05)
    program(tmp_path, "exec sleep 60")
    with pytest.raises(ReadError, match="cannot be run"):
        source.read()
