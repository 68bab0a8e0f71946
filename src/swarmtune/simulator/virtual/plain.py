"""A replica in plain Python, by the scheduler that vLLM's own is compared with. ``native.c`` gives the same bytes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.tables import CostTables
from swarmtune.simulator.scheduling.scheduler import Request, Scheduler, State, Step
from swarmtune.simulator.virtual.requests import NEVER, STEP, Answers, Reason, Requests


@dataclass
class _Running:
    step: Step
    end: float


class PlainReplica:
    """``now``: seconds. ``rows``: keep a row of each step; ``work``: and who is in it; ``firsts``: tell first tokens."""

    def __init__(
        self, rules: Rules, cost: CostTables, *, rows: bool = False, work: bool = False, firsts: bool = False
    ) -> None:
        self.now = self.busy = 0.0
        self.work: list[dict[int, int]] = []
        self._rules, self._cost = rules, cost
        self._keep_rows, self._keep_work, self._firsts = rows, work, firsts
        self._scheduler = Scheduler(rules)
        self._requests: list[Request] = []
        self._numbers: dict[Request, int] = {}
        self._scheduled: list[float] = []
        self._stamps: list[list[int]] = []
        self._pending = deque[int]()
        self._steps = deque[_Running]()
        self._ended: list[int] = []
        self._rows: list[tuple[float, ...]] = []
        self._stage_free = self._last_end = 0.0
        self._empty = 0  # plans without work since the last step
        self._planned = False  # nothing more before the oldest step has ended

    @property
    def next(self) -> float:
        """When something happens next, s; infinity: nothing will."""
        if self._scheduler.busy and len(self._steps) < self._rules.batches and not self._planned:
            return self.now
        if self._steps:
            return self._steps[0].end
        return max(self.now, self._requests[self._pending[0]].arrival) if self._pending else math.inf

    @property
    def preemptions(self) -> int:
        """Requests that had to give way."""
        return self._scheduler.preemptions

    @property
    def in_engine(self) -> int:
        """Requests that run or wait."""
        return len(self._scheduler.running) + len(self._scheduler.waiting)

    @property
    def blocks_used(self) -> int:
        """KV blocks."""
        return self._scheduler.blocks.total - self._scheduler.blocks.free

    @property
    def rows(self) -> NDArray[np.void]:
        """The steps (STEP), if they are kept."""
        return np.array(self._rows, STEP)

    def add(self, requests: Requests) -> int:
        """These arrive later, none before one that was added already; the number of the first."""
        first = len(self._requests)
        for i in range(len(requests)):
            one = requests.at(i)
            contents = one.contents.tolist()
            self.add_one(float(one.arrival[0]), int(one.prompt[0]), int(one.output[0]), contents, int(one.priority[0]))
        return first

    def add_one(self, arrival: float, prompt: int, output: int, contents: Sequence[int] = (), priority: int = 0) -> int:
        """One request; its number."""
        made, number = Request(prompt, output, priority, tuple(contents), arrival=arrival), len(self._requests)
        self._pending.append(number)
        self._numbers[made] = number
        self._requests.append(made)
        self._stamps.append([])
        self._scheduled.append(NEVER)
        return number

    def remove(self, number: int) -> None:
        """The client of this request has gone."""
        request = self._requests[number]
        if number in self._pending:
            self._pending.remove(number)
            request.state = State.FINISHED
        else:
            self._scheduler.remove(request)

    def ended(self) -> list[int]:
        """The requests that have ended since the last call; -1 - n: the first token of n came out, and others follow."""
        ended, self._ended = self._ended, []
        return ended

    def run(self, limit: float = math.inf, *, stop: bool = False) -> Reason:
        """Until ``limit`` (s; what happens then is left), or with ``stop`` until requests have ended: before the step that
        begins at that moment is planned, so that others may arrive for it.
        """
        while True:
            if stop and self._ended:
                return Reason.ENDED
            if len(self._steps) < self._rules.batches and not self._planned:
                self._deliver()
                if self._scheduler.busy:
                    if self.now >= limit:
                        return Reason.LIMIT
                    step = self._scheduler.schedule()
                    if step.work:
                        self._empty = 0
                        self._begin(step)
                        continue
                    self._empty += 1
                    if not self._steps and (step.preempted or self._empty <= self._rules.rest):
                        continue  # requests rest for so many steps
            self._planned = False
            if self._steps:
                if self._steps[0].end >= limit:
                    self._planned = True
                    return Reason.LIMIT
                self._complete()
            elif self._pending:
                arrival = self._requests[self._pending[0]].arrival
                if arrival >= limit:
                    return Reason.LIMIT
                self.now = max(self.now, arrival)
            else:
                return Reason.STALLED if self._scheduler.busy else Reason.DRAINED

    def answers(self, first: int = 0) -> Answers:
        """What became of the requests from this number on."""
        requests, stamps = self._requests[first:], self._stamps[first:]
        outputs = np.array([one.output_tokens for one in requests], np.int64)
        every = [[*had, *[0] * (one.output_tokens - len(had))] for one, had in zip(requests, stamps, strict=True)]
        return Answers(
            np.array(self._scheduled[first:], np.float64),
            np.array([one.generated for one in requests], np.int64),
            np.array([one.cached for one in requests], np.int64),
            np.array([one.preemptions for one in requests], np.int32),
            np.cumsum(outputs) - outputs,
            np.array([stamp for one in every for stamp in one], np.int64),
        )

    def _deliver(self) -> None:
        while self._pending and self._requests[self._pending[0]].arrival <= self.now:
            self._scheduler.add(self._requests[self._pending.popleft()])

    def _begin(self, step: Step) -> None:
        """The step begins now, or when the device is free. Stages of a pipeline follow each other."""
        seconds = self._cost.seconds(step.features)
        stages = self._rules.pipeline
        start = max(self._stage_free, self.now)
        part = seconds / stages if stages > 1 else seconds
        self._stage_free = start + part
        end = start + seconds
        if stages > 1:
            end = max(end, self._last_end + part)
        self._last_end = end
        self.busy += part
        self._steps.append(_Running(step, end))
        for request, _ in step.work:
            number = self._numbers[request]
            if self._scheduled[number] == NEVER:
                self._scheduled[number] = self.now
        if self._keep_work:
            self.work.append({self._numbers[request]: tokens for request, tokens in step.work})
        if self._keep_rows:
            counts = (step.tokens, step.decodes, step.context, step.prefills)
            engine = (len(self._scheduler.running), len(self._scheduler.waiting), self.blocks_used, len(step.preempted))
            self._rows.append((start, end, *counts, *engine, step.prefill_work))

    def _complete(self) -> None:
        done = self._steps.popleft()
        self.now = max(self.now, done.end)
        stamp = math.floor(self.now * 1e9 + 0.5)
        for request in self._scheduler.complete(done.step):
            number = self._numbers[request]
            self._stamps[number].append(stamp)
            if request.finished:
                self._ended.append(number)
            elif self._firsts and request.generated == 1:
                self._ended.append(-1 - number)
