"""A service of two ranks whose answer takes as long as its setting says: rank 0 serves, rank 1 counts half of the time.

Started by benchmarks/parallel.py on every node of a group; the setting is in $SWARMTUNE_CONFIG.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve, or help the one who does."""
    seconds = json.loads(Path(os.environ["SWARMTUNE_CONFIG"]).read_text())["milliseconds"] / 1000
    master, port = os.environ["SWARMTUNE_MASTER"], int(os.environ["SWARMTUNE_PORT"])
    if os.environ["SWARMTUNE_RANK"] != "0":
        _help(master, port + 1, seconds)
    else:
        _serve(master, port, seconds)


def _help(master: str, port: int, seconds: float) -> None:
    while True:
        try:
            line = socket.create_connection((master, port))
            break
        except OSError:
            time.sleep(0.02)
    while line.recv(1):
        time.sleep(seconds / 2)
        line.sendall(b"x")


def _serve(master: str, port: int, seconds: float) -> None:
    meeting = socket.create_server((master, port + 1))
    helper, _ = meeting.accept()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/work":
                time.sleep(seconds / 2)
                helper.sendall(b"x")
                if not helper.recv(1):
                    os._exit(1)
            body = f"{seconds}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    http.server.ThreadingHTTPServer((master, port), Handler).serve_forever()


if __name__ == "__main__":
    main()
