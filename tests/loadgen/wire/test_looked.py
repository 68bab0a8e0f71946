"""How sure is a stamp? ``looked``: at that time nothing had come yet."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from test_wire import CHUNKED, Pair


@pytest.mark.parametrize("kind", ["python", "native"])
def test_a_wait_that_slept_knows_that_nothing_came_before_it_was_woken(tmp_path: Path, kind: str) -> None:
    """Two chunks at once after a long silence: they came together, not somewhere in the silence."""
    pair = Pair(kind, tmp_path / "spool.bin")
    try:
        pair.wire.send(pair.number, 1, b"ping")
        assert pair.peer.recv(10) == b"ping"

        def answer() -> None:
            silence = threading.Event()
            silence.wait(0.2)
            pair.peer.sendall(CHUNKED + b"1\r\na\r\n1\r\nb\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        pair.wire.wait(2_000_000_000)
        thread.join()
        pair.wire.wait(0)
        ((_, _, read, kernel, looked, _),) = pair.records()
        assert kernel <= read
        assert (
            abs(kernel - looked) < 50_000_000
        )  # not the 0.2 s of silence; a halted virtual CPU wakes up after the stamp
    finally:
        pair.close()
