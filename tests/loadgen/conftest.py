"""Servers to load, started and ended for each test."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from loadgen_servers import Certificate, Peer, RawServer, Script, Simulated


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    """One for localhost, signed by itself."""
    return Certificate()


@pytest.fixture
async def raw_server() -> AsyncIterator[Callable[[Script], Awaitable[RawServer]]]:
    servers: list[asyncio.Server] = []
    handlers: set[asyncio.Task[None]] = set()

    async def start(script: Script) -> RawServer:
        raw = RawServer()

        async def handle(peer: Peer) -> None:
            try:
                await script(peer)
            except (asyncio.IncompleteReadError, ConnectionError):
                peer.broken = True
            finally:
                peer.writer.close()
                with contextlib.suppress(ConnectionError):
                    await peer.writer.wait_closed()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            raw.peers.append(Peer(reader, writer, len(raw.peers)))
            handlers.add(asyncio.create_task(handle(raw.peers[-1])))

        raw.listener = await asyncio.start_server(connected, "127.0.0.1", 0)
        servers.append(raw.listener)
        raw.url = f"http://127.0.0.1:{raw.listener.sockets[0].getsockname()[1]}"
        return raw

    yield start
    for server in servers:
        server.close()
    for handler in handlers:
        handler.cancel()
    for ended in await asyncio.gather(*handlers, return_exceptions=True):
        if ended is not None and not isinstance(ended, asyncio.CancelledError):
            raise ended


@pytest.fixture
async def simulated(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Simulated]]]:
    started: list[asyncio.subprocess.Process] = []

    async def start(*flags: str) -> Simulated:
        record = tmp_path / "record.jsonl"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "swarmtune.simulator", "--port", "0", "--record", str(record), *flags),
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout
        line = (await process.stdout.readline()).decode()
        return Simulated(process, line.split()[-1], record)

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
