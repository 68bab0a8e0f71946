"""What all services have in common: a name, a channel on the bus, a life, and the commands that move it on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.lifecycle import LifeCycle, State, on_initialize
from swarmtune.loadgen.distributed.messages import BusMessage, Configure, Done, Heartbeat, Shutdown, Start

CONTROLLER, DATA, TIMING = "controller", "dataset-manager", "timing-manager"
WORKERS, RECORDS, POST = "worker-manager", "records-manager", "post-processor"
BEAT_S = 1.0
M = TypeVar("M", bound=BusMessage)
H = TypeVar("H", bound=Callable[..., Any])
_MARK = "_handled_message"


def on_message(kind: type[BusMessage]) -> Callable[[H], H]:
    """Decorator: the method gets each message of this type to its service, as ``method(sender, message)``.

    What it returns, or an error that it raises, is the answer to a service that asked.
    """

    def mark(method: H) -> H:
        setattr(method, _MARK, kind)
        return method

    return mark


class Service(LifeCycle):
    """On a bus, under a name that no other service has. It runs where its bus is: here, or in a process of its own."""

    order: Configure  # with the spec, once it is configured
    spec: Spec
    beats_itself = False  # in a process of its own, its main thread gives the signs of life just now

    def __init__(self, bus: Bus, name: str, place: Path) -> None:
        """``place``: folder for its files, which its creator removes."""
        super().__init__()
        self.bus = bus
        self.clock = bus.clock
        self.name = name
        self.place = place
        self.channel = bus.channel(name)
        self.dismissed = False

    @on_initialize
    def listen(self) -> None:
        """Hear the messages that have a method under ``on_message``."""
        names = dict.fromkeys(name for cls in reversed(type(self).__mro__) for name in vars(cls))
        for name in names:
            if kind := getattr(getattr(type(self), name, None), _MARK, None):
                self.channel.subscribe(kind, getattr(self, name))

    @on_message(Configure)
    def take_order(self, _: str, message: Configure) -> Done:
        """Keep the order, and go on to configured."""
        self.order, self.spec = message, Spec.model_validate_json(message.spec)
        self.configure()
        return Done()

    @on_message(Start)
    def be_ready(self, _: str, __: Start) -> Done:
        """Go on to running."""
        self.start()
        return Done()

    @on_message(Shutdown)
    def leave(self, _: str, message: Shutdown) -> None:
        """Go on to stopped; to failed, if the work is not done."""
        self.dismissed = True
        if self.state is State.RUNNING:
            self.fail() if message.reason else self.stop()

    def beat(self) -> None:
        """Give a sign of life."""
        self.channel.publish(Heartbeat(self.state), CONTROLLER)


class Watchdog:
    """Which services were silent for too long. Pure: the caller says what time it is (seconds)."""

    def __init__(self, tell_s: float = 10.0, dead_s: float = 30.0) -> None:
        """After ``tell_s`` a silence is reported, after ``dead_s`` its service counts as dead."""
        self.tell_s, self.dead_s = tell_s, dead_s
        self._last_sign: dict[str, float] = {}
        self._reported: set[str] = set()

    def sign_of_life(self, name: str, now: float) -> None:
        """Count the silence of this service from now on."""
        self._last_sign[name] = now
        self._reported.discard(name)

    def forget(self, names: Iterable[str]) -> None:
        """Watch these services no longer."""
        for name in names:
            self._last_sign.pop(name, None)

    def missing(self, now: float) -> list[str]:
        """Services silent for ``tell_s`` seconds; each silence is returned once."""
        silent = [n for n, at in self._last_sign.items() if now - at >= self.tell_s and n not in self._reported]
        self._reported |= set(silent)
        return silent

    def dead(self, now: float) -> list[str]:
        """Services silent for ``dead_s`` seconds."""
        return [name for name, at in self._last_sign.items() if now - at >= self.dead_s]
