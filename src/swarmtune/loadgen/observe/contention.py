"""What other programs took from the service during the measurement, from what was read beside it. Pure.

Where idle CPUs remain, or the service need not wait for one, a neighbour takes little. So its share counts as taken only
while (nearly) no CPU was idle and the service waited for one. What the hypervisor gave to other machines (steal) was always
taken: it is counted only while something of this machine wanted to run, and the kernel here sees nobody wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swarmtune.devices.neighbours import BUSY_PROCESS, IDLE, NEIGHBOURS, OTHER, SPAN, STOLEN, WAIT
from swarmtune.devices.nvml import OTHER_SHARE
from swarmtune.devices.processes import shown
from swarmtune.devices.spool import Key, Lines, Series

SCARCE = 0.05  # share of idle CPU time below which a reading counts as contended
WAITED = 0.1  # share of the time in which the service could run that it waited, above which it does
COVERED = 0.5  # share of the measurement that the readings must cover
SHOWN = 3  # of the busiest programs


def other_device_share(lines: Lines, started_ns: int, ended_ns: int) -> float | None:
    """The share of the time in which others computed on the service's accelerator, the most of several; None: unknown."""
    means = [
        float(np.mean(within))
        for (_, name, _), one in lines.series.items()
        if name == OTHER_SHARE
        and (within := [v for ns, v in zip(one.ns, one.values, strict=True) if started_ns < ns <= ended_ns])
    ]
    return max(means, default=None)


@dataclass(frozen=True)
class Contention:
    """Shares from 0 to 1 of the CPUs that the service may use; ``busiest``: names, pids and shares of other programs, which
    have ``named_share`` together. ``stolen_share``: the part of the contended one that other machines have.
    """

    other_cpu_share: float
    contended_cpu_share: float
    busiest: str = ""
    named_share: float = 0.0
    stolen_share: float = 0.0

    def facts(self) -> dict[str, float]:
        """Both shares by the names of their metrics."""
        return {"other_cpu_share": self.other_cpu_share, "contended_cpu_share": self.contended_cpu_share}


def contention(lines: Lines, started_ns: int, ended_ns: int) -> Contention | None:
    """From ``started_ns`` to ``ended_ns``; None if it was not measured, or for less than half of that time."""
    series = [lines.series.get((NEIGHBOURS, name, ())) for name in (OTHER, IDLE, WAIT, SPAN, STOLEN)]
    read = [one for one in series if one is not None]
    if len(read) < len(series) or len({len(one.ns) for one in read}) > 1 or ended_ns <= started_ns:
        return None
    at = np.array(read[0].ns, np.int64)
    other, idle, wait, seconds, stolen = (np.array(one.values, np.float64) for one in read)
    within = np.maximum(0, np.minimum(at, ended_ns) - np.maximum(at - seconds * 1e9, started_ns))  # ns of each span
    if within.sum() < COVERED * (ended_ns - started_ns):
        return None
    taken = np.maximum(stolen, other * ((idle < SCARCE) & (wait > WAITED)))
    mean, contended, away = (float(np.average(values, weights=within)) for values in (other, taken, stolen))
    return Contention(mean, contended, *busiest(lines), away)


def busiest(lines: Lines) -> tuple[str, float]:
    """The other programs that used most CPU, as of the last look, and their share: "python (pid 4711, 48 %), ..."; empty:
    none known.
    """
    found = [(one.ns[-1], one.values[-1], key) for key, one in lines.series.items() if _is_process(key, one)]
    last_ns = max((ns for ns, _, _ in found), default=0)
    named = sorted(((share, key) for ns, share, key in found if ns == last_ns), reverse=True)[:SHOWN]
    return ", ".join(_text(share, dict(key[2])) for share, key in named), sum(share for share, _ in named)


def _is_process(key: Key, series: Series) -> bool:
    return key[0] == NEIGHBOURS and key[1] == BUSY_PROCESS and len(series.values) > 0


def _text(share: float, labels: dict[str, str]) -> str:
    return f"{shown(labels.get('name', '?'))} (pid {shown(labels.get('pid', '?'))}, {share:.0%})"
