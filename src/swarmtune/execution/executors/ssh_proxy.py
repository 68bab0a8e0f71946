"""The command of ProxyCommand, which carries a connection on its standard streams.

asyncssh's own way takes what the command writes to stderr for an answer of the node, and a closed stderr for the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence


class Proxy:
    """Runs in a session of its own, and ends with all that it started when the connection through it is closed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def close(self) -> None:
        """End it."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def wait_closed(self) -> None:
        """Until it has ended."""
        await self._process.wait()


async def open_proxy(argv: Sequence[str]) -> tuple[socket.socket, Proxy]:
    """Start it; the socket leads to its standard input and output. OSError if it does not start."""
    ours, theirs = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, Proxy(process)
