"""What all services have in common: a name, a bus, a life, and a sign of life once per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from swarmtune.loadgen.distributed.bus import Bus, Pending
from swarmtune.loadgen.distributed.lifecycle import LifeCycle
from swarmtune.loadgen.distributed.messages import Heartbeat, Message

CONTROLLER = "controller"
BEAT_S = 1.0
M = TypeVar("M", bound=Message)


class Service(LifeCycle):
    """On a bus, under a name that no other service has."""

    def __init__(self, bus: Bus, name: str) -> None:
        super().__init__()
        self.bus = bus
        self.name = name
        self._beat_at = 0.0

    def subscribe(self, kind: type[M], handler: Callable[[str, M], Message | None]) -> None:
        """See Bus.subscribe."""
        self.bus.subscribe(self.name, kind, handler)

    def publish(self, message: Message, to: str = "") -> None:
        """See Bus.publish."""
        self.bus.publish(self.name, message, to)

    def ask(self, message: Message, to: str) -> Pending:
        """See Bus.ask."""
        return self.bus.ask(self.name, message, to)

    def request(self, message: Message, to: str, timeout_s: float) -> Any:
        """See Bus.request."""
        return self.bus.request(self.name, message, to, timeout_s)

    def beat(self) -> None:
        """Give a sign of life, if it is time."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            self.publish(Heartbeat(self.state), CONTROLLER)


class Watchdog:
    """Who has not been heard of for too long. Pure: the caller says what time it is (seconds)."""

    def __init__(self, tell_s: float = 10.0, dead_s: float = 30.0) -> None:
        """After ``tell_s`` a silence is told, after ``dead_s`` its service counts as dead."""
        self.tell_s, self.dead_s = tell_s, dead_s
        self._heard: dict[str, float] = {}
        self._told: set[str] = set()

    def heard(self, name: str, now: float) -> None:
        """A sign of life."""
        self._heard[name] = now
        self._told.discard(name)

    def forget(self, names: Iterable[str]) -> None:
        """They need not give any more."""
        for name in names:
            self._heard.pop(name, None)

    def missing(self, now: float) -> list[str]:
        """Silent for ``tell_s``; each silence comes out once."""
        found = [n for n, at in self._heard.items() if now - at >= self.tell_s and n not in self._told]
        self._told |= set(found)
        return found

    def dead(self, now: float) -> list[str]:
        """Silent for ``dead_s``."""
        return [name for name, at in self._heard.items() if now - at >= self.dead_s]
