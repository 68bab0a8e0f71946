"""The load generator watches itself: a starved client measures its own lateness, not the service's."""

from __future__ import annotations

import asyncio
import contextlib
import time

from swarmtune.clock import Clock
from swarmtune.loadgen.metrics import nearest_rank
from swarmtune.loadgen.spec import Limits

TICK_S = 0.02


class SelfCheck:
    """Lateness of a 20 ms ticker on the client's own event loop, and the CPU time of its process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lags_ms: list[float] = []
        self._ticker: asyncio.Task[None] | None = None
        self._began = (0.0, 0.0)
        self._cpu_share = 0.0

    def start(self) -> None:
        """Begin to watch."""
        self._began = (self._clock.monotonic(), time.process_time())
        self._ticker = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Stop watching; from now on ``metrics`` and ``reasons`` tell."""
        wall, cpu = self._clock.monotonic() - self._began[0], time.process_time() - self._began[1]
        self._cpu_share = cpu / wall if wall > 0 else 0.0
        if self._ticker:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker

    async def _tick(self) -> None:
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(TICK_S)
            self._lags_ms.append(max(0.0, (self._clock.monotonic() - before - TICK_S) * 1000))

    def metrics(self) -> dict[str, float]:
        """client_lag_ms (the largest), client_lag_p99_ms and client_cpu_share (of one core, over the measurement)."""
        found = {"client_cpu_share": self._cpu_share}
        if self._lags_ms:
            ordered = sorted(self._lags_ms)
            found |= {"client_lag_ms": ordered[-1], "client_lag_p99_ms": nearest_rank(ordered, 99)}
        return found

    def reasons(self, limits: Limits) -> list[str]:
        """Why the measurement cannot be trusted; empty if it can."""
        found = self.metrics()
        reasons = []
        lag, share = found.get("client_lag_p99_ms", 0.0), found["client_cpu_share"]
        if lag > limits.max_loop_lag_ms:
            reasons.append(
                f"the load generator's own event loop was late by {lag:.0f} ms at p99 (limit {limits.max_loop_lag_ms:g} "
                "ms): give it a free core or lower the load"
            )
        if share > limits.max_cpu_share:
            reasons.append(
                f"the load generator used {share:.0%} of a core (limit {limits.max_cpu_share:.0%}): lower the load"
            )
        return reasons
