"""The wire in Python, for systems without the C part. It behaves as native.c does."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from swarmtune.files import create
from swarmtune.loadgen.wire.base import (
    ANSWER_LIMIT,
    MALFORMED,
    NOTE,
    PEER_CLOSED,
    PIECE,
    RECORD,
    REFUSAL_LIMIT,
    SO_TIMESTAMPNS,
    TOO_LONG,
    UNASKED,
    Happening,
    Kind,
    Wire,
)
from swarmtune.loadgen.wire.framing import EndlessHeadError, Framing, Stream
from swarmtune.loadgen.wire.tls import Tls

READ_BYTES = 64 * 1024
SPOOL_BYTES = 512 * 1024
ROUNDS = 64
OK, REFUSED = 200, 400
CONTROL = socket.CMSG_SPACE(16) if hasattr(socket, "CMSG_SPACE") else 0
SLEPT_NS, WAKE_NS = 100_000, 500_000  # a wait this long has slept; the way from a wake-up to us
CLOSE_NS = 10_000  # two readings of clocks that belong together
PAUSE_NS = 20_000  # a shorter pause is not worth a system call
_TIMESPEC = struct.Struct("@qq")


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    number: int
    tls: Tls | None = None
    news: int = 0  # what TLS has to tell: a kind of happening, or 0
    connecting: bool = True
    framing: Framing | None = None
    stream: Stream = field(default_factory=Stream)
    limit: int = ANSWER_LIMIT
    exchange: int = -1
    out: bytearray = field(default_factory=bytearray)
    keep: bool = False
    kept: bytearray = field(default_factory=bytearray)
    bytes: int = 0
    told: set[Kind] = field(default_factory=set)  # of ANSWERING and STREAMED
    emptied_ns: int = 0  # when a read last left nothing behind


class PythonWire(Wire):
    """See base.py."""

    name = "python"

    def __init__(self, spool: Path, batch_s: float) -> None:
        self._file = create(spool)
        self._batch_ns = round(batch_s * 1e9)
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _Connection] = {}
        self._watched: dict[int, int] = {}  # number -> descriptor
        self._free: list[int] = []
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._spooled = 0
        self._returned_ns = self._last_empty_ns = time.monotonic_ns()
        self._read_before = 0
        self._to_monotonic = 0
        self._schedstat, self._delay_ns = -1, 0  # time that this thread has waited for a CPU so far
        self._thread = 0

    # --- connections -----------------------------------------------------------------------------------------------

    def _number(self) -> int:
        return self._free.pop() if self._free else len(self._connections) + len(self._watched)

    def add(self, connecting: socket.socket, tls: ssl.SSLContext | None = None, host: str = "") -> int:
        made = _Connection(connecting, self._number())
        if tls is not None:
            made.tls = Tls(tls, host, lambda kind: self._told(made, kind))
        self._connections[made.number] = made
        self._selector.register(connecting, selectors.EVENT_READ | selectors.EVENT_WRITE, made)
        return made.number

    def watch(self, descriptor: int) -> int:
        number = self._number()
        self._watched[number] = descriptor
        self._selector.register(descriptor, selectors.EVENT_READ, number)
        return number

    def drop(self, connection: int) -> None:
        if (descriptor := self._watched.pop(connection, None)) is not None:
            self._selector.unregister(descriptor)
        elif (made := self._connections.pop(connection, None)) is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(made.socket)
            made.socket.close()
            if made.framing is not None:
                made.framing.release()
        else:
            return
        self._free.append(connection)

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(
        self, connection: int, exchange: int, payload: bytes, *, keep: bool = False, limit: int = ANSWER_LIMIT
    ) -> int:
        made = self._connections[connection]
        if made.framing is not None:
            raise RuntimeError("the connection is not ready for a request")
        if made.tls is not None:
            payload = made.tls.encrypted(payload)
        made.stream = Stream()
        made.exchange, made.framing, made.keep, made.limit = exchange, Framing(made.stream.feed), keep, limit
        made.kept.clear()
        made.told.clear()
        made.bytes = 0
        stamp = time.monotonic_ns()
        self._write(made, payload)
        return stamp

    def _write(self, made: _Connection, data: bytes) -> None:
        if not made.out:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                data = data[made.socket.send(data) :]
            if not data:
                return
            self._selector.modify(made.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, made)
        made.out += data

    def _write_rest(self, made: _Connection) -> None:
        with contextlib.suppress(OSError):  # a broken socket is told by its reading side
            del made.out[: made.socket.send(made.out)]
        if not made.out:
            self._selector.modify(made.socket, selectors.EVENT_READ, made)

    # --- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, timeout_ns: int, *, tell_answering: bool = False) -> list[Happening]:
        if self._batch_ns and self._read_before > 1 and timeout_ns:
            pause = self._batch_ns - (time.monotonic_ns() - self._returned_ns)
            pause = min(pause, timeout_ns) if timeout_ns > 0 else pause
            if pause > PAUSE_NS:
                time.sleep(pause / 1e9)
                timeout_ns = max(0, timeout_ns - pause) if timeout_ns > 0 else timeout_ns
        entered = time.monotonic_ns()
        ready = self._selector.select(None if timeout_ns < 0 else timeout_ns / 1e9)
        now = self._returned_ns = time.monotonic_ns()
        self._slept(entered, now)
        self._relate(now)
        self._read_before = 0
        found: list[Happening] = []
        for key, events in ready:
            made = key.data
            if isinstance(made, int):
                found.append(Happening(made, Kind.WATCHED, -1, now, now, 0, 0, 0, False))
            elif made.connecting:
                self._connected(made, now, found)
            elif made.number in self._connections:
                if events & selectors.EVENT_WRITE and made.out:
                    self._write_rest(made)
                if events & selectors.EVENT_READ:
                    self._read_before += 1
                    self._take(made, tell_answering, found)
        self._last_empty_ns = self._returned_ns
        return found

    def _relate(self, before_ns: int) -> None:
        """Relate the wall clock, which the kernel stamps with, to the monotonic one. Between the two readings this thread
        may lose the CPU: only close readings count, else the relation stays as it was."""
        for attempt in range(4):
            real_ns, after_ns = time.time_ns(), time.monotonic_ns()
            if after_ns - before_ns < CLOSE_NS or (attempt == 3 and not self._to_monotonic):
                self._to_monotonic = (before_ns + after_ns) // 2 - real_ns
                return
            before_ns = after_ns

    def _delayed(self) -> int:
        """How long this thread has waited for a CPU since it was last asked."""
        total = int(os.pread(self._schedstat, 96, 0).split()[1])
        delay, self._delay_ns = total - self._delay_ns, total
        return delay

    def _begin_thread(self) -> None:
        if self._schedstat >= 0:
            os.close(self._schedstat)
        self._schedstat, self._thread = -1, threading.get_ident()
        with contextlib.suppress(OSError):
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
            self._delayed()

    def _slept(self, from_ns: int, until_ns: int) -> None:
        """After a wait that has slept: until it was woken, every socket was empty. It was woken when it began to wait for a
        CPU."""
        if self._thread != threading.get_ident():
            self._begin_thread()
            return
        if until_ns - from_ns < SLEPT_NS or self._schedstat < 0:
            return
        woken = until_ns - self._delayed() - WAKE_NS
        if woken > from_ns:
            self._last_empty_ns = max(self._last_empty_ns, woken)

    def _connected(self, made: _Connection, now: int, found: list[Happening]) -> None:
        made.connecting = False
        error = made.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            found.append(_tell(made, Kind.CLOSED, error, now, now))
            return
        self._selector.modify(made.socket, selectors.EVENT_READ, made)
        if made.tls is None:
            found.append(_tell(made, Kind.CONNECTED, 0, now, now))
        else:
            self._decrypted(made, b"", now, found)  # its greeting
            if made.news == Kind.CLOSED:
                self._closed(made, made.tls.error, now, found)

    def _told(self, made: _Connection, kind: int) -> None:
        """TLS has something to send or to tell."""
        if made.tls is not None and (data := made.tls.to_send()):
            with contextlib.suppress(OSError):  # told by the reading side
                self._write(made, data)
        made.news = kind or made.news

    def _take(self, made: _Connection, tell_answering: bool, found: list[Happening]) -> None:
        for _ in range(ROUNDS):
            now = time.monotonic_ns()
            try:
                data, ancillary, _, _ = made.socket.recvmsg(READ_BYTES, CONTROL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._closed(made, error.errno or errno.EIO, now, found)
                return
            if not data:
                self._closed(made, PEER_CLOSED, now, found)
                return
            kernel = self._kernel_stamp(ancillary)
            now = max(now, kernel)  # it may have come after this look had begun
            whole = len(data) < READ_BYTES
            if made.tls is not None:
                data = self._decrypted(made, data, now, found)
            over = bool(data) and self._understood(made, data, kernel, now, tell_answering, found)
            if made.news == Kind.CLOSED:
                if not over:
                    self._closed(made, made.tls.error if made.tls else 0, now, found)
                return
            if over or whole:
                made.emptied_ns = now
                return

    def _decrypted(self, made: _Connection, data: bytes, now: int, found: list[Happening]) -> bytes:
        if made.tls is None:
            return data
        made.news = 0
        plain = made.tls.received(data)
        if made.news == Kind.CONNECTED:
            found.append(_tell(made, Kind.CONNECTED, 0, now, now))
        return plain

    def _kernel_stamp(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data[:16])
                return int(seconds * 1_000_000_000 + nanoseconds + self._to_monotonic)
        return 0

    def _closed(self, made: _Connection, error: int, now: int, found: list[Happening]) -> None:
        framing, made.framing = made.framing, None
        if framing is not None:
            framing.release()
        if made.tls is not None and made.tls.reason:
            made.kept[:] = made.tls.reason.encode()
        well = framing is not None and framing.until_close and error == PEER_CLOSED
        if made.number in self._connections:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(made.socket)
        found.append(_tell(made, Kind.ENDED if well else Kind.CLOSED, 0 if well else error, now, now, framing))

    def _understood(
        self,
        made: _Connection,
        data: bytes,
        kernel: int,
        now: int,
        tell_answering: bool,
        found: list[Happening],
    ) -> bool:
        """File the bytes under the connection's exchange. Is there nothing more to read on it for now?"""
        framing, stamp = made.framing, kernel or now
        if framing is None:
            found.append(_tell(made, Kind.CLOSED, UNASKED, stamp, now))
            return True
        last_empty_ns = max(self._last_empty_ns, made.emptied_ns)
        self._spool(RECORD.pack(len(data), PIECE, made.exchange, now, kernel, last_empty_ns), data)
        made.bytes += len(data)
        try:
            framing.feed(data)
            error = 0 if framing.done or made.bytes <= _limit(made, framing) else TOO_LONG
        except ValueError as wrong:
            error = TOO_LONG if isinstance(wrong, EndlessHeadError) else MALFORMED
        made.keep = made.keep or framing.status >= REFUSED
        if made.keep or not framing.in_body:  # an unfinished head may turn out to be a refusal
            made.kept += data
        elif made.kept:
            made.kept.clear()
        if error:
            made.framing = None
            found.append(_tell(made, Kind.CLOSED, error, stamp, now, framing))
            return True
        if framing.done:
            made.framing = None
            if not made.keep:
                made.kept.clear()
            if made.out:  # it answered before it had read the whole request
                framing.keep_alive = False
            found.append(_tell(made, Kind.ENDED, 0, stamp, now, framing))
            return True
        for kind, seen in (
            (Kind.ANSWERING, tell_answering and framing.in_body),
            (Kind.STREAMED, made.stream.over and framing.status == OK),
        ):
            if seen and kind not in made.told:
                made.told.add(kind)
                found.append(_tell(made, kind, 0, stamp, now, framing))
        return False

    # --- spool -----------------------------------------------------------------------------------------------------

    def kept(self, connection: int) -> bytes:
        return bytes(self._connections[connection].kept)

    def note(self, exchange: int, data: bytes) -> None:
        if len(data) > READ_BYTES:
            raise ValueError("a note of more than 64 KB")
        self._spool(RECORD.pack(len(data), NOTE, exchange, 0, 0, 0), data)

    def _spool(self, head: bytes, data: bytes) -> None:
        self._buffer += (head, data)
        self._buffered += len(head) + len(data)
        self._spooled += len(head) + len(data)
        if self._buffered > SPOOL_BYTES:
            self.flush()

    def flush(self) -> None:
        data = memoryview(b"".join(self._buffer))
        self._buffer.clear()
        self._buffered = 0
        while data:
            data = data[os.write(self._file, data) :]

    @property
    def spooled_bytes(self) -> int:
        return self._spooled

    def close(self) -> None:
        for number in [*self._connections, *self._watched]:
            self.drop(number)
        self._selector.close()
        for descriptor in (self._file, self._schedstat):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._schedstat = -1


def _limit(made: _Connection, framing: Framing) -> int:
    return min(made.limit, REFUSAL_LIMIT) if framing.status >= REFUSED else made.limit


def _tell(
    made: _Connection, kind: Kind, error: int, ns: int, read_ns: int, framing: Framing | None = None
) -> Happening:
    status, keep_alive = (framing.status, framing.keep_alive) if framing else (0, False)
    return Happening(made.number, kind, made.exchange, ns, read_ns, made.bytes, status, error, keep_alive)
