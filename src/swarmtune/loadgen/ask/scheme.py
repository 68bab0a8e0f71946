"""Does a service speak TLS, or HTTP without it? Looked for when it has not answered as its address says."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable

SCHEME_S = 1.0  # for one look
GREETING_S = 0.25  # for it: a whole look would hold up the others
LONGEST_GREETING = 100  # bytes that are shown of one
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


def greeting(connect: Connect) -> str:
    """What the peer says before anybody has asked it, as services of other protocols do (SSH, SMTP, FTP): its first line."""
    begin = b""
    with contextlib.suppress(OSError), connect() as made:
        made.settimeout(GREETING_S)
        begin = made.recv(LONGEST_GREETING)
    return begin.decode(errors="replace").partition("\n")[0].strip()


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
