"""Hardware of this machine, so that results are compared only with those of machines that are alike."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any


def fingerprint(root: Path = Path("/")) -> dict[str, Any]:
    """CPU model, cores that we may use, memory in GiB, and accelerators by model. ``root``: where proc, sys and dev lie.

    Read from the kernel's files; no tool and no driver library is needed. What cannot be read is left out.
    """
    models = re.findall(r"^model name\s*:\s*(.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return {
        "cpu": models[0].strip() if models else "",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else 0,
        "accelerators": dict(sorted(Counter(_accelerators(root)).items())),
    }


def _accelerators(root: Path) -> list[str]:
    """A name for each device: NVIDIA by model, AMD by architecture, Ascend by its device files."""
    nvidia = [
        match[1].strip()
        for file in sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
        if (match := re.search(r"^Model:\s*(.+)$", _text(file), re.MULTILINE))
    ]
    amd = [
        f"AMD gfx {match[1]}"
        for file in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties"))
        if (match := re.search(r"^gfx_target_version ([1-9]\d*)$", _text(file), re.MULTILINE))
    ]
    ascend = ["Ascend" for file in root.glob("dev/davinci*") if re.fullmatch(r"davinci\d+", file.name)]
    return [*nvidia, *amd, *ascend]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
