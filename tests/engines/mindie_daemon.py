"""A stand-in for MindIE's daemon: ``mindie_daemon.py CONFIG.JSON`` reads the same file and serves the OpenAI API.

Answers tell the batch size that was read, so that a test sees which file the daemon saw.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def serve(config: dict[str, Any]) -> None:
    """Until the process is ended."""
    schedule = config["BackendConfig"]["ScheduleConfig"]
    model = config["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]["modelName"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.path == "/v1/completions" and body["model"] == model
            choice = {"index": 0, "text": f"maxBatchSize={schedule['maxBatchSize']}", "finish_reason": "length"}
            self.answer(200 if known else 404, {"choices": [choice]} if known else {"error": "no such model"})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer((config["ServerConfig"]["ipAddress"], config["ServerConfig"]["port"]), Handler)
    sys.stdout.write("Daemon start success!\n")
    sys.stdout.flush()
    server.serve_forever()


def main() -> None:
    """Check what the real daemon checks, then serve."""
    config = json.loads(Path(sys.argv[1]).read_text())
    schedule = config["BackendConfig"]["ScheduleConfig"]
    if not 1 <= schedule["maxPrefillBatchSize"] <= schedule["maxBatchSize"]:
        sys.exit("Check parameter maxPrefillBatchSize failed: it must be in [1, maxBatchSize]")
    serve(config)


if __name__ == "__main__":
    main()
