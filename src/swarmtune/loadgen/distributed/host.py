"""A machine that lends its workers to a controller elsewhere: ``swarmtune bench-worker``."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarmtune.errors import CommunicationError, IPCTimeoutError
from swarmtune.loadgen.distributed import Patience
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.lifecycle import State
from swarmtune.loadgen.distributed.messages import Hello, Shutdown
from swarmtune.loadgen.distributed.network import Member, Token
from swarmtune.loadgen.distributed.service import BEAT_S, CONTROLLER, Watchdog
from swarmtune.loadgen.distributed.signals import interruptible
from swarmtune.loadgen.distributed.worker_manager import WorkerManager


@dataclass(frozen=True)
class Lent:
    """What a host lends, and the controller that it lends to. See serve_host."""

    address: str
    token: Path
    workers: int
    directory: Path
    on_note: Callable[[str], None]
    patience: Patience
    clock_offset_ns: int = 0


class Host:
    """``serve`` once."""

    def __init__(self, lent: Lent) -> None:
        self._lent = lent
        self._address = lent.address
        self._on_note = lent.on_note
        self._broken = ""
        self._last_heard = self._beat_at = 0.0
        self._bus = Bus()
        self._clock = self._bus.clock
        name = f"{socket.gethostname()}-{os.getpid()}"
        lent.directory.mkdir(parents=True, exist_ok=True)
        self._place = Path(tempfile.mkdtemp(prefix="host-", dir=lent.directory))
        self._manager = WorkerManager(self._bus, name, self._place, lent.clock_offset_ns)
        self._link = Member(lent.address, Token.read(lent.token), self._clock)
        self._bus.attach(self._link, CONTROLLER, Member.PEER)
        self._watchdog = Watchdog(lent.patience.tell_s, lent.patience.dead_s)
        self._manager.channel.subscribe(Shutdown, self._given_up)

    def serve(self, wait_s: float) -> None:
        """Until the controller needs no more. CommunicationError if it cannot be reached, refuses us, or is lost."""
        try:
            with interruptible(lambda: self._break("interrupted")):
                self._manager.initialize()
                self._manager.configure()
                self._join(wait_s)
                self._manager.start()
                self._on_note(f"taken by the controller at {self._address}")
                while not self._manager.dismissed and not self._broken:
                    self._step()
                if self._manager.state is State.RUNNING:
                    self._manager.fail()
        finally:
            try:
                self._manager.clean()
            finally:
                self._bus.close()
                shutil.rmtree(self._place, ignore_errors=True)
        if self._broken:
            raise CommunicationError(f"The run was not finished: {self._broken}.")

    def _join(self, wait_s: float) -> None:
        hello = self._manager.channel.ask(Hello(self._lent.workers), CONTROLLER)
        deadline = self._clock.monotonic() + wait_s
        while not hello.done and not self._broken:
            self._bus.wait(BEAT_S)
            if self._clock.monotonic() > deadline:
                raise IPCTimeoutError(
                    f"No run at {self._address} has taken this host within {wait_s:g} s: {self._why()}"
                )
        if hello.done:
            hello.answer()

    def _why(self) -> str:
        if self._link.refused:
            return "the controller refuses the token; copy the file that this run of `swarmtune bench --listen` names."
        return "nobody answers there; is `swarmtune bench --listen` running, and does no firewall stand between?"

    def _step(self) -> None:
        self._bus.wait(BEAT_S)
        if self._clock.monotonic() >= self._beat_at:
            self._beat_at = self._clock.monotonic() + BEAT_S
            self._manager.beat()
        if self._link.lost:
            self._break(f"the controller at {self._address} is gone")
        now = self._clock.monotonic()
        if self._link.last_heard > self._last_heard:
            self._last_heard = self._link.last_heard
            self._watchdog.sign_of_life(CONTROLLER, self._last_heard)
        for _ in self._watchdog.missing(now):
            self._on_note(f"nothing heard from the controller for {self._watchdog.tell_s:g} s")
        if self._watchdog.dead(now):
            self._break(f"nothing heard from the controller for {self._watchdog.dead_s:g} s")

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason

    def _given_up(self, _: str, message: Shutdown) -> None:
        if message.reason:
            self._break(message.reason)
