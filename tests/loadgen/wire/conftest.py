"""The kernel begins to stamp a moment after the first socket has asked for it: here one asks for the whole session."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

SO_TIMESTAMPNS = 35


@pytest.fixture(scope="session", autouse=True)
def _stamping() -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        peer, _ = server.accept()
        with peer:
            ours.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            for _ in range(10_000):
                peer.sendall(b"x")
                if ours.recvmsg(1, 256)[1]:
                    break
            yield
