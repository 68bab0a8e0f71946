"""Who waits for a free group, and who gets it: the one expected to take longest, so that no long one is left for the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from swarmtune.records import Setting
from swarmtune.space import Space

M = TypeVar("M")
Array = NDArray[np.float64]
MEMORY = 256  # durations that an expectation rests on


class Durations:
    """How long the latest settings took, and from that how long others may take."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._points: list[Array] = []
        self._seconds: list[float] = []

    def add(self, setting: Setting, seconds: float) -> None:
        """It took so long."""
        self._points = [*self._points[-MEMORY + 1 :], self.space.encode(setting)]
        self._seconds = [*self._seconds[-MEMORY + 1 :], seconds]

    def expected_s(self, points: Array) -> Array:
        """Seconds, shape (m,), for points of shape (m, d) in the unit cube: the mean of those known, weighted by
        1 / distance² (Shepard 1968). 0 if none is.
        """
        if not self._points:
            return np.zeros(len(points))
        squares = np.sum((points[:, None, :] - np.array(self._points)[None, :, :]) ** 2, axis=2)
        weights = 1.0 / (squares + 1e-9)
        return np.asarray(weights @ np.array(self._seconds) / weights.sum(axis=1))


class Row(Generic[M]):
    """Settings that wait for a member of a pool. While nothing is known of how long they take: first come, first served.

    The longest first keeps the time until all are done at no more than 4/3 of the shortest possible (Graham 1969).
    """

    def __init__(self, durations: Durations, acquire: Callable[[], Awaitable[M]], release: Callable[[M], None]) -> None:
        """``release`` takes a member back that nobody waits for any more."""
        self._durations = durations
        self._acquire = acquire
        self._release = release
        self._waiting: dict[asyncio.Future[M], Array] = {}
        self._serving: asyncio.Task[None] | None = None

    async def member(self, setting: Setting) -> M:
        """The member for this setting, when it is its turn. Errors of ``acquire`` go to all who wait."""
        mine: asyncio.Future[M] = asyncio.get_running_loop().create_future()
        self._waiting[mine] = self._durations.space.encode(setting)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        try:
            return await mine
        except asyncio.CancelledError:
            self._waiting.pop(mine, None)
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._release(mine.result())
            raise

    async def close(self) -> None:
        """Nobody comes any more."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while self._waiting:
                member = await self._acquire()
                there = {mine: point for mine, point in self._waiting.items() if not mine.done()}
                if not there:  # they were cancelled meanwhile
                    self._release(member)
                    break
                expected = self._durations.expected_s(np.array([*there.values()]))
                chosen = [*there][int(np.argmax(expected))]
                del self._waiting[chosen]
                chosen.set_result(member)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            for mine in self._waiting:
                if not mine.done():
                    mine.set_exception(error)
            self._waiting.clear()
        finally:
            self._serving = None
