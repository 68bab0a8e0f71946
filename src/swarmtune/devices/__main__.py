"""``python -P -m swarmtune.devices``: read devices until standard input ends.

The first line on standard input is a JSON object: ``spool`` (file to write), ``devices`` (indices, null: all),
``here`` (read this machine?), ``urls`` (Prometheus addresses), ``service`` (see parties.ServiceMark; null: not this
machine's; the load generator is then the process that started this one). When each source has been tried once, ``ready`` is
printed; when standard input ends, or the process that started this one does, each is read a last time. No error of a
source ends it: it is noted in the spool, once. Exit code: 0, or 2 if the first line or the spool is unusable.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmtune.devices.exporter import ExporterSource
from swarmtune.devices.neighbours import NeighbourSource
from swarmtune.devices.parties import ServiceMark
from swarmtune.devices.readings import ReadError, Source
from swarmtune.devices.sources import open_sources
from swarmtune.devices.spool import SpoolWriter

FIRST_S = 3.0  # for the first reading of all sources
LAST_S = 2.0  # for the last one
PARENT_S = 1.0  # between two looks whether whoever started us still runs
HERE = "this machine"


class Loop(threading.Thread):
    """Reads one source at its interval, in a thread of its own: one that hangs delays no other."""

    def __init__(self, source: Source, spool: SpoolWriter, stop: threading.Event) -> None:
        super().__init__(name=source.name, daemon=True)
        self._source, self._spool, self._stop_all = source, spool, stop
        self.tried = threading.Event()
        self._began_ns = 0  # the reading that is under way; 0: none is

    def run(self) -> None:
        """Until told to stop; the last reading comes after that."""
        stopping = False
        while not stopping:
            stopping = self._stop_all.is_set()
            self._began_ns = began_ns = time.monotonic_ns()
            try:
                readings = self._source.read()
                self._spool.add((began_ns + time.monotonic_ns()) // 2, self._source.name, readings)
            except Exception as error:  # noqa: BLE001 - a driver may raise anything; it is noted, the reader goes on
                self._trouble(f"not read: {str(error) or type(error).__name__}")
            self._began_ns = 0
            self.tried.set()
            if not stopping:
                self._stop_all.wait(max(0.0, self._source.interval_s - (time.monotonic_ns() - began_ns) / 1e9))
        if bad := getattr(self._source, "bad_lines", 0):
            self._trouble(f"{bad} lines were not understood")

    def leave(self) -> None:
        """Note that the last reading is not waited for, if one is still under way; the thread is left to itself."""
        if self.is_alive() and (began_ns := self._began_ns):
            seconds = (time.monotonic_ns() - began_ns) / 1e9
            self._trouble(f"not read: no whole answer within {seconds:.1f} s, when the run ended")

    def _trouble(self, text: str) -> None:
        try:
            self._spool.note(self._source.name, text)
        except (OSError, ValueError):  # the disk is full, or the spool is closed: nothing more can be told
            self._stop_all.set()


@dataclass(frozen=True)
class Asked:
    """What to read, as the first line says."""

    spool: SpoolWriter
    devices: list[int] | None
    here: bool
    urls: list[str]
    service: ServiceMark | None

    @classmethod
    def of(cls, line: str) -> Asked:
        """OSError if the spool cannot be made; ValueError, LookupError, TypeError, AttributeError for another line."""
        told = json.loads(line)
        mark = told.get("service")
        service = ServiceMark(tuple(mark["ports"]), str(mark["token"])) if mark else None
        here, urls = bool(told.get("here")), list(told.get("urls", ()))
        return cls(SpoolWriter(Path(told["spool"])), told.get("devices"), here, urls, service)


def sources_of(asked: Asked, load_generator: int) -> list[Source]:
    """Everything to read; what cannot be is noted in the spool. ``load_generator``: its main process."""
    neighbours = NeighbourSource(asked.service, load_generator) if asked.service else None
    sources: list[Source] = [neighbours] if neighbours else []
    spool = asked.spool
    if asked.here:
        opened, notes = open_sources(asked.devices, (lambda: neighbours.service) if neighbours else tuple)
        sources += opened
        for note in notes:
            spool.note(HERE, note)
    for url in asked.urls:
        try:
            sources.append(ExporterSource(url))
        except (ReadError, ValueError) as error:
            spool.note("an exporter", str(error))
    return sources


def main() -> int:
    """The whole process; see above."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of a terminal; whoever started us ends us
    parent = os.getppid()
    try:
        asked = Asked.of(sys.stdin.readline())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.stderr.write(f"swarmtune.devices: {error}\n")
        return 2
    stop = threading.Event()
    loops = [Loop(source, asked.spool, stop) for source in sources_of(asked, parent)]
    for loop in loops:
        loop.start()
    _wait([loop.tried for loop in loops], FIRST_S)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not stop.is_set() and os.getppid() == parent:
        if select.select([sys.stdin], [], [], PARENT_S)[0] and not os.read(sys.stdin.fileno(), 4096):
            break
    stop.set()
    deadline = time.monotonic() + LAST_S
    for loop in loops:
        loop.join(max(0.0, deadline - time.monotonic()))
    for loop in loops:
        loop.leave()
    if not any(loop.is_alive() for loop in loops):
        asked.spool.close()
    return 0


def _wait(events: Sequence[threading.Event], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    for event in events:
        event.wait(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    code = main()
    if threading.active_count() > 1:
        os._exit(code)  # a driver call that hangs must not keep the process
    raise SystemExit(code)
