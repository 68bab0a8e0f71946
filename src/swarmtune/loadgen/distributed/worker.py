"""A worker: the service that sends. No message is sent per request."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.dataset_manager import fingerprint
from swarmtune.loadgen.distributed.lifecycle import on_cleanup, on_configure, on_start
from swarmtune.loadgen.distributed.merge import CHUNKS_FILE, REQUESTS_FILE, shift
from swarmtune.loadgen.distributed.messages import (
    AtBarrier,
    Begin,
    Collect,
    Collected,
    Done,
    Execute,
    Finish,
    Grant,
    Heartbeat,
    Low,
    Stop,
)
from swarmtune.loadgen.distributed.service import BEAT_S, CONTROLLER, TIMING, Service, on_message
from swarmtune.loadgen.records import Progress
from swarmtune.loadgen.run import LoadRun, RunPart
from swarmtune.loadgen.send.plan import Share, concurrency_of
from swarmtune.loadgen.send.sender import Observer

SPARE = 8  # credits beyond two for each slot, below which more are asked for


class Worker(Service):
    """One LoadRun, steered over the bus."""

    run: LoadRun  # once it is configured

    def __init__(self, bus: Bus, name: str, place: Path, descriptor: int, clock_offset_ns: int = 0) -> None:
        """``descriptor``: of the bus's link, watched during the run. ``clock_offset_ns``: for tests; its clock shows
        so much more than the machine's.
        """
        super().__init__(bus, name, place)
        self._offset = clock_offset_ns
        self._watch = Observer(self._tick, lambda: bus.wait(0), descriptor, self._ask_for_credits)
        self._begin_ns: int | None = None
        self._asked = False
        self._few = 0

    @on_configure
    def make_data(self) -> None:
        """ConfigurationError: the data cannot be read, or are not those of the controller."""
        order, spec = self.order, self.spec
        share = Share(order.worker, order.workers)
        self.run = LoadRun(RunPart(spec, self.place, share, self._watch, granted=order.granted, followed=True))
        self._few = SPARE + 2 * share.of(concurrency_of(spec.options) or 1)
        if fingerprint(self.run.dataset, self.run.endpoint, spec) != order.digest:
            other = f"{self.name} would send other requests than the controller: the input files differ, or the"
            way_out = "versions of swarmtune. Copy the same file to all hosts and install the same version"
            raise ConfigValidationError([f"{other} {way_out}"])

    @on_start
    def prepare(self) -> None:
        """Get the first credits, make payloads, connect. CommunicationError if the endpoint cannot be reached."""
        if self.order.granted:
            self._ask_for_credits()
            while self._asked:
                self.bus.wait(BEAT_S)
        self.run.prepare()

    @on_cleanup
    def let_go(self) -> None:
        """Close the connections."""
        if run := getattr(self, "run", None):
            run.close()

    @on_message(Execute)
    def execute(self, _: str, __: Execute) -> Done:
        """Warm up and measure. While it runs, its own loop gives the signs of life: one that hangs gives none."""
        self.beats_itself = True
        try:
            self.run.execute(self._begin)
        except BaseException:
            self.fail()
            raise
        finally:
            self.beats_itself = False
        self.stop()
        return Done()

    @on_message(Collect)
    def collect(self, _: str, __: Collect) -> Collected:
        """Leave the columns as files; after Stop, those of what was read by then."""
        records = self.run.collected(lambda _: self.bus.wait(0))
        requests, chunks = records.requests, records.chunks
        if self._offset:
            requests, chunks = requests.copy(), chunks.copy()
            shift(requests, chunks, lambda times: times + self._offset)
        np.save(self.place / REQUESTS_FILE, requests)
        np.save(self.place / CHUNKS_FILE, chunks)
        self.run.spool.unlink(missing_ok=True)
        return Collected(
            str(self.place), records.errors, records.workers, records.started_ns + self._offset,
            records.ended_ns + self._offset, records.started_unix_ns, records.request_prefix, records.lost,
        )  # fmt: skip

    # --- during the run --------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        """Wait at the barrier until all are there."""
        self.channel.publish(AtBarrier(), TIMING)
        while self._begin_ns is None and not self.run.sender.stopped:
            self.bus.wait(BEAT_S)
            self.beat()
        return time.monotonic_ns() if self._begin_ns is None else self._begin_ns

    @on_message(Begin)
    def _begun(self, _: str, message: Begin) -> None:
        self._begin_ns = message.started_ns - self._offset

    def _ask_for_credits(self) -> None:
        if not self._asked and self.run.source.left <= self._few:
            self._asked = True
            self.channel.publish(Low(), TIMING)

    @on_message(Grant)
    def _granted(self, _: str, message: Grant) -> None:
        self._asked = False
        if message.block:
            self.run.source.grant(message.block)
        else:
            self.run.source.complete = True

    def _tick(self, progress: Progress) -> None:
        self.channel.publish(Heartbeat(self.state, replace(progress)), CONTROLLER)
        self.bus.wait(0)

    @on_message(Finish)
    def _finish(self, _: str, __: Finish) -> None:
        self.run.sender.finish()

    @on_message(Stop)
    def _end(self, _: str, __: Stop) -> None:
        if run := getattr(self, "run", None):
            run.sender.stop()
