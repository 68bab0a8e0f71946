"""The workers of one machine."""

from __future__ import annotations

import zlib
from pathlib import Path

from swarmtune.errors import BenchmarkExecutionError
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.children import Children
from swarmtune.loadgen.distributed.clocks import monotonic_ns
from swarmtune.loadgen.distributed.lifecycle import on_cleanup, on_stop
from swarmtune.loadgen.distributed.messages import Done, Piece, Ping, Pong, ReadPiece, Spawn
from swarmtune.loadgen.distributed.service import Service, on_message
from swarmtune.loadgen.run import SPOOL_FILE

PIECE_BYTES = 4 * 2**20
WORKERS_FOLDER = "workers"


def spool_of(worker: str, place: Path) -> Path:
    """The spool of this worker, if it is on this machine. ``place``: folder of its manager."""
    return place / WORKERS_FOLDER / worker / SPOOL_FILE


class WorkerManager(Service):
    """One per machine: starts the workers, shows its clock, and hands out what the workers have recorded."""

    def __init__(self, bus: Bus, name: str, place: Path, clock_offset_ns: int = 0) -> None:
        """``clock_offset_ns``: see serve_host."""
        super().__init__(bus, name, place)
        self._offset = clock_offset_ns
        self._children = Children(self.channel, place / WORKERS_FOLDER, clock_offset_ns)

    @on_stop
    def dismiss(self) -> None:
        """The workers may leave."""
        self._children.dismiss()

    @on_cleanup
    def end(self) -> None:
        """Those that are still there end now."""
        self._children.end()

    @on_message(Spawn)
    def spawn(self, _: str, message: Spawn) -> Done:
        """OSError if the machine has no room for a process."""
        for name in message.workers:
            self._children.start(name)
        return Done()

    @on_message(Ping)
    def show_clock(self, _: str, __: Ping) -> Pong:
        """What the clock of this machine shows."""
        now = monotonic_ns(self.clock) + self._offset
        return Pong(now, now)

    @on_message(ReadPiece)
    def read_piece(self, _: str, message: ReadPiece) -> Piece:
        """A part of a file that a worker left. BenchmarkExecutionError, OSError if there is none."""
        if "/" in message.file:
            raise BenchmarkExecutionError(f"{self.name} gives no file {message.file}")
        with (self._children.directory(message.worker) / message.file).open("rb") as file:
            file.seek(message.offset)
            data = file.read(PIECE_BYTES)
        following = message.offset + len(data) if len(data) == PIECE_BYTES else -1
        return Piece(zlib.compress(data, 1), following)
