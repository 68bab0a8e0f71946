"""How services speak with each other, in this process and over links to others.

Buses form a tree: the controller's, one on each further host, one in each process of a service. Each passes on what is
for others, like a switch: it learns behind which link a service is from what it hears.
"""

from __future__ import annotations

import asyncio
import itertools
import select
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from swarmtune.clock import Clock, RealClock
from swarmtune.errors import CommunicationError, IPCTimeoutError
from swarmtune.loadgen.distributed.links import Link
from swarmtune.loadgen.distributed.messages import BusMessage, Envelope, Failure, Gone, pack, unpack

M = TypeVar("M", bound=BusMessage)
Handler = Callable[[str, Any], BusMessage | None]


@dataclass(eq=False)
class Pending:
    """An answer that is to come. ``answer`` raises what the other side raised, as the same error."""

    to: str
    done: bool = False
    message: Any = None
    error: Exception | None = None

    def answer(self) -> Any:
        """The answer; only when done."""
        if self.error is not None:
            raise self.error
        return self.message


class Bus:
    """Single-threaded but for ``Channel.publish`` to a service behind a link. ``clock``: of all its services."""

    def __init__(self, clock: Clock | None = None, on_lost: Callable[[Link], None] = lambda _: None) -> None:
        """``on_lost`` is called with the link of a peer that is gone, besides Gone for each service that was there."""
        self.clock = clock or RealClock()
        self._on_lost = on_lost
        self._channels: dict[str, Channel] = {}
        self._links: list[Link] = []
        self._routes: dict[str, tuple[Link, str]] = {}
        self._queue: deque[Envelope] = deque()
        self._pending: dict[int, Pending] = {}
        self._numbers = itertools.count(1)

    def attach(self, link: Link, service: str = "", peer: str = "") -> None:
        """Use this link, too; ``service`` is known to be behind it. The bus closes it."""
        self._links.append(link)
        if service:
            self._routes[service] = (link, peer)

    def learn(self, service: str, like: str) -> None:
        """Send messages for ``service`` the same way as those for ``like``."""
        if route := self._routes.get(like):
            self._routes[service] = route

    def channel(self, service: str) -> Channel:
        """The place of this service on the bus; it hears messages from now on."""
        return self._channels.setdefault(service, Channel(self, service))

    def abandon(self, service: str, error: Exception) -> None:
        """Nothing will come from this service any more: what it still owes ends with this error."""
        self._routes.pop(service, None)
        for number, pending in list(self._pending.items()):
            if pending.to == service:
                self._settle(number, None, error)

    def wait(self, timeout_s: float) -> None:
        """Deliver what has come; if there is nothing, wait for it at most so long. May be called from handlers."""
        self._receive()
        if not self._queue and timeout_s > 0:
            self._pause(timeout_s)
            self._receive()
        while self._queue:
            self._deliver(self._queue.popleft())

    def close(self) -> None:
        """Close all links."""
        for link in self._links:
            link.close()
        self._links.clear()

    # --- for channels ----------------------------------------------------------------------------------------------

    def send(self, envelope: Envelope) -> None:
        """Route this envelope. A message to a service that does not exist is lost."""
        self._route(envelope)

    def expect(self, to: str) -> tuple[int, Pending]:
        """A number for a question to this service, and the answer that will come."""
        number = next(self._numbers)
        pending = self._pending[number] = Pending(to)
        return number, pending

    # --- inside ----------------------------------------------------------------------------------------------------

    def _pause(self, timeout_s: float) -> None:
        """Wait until a link can be read. Without a link, the wait passes on the clock: at once, if it is virtual."""
        poll, waits = select.poll(), False
        for link in self._links:
            for descriptor in link.descriptors:
                poll.register(descriptor, select.POLLIN)
                waits = True
        if waits:
            poll.poll(timeout_s * 1000)
        else:
            asyncio.run(self.clock.sleep(timeout_s))

    def _receive(self) -> None:
        for link in list(self._links):
            for peer, data in link.receive():
                if data is None:
                    self._lost(link, peer)
                    self._on_lost(link)
                    continue
                envelope = unpack(data)
                self._routes[envelope.sender] = (link, peer)
                self._route(envelope, link)

    def _lost(self, link: Link, peer: str) -> None:
        for name in [name for name, route in self._routes.items() if route == (link, peer)]:
            del self._routes[name]
            self._queue.append(Envelope(name, "", 0, 0, Gone()))

    def _route(self, envelope: Envelope, source: Link | None = None) -> None:
        to = envelope.to
        if not to or to in self._channels:
            self._queue.append(envelope)
        if to in self._channels:
            return
        if route := self._routes.get(to):
            route[0].send(pack(envelope), route[1])
            return
        for link in [link for link in self._links if link is not source]:
            link.send(pack(envelope))

    def _deliver(self, envelope: Envelope) -> None:
        if envelope.answers:
            message = envelope.message
            self._settle(
                envelope.answers, message, message.error(envelope.sender) if isinstance(message, Failure) else None
            )
            return
        self._handle(envelope)
        if isinstance(envelope.message, Gone):  # unless a handler knew a better reason
            self.abandon(envelope.sender, CommunicationError(f"{envelope.sender} cannot be reached any more"))

    def _handle(self, envelope: Envelope) -> None:
        message, number = envelope.message, envelope.number
        for channel in [c for c in self._channels.values() if envelope.to in ("", c.name)]:
            for handler in channel.handlers[type(message)]:
                if not number:
                    handler(envelope.sender, message)
                    continue
                try:
                    answer = handler(envelope.sender, message)
                except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
                    answer = Failure.of(error)
                if answer is not None:
                    self._route(Envelope(channel.name, envelope.sender, 0, number, answer))

    def _settle(self, number: int, message: BusMessage | None, error: Exception | None) -> None:
        if pending := self._pending.pop(number, None):
            pending.done, pending.message, pending.error = True, message, error


class Channel:
    """What one service uses to speak and to hear. See Bus.channel."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.name = name
        self.handlers: defaultdict[type[BusMessage], list[Handler]] = defaultdict(list)

    def subscribe(self, kind: type[M], handler: Callable[[str, M], BusMessage | None]) -> None:
        """Call ``handler(sender, message)`` for each message of this type to this service, or to all.

        What it returns, or an error that it raises, is the answer to a service that asked.
        """
        self.handlers[kind].append(handler)

    def publish(self, message: BusMessage, to: str = "") -> None:
        """Tell one service, or all. A message to a service that is not there is lost."""
        self.bus.send(Envelope(self.name, to, 0, 0, message))

    def ask(self, message: BusMessage, to: str) -> Pending:
        """Tell one service; its answer comes during ``Bus.wait``."""
        number, pending = self.bus.expect(to)
        self.bus.send(Envelope(self.name, to, number, 0, message))
        return pending

    def request(self, message: BusMessage, to: str, timeout_s: float) -> Any:
        """Ask and wait for the answer. IPCTimeoutError; CommunicationError if the other one is gone; its own error."""
        pending, clock = self.ask(message, to), self.bus.clock
        deadline = clock.monotonic() + timeout_s
        while not pending.done:
            rest_s = deadline - clock.monotonic()
            if rest_s <= 0:
                raise IPCTimeoutError(f"{to} did not answer within {timeout_s:g} s")
            self.bus.wait(rest_s)
        return pending.answer()
