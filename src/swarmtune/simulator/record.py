"""The server's own record of every finished request, for checking the clients that measured it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson


class Record:
    """JSON lines, flushed after each. Stamps are CLOCK_MONOTONIC ns, one clock for all processes of the machine."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def write(
        self, request_id: str, received_ns: int, chunks_ns: Sequence[int], prompt_tokens: int, output_tokens: int
    ) -> None:
        """Append one request: when it was read, and when each token was about to be written."""
        row = {
            "request_id": request_id,
            "received_ns": received_ns,
            "chunks_ns": list(chunks_ns),
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
        }
        self._file.write(orjson.dumps(row) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
