"""Links to other machines: ZeroMQ, encrypted and authenticated on both sides by CURVE (RFC 26/CurveZMQ).

The keys are in a token file that the controller writes and the user copies to the other machines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from swarmtune.clock import Clock, RealClock
from swarmtune.errors import CommunicationError, ConfigPathError, ConfigValidationError, MissingExtraError
from swarmtune.files import opened
from swarmtune.loadgen.distributed.links import Link

try:
    import zmq
    from zmq.utils import z85
    from zmq.utils.monitor import recv_monitor_message
except ImportError as missing:
    raise MissingExtraError("Load from several machines", "cluster") from missing

LINGER_MS = 1000  # for the last words
ALIVE_MS = 1000  # between the transport's own signs of life
LOST_MS = 10_000  # without one
LARGEST_TOKEN = 10_000  # bytes
FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


@dataclass(frozen=True)
class Token:
    """The keys of both sides, in Z85. Their owner may send load, and can read the API key of the run."""

    controller_public: str
    controller_secret: str
    host_public: str
    host_secret: str

    @classmethod
    def fresh(cls) -> Self:
        """New keys."""
        return cls(*(key.decode() for _ in range(2) for key in zmq.curve_keypair()))

    @classmethod
    def read(cls, path: Path) -> Self:
        """ConfigPathError if the file is not there, not a token, or readable by others."""
        try:
            if path.stat().st_mode & 0o077:
                raise ConfigPathError(f"The token {path} can be read by others; its keys are secret: chmod 600 {path}")
            with opened(path) as file:
                token = msgspec.json.decode(file.read(LARGEST_TOKEN), type=cls)
            for key in asdict(token).values():
                z85.decode(key.encode())
        except OSError as error:
            raise ConfigPathError(
                f"The token {path} cannot be read: {error.strerror}. `swarmtune bench --listen` writes it; copy it here."
            ) from error
        except (msgspec.MsgspecError, ValueError, LookupError, struct.error) as error:
            raise ConfigPathError(f"{path} is not a token of `swarmtune bench --listen`: {error}") from error
        return token

    @classmethod
    def at(cls, path: Path) -> Self:
        """The token in this file, or a new one that is written there (mode 0600)."""
        if path.exists():
            return cls.read(path)
        token = cls.fresh()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(token))
        except OSError as error:
            raise ConfigPathError(f"The token {path} cannot be written: {error.strerror}.") from error
        return token


class _ZmqLink(Link):
    """What both ends have in common: a socket, and the monitor that tells of handshakes."""

    def __init__(self, kind: int) -> None:
        self.refused = 0  # handshakes that failed: wrong keys
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(kind)
        for option, value in (
            (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.IPV6, 1), (zmq.HEARTBEAT_IVL, ALIVE_MS), (zmq.HEARTBEAT_TIMEOUT, LOST_MS),
        ):  # fmt: skip
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(FAILED | zmq.EVENT_DISCONNECTED)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return () if self._socket.closed else (self._socket.fileno(), self._monitor.fileno())

    def _frames(self, source: Any) -> Iterator[list[bytes]]:
        """One by one: the authenticator must answer a request before it reads the next."""
        while not source.closed:
            try:
                frames = source.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield frames

    def _disconnected(self) -> bool:
        found = False
        with contextlib.suppress(zmq.Again):
            while not self._socket.closed:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
                self.refused += bool(event & FAILED)
                found |= event == zmq.EVENT_DISCONNECTED
        return found

    def close(self) -> None:
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._context.destroy(LINGER_MS)


class Hub(_ZmqLink):
    """The controller's end; each host is a peer."""

    def __init__(self, address: str, token: Token) -> None:
        """Listen. ``address``: tcp://HOST:PORT, port 0 for any (then see ``address``). CommunicationError if it is taken."""
        host, port = _resolved(address)
        super().__init__(zmq.ROUTER)
        self._peers: set[bytes] = set()
        self._lost: list[bytes] = []
        self._allowed = z85.decode(token.host_public.encode())
        self._authenticator = self._context.socket(zmq.REP)  # authenticates each connection: RFC 27/ZAP
        try:
            self._authenticator.bind("inproc://zeromq.zap.01")
            self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._socket.setsockopt(zmq.CURVE_SERVER, 1)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, token.controller_secret.encode())
            self._socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            raise CommunicationError(f"Cannot listen on {address}: {error.strerror}. Choose another port.") from error
        self.address = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (*super().descriptors, self._authenticator.fileno()) if not self._socket.closed else ()

    def receive(self) -> list[tuple[str, bytes | None]]:
        for _, number, _, _, _, mechanism, key in self._frames(self._authenticator):
            allowed = mechanism == b"CURVE" and key == self._allowed
            answer = (b"200", b"OK") if allowed else (b"400", b"wrong key")
            self._authenticator.send_multipart([b"1.0", number, *answer, b"", b""])
        self._disconnected()
        found: list[tuple[str, bytes | None]] = []
        for peer, data in self._frames(self._socket):
            self._peers.add(peer)
            found.append((peer.hex(), data))
        found += [(peer.hex(), None) for peer in self._lost]
        self._lost.clear()
        return found

    def send(self, data: bytes, peer: str = "") -> None:
        for identity in [bytes.fromhex(peer)] if peer else list(self._peers):
            try:
                self._socket.send_multipart([identity, data])
            except zmq.ZMQError:  # EHOSTUNREACH: its connection is gone
                if identity in self._peers:
                    self._peers.remove(identity)
                    self._lost.append(identity)


class Member(_ZmqLink):
    """A host's end."""

    PEER = "controller"

    def __init__(self, address: str, token: Token, clock: Clock | None = None) -> None:
        """Connecting goes on in the background. ``lost``: the controller was there and is gone.

        ``last_heard``: when it was last heard of (monotonic, s; 0: never).
        """
        host, port = _resolved(address)
        super().__init__(zmq.DEALER)
        self.lost = False
        self.last_heard = 0.0
        self._clock = clock or RealClock()
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, token.controller_public.encode())
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, token.host_public.encode())
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, token.host_secret.encode())
        self._socket.connect(f"tcp://{host}:{port}")

    def receive(self) -> list[tuple[str, bytes | None]]:
        if self.lost:
            return []
        found: list[tuple[str, bytes | None]] = [(self.PEER, data) for (data,) in self._frames(self._socket)]
        if found:
            self.last_heard = self._clock.monotonic()
        if self._disconnected() and self.last_heard:
            self.lost = True
            found.append((self.PEER, None))
        return found

    def send(self, data: bytes, peer: str = "") -> None:  # noqa: ARG002 - there is only one
        if not self.lost:
            self._socket.send(data)


def parts_of(address: str) -> tuple[str, int]:
    """Host and port of tcp://HOST:PORT; ConfigValidationError."""
    try:
        url = urlsplit(address)
        if url.scheme == "tcp" and url.hostname and url.port is not None and not url.path:
            return url.hostname, url.port
    except ValueError:
        pass
    raise ConfigValidationError([f"{address}: an address has the form tcp://HOST:PORT"])


def _resolved(address: str) -> tuple[str, int]:
    """With the host's IP address; CommunicationError if it has none."""
    host, port = parts_of(address)
    try:
        found = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise CommunicationError(f"The host {host} is not known: {error.strerror}.") from error
    return (f"[{found}]" if ":" in found else found), port
