"""Which programs keep a machine busy, by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from swarmtune.devices.cpus import cpu_use, read_times
from swarmtune.devices.processes import TICKS_PER_S, Process, allowed_cpus, process, process_ids, shown, since_boot

LISTED = 3
CANDIDATES = 20
LOOK_SHARE = 0.003  # of a core, for reading all processes again: names are worth no more
LOOK_FREE_S = 0.1
LEAST_SHARE = 0.01  # of the CPUs, to be named


@dataclass(frozen=True)
class Program:
    """A process that uses CPU, with its share (0 to 1) of the CPUs in question."""

    name: str
    pid: int
    share: float


@dataclass(frozen=True)
class MachineUse:
    """The share of all CPUs at hand that is in use, and the programs that use most of it."""

    share: float
    busiest: tuple[Program, ...] = ()


def how_much(named: float, share: float) -> str:
    """What the named programs have of a use: the others are too small to be named, or cannot be seen from here."""
    return "most of it" if 2 * named >= share else "some of it"


def growth(first: Iterable[Process], now: Iterable[Process], since: int) -> list[tuple[int, Process]]:
    """The CPU ticks that each process has used from ``first`` to ``now``, with its children that ended meanwhile.

    ``since``: when ``first`` was read (since_boot()); an older process that is not among them is left out.
    """
    before = {(one.pid, one.started): one for one in first}
    after = {(one.pid, one.started): one for one in now}
    ended: dict[int, int] = {}  # by parent: what its children that have ended had used before
    for key, one in before.items():
        if key not in after:
            ended[one.parent] = ended.get(one.parent, 0) + one.own + one.reaped
    found = []
    for key, one in after.items():
        old = before.get(key)
        if old is not None:
            reaped = max(0, one.reaped - old.reaped - ended.get(one.pid, 0))
            found.append((one.own - old.own + reaped, one))
        elif one.started >= since:
            found.append((one.own + one.reaped, one))
    return found


def most_busy(used: Iterable[tuple[int, Process]], capacity_s: float, cpus: Collection[int]) -> tuple[Program, ...]:
    """The LISTED that used most of these CPUs; ``capacity_s``: the CPU seconds that there were.

    One that may run on other CPUs, too, is taken to have used all of its CPUs alike.
    """
    found = []
    for ticks, one in sorted(used, key=lambda row: -row[0])[:CANDIDATES]:
        allowed = allowed_cpus(one.pid) or set(cpus)  # one that has ended is not asked any more
        share = min(1.0, ticks / TICKS_PER_S / capacity_s * len(allowed.intersection(cpus)) / len(allowed))
        if share >= LEAST_SHARE:
            found.append(Program(shown(one.name), one.pid, share))
    return tuple(sorted(found, key=lambda program: -program.share)[:LISTED])


class Busiest:
    """The processes of others that used most CPU time since ``begin``. It costs LOOK_SHARE of a core at most."""

    def __init__(self, others: Callable[[], Sequence[Process]]) -> None:
        """``others`` reads all of them."""
        self._others = others
        self._first: Sequence[Process] = ()
        self._began_s = self._spent_s = 0.0
        self._began_ticks = 0

    def begin(self) -> None:
        """Read all for the first time."""
        self._began_s, self._began_ticks = time.monotonic(), since_boot()
        self._first = self._look()

    def now(self, capacity: float, cpus: Collection[int]) -> tuple[Program, ...]:
        """Those that may run on ``cpus``, with their shares of ``capacity`` CPUs; none if it is too early to look again."""
        elapsed_s = time.monotonic() - self._began_s
        if self._spent_s > LOOK_FREE_S + LOOK_SHARE * elapsed_s:
            return ()
        return most_busy(growth(self._first, self._look(), self._began_ticks), capacity * elapsed_s, cpus)

    def _look(self) -> Sequence[Process]:
        began_s = time.thread_time()
        found = self._others()
        self._spent_s += time.thread_time() - began_s
        return found


class MachineLook:
    """The use of the CPUs at hand by all processes but this one, since the look was taken; half a second tells enough."""

    def __init__(self) -> None:
        """OSError or ValueError: the kernel does not tell it."""
        self._since, self._own_s = since_boot(), time.process_time()
        self._first, self._before = _all_others(), read_times(os.getpid())

    def use(self) -> MachineUse | None:
        """None if the kernel does not count it. OSError or ValueError: it does not tell it."""
        cpus, after, now = os.sched_getaffinity(0), read_times(os.getpid()), _all_others()
        use = cpu_use(self._before, after, cpus)
        if use is None:
            return None
        capacity_s = use.cpus * use.seconds
        others_s = use.used_s - (time.process_time() - self._own_s)
        share = min(1.0, max(0.0, others_s / capacity_s))
        return MachineUse(share, most_busy(growth(self._first, now, self._since), capacity_s, cpus))


def _all_others() -> list[Process]:
    return [one for pid in process_ids() - {os.getpid()} if (one := process(pid))]
