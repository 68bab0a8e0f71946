"""Turns: services that share a node are measured one at a time, while the others may start (``parallel.in_turn``)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager

from swarmtune.execution.config import NodeConfig

Turn = Callable[[], AbstractAsyncContextManager[None]]
"""Makes a context manager: while it is held, no other service on these nodes is measured."""


class Turns:
    """The turns of all groups of a run."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], asyncio.Lock] = {}

    def of(self, nodes: Iterable[NodeConfig]) -> Turn:
        """The turn of a service on these nodes. Locks are taken in one order, so that there is no deadlock."""
        places = sorted({(node.host, node.ssh_port) for node in nodes})
        locks = [self._places.setdefault(place, asyncio.Lock()) for place in places]

        @contextlib.asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            async with contextlib.AsyncExitStack() as stack:
                for lock in locks:
                    await stack.enter_async_context(lock)
                yield

        return turn


@contextlib.asynccontextmanager
async def any_time() -> AsyncIterator[None]:
    """No-op turn, for groups that share no node."""
    yield
