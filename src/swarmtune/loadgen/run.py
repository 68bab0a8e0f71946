"""One run: connect, warm up, send by the workload's rules, drain, and turn what came back into a measurement."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass

from swarmtune.clock import Clock
from swarmtune.errors import CommunicationError
from swarmtune.loadgen.client import Connection
from swarmtune.loadgen.flights import Flight
from swarmtune.loadgen.metrics import metrics
from swarmtune.loadgen.requests import NS, Request, request, requests, schedule
from swarmtune.loadgen.rows import Row
from swarmtune.loadgen.selfcheck import SelfCheck
from swarmtune.loadgen.spec import Spec
from swarmtune.records import Measurement

PREPARED = 20_000  # bodies made before the run; a longer run makes the rest as it goes
PREPARED_PER_USER = 100  # bodies per user when only the duration is known
WARMUP_USERS = 8  # users of the warm-up when the load has no concurrency
REFUSED_PAUSE_S = 0.1
REFUSED_LIMIT = 20  # refused connections in a row after which the service counts as lost
RAW_LIMIT_BYTES = 256 * 2**20  # raw answers held for reading after the run; beyond, they are read as they end


@dataclass(frozen=True)
class Result:
    """What a run gave. ``lost``: the service could no longer be reached; ``interrupted``: somebody ended the run."""

    rows: list[Row]
    measurement: Measurement
    interrupted: bool = False
    lost: bool = False


class Run:
    """One use only: ``execute`` once, ``interrupt`` at any time from the same event loop."""

    def __init__(self, spec: Spec, clock: Clock) -> None:
        self.spec = spec
        self.clock = clock
        self.interrupted = False
        self.lost = False
        self._flights: list[Flight] = []
        self._endpoint = spec.endpoint
        self._stop = asyncio.Event()
        self._sending = True
        self._refused_in_a_row = 0
        self._raw_bytes = 0

    def interrupt(self) -> None:
        """End now; requests still running count as incomplete."""
        self.interrupted = True
        self._stop.set()

    async def execute(self) -> Result:
        """Do it all. CommunicationError if the service cannot be reached at the start."""
        workload = self.spec.workload
        users = workload.load.concurrency
        offsets = None if workload.load.request_rate is None else schedule(workload)
        known = len(offsets) if offsets is not None else workload.requests or PREPARED_PER_USER * (users or 1)
        bodies = requests(workload, min(known, PREPARED))
        connections = [Connection(self._endpoint) for _ in range(users or WARMUP_USERS)]
        try:
            await self._connect(connections)
            await self._warm_up(connections)
            check = SelfCheck(self.clock)
            gc.collect()
            gc.freeze()
            check.start()
            started_ns = time.monotonic_ns()
            if offsets is None:
                sending: Coroutine[None, None, None] = self._closed_loop(connections, bodies)
            else:
                sending = self._open_loop(connections, bodies, offsets, started_ns)
            await self._until_over(sending, workload.duration_s)
            given_up_ns = time.monotonic_ns()
            await check.stop()
        finally:
            gc.unfreeze()
            for connection in connections:
                connection.close()
            await asyncio.sleep(0)
        return self._result(started_ns, given_up_ns, check)

    def _result(self, started_ns: int, given_up_ns: int, check: SelfCheck) -> Result:
        workload = self.spec.workload
        rows = [flight.row(given_up_ns) for flight in self._flights]
        reasons = check.reasons(self.spec.limits)
        if self.interrupted:
            reasons.append("the run was interrupted; these are partial results")
        found = metrics(rows, started_ns, workload.request_slos) | check.metrics()
        measurement = Measurement(found, workload.load.to_json(), valid=not reasons, reasons=tuple(reasons))
        return Result(rows, measurement, self.interrupted, self.lost)

    async def _connect(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            try:
                async with asyncio.timeout(self.spec.workload.request_timeout_s):
                    await connection.open()
            except OSError as error:
                reason = str(error) or "no answer in time"
                raise CommunicationError(f"The endpoint {self.spec.url} cannot be reached: {reason}.") from error

    async def _warm_up(self, connections: list[Connection]) -> None:
        workload = self.spec.workload
        bodies = (request(workload, index, warmup=True) for index in range(workload.warmup_requests))
        await self._until_over(self._closed_loop(connections, bodies), None)
        self._flights.clear()
        self._raw_bytes = 0
        self._sending = not self._stop.is_set()

    async def _until_over(self, sending: Coroutine[None, None, None], duration_s: float | None) -> None:
        """Until all is sent and answered, the duration and the drain are over, or somebody says stop."""
        sender = asyncio.create_task(sending)
        stop = asyncio.create_task(self._stop.wait())
        over = asyncio.create_task(self.clock.sleep(float("inf") if duration_s is None else duration_s))
        drained: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({sender, stop, over}, return_when=asyncio.FIRST_COMPLETED)
            self._sending = False
            if not sender.done() and not stop.done():
                drained = asyncio.create_task(self.clock.sleep(self.spec.limits.drain_grace_s))
                await asyncio.wait({sender, stop, drained}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [task for task in (sender, stop, over, drained) if task]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not sender.cancelled():
            sender.result()

    async def _closed_loop(self, connections: list[Connection], bodies: Iterator[Request]) -> None:
        """As many users as connections; each sends its next request as soon as its last one has ended."""

        async def user(connection: Connection) -> None:
            while self._sending and (body := next(bodies, None)) is not None:
                await self._fly(connection, self._take_off(body, time.monotonic_ns()))

        async with asyncio.TaskGroup() as users:
            for connection in connections:
                users.create_task(user(connection))

    async def _open_loop(
        self, connections: list[Connection], bodies: Iterator[Request], offsets: list[int], started_ns: int
    ) -> None:
        """Requests at their scheduled times, whatever the service does, unless the concurrency caps them."""
        cap = self.spec.workload.load.concurrency
        slots = asyncio.Semaphore(cap) if cap else contextlib.nullcontext()
        idle = list(connections)

        async def arrive(flight: Flight) -> None:
            async with slots:
                if not self._sending:
                    return
                if idle:
                    connection = idle.pop()
                else:
                    connection = Connection(self._endpoint)
                    connections.append(connection)
                await self._fly(connection, flight)
                idle.append(connection)

        async with asyncio.TaskGroup() as arrivals:
            for offset, body in zip(offsets, bodies, strict=False):
                await self._sleep_until(started_ns + offset)
                if not self._sending:
                    return
                arrivals.create_task(arrive(self._take_off(body, started_ns + offset)))

    def _take_off(self, body: Request, scheduled_ns: int) -> Flight:
        flight = Flight(body, scheduled_ns)
        self._flights.append(flight)
        return flight

    async def _fly(self, connection: Connection, flight: Flight) -> None:
        payload = self._endpoint.payload(flight.request.id, flight.request.body)
        await connection.perform(payload, flight.exchange, self.spec.workload.request_timeout_s)
        flight.ended = True
        self._raw_bytes += sum(len(data) for _, data in flight.exchange.pieces)
        if self._raw_bytes > RAW_LIMIT_BYTES:
            flight.read()
        if not flight.exchange.refused:
            self._refused_in_a_row = 0
            return
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSED_LIMIT:
            self.lost = True
            self._stop.set()
        await self.clock.sleep(REFUSED_PAUSE_S)

    async def _sleep_until(self, at_ns: int) -> None:
        """Timers may fire up to a millisecond early or late (uvloop): sleep again until the time has come."""
        while (left_ns := at_ns - time.monotonic_ns()) > 0:
            await self.clock.sleep(left_ns / NS)
