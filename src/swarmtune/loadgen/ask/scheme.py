"""Does a service speak TLS, or HTTP without it? Looked for when it has not answered as its address says."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable

SCHEME_S = 1.0  # for one look
REFUSED = b"HTTP/1.1 400"

Connect = Callable[[], socket.socket]  # a blocking socket, connected; OSError


def speaks_tls(connect: Connect, host: str) -> bool:
    """Does the peer answer a TLS handshake, be it with an alert?"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with connect() as made:
            context.wrap_socket(made, server_hostname=host).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    return True


def speaks_plain_http(connect: Connect, host: str, error: OSError) -> bool:
    """Does the peer, whose TLS handshake met this error, answer HTTP without TLS? One that speaks TLS has sent an alert, or
    answers with status 400.
    """
    said = str(getattr(error, "reason", None) or error).upper()
    if isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in said:
        return False
    begin = b""
    with contextlib.suppress(OSError), connect() as made:
        made.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while len(begin) < len(REFUSED) and (part := made.recv(len(REFUSED))):
            begin += part
    return begin.startswith(b"HTTP/") and (begin[8:12] != REFUSED[8:] or "WRONG_VERSION" in said)
