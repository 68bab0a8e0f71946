"""Runs the scheduler's steps in real time and hands out tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from swarmtune.clock import Clock
from swarmtune.simulator.ranks import Ranks
from swarmtune.simulator.scheduling.scheduler import Request, Scheduler
from swarmtune.simulator.step_time import StepTimer

CATCH_UP_S = 0.02  # a step that ends later than this (busy machine) moves the schedule instead of being caught up


class Stepper:
    """The engine's loop. A token of a request is an item in the queue of its request."""

    def __init__(self, scheduler: Scheduler, timer: StepTimer, clock: Clock, ranks: Ranks) -> None:
        self.scheduler = scheduler
        self._ranks = ranks
        self.prompt_tokens_total = 0
        self.generation_tokens_total = 0
        self._timer = timer
        self._clock = clock
        self._arrived = asyncio.Event()
        self._queues: dict[Request, asyncio.Queue[str]] = {}

    def submit(self, prompt_tokens: int, output_tokens: int) -> Request:
        """Queue a request. ValueError if it can never fit. Follow it with ``tokens``, which also cleans up."""
        request = Request(prompt_tokens, output_tokens)
        self.scheduler.add(request)
        self._queues[request] = asyncio.Queue()
        self.prompt_tokens_total += prompt_tokens
        self._arrived.set()
        return request

    async def tokens(self, request: Request) -> AsyncGenerator[tuple[int, str], None]:
        """Yield (0, text), (1, text), ... as the tokens come out; closing it early takes the request out of the engine."""
        queue = self._queues[request]
        try:
            for index in range(request.output_tokens):
                yield index, await queue.get()
        finally:
            del self._queues[request]
            self.scheduler.remove(request)

    async def run(self) -> None:
        """Step for ever. Each step begins when the one before should have ended, so that delays do not add up."""
        due = self._clock.monotonic()
        while True:
            if not self.scheduler.busy:
                self._arrived.clear()
                await self._arrived.wait()
                due = self._clock.monotonic()
            step = self.scheduler.schedule()
            due += self._timer.seconds(step)
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            due = max(due, self._clock.monotonic() - CATCH_UP_S)
            emitted = self.scheduler.complete(step)
            words = await self._ranks.words([request.generated - 1 for request in emitted])
            for request, text in zip(emitted, words, strict=True):
                self.generation_tokens_total += 1
                if queue := self._queues.get(request):
                    queue.put_nowait(text)
