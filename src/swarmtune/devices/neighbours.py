"""What takes CPU from a service while it is measured: all that is neither its own nor the load generator's."""

from __future__ import annotations

import time

from swarmtune.devices.busiest import Busiest
from swarmtune.devices.cpus import CpuTimes, CpuUse, cgroup_limit, cpu_use, read_times
from swarmtune.devices.parties import Parties, Party, ServiceMark
from swarmtune.devices.processes import TICKS_PER_S, CpuAccount, WaitAccount, allowed_cpus, since_boot, thread_times
from swarmtune.devices.readings import ReadError, Reading

NEIGHBOURS = "neighbours"  # the name of the source, in the spool
OTHER, IDLE = "cpu_other_share", "cpu_idle_share"  # of the CPUs that the service may use, since the reading before
STOLEN = "cpu_stolen_share"  # the part of the use by others that is other machines' (steal)
WAIT = "cpu_service_wait_share"  # of the time in which the service could run; 1 where the kernel does not tell it
SPAN = "cpu_reading_seconds"  # between the two
BUSY_PROCESS = "cpu_process_share"  # of another process, since the first reading; labels: pid, name
INTERVAL_S = 1.0
SHORTEST_S = 0.2  # the kernel counts in steps of 10 ms: a shorter span tells little
BUSY_SHARE = 0.05  # use by others above which their names are worth a look


class NeighbourSource:
    """Use of the service's CPUs by others. ``cpu_service_share`` and ``cpu_load_generator_share`` stand beside it."""

    name = NEIGHBOURS
    interval_s = INTERVAL_S

    def __init__(self, mark: ServiceMark, load_generator: int) -> None:
        """``load_generator``: its main process. Nothing is read yet."""
        self._parties = Parties(mark, load_generator)
        self._load_generator = load_generator
        self._accounts = {party: CpuAccount() for party in (Party.SERVICE, Party.LOAD_GENERATOR)}
        self._waits = WaitAccount()
        self.service: tuple[int, ...] = ()  # its processes as of the last reading; for other threads, too
        self._before: CpuTimes | None = None
        self._unknown: ReadError | None = None
        self._looks = 0
        self._busiest = Busiest(self._parties.others)

    def read(self) -> list[Reading]:
        """Shares since the reading before; none at the first. ReadError, from then on, if they cannot be known."""
        if self._unknown is None:
            try:
                return self._read()
            except ReadError as error:
                self._unknown, self.service = error, ()
        raise self._unknown

    def _read(self) -> list[Reading]:
        self._looks += 1
        if self._looks == 1:
            self._parties.find()
        else:
            self._parties.look()
        if self._looks & (self._looks - 1) == 0:  # at 1, 2, 4, 8, ...
            self._parties.check()
        service = self._parties.of(Party.SERVICE)
        self.service = tuple(service)
        if not service:
            return []  # it has ended; its watcher says so
        if self._before is not None and time.monotonic() - self._before.at_s < SHORTEST_S:
            return []
        try:
            times = read_times(next(iter(service)))
        except (OSError, ValueError, LookupError) as error:
            raise ReadError("the kernel does not tell the use of its CPUs") from error
        at = since_boot()
        own = self._accounts[Party.SERVICE].spent(service, at)
        load = self._accounts[Party.LOAD_GENERATOR].spent(self._parties.of(Party.LOAD_GENERATOR), at)
        wait = self._waits.share(thread_times(service), times.at_s)
        before, self._before = self._before, times
        if before is None:
            self._busiest.begin()
            return []
        cpus = set[int]().union(*map(allowed_cpus, service))
        use = cpu_use(before, times, cpus)
        if use is None:
            raise ReadError("the kernel does not count the use of its CPUs")
        found = shares(use, own / TICKS_PER_S, load / TICKS_PER_S if self._shares_cpus(use, cpus) else 0.0)
        found.append(Reading(WAIT, 1.0 if wait is None else wait))
        if found[0].value > BUSY_SHARE:
            found += [
                Reading(BUSY_PROCESS, one.share, (("name", one.name), ("pid", str(one.pid))))
                for one in self._busiest.now(use.cpus, cpus)
            ]
        return found

    def _shares_cpus(self, use: CpuUse, cpus: set[int]) -> bool:
        """May the load generator run on the CPUs of the service?"""
        if use.limited:
            limit = cgroup_limit(self._load_generator)
            return limit is not None and self._before is not None and limit.folder == self._before.folder
        return bool(cpus & allowed_cpus(self._load_generator))

    def close(self) -> None:
        """Nothing is kept open."""


def shares(use: CpuUse, service_s: float, load_generator_s: float) -> list[Reading]:
    """The shares of the CPUs, from 0 to 1, that were used by others, by nobody, by the service and by the load generator.

    Others have what is left of all use, but at least what was stolen.
    """
    capacity_s = use.cpus * use.seconds
    other_s = max(use.used_s - service_s - load_generator_s, use.stolen_s)  # a process is charged for stolen time, too
    values = {
        OTHER: other_s / capacity_s,
        IDLE: use.idle_share,
        STOLEN: use.stolen_s / capacity_s,
        "cpu_service_share": service_s / capacity_s,
        "cpu_load_generator_share": load_generator_s / capacity_s,
    }
    return [*(Reading(name, min(1.0, max(0.0, value))) for name, value in values.items()), Reading(SPAN, use.seconds)]
