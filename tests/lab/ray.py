"""A Ray cluster over the machines of a lab: the head on this machine, a raylet with eight devices on each of the others.

All its processes end with the lab, with ``close``, or with the test process. Nothing calls ``ray stop`` or ``ray up``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.lab.closing import Closing
from tests.lab.machine import DIES_WITH_US, Lab, Machine

DEVICES = {"NPU": 8}
STORE_BYTES = 80 << 20  # the least that Ray takes is 75 MiB
QUICK = {  # a cut is seen after 3 x (1 + 2) s; a dead head after 10 s
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
HEADLESS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # of raylets only: a driver has Ray's minute
SMALL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_metrics_collection": "0",
}


class RayCluster(Closing):
    """``address`` is what a driver on this machine joins, with ``env`` in its environment before it imports ray.

    Nodes are known by ``machine.address``. The machines' own /tmp holds their sessions.
    """

    def __init__(self, lab: Lab, machines: Sequence[Machine] = ()) -> None:
        """``machines``: all of the lab's, if none are given."""
        self.lab = lab
        self.machines = tuple(machines) or lab.machines
        self.here = f"{lab.network}.254"
        with socket.create_server((self.here, 0)) as free:
            self.address = f"{self.here}:{free.getsockname()[1]}"
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **QUICK, **SMALL}
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: a socket's path has 107 characters
        self._head: subprocess.Popen[bytes] | None = None
        self._raylets: dict[str, subprocess.Popen[bytes]] = {}

    def open(self) -> None:
        """See Closing."""
        self.start_head()
        self.start(*self.machines)

    def close(self) -> None:
        """Nothing is left."""
        for machine in self.machines:
            self.kill(machine)
        self.kill_head()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_head(self) -> None:
        """The GCS, and a raylet without resources for the driver."""
        port = self.address.rpartition(":")[2]
        argv = _ray_start(
            self.here, "--head", f"--port={port}", f"--temp-dir={self.folder}", "--include-dashboard=false"
        )
        self._head = _popen([*DIES_WITH_US, *argv], {**os.environ, **self.env})
        _await_started(self._head, "the head")

    def start(self, *machines: Machine) -> None:
        """Have these machines join, all at once; what Ray still runs there is ended first."""
        for m in machines:
            self.kill(m)
            argv = _ray_start(m.address, f"--address={self.address}", f"--resources={json.dumps(DEVICES)}")
            self._raylets[m.name] = _popen(m.inside(*argv), {**os.environ, "HOME": "/root", **self.env, **HEADLESS})
        for m in machines:
            _await_started(self._raylets[m.name], m.name)

    def kill_head(self) -> None:
        """SIGKILL, for all of it; its agents would outlive it."""
        if self._head is not None:
            family = self._family()
            _end(self._head)
            self._head = None
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def freeze_head(self) -> None:
        """SIGSTOP, for all of it: its ports still take connections, and nobody answers there."""
        for process in self._family():
            process.suspend()

    def thaw_head(self) -> None:
        """It goes on as if no time had passed."""
        for process in self._family():
            process.resume()

    def _family(self) -> list[psutil.Process]:
        """The processes of the head."""
        if self._head is None or self._head.poll() is not None:
            return []
        head = psutil.Process(self._head.pid)
        return [head, *head.children(recursive=True)]

    def kill(self, machine: Machine) -> None:
        """SIGKILL for the raylet of a machine; returns when nothing of Ray runs there."""
        process = self._raylets.pop(machine.name, None)
        if process is None:
            return
        if process.poll() is None:  # else the machine is off, or Ray has given up by itself
            for pid in machine.pids("/raylet/raylet "):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)
        _end(process, within_s=30.0)


def _ray_start(address: str, *options: str) -> list[str]:
    usual = ("--num-cpus=0", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}", "--include-log-monitor=false")
    here = ("--block", f"--node-ip-address={address}", "--disable-usage-stats")
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *here, *usual, *options]


def _popen(argv: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
    )


def _await_started(process: subprocess.Popen[bytes], what: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.decode())
        if b"Ray runtime started" in line:
            return
    raise RuntimeError(f"Ray does not start on {what}:\n{''.join(said)}")


def _end(process: subprocess.Popen[bytes], within_s: float = 0.0) -> None:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
