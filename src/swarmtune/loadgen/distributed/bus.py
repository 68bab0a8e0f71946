"""How services speak with each other, in this process and over links to others.

Buses form a tree: the controller's, one on each further host, one in each worker. Each passes on what is not for itself,
like a switch: it learns behind which link a service is from what it hears.
"""

from __future__ import annotations

import itertools
import select
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from swarmtune.errors import CommunicationError, IPCTimeoutError
from swarmtune.loadgen.distributed.links import Link
from swarmtune.loadgen.distributed.messages import Envelope, Failure, Gone, Message, pack, unpack

M = TypeVar("M", bound=Message)
Handler = Callable[[str, Any], Message | None]


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
    """Single-threaded but for ``publish`` to a service that is behind a link."""

    def __init__(self, on_lost: Callable[[], None] = lambda: None) -> None:
        """``on_lost`` is called when a peer is gone, besides Gone for each service that was there."""
        self._on_lost = on_lost
        self._services: set[str] = set()
        self._handlers: defaultdict[type[Message], list[tuple[str, Handler]]] = defaultdict(list)
        self._links: list[Link] = []
        self._routes: dict[str, tuple[Link, str]] = {}
        self._queue: deque[Envelope] = deque()
        self._pending: dict[int, Pending] = {}
        self._numbers = itertools.count(1)

    def attach(self, link: Link, service: str = "", peer: str = "") -> None:
        """A further way to others, if it is known: to this service. The bus closes it."""
        self._links.append(link)
        if service:
            self._routes[service] = (link, peer)

    def learn(self, service: str, like: str) -> None:
        """This service is where that other one is."""
        if route := self._routes.get(like):
            self._routes[service] = route

    def subscribe(self, service: str, kind: type[M], handler: Callable[[str, M], Message | None]) -> None:
        """Call ``handler(sender, message)`` for each message of this type to this service, or to all.

        What it returns, or an error that it raises, is the answer to somebody who asked.
        """
        self._services.add(service)
        self._handlers[kind].append((service, handler))

    def publish(self, sender: str, message: Message, to: str = "") -> None:
        """Tell one service, or all. A message to somebody who is not there is lost."""
        self._route(Envelope(sender, to, 0, 0, message))

    def ask(self, sender: str, message: Message, to: str) -> Pending:
        """Tell one service; its answer comes during ``wait``."""
        number = next(self._numbers)
        pending = self._pending[number] = Pending(to)
        self._services.add(sender)
        self._route(Envelope(sender, to, number, 0, message))
        return pending

    def request(self, sender: str, message: Message, to: str, timeout_s: float) -> Any:
        """Ask and wait for the answer. IPCTimeoutError; CommunicationError if the other one is gone; its own error."""
        pending = self.ask(sender, message, to)
        deadline = time.monotonic() + timeout_s
        while not pending.done:
            left = deadline - time.monotonic()
            if left <= 0:
                raise IPCTimeoutError(f"{to} did not answer within {timeout_s:g} s")
            self.wait(left)
        return pending.answer()

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
            poll = select.poll()
            for link in self._links:
                for descriptor in link.descriptors:
                    poll.register(descriptor, select.POLLIN)
            poll.poll(timeout_s * 1000)
            self._receive()
        while self._queue:
            self._deliver(self._queue.popleft())

    def close(self) -> None:
        """Close all links."""
        for link in self._links:
            link.close()
        self._links.clear()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        for link in list(self._links):
            for peer, data in link.receive():
                if data is None:
                    self._lost(link, peer)
                    self._on_lost()
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
        if not to or to in self._services:
            self._queue.append(envelope)
        if to in self._services:
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
        for service, handler in list(self._handlers[type(envelope.message)]):
            if envelope.to not in ("", service):
                continue
            if not envelope.number:
                handler(envelope.sender, envelope.message)
                continue
            try:
                answer = handler(envelope.sender, envelope.message)
            except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
                answer = Failure.of(error)
            if answer is not None:
                self._route(Envelope(service, envelope.sender, 0, envelope.number, answer))

    def _settle(self, number: int, message: Message | None, error: Exception | None) -> None:
        if pending := self._pending.pop(number, None):
            pending.done, pending.message, pending.error = True, message, error


def all_done(pendings: Sequence[Pending]) -> bool:
    """Have all answers come, or one that is an error?"""
    return all(p.done for p in pendings) or any(p.error for p in pendings)
