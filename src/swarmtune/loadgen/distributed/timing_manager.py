"""Credits, and the common start. Loads with times of their own need no credits: each worker knows its share."""

from __future__ import annotations

import contextlib
from pathlib import Path

from swarmtune.errors import CommunicationError
from swarmtune.loadgen.ask.source import Block
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.clocks import SAME, ClockReading, ClockRelation, measure, monotonic_ns
from swarmtune.loadgen.distributed.messages import (
    AtBarrier,
    Begin,
    Clocks,
    Data,
    Done,
    Grant,
    Low,
    MeasureClocks,
    Ping,
    TakePart,
)
from swarmtune.loadgen.distributed.service import CONTROLLER, Service, on_message
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.send.plan import Share, concurrency_of, mode_of

LEAD_NS = 5_000_000  # for Begin to reach all workers; more where the way is longer
PING_TIMEOUT_S = 10.0


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


def granted_in_blocks(options: LoadgenOptions, whole: Block) -> bool:
    """Closed loops share a number of sessions as they get on; all other loads are dealt out by number."""
    return mode_of(options) == "closed" and whole.count is not None


def useful_workers(options: LoadgenOptions, workers: int) -> int:
    """No more workers than the smallest ceiling: one without a slot could send nothing."""
    ceilings = (concurrency_of(options), options.prefill_concurrency, options.warmup_concurrency)
    return min([workers, *(ceiling for ceiling in ceilings if ceiling is not None)])


class TimingManager(Service):
    """Grants credits to workers that run low, relates the clocks of hosts to ours, and starts all workers together."""

    def __init__(self, bus: Bus, name: str, place: Path) -> None:
        super().__init__(bus, name, place)
        self._all: Block | None = None
        self._credits: Credits | None = None
        self._workers: list[str] = []
        self._managers: dict[str, str] = {}
        self._relations: dict[str, ClockRelation] = {}  # by worker manager
        self._at_barrier: set[str] = set()

    @on_message(Data)
    def _data(self, _: str, message: Data) -> None:
        self._all = message.credits

    @on_message(TakePart)
    def take_part(self, _: str, message: TakePart) -> Done:
        """These workers take part. CommunicationError if a host's clock cannot be measured."""
        self._workers, self._managers = message.workers, message.managers
        if self._all and granted_in_blocks(self.spec.options, self._all):
            self._credits = Credits(self._all, len(self._workers))
        for manager in set(self._managers.values()):
            self._relations[manager] = ClockRelation(self._measure(manager))
        return Done()

    @on_message(MeasureClocks)
    def measure_again(self, _: str, message: MeasureClocks) -> Clocks:
        """The second measurement, from which the drift follows."""
        found = {}
        for manager in message.managers:
            with contextlib.suppress(CommunicationError):
                found[manager] = ClockRelation(self._relations[manager].before, self._measure(manager))
        return Clocks(found)

    def _measure(self, manager: str) -> ClockReading:
        def exchange() -> tuple[int, int]:
            pong = self.channel.request(Ping(), manager, PING_TIMEOUT_S)
            return pong.received_ns, pong.sent_ns

        return measure(exchange, lambda: monotonic_ns(self.clock))

    @on_message(Low)
    def _low(self, worker: str, _: Low) -> None:
        share = Share(self._workers.index(worker), len(self._workers))
        slots = share.of(concurrency_of(self.spec.options) or 1)
        self.channel.publish(Grant(self._credits.take(slots) if self._credits else None), worker)

    @on_message(AtBarrier)
    def _barrier(self, worker: str, _: AtBarrier) -> None:
        self._at_barrier.add(worker)
        if len(self._at_barrier) < len(self._workers):
            return
        way_ns = max((2 * relation.before.rtt_ns for relation in self._relations.values()), default=0)
        started_ns = monotonic_ns(self.clock) + LEAD_NS + way_ns
        for name in self._workers:
            relation = self._relations.get(self._managers.get(name, ""), SAME)
            self.channel.publish(Begin(relation.theirs(started_ns)), name)
        self.channel.publish(Begin(started_ns), CONTROLLER)
