"""The processes of this machine, from /proc: what each is, whose child it is, and what CPU time it has used."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from swarmtune.errors import one_line

TICKS_PER_S = os.sysconf("SC_CLK_TCK")  # the unit of all CPU times and start times in /proc
SHOWN = 40  # characters of a name
SHORT_WAIT = 0.05
MOST_THREADS = 1000  # whose waiting is read


class Process(NamedTuple):
    """A process, identified by pid and start time. ``own``: its CPU time; ``reaped``: of its children that have ended.

    ``own``, ``reaped`` and ``started`` (since boot) are in ticks. The name is its own choice: see ``shown``.
    """

    pid: int
    name: str
    parent: int
    session: int
    started: int
    own: int
    reaped: int


def process_ids() -> set[int]:
    """Every process that we can see."""
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}  # noqa: PTH208 - names are all that is needed


def process(pid: int) -> Process | None:
    """The process that has this number now, or None. Source of the fields: proc(5), /proc/pid/stat."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - read for each process of the machine
            head, _, rest = file.read().rpartition(b")")
        fields = rest.split()
        own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        name = head.partition(b"(")[2].decode(errors="replace")
        return Process(pid, name, int(fields[1]), int(fields[3]), int(fields[19]), own, reaped)
    except (OSError, ValueError, IndexError):
        return None


def environment(pid: int) -> list[bytes]:
    """``NAME=value`` of a process as it was started; empty if it is not ours, or has overwritten it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            return file.read().split(b"\0")
    except OSError:
        return []


def allowed_cpus(pid: int) -> set[int]:
    """The CPUs on which any thread of this process may run; empty if it is gone."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                found |= os.sched_getaffinity(int(thread))
    return found


def thread_times(pids: Iterable[int]) -> dict[tuple[int, int], tuple[int, int]]:
    """Of each thread, by pid and thread id: ns that it ran, and that it could have run and waited for a CPU.

    Source: /proc/pid/schedstat of each task. Empty where the kernel does not count that; MOST_THREADS at most.
    """
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            for thread in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):  # noqa: PTH208
                if len(found) >= MOST_THREADS:
                    return found
                with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:  # noqa: PTH123
                    words = file.read().split()
                found[pid, thread] = int(words[0]), int(words[1])
    return found


def since_boot() -> int:
    """Now, in the ticks of ``Process.started``."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S)


def shown(name: str) -> str:
    """A process may give itself any name; this one can be printed."""
    return one_line(name)[:SHOWN]


class CpuAccount:
    """The CPU time that a changing set of processes uses, those that came and went in between included.

    A process that has ended takes its CPU time with it, and whoever waited for it has that time among its ``reaped``.
    So the time of an ancestor's children counts as far as it was not counted while they lived.
    """

    def __init__(self) -> None:
        self._last: Mapping[int, Process] = {}
        self._at: int | None = None

    def spent(self, now: Mapping[int, Process], at: int) -> int:
        """Ticks since the call before; 0 at the first call. ``at``: since_boot(); older processes that come are new."""
        last, before, self._last, self._at = self._last, self._at, now, at
        if before is None:
            return 0
        total, reaped = 0, {}
        for pid, one in now.items():
            old = last.get(pid)
            if old is not None and old.started == one.started:
                total += max(0, one.own - old.own)
                reaped[pid] = one.reaped - old.reaped
            elif one.started >= before - 1:
                total += one.own
                reaped[pid] = one.reaped
        for pid, one in last.items():
            if pid not in now or now[pid].started != one.started:
                ancestor = _living_ancestor(one, last, now)
                if ancestor in reaped:
                    reaped[ancestor] -= one.own + one.reaped
        return total + sum(max(0, ticks) for ticks in reaped.values())


def _living_ancestor(one: Process, last: Mapping[int, Process], now: Mapping[int, Process]) -> int:
    for _ in range(len(last)):
        parent = one.parent
        if parent in now:
            return parent
        if parent not in last:
            return 0
        one = last[parent]
    return 0


class WaitAccount:
    """Which share of the time in which its threads could run did a changing set of processes wait for a CPU?"""

    def __init__(self) -> None:
        self._last: Mapping[tuple[int, int], tuple[int, int]] = {}
        self._at_s = 0.0

    def share(self, now: Mapping[tuple[int, int], tuple[int, int]], at_s: float) -> float | None:
        """Since the call before, at ``at_s`` seconds; 0 if they waited for less than SHORT_WAIT of that time together.

        None at the first call, and where no thread is known or the kernel does not count (no thread has ever run).
        """
        last, seconds, self._last, self._at_s = self._last, at_s - self._at_s, now, at_s
        if not last or not any(ran_ns for ran_ns, _ in now.values()) or seconds <= 0:
            return None
        known = {pid for pid, _ in last}
        ran = waited = 0
        for key, (run_ns, wait_ns) in now.items():
            if key[0] in known:  # a process that is new here may have waited before
                old = last.get(key, (0, 0))
                ran, waited = ran + max(0, run_ns - old[0]), waited + max(0, wait_ns - old[1])
        return waited / (ran + waited) if waited > SHORT_WAIT * seconds * 1e9 else 0.0
