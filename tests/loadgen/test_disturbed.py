"""A service beside a program that takes its CPU: real processes, on one CPU that both may use."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.judge.certify import DISTURBED, disturbed
from swarmtune.loadgen.options import LoadgenOptions

PINNED = "import os; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
# Eight threads that hash without the interpreter's lock: whatever else runs here, most of the CPU is theirs.
BURNER = (
    PINNED
    + """
import hashlib, threading
def burn():
    while True: hashlib.sha256(bytes(2**22))
for _ in range(8): threading.Thread(target=burn).start()
print("burning", flush=True)
"""
)
# Each answer costs 20 ms of CPU time.
SERVICE = (
    PINNED
    + """
import http.server, time
class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        end = time.thread_time() + 0.02
        while time.thread_time() < end: pass
        body = b'data: {"choices":[{"text":" x","finish_reason":"length"}]}\\n\\ndata: [DONE]\\n\\n'
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
print(server.server_port, flush=True)
server.serve_forever()
"""
)
RELAY = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
def copy(one, other):
    while data := one.recv(65536):
        other.sendall(data)
while True:
    client, _ = server.accept()
    service = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    for pair in ((client, service), (service, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


@contextlib.contextmanager
def started(program: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """The pid of a process and its first line."""
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.kill()


def measured(directory: Path, port: str, **options: object) -> dict[str, Any]:
    """The measurement of a second and a half, by the load generator in a process of its own."""
    given = {"concurrency": 2, "benchmark_duration": 1.5, "isl": 5, "osl": 1, "max_idle_share": 1, **options}
    spec = Spec(url=(f"http://127.0.0.1:{port}",), model="m", options=LoadgenOptions.model_validate(given))
    (directory / "spec.json").write_text(spec.to_json())
    command = [sys.executable, "-P", "-m", "swarmtune.loadgen", "spec.json"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((directory / "measurement.json").read_text())
    return result


def test_a_starved_service_is_not_valid_and_the_burner_is_named(tmp_path: Path) -> None:
    with started(SERVICE) as (_, port), started(BURNER) as (burner, _):
        found = measured(tmp_path, port)
    assert not found["valid"]
    assert found["metrics"]["contended_cpu_share"] > 0.3
    assert disturbed(found["reasons"])
    assert f"(pid {burner}, " in found["reasons"][0]
    assert "load generator" not in " ".join(found["reasons"])


def test_the_certificate_follows_the_limit_and_blames_nobody_without_a_cause(tmp_path: Path) -> None:
    """Other programs of this machine may disturb this test, too: then the certificate must say so."""
    with started(SERVICE) as (_, port):
        found = measured(tmp_path, port)
    share = found["metrics"]["contended_cpu_share"]
    assert found["metrics"]["other_cpu_share"] >= share
    assert any(reason.startswith(DISTURBED) for reason in found["reasons"]) == (share > 0.06)
    assert found["valid"] == (share <= 0.3) or not disturbed(found["reasons"])


def test_a_service_behind_a_relay_is_not_measured(tmp_path: Path) -> None:
    with started(SERVICE) as (_, port), started(BURNER), started(RELAY, port) as (_, door):
        found = measured(tmp_path, door, benchmark_duration=2.5)
    assert found["metrics"].keys().isdisjoint({"other_cpu_share", "contended_cpu_share"})
    assert not disturbed(found["reasons"])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a CPU that the service may not use")
def test_a_program_on_another_cpu_takes_nothing(tmp_path: Path) -> None:
    elsewhere = BURNER.replace("{max(", "{min(")
    with started(SERVICE) as (_, port), started(elsewhere) as (burner, _):
        found = measured(tmp_path, port)
    assert f"(pid {burner}, " not in " ".join(found["reasons"])
