"""This process's place in a Ray cluster, of which Ray has one per process.

Ray ends a process when it cannot reach the head of its cluster for a minute (``rpc_client.h``: "The program will
terminate"), also one that tries to join where nobody is. So we look first, and leave before that minute is over.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from swarmtune.clock import Clock, within
from swarmtune.errors import CommunicationError, Culprit, MissingExtraError

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # else Ray starts a cluster of its own when we have just left one
try:
    import ray
    from ray.experimental.internal_kv import _internal_kv_exists
except ImportError as missing:
    raise MissingExtraError("Nodes of a Ray cluster", "ray") from missing

__all__ = ["MEMBERSHIP", "ray"]

LOOK_S = 5.0  # between two looks at the head, and for its answer
LEAVE_S = 10.0  # until we join again
SILENT_S = 20.0  # a head that is silent for so long is gone; far less than Ray's minute

# What any HTTP/2 client says first (RFC 9113, 3.4), so that gRPC's server answers: the preface, and no settings of ours.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class RayMembership:
    """Joins a cluster, checks its head, leaves it. ``number`` counts joins and leaves, to recognise outdated objects."""

    def __init__(self) -> None:
        self.number = 0
        self._heads: dict[str, str] = {}  # configured address -> address of the head
        self._lock = threading.Lock()
        self._leaving: threading.Thread | None = None

    def join(self, address: str) -> None:
        """Join the cluster there ("auto": the one of this machine), unless we are in one.

        CommunicationError if there is none; for the user, unless we were there before.
        """
        with self._lock:
            if self._leaving is not None:
                self._leaving.join(LEAVE_S)
                if self._leaving.is_alive():
                    raise CommunicationError("the head of the Ray cluster does not answer, not even that we have left")
            if ray.is_initialized():
                return
            earlier_head = self._heads.get(address)
            culprit = Culprit.INFRASTRUCTURE if earlier_head else Culprit.USER
            try:
                _connect(earlier_head or address)
                with _quiet():
                    ray.init(
                        address=earlier_head or address,
                        logging_level=logging.ERROR,
                        log_to_driver=False,
                        configure_logging=False,
                    )
            except (OSError, RuntimeError, ValueError) as error:
                raise CommunicationError(
                    f"no Ray cluster answers at {address!r}: {error}. Start one (ray start --head) or name its address; "
                    "with RAY_AUTH_MODE=token both sides need the same token",
                    culprit=culprit,
                ) from error
            if not self._heads:
                atexit.register(self.end)  # before Ray's own
            self.number += 1
            self._heads[address] = _head()

    def leave(self, number: int) -> None:
        """Leave a cluster whose head is gone, if it is still the one that had this number.

        Ray would notify the head, and wait for one that hangs; we do not.
        """
        with self._lock:
            if self.number == number:
                self.number += 1
                self._leaving = threading.Thread(target=ray.shutdown, daemon=True)
                self._leaving.start()

    def end(self) -> None:
        """Leave at the end of the process; if the head hangs, exit with code 1, because Ray's own exit would hang, too."""
        self.leave(self.number)
        if self._leaving is not None:
            self._leaving.join(LEAVE_S)
            if self._leaving.is_alive():
                sys.stderr.write("the head of the Ray cluster hangs; it was not told that we have left\n")
                sys.stderr.flush()
                sys.stdout.flush()
                os._exit(1)

    async def check(self, number: int, clock: Clock) -> None:
        """CommunicationError if the head of the cluster that had this number does not answer now.

        A restarted head does not know us, so we leave. A call to a dead head blocks, and this process with it.
        """
        try:
            await within(clock, 2 * LOOK_S, asyncio.to_thread(_look))
        except ray.exceptions.RayError as error:
            await asyncio.to_thread(self.leave, number)
            raise CommunicationError(f"the head of the Ray cluster is another one now: {error}") from error
        except (OSError, TimeoutError) as error:
            raise CommunicationError(f"the head of the Ray cluster does not answer: {error}") from error

    async def watch(self, number: int, clock: Clock) -> None:
        """Return when we are no longer in the cluster that had this number; leave it when its head is gone."""
        last_answer = clock.monotonic()
        while self.number == number:
            try:
                await self.check(number, clock)
                last_answer = clock.monotonic()
            except CommunicationError:
                if clock.monotonic() - last_answer >= SILENT_S:
                    await asyncio.to_thread(self.leave, number)
            await clock.sleep(LOOK_S)


MEMBERSHIP = RayMembership()


def _head() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _look() -> None:
    _connect(_head())
    _internal_kv_exists(b"swarmtune")  # any question that raises when the head is another one; ray.nodes() aborts then


def _connect(address: str) -> None:
    """OSError if no server listens and answers there, for which Ray would wait. Addresses in Ray's own forms pass."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_S) as head:
            head.sendall(GREETING)
            head.recv(1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep our own handler of SIGTERM, which Ray replaces, and suppress Ray's warning when it cannot."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
