"""NVIDIA GPUs through the command ``nvidia-smi``, for machines on which none of our processes reads NVML."""

from __future__ import annotations

QUERY = ("nvidia-smi", "--query-gpu=index,memory.total,mig.mode.current", "--format=csv,noheader,nounits")
MIB = 2**20


def parse(text: str) -> dict[int, int]:
    """Memory in bytes by the index of each GPU, from the output of QUERY; 0 where it is not told.

    Empty where a line cannot be read, or a GPU is divided (MIG): what a service sees are its parts then.
    """
    found: dict[int, int] = {}
    for line in filter(str.strip, text.splitlines()[:4096]):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 3 or not _number(cells[0]) or cells[2] == "Enabled":
            return {}
        found[int(cells[0])] = int(cells[1]) * MIB if _number(cells[1]) else 0
    return found


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
