"""The worker processes of one machine: started, watched, ended; none is restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from swarmtune.errors import BenchmarkExecutionError
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.lifecycle import on_cleanup, on_configure, on_initialize, on_stop
from swarmtune.loadgen.distributed.links import SocketLink
from swarmtune.loadgen.distributed.messages import Died, Done, Gone, Kill, Piece, ReadPiece, Shutdown, Spawn
from swarmtune.loadgen.distributed.service import CONTROLLER, Service

PIECE_BYTES = 4 * 2**20
LEAVE_S = 2.0  # for a worker to end by itself
TAIL = 300  # characters of its last words


@dataclass
class _Process:
    popen: subprocess.Popen[bytes]
    directory: Path
    told: str = ""  # why it was killed


class WorkerManager(Service):
    """One per machine. Spawn, ReadPiece and Kill come from the controller."""

    def __init__(self, bus: Bus, name: str, directory: Path, clock_offset_ns: int = 0) -> None:
        """The files of the workers go below ``directory``. ``clock_offset_ns``: see serve_host."""
        super().__init__(bus, name)
        self._directory = directory
        self._offset = clock_offset_ns
        self._processes: dict[str, _Process] = {}
        self._leaving = False

    @on_initialize
    def listen(self) -> None:
        """For commands."""
        self.subscribe(Spawn, self._spawn)
        self.subscribe(Gone, self._gone)
        self.subscribe(Kill, self._kill)
        self.subscribe(ReadPiece, self._read)

    @on_configure
    def make_place(self) -> None:
        """OSError if that cannot be written."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._place = Path(tempfile.mkdtemp(prefix="workers-", dir=self._directory))

    @on_cleanup
    def remove_place(self) -> None:
        """All files of the workers."""
        if place := getattr(self, "_place", None):
            shutil.rmtree(place, ignore_errors=True)

    @on_stop
    def dismiss(self) -> None:
        """Tell the workers that they may leave."""
        self._leaving = True
        for name in self._processes:
            self.publish(Shutdown(), name)
        deadline = time.monotonic() + LEAVE_S
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(max(0.0, deadline - time.monotonic()))

    @on_cleanup
    def end(self) -> None:
        """Those that are still there end now."""
        self._leaving = True
        for process in self._processes.values():
            process.popen.kill()
            process.popen.wait()

    # --- commands --------------------------------------------------------------------------------------------------

    def _spawn(self, _: str, message: Spawn) -> Done:
        for name in message.workers:
            self._start(name)
        return Done()

    def _start(self, name: str) -> None:
        directory = self._place / name
        directory.mkdir()
        ours, theirs = socket.socketpair()
        argv = (
            *(sys.executable, "-P", "-m", "swarmtune.loadgen.distributed.worker", "--service", name),
            *("--descriptor", str(theirs.fileno()), "--parent", str(os.getpid()), "--directory", str(directory)),
            *("--clock-offset-ns", str(self._offset)),
        )
        with theirs, (directory / "stderr").open("wb") as stderr:
            popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for us; we tell them
            )  # fmt: skip
        self._processes[name] = _Process(popen, directory)
        self.bus.attach(SocketLink(ours), name, SocketLink.PEER)

    def _gone(self, name: str, _: Gone) -> None:
        process = self._processes.get(name)
        if process is None or self._leaving:
            return
        try:
            code = process.popen.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            code = process.popen.wait()
        reason = process.told or _reason(code, process.directory / "stderr")
        self.bus.abandon(name, BenchmarkExecutionError(f"{name} {reason}"))
        self.publish(Died(name, reason), CONTROLLER)

    def _kill(self, _: str, message: Kill) -> None:
        if process := self._processes.get(message.worker):
            process.told = message.reason
            process.popen.kill()

    def _read(self, _: str, message: ReadPiece) -> Piece:
        process = self._processes.get(message.worker)
        if process is None or "/" in message.file:
            raise BenchmarkExecutionError(f"{self.name} has no file {message.file} of {message.worker}")
        with (process.directory / message.file).open("rb") as file:
            file.seek(message.offset)
            data = file.read(PIECE_BYTES)
        following = message.offset + len(data) if len(data) == PIECE_BYTES else -1
        return Piece(zlib.compress(data, 1), following)


def _reason(code: int, stderr: Path) -> str:
    text = " ".join(stderr.read_bytes()[-TAIL:].decode(errors="replace").split())
    words = f": {text}" if text else ""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}{words}"
    return f"ended with exit code {code}{words}"
