"""Ascend NPUs through the command ``npu-smi info``."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from swarmtune.devices.readings import ReadError, Reading, of_device

COMMAND = ("npu-smi", "info")
INTERVAL_S = 2.0  # the command takes a good part of a second
TIMEOUT_S = 10.0
LIMIT_BYTES = 2**20
MIB = 2**20
_PAIR = re.compile(r"(?<!\d)(\d{1,15})\s*/\s*(\d{1,15})(?!\d)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_IDS = re.compile(r"^(\d{1,9})(?:\s+(\d{1,9}))?$")


class NpuSmiSource:
    """The NPUs with these device numbers, or all."""

    name = "npu-smi"
    interval_s = INTERVAL_S

    def __init__(self, program: str, devices: Sequence[int] | None = None) -> None:
        self._program = program
        self._devices = devices

    def read(self) -> list[Reading]:
        """npu_power_watts, npu_utilization_percent, npu_memory_used_bytes, npu_memory_total_bytes and
        npu_temperature_celsius of each NPU, as far as the command prints them.
        """
        found = [r for r in parse(self._output()) if self._devices is None or _index(r) in self._devices]
        if not found:
            raise ReadError("npu-smi info names none of the devices")
        return found

    def _output(self) -> str:
        with tempfile.TemporaryFile() as file:
            try:
                done = subprocess.run(
                    [self._program, *COMMAND[1:]], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL,
                    timeout=TIMEOUT_S, check=False,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ReadError(f"npu-smi info cannot be run: {error}") from error
            file.seek(0)
            text = file.read(LIMIT_BYTES).decode(errors="replace")
        if done.returncode:
            raise ReadError(f"npu-smi info ended with code {done.returncode}")
        return text

    def close(self) -> None:
        """Nothing is kept open."""


def _index(reading: Reading) -> int:
    return int(dict(reading.labels)["device"])


def parse(text: str) -> list[Reading]:
    """The readings in the table that ``npu-smi info`` prints: two lines for each chip, "NA" and "-" are left out.

    First line: NPU and name | health | power in W, temperature in C; second: chip (and device number, where one NPU has
    several chips) | bus | AI core usage in %, memory, and HBM where it has some, used / total in MB. The table of
    processes that follows is not read.
    """
    found: list[Reading] = []
    first: list[str] | None = None
    for line in text.splitlines():
        if "Process id" in line:
            break
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.strip().startswith("|") else []
        if len(cells) != 3:
            continue
        ids = _IDS.match(cells[0])
        if ids is None:  # the NPU and its name, or the head of the table
            first = cells if re.match(r"^\d+\s+\S", cells[0]) else None
        elif first is not None:
            device = ids[2] or first[0].split()[0]
            found += _chip(int(device), first[2], cells[2]) if device.isdecimal() and len(device) < 10 else []
            first = None
    return found


def _chip(device: int, first: str, second: str) -> list[Reading]:
    power, temperature = [*first.split(), "", ""][:2]
    usage = second.split(maxsplit=1)[0] if second.split() else ""
    pairs = [(int(used), int(total)) for used, total in _PAIR.findall(second)]
    values: dict[str, float] = {}
    for name, text in (
        ("npu_power_watts", power),
        ("npu_temperature_celsius", temperature),
        ("npu_utilization_percent", usage),
    ):
        if _NUMBER.fullmatch(text):
            values[name] = float(text)
    if memory := next((pair for pair in reversed(pairs) if pair[1]), None):
        values["npu_memory_used_bytes"], values["npu_memory_total_bytes"] = memory[0] * MIB, memory[1] * MIB
    return [of_device(name, value, device) for name, value in values.items()]


def open_npu_smi(devices: Sequence[int] | None) -> NpuSmiSource | None:
    """The source on this machine; None without the command."""
    program = shutil.which(COMMAND[0])
    return NpuSmiSource(program, devices) if program else None
