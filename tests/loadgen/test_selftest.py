"""The built-in server tells the truth, and the ladder compares with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.selftest.ladder import ITL_MS, TTFT_MS, Step, conclusion, measure, served
from swarmtune.loadgen.selftest.server import read_log

SWARMTUNE = str(Path(sys.executable).with_name("swarmtune"))
GOOD = Step(100, None, 9000.0, 140.0, 9.0, 51.0, 50.9, 10.2, 10.2, 1.0, "valid", (), 1.0)


def test_the_server_sends_at_its_times_and_writes_them_down(tmp_path: Path) -> None:
    body = b'{"max_tokens": 3}'
    with served(tmp_path / "log") as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as peer:
            asked = time.monotonic_ns()
            peer.sendall(b"POST / HTTP/1.1\r\nX-Request-Id: me\r\nContent-Length: %d\r\n\r\n" % len(body))
            peer.sendall(body)
            seen = b""
            while b"\r\n0\r\n\r\n" not in seen:
                seen += peer.recv(65536)
            got = time.monotonic_ns()
    ((name, received, stamps),) = read_log(tmp_path / "log")
    assert name == "me"
    assert asked < received < stamps[0] < stamps[1] < stamps[2] < got
    assert stamps[0] - received >= TTFT_MS * 1e6
    assert stamps[2] - received >= (TTFT_MS + 2 * ITL_MS) * 1e6
    assert seen.count(b"data: ") == 5


@pytest.mark.parametrize("wire", ["native", "python"])
def test_what_is_told_is_what_was_true(wire: str) -> None:
    step = measure(LoadgenOptions(concurrency=5, request_count=25, osl=8, isl=8, wire=wire))
    assert -0.1 < step.ttft_mean_ms - step.true_ttft_mean_ms < 5
    assert step.true_ttft_mean_ms >= TTFT_MS
    assert step.events_per_s > 0


def test_the_conclusion_says_where_it_ends_and_why() -> None:
    rate = {"streams": None, "request_rate": 500.0}
    done = [
        GOOD,
        Step(**{**GOOD.__dict__, "streams": 200, "verdict": "invalid", "reasons": ("it was late",)}),
        Step(**{**GOOD.__dict__, **rate}),
        Step(**{**GOOD.__dict__, **rate, "request_rate": 1000.0, "server_late_p99_ms": 50.0}),
    ]
    _, streams, rates = conclusion(done)
    assert "up to 100 streams" in streams
    assert "it was late" in streams
    assert "up to 1000 requests/s" in rates
    assert "the built-in server itself is late" in rates
    assert "No load" in conclusion([Step(**{**GOOD.__dict__, "verdict": "degraded"})])[1]


def test_the_command_prints_and_leaves_what_it_found(tmp_path: Path) -> None:
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # coverage is slow
    command = [SWARMTUNE, "bench", "--self-test"]
    done = subprocess.run(command, cwd=tmp_path, env=untraced, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    found = json.loads((tmp_path / "swarmtune-bench/self-test.json").read_text())
    assert found["steps"]
    assert done.returncode == (0 if any(step["verdict"] == "valid" for step in found["steps"]) else 5)
    assert "events/s" in done.stdout
    assert len(found["conclusion"]) == 3
