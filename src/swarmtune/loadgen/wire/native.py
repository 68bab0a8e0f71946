"""The wire in C (native.c), loaded by ctypes. It is built when the package is installed and a C compiler is there."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import ssl
import struct
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path

from swarmtune.files import create
from swarmtune.loadgen.wire.base import ANSWER_LIMIT, Happening, Wire
from swarmtune.loadgen.wire.tls import Tls, functions

LIBRARY = Path(__file__).with_name("_native.so")
MOST = 8192  # happenings of one wait
VERSION = 3  # of native.c
PYTHON = (
    "PyGILState_Ensure", "PyGILState_Release", "PyBytes_FromStringAndSize", "PyObject_Vectorcall",
    "PyBytes_AsStringAndSize", "Py_DecRef", "PyErr_Clear",
)  # fmt: skip # struct python of native.c


HAPPENING = struct.Struct("@iiqqqqiii4x")  # struct happening of native.c: the fields of base.Happening


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY), use_errno=True)
        if library.wire_version() != VERSION:
            return None
    except (OSError, AttributeError):  # not built: no compiler, another system, or from an older source
        return None
    signatures = {
        "wire_new": (c_void_p, [c_int, c_int64, POINTER(c_void_p), POINTER(c_void_p)]),
        "wire_add": (c_int, [c_void_p, c_int, c_int, c_void_p, c_void_p]),
        "wire_write": (c_int, [c_void_p, c_int, c_char_p, c_size_t]),
        "wire_send": (c_int64, [c_void_p, c_int, c_int64, c_char_p, c_size_t, c_int, c_int64]),
        "wire_tell": (None, [c_void_p, c_int, c_int, c_int, c_char_p, c_size_t]),
        "wire_wait": (c_int, [c_void_p, c_int64, c_int, c_void_p, c_int]),
        "wire_kept": (c_void_p, [c_void_p, c_int, POINTER(c_size_t)]),
        "wire_note": (c_int, [c_void_p, c_int64, c_char_p, c_uint32]),
        "wire_drop": (None, [c_void_p, c_int]),
        "wire_flush": (c_int, [c_void_p]),
        "wire_spooled": (c_int64, [c_void_p]),
        "wire_free": (None, [c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def available() -> bool:
    """Was the C part built for this machine?"""
    return _library() is not None


class NativeWire(Wire):
    """See native.c. TLS is Python's ssl: native.c reads the socket, and calls ``Tls.received`` for each read, or, once the
    handshake is over and where it is to be had, the OpenSSL below it.
    """

    name = "native"

    def __init__(self, spool: Path, batch_s: float) -> None:
        library = _library()
        if library is None:
            raise RuntimeError(f"{LIBRARY} was not built for this machine; use the wire in Python")
        self._c = library
        self._spool = create(spool)
        addresses = [ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p) for name in PYTHON]
        openssl = functions()
        self._openssl = openssl is not None
        self._wire: int | None = library.wire_new(
            self._spool,
            round(batch_s * 1e9),
            (c_void_p * len(PYTHON))(*[a.value for a in addresses]),
            (c_void_p * len(openssl))(*openssl) if openssl else None,
        )
        if not self._wire:
            raise MemoryError("no memory for a wire")
        self._happened = ctypes.create_string_buffer(MOST * HAPPENING.size)
        self._seen = memoryview(self._happened)
        self._tls: dict[int, tuple[Tls, Callable[[bytes], bytes]]] = {}  # what native.c calls must stay alive
        self._raised: BaseException | None = None  # while native.c called us: a second Ctrl-C

    def add(self, connecting: socket.socket, tls: ssl.SSLContext | None = None, host: str = "") -> int:
        if tls is None:
            return self._added(connecting.detach(), watched=False)
        number = -1
        made = Tls(tls, host, lambda kind: self._told(number, made, kind))

        def received(data: bytes) -> bytes:
            try:
                return made.received(data)
            except BaseException as error:  # noqa: BLE001 - there is C between us and the caller; `wait` raises it
                self._raised = error
                return b""

        inner = made.openssl if self._openssl else 0
        number = self._added(connecting.detach(), watched=False, tls=id(received), openssl=inner)
        self._tls[number] = made, received
        return number

    def _told(self, number: int, tls: Tls, kind: int) -> None:
        """TLS has something to send or to tell."""
        if data := tls.to_send():
            self._c.wire_write(self._wire, number, data, len(data))  # a broken socket is told by its reading side
        if kind:
            reason = tls.reason.encode()
            self._c.wire_tell(self._wire, number, kind, tls.error, reason, len(reason))

    def watch(self, descriptor: int) -> int:
        return self._added(descriptor, watched=True)

    def _added(self, descriptor: int, *, watched: bool, tls: int = 0, openssl: int = 0) -> int:
        number = int(self._c.wire_add(self._wire, descriptor, watched, tls or None, openssl or None))
        if number < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return number

    def send(
        self, connection: int, exchange: int, payload: bytes, *, keep: bool = False, limit: int = ANSWER_LIMIT
    ) -> int:
        if (tls := self._tls.get(connection)) is not None:
            payload = tls[0].encrypted(payload)
        stamp = int(self._c.wire_send(self._wire, connection, exchange, payload, len(payload), keep, limit))
        if stamp == -errno.EBUSY:
            raise RuntimeError("the connection is not ready for a request")
        if stamp < 0:
            raise OSError(-stamp, os.strerror(-stamp))
        return stamp

    def wait(self, timeout_ns: int, *, tell_answering: bool = False) -> list[Happening]:
        found = self._c.wire_wait(self._wire, timeout_ns, tell_answering, self._happened, MOST)
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        if found < 0:
            raise OSError(-found, os.strerror(-found))
        return list(map(Happening._make, HAPPENING.iter_unpack(self._seen[: found * HAPPENING.size])))

    def kept(self, connection: int) -> bytes:
        length = c_size_t()
        at = self._c.wire_kept(self._wire, connection, byref(length))
        return ctypes.string_at(at, length.value) if at else b""

    def note(self, exchange: int, data: bytes) -> None:
        if self._c.wire_note(self._wire, exchange, data, len(data)) < 0:
            raise OSError(errno.EIO, "the spool cannot be written")

    def drop(self, connection: int) -> None:
        self._c.wire_drop(self._wire, connection)
        self._tls.pop(connection, None)

    def flush(self) -> None:
        if self._c.wire_flush(self._wire) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    @property
    def spooled_bytes(self) -> int:
        return int(self._c.wire_spooled(self._wire))

    def close(self) -> None:
        if self._wire:
            self._c.wire_free(self._wire)
            os.close(self._spool)
        self._tls.clear()
        self._wire = None
