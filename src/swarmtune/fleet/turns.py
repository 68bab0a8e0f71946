"""Services that share a node are measured one at a time; while one is, the others may start (``parallel.in_turn``)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager

from swarmtune.execution.config import NodeConfig

Turn = Callable[[], AbstractAsyncContextManager[None]]
"""Who has entered it is measured alone on its nodes."""


class Turns:
    """The turns of all groups of a run."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], asyncio.Lock] = {}

    def of(self, nodes: Iterable[NodeConfig]) -> Turn:
        """The turn of a service on these nodes. Nodes are entered in one order, so that no two wait for each other."""
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
    """The turn of who shares nothing."""
    yield
