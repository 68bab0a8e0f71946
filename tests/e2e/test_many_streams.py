"""20,000 answers at once, from several local addresses, by two workers from two servers: a process may open 20,000
descriptors on many machines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmtune.loadgen.selftest.server import read_log

STREAMS = 20_000
UNTRACED = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # coverage is too slow
SWARMTUNE = str(Path(sys.executable).with_name("swarmtune"))


@contextlib.contextmanager
def served(log: Path) -> Iterator[str]:
    """A server whose first token comes after 20 s."""
    command = [sys.executable, "-m", "swarmtune.loadgen.selftest.server", "20000", "500", str(log)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=UNTRACED)
    assert server.stdin
    assert server.stdout
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


@pytest.mark.e2e
def test_twenty_thousand_streams_are_held_at_once(tmp_path: Path) -> None:
    logs = [tmp_path / "one.bin", tmp_path / "two.bin"]
    with served(logs[0]) as one, served(logs[1]) as two:
        load = ["--concurrency", str(STREAMS), "--request-count", str(STREAMS), "--osl", "2", "--isl", "8"]
        addresses = [word for n in range(2, 6) for word in ("--source-addresses", f"127.0.0.{n}")]
        words = ["bench", "-m", "m", "-u", f"{one},{two}", *load, *addresses, "--workers-max", "2"]
        command = [SWARMTUNE, *words, "--quiet", "--export", "jsonl"]
        done = subprocess.run(command, cwd=tmp_path, env=UNTRACED, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "swarmtune-bench" / "measurement.json").read_text())["metrics"]
    assert metrics["completed"] == STREAMS
    assert metrics["peak_concurrency"] == STREAMS
    assert sum(1 for log in logs for _ in read_log(log)) == STREAMS
