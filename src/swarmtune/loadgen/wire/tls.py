"""The TLS of one connection, for both wires: encrypted bytes in and out, no socket."""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import sys
from collections.abc import Callable

from swarmtune.loadgen.wire.base import CERTIFICATE_WANTED, PEER_CLOSED, TLS_FAILED, Kind

RECORD_BYTES = 16 * 1024  # the most plain text in a record: one read gives a whole one
WORD = ctypes.sizeof(ctypes.c_void_p)
OPENSSL = (
    "SSL_read", "SSL_pending", "SSL_get_error", "SSL_get_rbio", "SSL_get_wbio", "BIO_write", "BIO_ctrl",
)  # fmt: skip # struct openssl of native.c
MISNAMED = "write the name that stands in it into the URL, or do not check it (--no-tls-verify)"
UNTRUSTED = "name the file of the CA that signed it (--ca-file), or do not check it (--no-tls-verify)"
WANTED = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_CERTIFICATE_REQUIRED")


class Tls:
    """``received`` takes what came from the socket.

    ``openssl``: the address of OpenSSL's own part (``SSL *``), 0 if it is not known.
    ``news`` is called when there is something to send, with 0, CONNECTED (the handshake is over) or CLOSED. ``error``: 0,
    or that of a connection that is over, with its ``reason``.
    """

    def __init__(self, context: ssl.SSLContext, host: str, news: Callable[[int], None]) -> None:
        self.greeting = True
        self.error, self.reason = 0, ""
        self._news = news
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._read = self._object.read
        self.openssl = _address(self._object, context)

    def received(self, data: bytes) -> bytes:
        """The plain text that these bytes complete; with none, begin the handshake, or see what stopped the reading that
        was done with ``openssl``. See ``error`` for failures.
        """
        parts = []
        try:
            self._incoming.write(data)
            if self.greeting:
                self._object.do_handshake()
                self.greeting = False
                self._news(Kind.CONNECTED)
            while self._incoming.pending or not data:  # asking for more than there is would cost an exception
                part = self._read(RECORD_BYTES)
                if not part:  # the peer has said that it closes
                    self.error = PEER_CLOSED
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error, self.reason = meaning(error)
        if self.error:
            self._news(Kind.CLOSED)
        elif self._outgoing.pending:
            self._news(0)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def encrypted(self, data: bytes) -> bytes:
        """This plain text as it goes over the socket. OSError if the connection is over."""
        try:
            self._object.write(data)
        except ssl.SSLError as error:
            raise OSError(*meaning(error)) from error
        return self._outgoing.read()

    def to_send(self) -> bytes:
        """What the handshake, or the end, has to say to the peer."""
        return self._outgoing.read()


def functions() -> list[int] | None:
    """The addresses of OPENSSL in the library that Python's ssl uses; None where it has them not for others (linked in)."""
    try:
        library = ctypes.CDLL(_ssl.__file__)
        return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in OPENSSL]
    except (AttributeError, OSError):  # built in, or its symbols are hidden
        return None


def _address(made: ssl.SSLObject, context: ssl.SSLContext) -> int:
    """The ``SSL *`` of CPython's object. Nothing guarantees its structure, but this can be checked: the pointer lies between
    the socket (none here) and the context, whose address is known. 0 if it does not look so.
    """
    inner = getattr(made, "_sslobj", None)
    words = object.__basicsize__ // WORD
    if sys.implementation.name != "cpython" or type(inner).__basicsize__ < (words + 3) * WORD:
        return 0
    socket, address, owner = (ctypes.c_void_p * 3).from_address(id(inner) + words * WORD)
    return address if not socket and address and owner == id(context) else 0


def meaning(error: ssl.SSLError) -> tuple[int, str]:
    """Number and reason of a failure, in plain words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        way_out = MISNAMED if "mismatch" in error.verify_message else UNTRUSTED
        return TLS_FAILED, f"the certificate of the service is not trusted: {error.verify_message}; {way_out}"
    if error.reason in WANTED:
        return CERTIFICATE_WANTED, "the service wants a client certificate (--client-cert, --client-key)"
    words = (error.reason or str(error)).replace("_", " ").lower()
    return TLS_FAILED, f"TLS failed: {words}"
