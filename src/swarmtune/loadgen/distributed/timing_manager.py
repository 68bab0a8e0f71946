"""Credits, and the common start. Loads with times of their own need no credits: each worker knows its share."""

from __future__ import annotations

import time

from swarmtune.loadgen.ask.source import Block
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.clocks import SAME, Relation
from swarmtune.loadgen.distributed.lifecycle import on_initialize
from swarmtune.loadgen.distributed.messages import AtBarrier, Begin, Grant, Low
from swarmtune.loadgen.distributed.service import Service
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.send.plan import Share, all_credits, concurrency_of, mode_of
from swarmtune.workload.session import Dataset

LEAD_NS = 5_000_000  # for Begin to reach all workers; more where the way is longer


class Credits:
    """The sessions of a closed loop, handed out in blocks that get smaller (guided self-scheduling, Polychronopoulos and
    Kuck 1987): a fast worker gets more of them, all end at about the same time, and few messages are needed.
    """

    def __init__(self, whole: Block, workers: int) -> None:
        """``whole`` must have a count."""
        self._first, self._left = whole.first, whole.count or 0
        self._last_turns = whole.last_turns
        self._workers = workers

    def take(self, least: int) -> Block | None:
        """The next block, of at least so many sessions if there are; None: there are no more."""
        count = min(self._left, max(1, least, self._left // (2 * self._workers)))
        if not count:
            return None
        block = Block(self._first, count, last_turns=self._last_turns if count == self._left else None)
        self._first += count
        self._left -= count
        return block


def useful_workers(options: LoadgenOptions, workers: int) -> int:
    """No more workers than the smallest ceiling: one without a slot could send nothing."""
    ceilings = (concurrency_of(options), options.prefill_concurrency, options.warmup_concurrency)
    return min([workers, *(ceiling for ceiling in ceilings if ceiling is not None)])


class TimingManager(Service):
    """Grants credits to workers that run low, and starts them together."""

    def __init__(self, bus: Bus, spec: Spec) -> None:
        super().__init__(bus, "timing-manager")
        self._spec = spec
        self._workers: list[str] = []
        self._credits: Credits | None = None
        self._at_barrier: set[str] = set()
        self.relations: dict[str, Relation] = {}  # of the workers on other hosts
        self.started_ns = 0

    @on_initialize
    def listen(self) -> None:
        """For workers that want something."""
        self.subscribe(Low, self._low)
        self.subscribe(AtBarrier, self._barrier)

    def deal(self, dataset: Dataset, workers: list[str]) -> bool:
        """These workers take part; are their credits granted in blocks?"""
        self._workers = workers
        whole = all_credits(self._spec.options, dataset)
        if mode_of(self._spec.options) == "closed" and whole.count is not None:
            self._credits = Credits(whole, len(workers))
        return self._credits is not None

    def first(self, worker: str) -> Block | None:
        """What it starts with."""
        return self._credits.take(self._slots(worker)) if self._credits else None

    def _slots(self, worker: str) -> int:
        share = Share(self._workers.index(worker), len(self._workers))
        return share.of(concurrency_of(self._spec.options) or 1)

    def _low(self, worker: str, _: Low) -> None:
        self.publish(Grant(self.first(worker)), worker)

    def _barrier(self, worker: str, _: AtBarrier) -> None:
        self._at_barrier.add(worker)
        if len(self._at_barrier) < len(self._workers):
            return
        way_ns = max((2 * relation.before.rtt_ns for relation in self.relations.values()), default=0)
        self.started_ns = time.monotonic_ns() + LEAD_NS + way_ns
        for name in self._workers:
            self.publish(Begin(self.relations.get(name, SAME).theirs(self.started_ns)), name)
