"""A worker process: one WorkerRun, steered over the bus. Nothing is sent per request.

Started by a WorkerManager as ``python -P -m swarmtune.loadgen.distributed.worker``. It ends with its parent: by
PR_SET_PDEATHSIG where there is that, and because its end of the socket tells it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.dataset_manager import fingerprint
from swarmtune.loadgen.distributed.lifecycle import State, on_cleanup, on_initialize
from swarmtune.loadgen.distributed.links import SocketLink
from swarmtune.loadgen.distributed.merge import CHUNKS_FILE, REQUESTS_FILE, shift
from swarmtune.loadgen.distributed.messages import (
    AtBarrier,
    Begin,
    Collect,
    Collected,
    Configure,
    Configured,
    Counts,
    Done,
    Execute,
    Grant,
    Heartbeat,
    Low,
    Prepare,
    Shutdown,
    Stop,
)
from swarmtune.loadgen.distributed.service import BEAT_S, CONTROLLER, Service
from swarmtune.loadgen.run import Part, WorkerRun
from swarmtune.loadgen.send.plan import Share, concurrency_of
from swarmtune.loadgen.send.worker import Progress, Watch

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
SPARE = 8  # credits beyond two for each slot, below which more are asked for


class WorkerService(Service):
    """See the module. ``descriptor``: of the bus's link, watched during the run."""

    def __init__(self, bus: Bus, name: str, directory: Path, descriptor: int, clock_offset_ns: int = 0) -> None:
        """``clock_offset_ns``: for tests; its clock shows so much more than the machine's."""
        super().__init__(bus, name)
        self.left = False
        self._directory = directory
        self._offset = clock_offset_ns
        self._watch = Watch(self._tick, lambda: bus.wait(0), descriptor, self._low)
        self._begin_ns: int | None = None
        self._asked = False
        self._heart = threading.Thread(target=self._beat_on, daemon=True)
        self._still = threading.Event()

    @on_initialize
    def listen(self) -> None:
        """For commands; signs of life from now on."""
        self.subscribe(Configure, self._configure)
        self.subscribe(Prepare, self._prepare)
        self.subscribe(Execute, self._execute)
        self.subscribe(Collect, self._collect)
        self.subscribe(Begin, self._begun)
        self.subscribe(Grant, self._granted)
        self.subscribe(Stop, self._end)
        self.subscribe(Shutdown, self._shut_down)
        self._heart.start()

    @on_cleanup
    def let_go(self) -> None:
        """Of the connections."""
        self._still.set()
        if run := getattr(self, "run", None):
            run.close()

    def _beat_on(self) -> None:
        """Signs of life while the main thread is busy with one thing; during the run it gives them itself."""
        while not self._still.wait(BEAT_S):
            if self.state is not State.RUNNING:
                self.publish(Heartbeat(self.state), CONTROLLER)

    # --- commands, in their order ----------------------------------------------------------------------------------

    def _configure(self, _: str, message: Configure) -> Configured:
        spec = Spec.model_validate_json(message.spec)
        share = Share(message.worker, message.workers)
        self.run = WorkerRun(Part(spec, self._directory, share, self._watch, granted=message.granted))
        self._few = SPARE + 2 * share.of(concurrency_of(spec.options) or 1)
        self.configure()
        return Configured(fingerprint(self.run.dataset, self.run.endpoint, spec))

    def _prepare(self, _: str, message: Prepare) -> Done:
        if message.block:
            self.run.source.grant(message.block)
        elif self.run.part.granted:
            self.run.source.complete = True
        self.run.prepare()
        return Done()

    def _execute(self, _: str, __: Execute) -> Done:
        self.start()
        try:
            self.run.execute(self._begin)
        except BaseException:
            self.fail()
            raise
        self.stop()
        return Done()

    def _collect(self, _: str, __: Collect) -> Collected:
        records = self.run.collected()
        requests, chunks = records.requests, records.chunks
        if self._offset:
            requests, chunks = requests.copy(), chunks.copy()
            shift(requests, chunks, lambda times: times + self._offset)
        np.save(self._directory / REQUESTS_FILE, requests)
        np.save(self._directory / CHUNKS_FILE, chunks)
        self.run.spool.unlink(missing_ok=True)
        return Collected(
            str(self._directory), records.errors, records.workers[0], records.started_ns + self._offset,
            records.ended_ns + self._offset, records.request_prefix, records.lost,
        )  # fmt: skip

    def _shut_down(self, _: str, __: Shutdown) -> None:
        self.left = True

    # --- during the run --------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        """Wait at the barrier until all are there."""
        self.publish(AtBarrier(), "timing-manager")
        while self._begin_ns is None and not self.run.worker.stopped:
            self.bus.wait(BEAT_S)
            self.beat()
        return time.monotonic_ns() if self._begin_ns is None else self._begin_ns

    def _begun(self, _: str, message: Begin) -> None:
        self._begin_ns = message.started_ns - self._offset

    def _low(self) -> None:
        if not self._asked and self.run.source.left <= self._few:
            self._asked = True
            self.publish(Low(), "timing-manager")

    def _granted(self, _: str, message: Grant) -> None:
        self._asked = False
        if message.block:
            self.run.source.grant(message.block)
        else:
            self.run.source.complete = True

    def _tick(self, p: Progress) -> None:
        self.publish(Counts(p.sent, p.ended, p.failed, p.in_flight, p.warming_up), CONTROLLER)
        self.beat()
        self.bus.wait(0)

    def _end(self, _: str, __: Stop) -> None:
        if run := getattr(self, "run", None):
            run.worker.stop()


def bind_to_parent(parent: int, name: str) -> None:
    """Take this name in ps, and die with the parent. (Linux; elsewhere the socket alone tells of its end.)"""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Serve until the manager says that it is enough, or is gone."""
    parser = argparse.ArgumentParser(
        prog="swarmtune.loadgen.distributed.worker", description="started by a WorkerManager"
    )
    parser.add_argument("--service", required=True)
    parser.add_argument("--descriptor", required=True, type=int)
    parser.add_argument("--parent", required=True, type=int)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--clock-offset-ns", type=int, default=0, help="for tests: lets its clock look wrong")
    given = parser.parse_args()
    bind_to_parent(given.parent, given.service)
    bus = Bus(on_lost=lambda: os._exit(1))
    link = SocketLink(socket.socket(fileno=given.descriptor))
    bus.attach(link)
    service = WorkerService(bus, given.service, given.directory, given.descriptor, given.clock_offset_ns)
    service.initialize()
    try:
        while not service.left:
            bus.wait(BEAT_S)
    finally:
        service.clean()
        bus.close()


if __name__ == "__main__":
    main()
