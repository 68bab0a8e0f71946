"""One simulated engine on several nodes: the master schedules, every rank writes its share of each step's tokens.

The other ranks connect to the master (port + 1), as the workers of real engines do. If a rank is lost, the master ends
at its next step; if the master is lost, the ranks end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import orjson

from swarmtune.clock import Clock
from swarmtune.simulator.openai import word

RETRY_S = 0.2
GIVE_UP_S = 60.0  # without a master
LINE_BYTES = 1 << 20


class RankLostError(Exception):
    """A rank has gone; the engine cannot go on."""


class Ranks:
    """The master's side. Tokens at place i of an answer are written by rank i modulo the number of nodes."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._others: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None

    @property
    def complete(self) -> bool:
        """Are all ranks connected?"""
        return len(self._others) == self.nodes - 1

    async def listen(self, host: str, port: int) -> None:
        """Listen for the other ranks. OSError if the port is taken."""
        if self.nodes > 1:
            self._server = await asyncio.start_server(self._welcome, host, port, limit=LINE_BYTES)

    async def words(self, places: Sequence[int]) -> list[str]:
        """The texts of the tokens at these places, each from the rank that writes it. RankLostError if one is gone."""
        by_rank = {rank: [p for p in places if p % self.nodes == rank] for rank in self._others}
        written = dict(zip(by_rank, await asyncio.gather(*(self._ask(r, p) for r, p in by_rank.items())), strict=True))
        texts = {rank: iter(found) for rank, found in written.items()}
        return [next(texts[p % self.nodes]) if p % self.nodes in texts else word(p) for p in places]

    async def close(self) -> None:
        """Close the connections to the other ranks."""
        if self._server is not None:
            self._server.close()
        for _, writer in self._others.values():
            writer.close()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.readline()
        try:
            rank = int(orjson.loads(hello)["rank"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            rank = 0
        if not 0 < rank < self.nodes or rank in self._others:
            writer.close()
            return
        self._others[rank] = (reader, writer)

    async def _ask(self, rank: int, places: list[int]) -> list[str]:
        """Also without any place: every rank takes part in every step."""
        reader, writer = self._others[rank]
        try:
            writer.write(orjson.dumps(places) + b"\n")
            line = await reader.readline()
            texts = orjson.loads(line)
        except (OSError, orjson.JSONDecodeError) as error:
            raise RankLostError(f"rank {rank} is gone") from error
        return [str(text) for text in texts]


async def serve_rank(rank: int, host: str, port: int, clock: Clock, stopped: asyncio.Event) -> int:
    """Run a rank until the master or ``stopped`` ends it. Exit code: 0 stopped, 1 no master, or the master was lost."""
    found = await _connected(host, port, clock, stopped)
    if found is None:
        return 0 if stopped.is_set() else 1
    reader, writer = found
    writer.write(orjson.dumps({"rank": rank}) + b"\n")
    stop = asyncio.create_task(stopped.wait())
    try:
        while not stopped.is_set():
            request = asyncio.create_task(reader.readline())
            await asyncio.wait({request, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                request.cancel()
                return 0
            line = request.result()
            if not line:
                sys.stderr.write(f"RuntimeError: rank {rank} has lost its master (EngineDeadError)\n")
                return 1
            writer.write(orjson.dumps([word(place) for place in orjson.loads(line)]) + b"\n")
            await writer.drain()
    except OSError as error:
        sys.stderr.write(f"RuntimeError: rank {rank} has lost its master: {error} (EngineDeadError)\n")
        return 1
    finally:
        stop.cancel()
        writer.close()
    return 0


async def _connected(
    host: str, port: int, clock: Clock, stopped: asyncio.Event
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    deadline = clock.monotonic() + GIVE_UP_S
    while clock.monotonic() < deadline and not stopped.is_set():
        try:
            return await asyncio.open_connection(host, port, limit=LINE_BYTES)
        except OSError:
            await clock.sleep(RETRY_S)
    if not stopped.is_set():
        sys.stderr.write(f"RuntimeError: no master answers on {host}:{port}\n")
    return None
