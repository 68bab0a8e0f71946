"""Whose process is it: the service's, the load generator's, or another's? Found by evidence, never by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from swarmtune.devices.listeners import connects_elsewhere, listeners, listening, ports_of
from swarmtune.devices.processes import Process, environment, process, process_ids, shown
from swarmtune.devices.readings import ReadError

MARK = "SWARMTUNE_TOKEN"  # in the environment of each process that SwarmTune starts (execution/supervisor.py)
MOST_NEW = 500  # processes that are sorted at a time; the others follow the next time


class Party(Enum):
    """A side of a measurement."""

    SERVICE = "service"
    LOAD_GENERATOR = "load generator"
    OTHER = "other"


@dataclass(frozen=True)
class ServiceMark:
    """What the processes of a service on this machine are known by.

    ``ports``: on each, one of them listens. ``token``: all carry it in their environment, or descend from one that does;
    empty: they are the process that listens and its tree.
    """

    ports: tuple[int, ...]
    token: str = ""


class Parties:
    """Sorts the processes of this machine, once each; a new one belongs where its parent does, or its session's leader."""

    def __init__(self, mark: ServiceMark, load_generator: int) -> None:
        """``load_generator``: its main process; all that descend from it are its own, but for the service.

        If a tuner started it, so is the tuner with all that it has started here: groups side by side are its user's wish.
        """
        self._mark = mark
        self._marks = (f"{MARK}={mark.token}".encode(), f"{MARK}={mark.token}-rank-".encode()) if mark.token else ()
        self._own = {load_generator, _tuner_of(load_generator)}
        self._load_generator = load_generator
        self._roots: set[int] = set()
        self._party: dict[int, Party] = {}
        self._members: dict[Party, dict[int, Process]] = {Party.SERVICE: {}, Party.LOAD_GENERATOR: {}}

    def find(self) -> None:
        """Sort all processes for the first time. ReadError: the service's cannot be known; the message says why."""
        here = process_ids()
        if not self._mark.token:
            self._roots = self._tree_roots(listeners(self._mark.ports, here))
        self._sort(here, len(here))
        service = self._members[Party.SERVICE]
        listening = listeners(self._mark.ports, service)
        missing = [port for port, holders in listening.items() if not holders]
        if not service or missing:
            ports = ", ".join(map(str, missing or self._mark.ports))
            raise ReadError(f"no process that can be seen to be the service's listens on port {ports} of this machine")

    def look(self) -> None:
        """Sort what has come since the last time, and read all processes of service and load generator again."""
        here = process_ids()
        for pid in self._party.keys() - here:
            del self._party[pid]
        for members in self._members.values():
            for pid, before in list(members.items()):
                now = process(pid)
                if now is None or now.started != before.started:
                    del members[pid]
                    self._party.pop(pid, None)
                else:
                    members[pid] = now
        self._sort(here - self._party.keys(), MOST_NEW)

    def check(self) -> None:
        """ReadError if the service passes requests on to a process that is not its own."""
        if connects_elsewhere(self._members[Party.SERVICE]):
            raise ReadError("the process that listens for the service may pass its requests on to another program")

    def of(self, party: Party) -> Mapping[int, Process]:
        """The processes of service or load generator, as they were at the last look."""
        return dict(self._members[party])

    def others(self) -> list[Process]:
        """All other processes now; this reads each of them."""
        ours = self._members[Party.SERVICE].keys() | self._members[Party.LOAD_GENERATOR].keys()
        return [one for pid in process_ids() - ours if (one := process(pid))]

    # --- sorting -------------------------------------------------------------------------------------------------

    def _sort(self, pids: Collection[int], most: int) -> None:
        new = [one for pid in sorted(pids)[:most] if (one := process(pid))]
        for one in sorted(new, key=lambda one: one.started):  # parents first
            self._add(one)

    def _add(self, one: Process) -> None:
        party = self._party_of(one)
        self._party[one.pid] = party
        if party is not Party.OTHER:
            self._members[party][one.pid] = one

    def _party_of(self, one: Process) -> Party:
        service = self._members[Party.SERVICE]
        if one.pid in self._roots or one.parent in service or one.session in service or self._carries(one):
            return Party.SERVICE
        if one.pid in self._own or one.parent in self._members[Party.LOAD_GENERATOR]:
            return Party.LOAD_GENERATOR
        return Party.OTHER

    def _carries(self, one: Process) -> bool:
        if not self._marks or one.parent == 2:  # threads of the kernel have no environment
            return False
        exact, rank = self._marks
        return any(text == exact or text.startswith(rank) for text in environment(one.pid))

    def _tree_roots(self, listening: Mapping[int, set[int]]) -> set[int]:
        """From each listener up to the process of the same program and session that started all others."""
        ours = set(_ancestors(self._load_generator))
        found = set()
        for pid in {pid for holders in listening.values() for pid in holders}:
            root, program = process(pid), _program(pid)
            while root and (above := process(root.parent)):
                if above.pid in ours or above.session != root.session or not program or _program(above.pid) != program:
                    break
                root = above
            if root:
                found.add(root.pid)
        return found


