"""Processes of services, one for each: started, watched, ended; none is restarted."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from swarmtune.errors import BenchmarkExecutionError
from swarmtune.files import created
from swarmtune.loadgen.distributed.bus import Channel
from swarmtune.loadgen.distributed.links import SocketLink
from swarmtune.loadgen.distributed.messages import Died, Gone, Kill, Shutdown
from swarmtune.loadgen.distributed.service import CONTROLLER

LEAVE_S = 2.0  # time that a process has to end by itself
TAIL = 300  # characters of its stderr that are shown


@dataclass
class _Child:
    popen: subprocess.Popen[bytes]
    directory: Path
    kill_reason: str = ""


class Children:
    """The processes of one parent, which speaks on ``channel``. They end with it: see process.py."""

    def __init__(self, channel: Channel, place: Path, clock_offset_ns: int = 0) -> None:
        """Each gets a folder of its own name in ``place``. ``clock_offset_ns``: for tests, see serve_host."""
        self._channel = channel
        self._place = place
        self._offset = clock_offset_ns
        self._children: dict[str, _Child] = {}
        self._leaving = False
        channel.subscribe(Gone, self._gone)
        channel.subscribe(Kill, self._kill)

    def start(self, name: str) -> None:
        """The process of this service. OSError if there is no room for it."""
        directory = self._place / name
        directory.mkdir(parents=True)
        ours, theirs = socket.socketpair()
        argv = (
            *(sys.executable, "-P", "-m", "swarmtune.loadgen.distributed.process", "--service", name),
            *("--descriptor", str(theirs.fileno()), "--parent", str(os.getpid()), "--directory", str(directory)),
            *("--clock-offset-ns", str(self._offset)),
        )
        with theirs, created(directory / "stderr") as stderr:
            popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the controller, which tells all others
            )  # fmt: skip
        self._children[name] = _Child(popen, directory)
        self._channel.bus.attach(SocketLink(ours), name, SocketLink.PEER)

    def directory(self, name: str) -> Path:
        """Where the files of this service are. BenchmarkExecutionError if there is none of this name."""
        if name not in self._children:
            raise BenchmarkExecutionError(f"{self._channel.name} has no process {name}")
        return self._children[name].directory

    def dismiss(self) -> None:
        """Tell all that they may leave, and wait a moment for them."""
        self._leaving = True
        for name in self._children:
            self._channel.publish(Shutdown(), name)
        deadline = time.monotonic() + LEAVE_S  # of real processes: no other clock
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.popen.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """Those that are still there end now. A second time does nothing."""
        self._leaving = True
        for child in self._children.values():
            child.popen.kill()
            child.popen.wait()

    def _gone(self, name: str, _: Gone) -> None:
        child = self._children.get(name)
        if child is None or self._leaving:
            return
        try:
            code = child.popen.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            child.popen.kill()
            code = child.popen.wait()
        reason = child.kill_reason or _reason(code, child.directory / "stderr")
        self._channel.bus.abandon(name, BenchmarkExecutionError(f"{name} {reason}"))
        self._channel.publish(Died(name, reason), CONTROLLER)

    def _kill(self, _: str, message: Kill) -> None:
        if child := self._children.get(message.service):
            child.kill_reason = message.reason
            child.popen.kill()


def _reason(code: int, stderr: Path) -> str:
    text = " ".join(stderr.read_bytes()[-TAIL:].decode(errors="replace").split())
    words = f": {text}" if text else ""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}{words}"
    return f"ended with exit code {code}{words}"
