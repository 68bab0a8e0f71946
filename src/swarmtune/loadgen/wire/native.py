"""The wire in C (native.c), loaded by ctypes. It is built when the package is installed and a C compiler is there."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import ssl
import struct
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path

from swarmtune.loadgen.wire.base import Happening, Wire

LIBRARY = Path(__file__).with_name("_native.so")
MOST = 3072  # happenings of one wait


HAPPENING = struct.Struct("@iiqqqqiii4x")  # struct happening of native.c: the fields of base.Happening


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY), use_errno=True)
    except OSError:  # not built: no compiler, or another system
        return None
    signatures = {
        "wire_new": (c_void_p, [c_int, c_int64]),
        "wire_add": (c_int, [c_void_p, c_int, c_int]),
        "wire_send": (c_int64, [c_void_p, c_int, c_int64, c_char_p, c_size_t, c_int]),
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
    """See native.c. Without TLS."""

    name = "native"

    def __init__(self, spool: Path, batch_s: float) -> None:
        library = _library()
        if library is None:
            raise RuntimeError(f"{LIBRARY} was not built for this machine; use the wire in Python")
        self._c = library
        self._spool = os.open(spool, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._wire: int | None = library.wire_new(self._spool, round(batch_s * 1e9))
        if not self._wire:
            raise MemoryError("no memory for a wire")
        self._happened = ctypes.create_string_buffer(MOST * HAPPENING.size)
        self._seen = memoryview(self._happened)

    def add(self, connecting: socket.socket, tls: ssl.SSLContext | None = None, host: str = "") -> int:  # noqa: ARG002
        if tls is not None:
            raise ValueError("the wire in C knows no TLS")
        return self._added(connecting.detach(), watched=False)

    def watch(self, descriptor: int) -> int:
        return self._added(descriptor, watched=True)

    def _added(self, descriptor: int, *, watched: bool) -> int:
        number = int(self._c.wire_add(self._wire, descriptor, watched))
        if number < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return number

    def send(self, connection: int, exchange: int, payload: bytes, *, keep: bool = False) -> int:
        stamp = int(self._c.wire_send(self._wire, connection, exchange, payload, len(payload), keep))
        if stamp == -errno.EBUSY:
            raise RuntimeError("the connection is not ready for a request")
        if stamp < 0:
            raise OSError(-stamp, os.strerror(-stamp))
        return stamp

    def wait(self, timeout_ns: int, *, tell_answering: bool = False) -> list[Happening]:
        found = self._c.wire_wait(self._wire, timeout_ns, tell_answering, self._happened, MOST)
        if found < 0:
            raise OSError(-found, os.strerror(-found))
        return [Happening._make(fields) for fields in HAPPENING.iter_unpack(self._seen[: found * HAPPENING.size])]

    def kept(self, connection: int) -> bytes:
        length = c_size_t()
        at = self._c.wire_kept(self._wire, connection, byref(length))
        return ctypes.string_at(at, length.value) if at else b""

    def note(self, exchange: int, data: bytes) -> None:
        if self._c.wire_note(self._wire, exchange, data, len(data)) < 0:
            raise OSError(errno.EIO, "the spool cannot be written")

    def drop(self, connection: int) -> None:
        self._c.wire_drop(self._wire, connection)

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
        self._wire = None