def listening_ports(token: str) -> set[int]:
    """The ports of this machine on which the processes listen that carry this token, and those that they started; empty:
    none, or they run elsewhere.
    """
    return ports_of(_members(token))


def _members(token: str) -> Mapping[int, Process]:
    """The processes of this machine that carry this token, and those that they started."""
    parties = Parties(ServiceMark((), token), os.getpid())
    with contextlib.suppress(ReadError):
        parties.find()
    return parties.of(Party.SERVICE)


def successor(port: int, token: str, before: Mapping[str, int]) -> str:
    """What listens on this port of this machine in place of the service with this token: "NAME (pid N)" or "a process of
    user N". Empty: nothing, or nothing that we can see to be another's.

    ``before``: what ``listening`` found when the service was ready. As long as one of those sockets listens, nobody has
    taken the port. A later one is the service's if a process of its holds it; one whose holder we may not see is another's
    if its user had none before.
    """
    now = listening(port)
    if not now or before.keys() & now.keys():
        return ""
    every = {one.pid: one for pid in process_ids() if (one := process(pid))}
    holders = listeners((port,), every)[port]
    if holders & _members(token).keys():
        return ""
    if holders:
        one = every[min(holders)]
        return f"{shown(one.name)} (pid {one.pid})"
    users = set(now.values()) - set(before.values())
    return f"a process of user {min(users)}" if users else ""


def stranger(port: int, token: str, since: int) -> Process | None:
    """The process that listens on this port of this machine and cannot be the service with this token, which was started at
    ``since`` (since_boot()): it is older, or carries another token. None: there is none that we can see, or one may be ours.

    Where the kernel shows no process that is as young as the service, its times are not to be compared, and no age counts.
    """
    every = {one.pid: one for pid in process_ids() if (one := process(pid))}
    young = any(one.started >= since - 1 for one in every.values())
    found = [every[pid] for pid in sorted(listeners((port,), every)[port])]
    if any(not _is_strange(one, f"{MARK}={token}", since if young else 0) for one in found):
        return None
    return found[0] if found else None


def _is_strange(one: Process, mark: str, since: int) -> bool:
    marks = [text.decode(errors="replace") for text in environment(one.pid) if text.startswith(f"{MARK}=".encode())]
    if any(text == mark or text.startswith(f"{mark}-rank-") for text in marks):
        return False
    return bool(marks) or one.started < since - 1


def _ancestors(pid: int) -> Iterable[int]:
    """This process, the one that started it, and so on."""
    one = process(pid)
    while one and one.pid > 1:
        yield one.pid
        one = process(one.parent)


def _tuner_of(pid: int) -> int:
    """The tuner that started this process through a supervisor, which runs on the tuner's own Python; without such a tuner
    the supervisor, or the process itself.
    """
    one = process(pid)
    while one and any(text.startswith(f"{MARK}=".encode()) for text in environment(one.pid)):
        one = process(one.parent)
    if one is None or one.pid == pid:
        return pid
    program = _program(one.pid)  # of the supervisor
    return one.parent if program and _program(one.parent) == program else one.pid


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    except OSError:
        return ""
