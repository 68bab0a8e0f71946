"""A whole run in this process: one sender, from the spec to the records. (Several workers: distributed/.)"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.ask.source import Block, Source
from swarmtune.loadgen.ask.spec import Spec, headers_of
from swarmtune.loadgen.ask.target import Target
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.judge.deciding import asks, deciding
from swarmtune.loadgen.read.spool import SpoolReader
from swarmtune.loadgen.read.tokenizer import counter
from swarmtune.loadgen.records import Records
from swarmtune.loadgen.send.ownload import memory_kept
from swarmtune.loadgen.send.plan import Share, all_credits, concurrency_of, measured, share_of, warm_up
from swarmtune.loadgen.send.sender import Observer, Sender, TimedPhase
from swarmtune.loadgen.wire import make_wire
from swarmtune.records import EarlyStop

SPOOL_FILE = "spool.bin"
LEAD_NS = 5_000_000  # between the decision to start and the first request
PREPARED = 20_000  # payloads made before the start, at most
PREPARED_PER_USER = 4  # and per user when the number of requests is open
CONNECTED = 1_000  # connections opened ahead for a rate, at most
AHEAD_S = 0.5  # of a rate's arrivals, for that
SPARE_DESCRIPTORS = 100  # besides a connection for each request in flight

Begin = Callable[[], int]  # wait until the measurement may start; CLOCK_MONOTONIC of its start, ns


@dataclass(frozen=True)
class RunPart:
    """What a worker is built from: the spec, which worker it is, the folder for its files, its observer."""

    spec: Spec
    directory: Path
    share: Share = field(default_factory=Share)
    observer: Observer | None = None
    granted: bool = False  # credits come from outside, in blocks
    followed: bool = False  # others read the spool as it grows, and tell the sender when they have seen enough


class LoadRun:
    """``prepare``, ``execute`` once, then ``collected``."""

    def __init__(self, part: RunPart) -> None:
        """ConfigurationError on bad data files; CommunicationError if the host is not known."""
        self.part = part
        spec = part.spec
        self.options = spec.options
        self.dataset = make_dataset(self.options, spec.seed)
        self.endpoint = make_endpoint(spec.model, self.options)
        headers = headers_of(self.options)
        targets = [Target(url, self.endpoint.path, self.options, headers) for url in spec.url]
        part.directory.mkdir(parents=True, exist_ok=True)
        self.spool = part.directory / SPOOL_FILE
        self.prefix = f"{spec.seed}-"
        wire = make_wire(self.spool, kind=self.options.wire)
        self.sender = Sender(wire, targets, self.endpoint, self.prefix, part.observer)
        self.sender.facts.worker = f"worker-{part.share.worker}"
        self.sender.spool_is_read = asks(spec)
        self._wire = wire
        self.started_ns = self.ended_ns = 0
        self.started_unix_ns = 0
        self.early_stop: EarlyStop | None = None
        self.source = Source(self.dataset, self.sender.payload, complete=not part.granted)
        if not part.granted:
            self.source.grant(self._all_credits())

    def _all_credits(self) -> Block:
        block = all_credits(self.options, self.dataset)
        return share_of(block, self.part.share)

    def prepare(self) -> None:
        """Open connections and make payloads ahead. CommunicationError if the service cannot be reached."""
        concurrency = concurrency_of(self.options)
        rate = self.options.request_rate or self.options.user_centric_rate
        wanted = concurrency
        if rate is not None:
            wanted = min(concurrency or CONNECTED, CONNECTED, 1 + round(rate * AHEAD_S))
        allow_descriptors(self.part.share.of(concurrency or CONNECTED) + SPARE_DESCRIPTORS)
        known = self.source.left
        ahead = PREPARED if known < PREPARED or rate is not None else PREPARED_PER_USER * (concurrency or 1)
        self.sender.connect(self.part.share.of(wanted or 1))
        self.source.prepare(min(PREPARED, ahead))

    def execute(self, begin: Begin = lambda: time.monotonic_ns() + LEAD_NS) -> None:
        """Warm up, measure, close the connections. OSError if the spool cannot be written; what was spooled stays."""
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            spools = () if self.part.followed else (self.spool,)
            with (
                memory_kept(),
                deciding(self.part.spec, spools, self.part.directory, self.sender.finish) as answer,
            ):
                if answer.descriptor is not None:
                    self.sender.follow(answer.descriptor, answer.read)
                self.sender.run(self._phases(begin))
            self.early_stop = answer.early_stop
        finally:
            gc.enable()
            gc.unfreeze()
            self.ended_ns = time.monotonic_ns()
            self.close()

    def close(self) -> None:
        """Close all connections. Closing twice does no harm."""
        self._wire.close()

    def _phases(self, begin: Begin) -> Iterator[TimedPhase]:
        spec, share = self.part.spec, self.part.share
        warming = Source(self.dataset, self.sender.payload, complete=True)
        first = warm_up(self.options, warming, spec.seed, share, time.monotonic_ns())
        if first:
            yield first
        self.started_ns = begin()
        self.started_unix_ns = time.time_ns() + self.started_ns - time.monotonic_ns()
        before = first.timing if first else None
        yield measured(self.options, self.dataset, self.source, spec.seed, share, self.started_ns, before)

    def collected(self, progress: Callable[[float], None] = lambda _: None) -> Records:
        """The records, from the spool. Times are this machine's.

        If ``sender.stop`` is called meanwhile: those that were read by then.
        """
        count = counter(self.options.tokenizer, self.part.spec.model).count
        reader = SpoolReader(self.spool, self.endpoint, self.part.share.worker, count)
        stopped = self.sender.stopped

        def go_on(share: float) -> None:
            progress(share)
            if self.sender.stopped and not stopped:
                raise InterruptedError

        gc.disable()  # millions of small objects, and no cycle among them
        try:
            with contextlib.suppress(InterruptedError):
                reader.advance(go_on)
            requests, chunks, errors = reader.columns()
        finally:
            gc.enable()
        order = np.argsort(requests["scheduled_ns"], kind="stable")
        return Records(
            requests[order], chunks, errors, [self.sender.facts], self.started_ns, self.ended_ns, self.started_unix_ns,
            self.prefix, self.sender.stopped and not self.sender.lost, self.sender.lost, self.early_stop,
        )  # fmt: skip


def allow_descriptors(wanted: int) -> None:
    """Let this process open so many files and sockets. ConfigValidationError says how to allow it, if we may not."""
    try:
        import resource
    except ImportError:  # not a Unix system: no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            most = hard if hard == resource.RLIM_INFINITY else max(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        except (OSError, ValueError) as error:
            reason = f"one process may open {hard} files and sockets here, and needs {wanted}"
            advice = "raise it (ulimit -Hn, as root), or use more --workers-max"
            raise ConfigValidationError([f"--concurrency: {reason}: {advice}"]) from error
