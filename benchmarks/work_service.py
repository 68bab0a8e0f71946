"""A service of one or two ranks whose answer takes as long as its setting says; rank 1 counts half of the time.

Started by the benchmarks of many groups on every node. The setting is in $SWARMTUNE_CONFIG (a file) or $WORK_SETTING.
GET /work takes ``milliseconds`` and answers with the whole setting; any other path answers at once.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve, or help rank 0; on a machine that is sick, end as a broken installation does."""
    if (Path.home() / "sick").exists():
        print("error while loading shared libraries: libengine.so.2: cannot open shared object file", file=sys.stderr)
        raise SystemExit(127)
    text = os.environ.get("WORK_SETTING") or Path(os.environ["SWARMTUNE_CONFIG"]).read_text()
    setting = json.loads(text)
    master, port = os.environ["SWARMTUNE_MASTER"], int(os.environ["SWARMTUNE_PORT"])
    ranks = int(os.environ["SWARMTUNE_NODES"])
    if os.environ["SWARMTUNE_RANK"] != "0":
        _help(master, port + 1, setting["milliseconds"] / 1000)
    else:
        _serve(master, port, setting, ranks)


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


def _serve(master: str, port: int, setting: dict[str, Any], ranks: int) -> None:
    seconds = setting["milliseconds"] / 1000
    helper: socket.socket | None = None
    if ranks > 1:
        helper, _ = socket.create_server((master, port + 1)).accept()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/work":
                time.sleep(seconds / 2)
                if helper is None:
                    time.sleep(seconds / 2)
                else:
                    helper.sendall(b"x")
                    if not helper.recv(1):
                        os._exit(1)
            body = json.dumps(setting).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    http.server.ThreadingHTTPServer((master, port), Handler).serve_forever()


if __name__ == "__main__":
    main()
