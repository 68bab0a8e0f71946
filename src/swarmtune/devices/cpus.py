"""How busy the CPUs are that a service may use: those of its affinity, or its share of them by a cgroup's limit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from swarmtune.devices.processes import TICKS_PER_S

CGROUPS = Path("/sys/fs/cgroup")
PLAUSIBLE = (0.5, 2.0)  # what the kernel counts, as a share of the time that passed; others do not tell, or are made up


@dataclass(frozen=True)
class Limit:
    """A cgroup that may use ``cpus`` CPUs at a time (2.5, for example), and has used ``used_s`` CPU seconds so far."""

    folder: str
    cpus: float
    used_s: float


@dataclass(frozen=True)
class CpuTimes:
    """Of each CPU, in ticks since boot: ``idle``, ``interrupts`` (nobody's), ``stolen`` (given to other machines by the
    hypervisor), and ``total``. ``at_s``: monotonic.
    """

    at_s: float
    idle: Mapping[int, int]
    interrupts: Mapping[int, int]
    total: Mapping[int, int]
    limit: Limit | None = None
    stolen: Mapping[int, int] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The cgroup that has the limit; empty without one."""
        return self.limit.folder if self.limit else ""


@dataclass(frozen=True)
class CpuUse:
    """Between two readings: CPUs at hand, seconds that passed, CPU seconds used by programs, and share of idle CPU time.

    ``limited``: the CPUs are a cgroup's share, and the use is that of its processes. ``stolen_s``: the part of the use that
    the hypervisor has given to other machines.
    """

    cpus: float
    seconds: float
    used_s: float
    idle_share: float
    limited: bool = False
    stolen_s: float = 0.0


def read_times(cgroup_of: int | None = None) -> CpuTimes:
    """All CPUs now, with the tightest limit on the process ``cgroup_of``. OSError or ValueError: the kernel tells none."""
    idle, interrupts, stolen, total = {}, {}, {}, {}
    with Path("/proc/stat").open(encoding="ascii") as file:
        at_s = time.monotonic()
        for line in file:
            name, *fields = line.split()
            if not name.startswith("cpu"):
                break
            if name != "cpu":
                ticks, cpu = [int(text) for text in fields], int(name[3:])
                idle[cpu] = ticks[3] + ticks[4]
                interrupts[cpu], stolen[cpu] = ticks[5] + ticks[6], ticks[7]
                total[cpu] = sum(ticks[:8])  # the last two, of guests, are part of the first two
    limit = None if cgroup_of is None else cgroup_limit(cgroup_of)
    return CpuTimes(at_s, idle, interrupts, total, limit, stolen)


def cpu_use(before: CpuTimes, after: CpuTimes, cpus: Collection[int]) -> CpuUse | None:
    """The use of these CPUs, or of the cgroup's limit where less of that was idle; None if the kernel does not tell it.

    A CPU that is not idle is used, also where a hypervisor has given it to another machine meanwhile (steal).
    """
    seconds = after.at_s - before.at_s
    known = [cpu for cpu in cpus if cpu in before.total and cpu in after.total]
    capacity_s = len(known) * seconds
    counted_s = sum(after.total[cpu] - before.total[cpu] for cpu in known) / TICKS_PER_S
    if not capacity_s or not PLAUSIBLE[0] <= counted_s / capacity_s <= PLAUSIBLE[1]:
        return None
    idle_s = sum(max(0, after.idle[cpu] - before.idle[cpu]) for cpu in known) / TICKS_PER_S
    nobody_s = sum(max(0, after.interrupts[cpu] - before.interrupts[cpu]) for cpu in known) / TICKS_PER_S
    idle_share, used_s = min(1.0, idle_s / capacity_s), max(0.0, capacity_s - idle_s - nobody_s)
    stolen_s = sum(max(0, after.stolen.get(cpu, 0) - before.stolen.get(cpu, 0)) for cpu in known) / TICKS_PER_S
    use = CpuUse(len(known), seconds, used_s, idle_share, stolen_s=min(used_s, stolen_s))
    limited = _limited(before.limit, after.limit, seconds)
    return limited if limited and limited.cpus < len(known) and limited.idle_share < idle_share else use


def _limited(before: Limit | None, after: Limit | None, seconds: float) -> CpuUse | None:
    if before is None or after is None or before.folder != after.folder:
        return None
    used_s = max(0.0, after.used_s - before.used_s)
    return CpuUse(after.cpus, seconds, used_s, max(0.0, 1 - used_s / (after.cpus * seconds)), limited=True)


def cgroup_limit(pid: int) -> Limit | None:
    """The tightest limit on the CPUs of this process, by its cgroup or one above it; None without a limit."""
    found: list[Limit] = []
    for controllers, path in cgroups_of(pid):
        names = controllers.split(",")
        if not controllers:
            found += _limits(CGROUPS, path, _unified)
        elif "cpu" in names:
            found += _limits(CGROUPS / ("cpu" if (CGROUPS / "cpu").exists() else controllers), path, _divided)
    return min(found, key=lambda limit: limit.cpus, default=None)


def cgroups_of(pid: int) -> list[tuple[str, str]]:
    """Controllers (empty: version 2) and path of each cgroup of this process."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/cgroup").read_text(errors="replace").splitlines()
        return [(words[1], words[2]) for line in lines if len(words := line.split(":", 2)) == 3]
    return []


def _limits(root: Path, path: str, read: Callable[[Path], Limit | None]) -> list[Limit]:
    inner = PurePosixPath(path.lstrip("/"))
    folders = [inner, *inner.parents] if ".." not in inner.parts else [PurePosixPath()]
    found = []
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, LookupError):
            limit = read(root / folder)
            if limit is not None:
                found.append(limit)
    return found


def _unified(folder: Path) -> Limit | None:
    quota, period = (folder / "cpu.max").read_text().split()
    if quota == "max":
        return None
    used = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
    return Limit(str(folder), int(quota) / int(period), int(used["usage_usec"]) / 1e6)


def _divided(folder: Path) -> Limit | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    if quota <= 0:
        return None
    period = int((folder / "cpu.cfs_period_us").read_text())
    account = Path(str(folder).replace(str(CGROUPS / "cpu"), str(CGROUPS / "cpuacct"), 1))
    account = folder if (folder / "cpuacct.usage").exists() else account
    return Limit(str(folder), quota / period, int((account / "cpuacct.usage").read_text()) / 1e9)
