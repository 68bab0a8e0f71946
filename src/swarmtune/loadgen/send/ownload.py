"""CPU share and memory of a worker, and steps of the wall clock (which the kernel stamps with) during the run."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import time
from collections.abc import Iterator

from swarmtune.loadgen.records import WorkerFacts

NS = 1_000_000_000
STEP_NS = 2_000_000  # a jump of the wall clock against the monotonic one; slewing is at most 0.5 ms per s
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # of mlockall(2)


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """While this lasts, the kernel takes no memory of this process away, code included, where it lets us ask for that:
    a service that fills the memory of the machine would make it wait for the disk.
    """
    library = ctypes.CDLL(None)
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    what = MCL_CURRENT | MCL_ONFAULT | (MCL_FUTURE if unlimited else 0)  # with a limit, later memory would be refused
    kept = hasattr(library, "mlockall") and library.mlockall(what) == 0
    try:
        yield
    finally:
        if kept:
            library.munlockall()


class OwnLoad:
    """Call ``look`` a few times per second."""

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None  # wall and CPU time, ns
        self._second = (0, 0)
        self._offset_ns = 0
        self._faults = 0

    def look(self, facts: WorkerFacts) -> None:
        """Update the facts of the worker."""
        faults = _page_faults()
        if self._first is None:
            self._faults = faults
        facts.page_faults = faults - self._faults
        now, cpu = time.monotonic_ns(), time.process_time_ns()
        offset = _offset_ns()
        if self._first is None:
            self._first = self._second = (now, cpu)
        else:
            facts.clock_steps += abs(offset - self._offset_ns) > STEP_NS
        self._offset_ns = offset
        if now > self._first[0]:
            facts.cpu_share = (cpu - self._first[1]) / (now - self._first[0])
        if now - self._second[0] >= NS:
            facts.cpu_share_max = max(facts.cpu_share_max, (cpu - self._second[1]) / (now - self._second[0]))
            self._second = (now, cpu)


def _page_faults() -> int:
    """How often this process has waited for the disk, because memory of it was not there."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _offset_ns() -> int:
    """The wall clock minus the monotonic one: the closest of a few pairs of readings, as the CPU may be lost in between."""
    pairs = []
    for _ in range(4):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        pairs.append((after - before, wall - (before + after) // 2))
    return min(pairs)[1]
