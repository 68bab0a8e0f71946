"""What the dispatcher adds to one evaluation, and what a hostfile of 1,000 nodes costs before anything is measured.

    python benchmarks/parallel_overhead.py         one machine, and one more over SSH (a namespace; needs root)

An evaluation of a service that starts at once and answers at once, in turns: by hand (start the process, ask until it
answers, ask once more, kill it), by the dispatcher on this machine, by the dispatcher over SSH. The difference to the first
is the dispatcher's: files, supervisor, health, results, logs, end.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from parallel import PROJECT, over_ssh
from rich.console import Console
from rich.table import Table

from swarmtune.execution.config import ParallelConfig
from swarmtune.fleet.particles import ParticleDispatcher
from swarmtune.fleet.service_run import FIRST_POLL_S
from swarmtune.space import Field

SERVICE = """
import os, socket
server = socket.create_server((os.environ["SWARMTUNE_MASTER"], int(os.environ["SWARMTUNE_PORT"])))
while True:
    connection, _ = server.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n1\\n")
    connection.close()
"""
FIELDS = [Field("x", min=0, max=10**6)]


def cost(_: Any, url: str) -> float:
    """Ask once."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return float(answer.read())


def by_hand(script: Path, port: int) -> Callable[[int], None]:
    """An evaluation without us."""
    environment = {**os.environ, "SWARMTUNE_MASTER": "127.0.0.1", "SWARMTUNE_PORT": str(port)}

    def evaluate(_: int) -> None:
        process = subprocess.Popen([sys.executable, "-S", str(script)], env=environment)
        try:
            while True:
                with contextlib.suppress(OSError):
                    cost(None, f"http://127.0.0.1:{port}")
                    break
                time.sleep(FIRST_POLL_S)
            cost(None, f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()

    return evaluate


def by_dispatcher(dispatcher: ParticleDispatcher) -> Callable[[int], None]:
    """An evaluation with us."""

    def evaluate(number: int) -> None:
        (result,) = dispatcher.evaluate_particles([{"x": number}])
        assert result.failure is None, result.failure

    return evaluate


def overheads(console: Console, rounds: int, lab: Any) -> None:
    """The table."""
    script = Path("service.py").absolute()
    script.write_text(SERVICE)
    options: dict[str, Any] = {
        "npus_per_node": 0, "nodes_per_group": 1, "start": "every_node",
        "start_script": f"{sys.executable} -S {script}",
    }  # fmt: skip
    local = ParallelConfig.from_node_string("127.0.0.1", executor="local", work_dir="nodes", port=18_100, **options)
    with contextlib.ExitStack() as stack:
        ways = {
            "by hand": by_hand(script, 18_000),
            "dispatcher, this machine": by_dispatcher(stack.enter_context(ParticleDispatcher(local, FIELDS, cost))),
        }
        if lab is not None:
            there = ParallelConfig.from_node_string(lab.machines[0].address, **options)
            way = stack.enter_context(ParticleDispatcher(there, FIELDS, cost, executors=over_ssh(lab)))
            ways["dispatcher, over SSH"] = by_dispatcher(way)
        for evaluate in ways.values():
            evaluate(0)  # connections, folders, caches
        took: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(1, rounds + 1):
            for name, evaluate in ways.items():
                began = time.perf_counter()
                evaluate(number)
                took[name].append(1e3 * (time.perf_counter() - began))
    table = Table("one evaluation", "ms (median)", "p95", "added (ms)", "aim", box=None)
    hand = statistics.median(took["by hand"])
    for name, times in took.items():
        middle, high = statistics.median(times), sorted(times)[int(0.95 * len(times))]
        aim = {"dispatcher, this machine": "< 50", "dispatcher, over SSH": "< 250"}.get(name, "")
        table.add_row(name, f"{middle:.0f}", f"{high:.0f}", f"{middle - hand:.0f}" if aim else "", aim)
    console.print(table)


def thousand(console: Console) -> None:
    """Nodes that do not even exist cost nothing until they are used."""
    Path("hosts").write_text("node[000-999] slots=8\n")
    sockets = len(psutil.Process().net_connections())
    times = [time.perf_counter()]
    config = ParallelConfig.from_hostfile("hosts", nodes_per_group=2, start_script="/bin/true")
    times.append(time.perf_counter())
    with ParticleDispatcher(config, FIELDS, cost):
        times.append(time.perf_counter())
        opened = len(psutil.Process().net_connections()) - sockets
    times.append(time.perf_counter())
    parse, make, close = (1e3 * (b - a) for a, b in itertools.pairwise(times))
    console.print(
        f"1,000 nodes, 500 groups: read in {parse:.0f} ms, ready in {make:.0f} ms, left in {close:.0f} ms; "
        f"connections opened: {opened}"
    )


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    sys.path.insert(0, str(PROJECT))
    from tests.lab import Lab, NoLab  # the machines of the tests

    with contextlib.ExitStack() as stack:
        os.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmtune-overhead-")))
        try:
            lab = stack.enter_context(Lab(1, [Path.cwd()]))
        except NoLab as reason:
            console.print(f"without SSH: {reason}")
            lab = None
        overheads(console, arguments.rounds, lab)
        thousand(console)


if __name__ == "__main__":
    main()
