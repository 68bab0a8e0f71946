"""Services that behave oddly: what is told of them, and what is true? Ours beside the peers, one run after the other.

    python benchmarks/odd_servers.py                          all kinds, all clients that are there
    python benchmarks/odd_servers.py --kinds good,held-back --clients swarmtune,vllm

The services are those of odd_service.py; each writes down what it sent. 24 requests of two users; peers are those of
peers.py that are installed. A client is right where the share of whole answers, tokens of an answer, time to first token and
time per output token are within a tenth of the truth (5 ms for the first token), and what could not be measured is not told.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odd_service import KINDS, TOKENS, Kind
from peers import MODEL, PEERS

from swarmtune.errors import SwarmTuneError
from swarmtune.loadgen.base import Benchmark
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.workload import Load, Workload

HERE = Path(__file__).parent
REQUESTS, USERS = 24, 2
TIMEOUT_S = 120.0
CLOSE, CLOSE_MS = 0.1, 5.0
FIGURES = {"whole answers": "", "tokens": "", "TTFT": " ms", "TPOT": " ms"}
SAID = re.compile(r"\b(warn|error|fail|invalid|mismatch|not )", re.IGNORECASE)
ENDED = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Told:
    """What a client told of a run, by the names of FIGURES (None: nothing), and what it said besides."""

    figures: Mapping[str, float | None]
    said: str


@contextmanager
def service(name: str) -> Iterator[str]:
    """The URL of a service of this kind."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(HERE / "odd_service.py"), str(port), name])
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def truth(url: str) -> dict[str, float | None]:
    """What was sent since it was last asked, by the names of FIGURES."""
    with urllib.request.urlopen(f"{url}/odd/truth", timeout=10) as reply:
        found = json.load(reply)
    values = (found["whole_share"], found["tokens"], found["ttft_ms"], found["tpot_ms"])
    return dict(zip(FIGURES, values, strict=True))


def client(name: str, kind: Kind) -> tuple[Benchmark, Mapping[str, str]]:
    """The client's adapter, and what to add to its environment."""
    if name != "swarmtune":
        return PEERS[name].make(), PEERS[name].env()
    options: dict[str, Any] = {"request_count": REQUESTS, "concurrency": USERS, "request_timeout_seconds": 20.0}
    options |= {"warmup_request_count": kind.warmup, "endpoint_type": "chat" if kind.chat else "completions"}
    return SwarmtuneBenchmark(SwarmtuneBenchmark.Config.model_validate(options)), {}


def run(name: str, kind: Kind, url: str, folder: Path) -> Told:
    """One run of a client; a client that leaves nothing has told nothing."""
    benchmark, variables = client(name, kind)
    workload = Workload(
        model=MODEL,
        load=Load(concurrency=USERS),
        endpoint="chat" if kind.chat else "completions",
        requests=REQUESTS,
        warmup_requests=kind.warmup,
        input_tokens_mean=TOKENS,
        output_tokens_mean=TOKENS,
        seed=1,
        request_timeout_s=20.0,
    )
    command = benchmark.command(workload, url)
    for file in command.files:
        (folder / file.path).write_text(file.content, encoding="utf-8")
    environment = {**os.environ, **variables, **command.env}
    try:
        done = subprocess.run(
            command.argv,
            check=False,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        return Told(dict.fromkeys(FIGURES), f"was stopped after {TIMEOUT_S:g} s")
    try:
        measured = benchmark.read(folder)
    except SwarmTuneError as error:
        return Told(dict.fromkeys(FIGURES), f"no result: {last_line(output) or error.message}")
    m = measured.metrics
    completed = m.get("completed", 0.0)
    figures = {
        "whole answers": completed / (completed + m.get("failed", 0.0)) if completed + m.get("failed", 0.0) else None,
        "tokens": m["total_output_tokens"] / completed if completed else None,
        "TTFT": m.get("mean_ttft_ms"),
        "TPOT": m.get("mean_tpot_ms"),
    }
    said = "; ".join(measured.reasons) if name == "swarmtune" else last_line(output, SAID)
    return Told(figures, said)


def last_line(output: str, like: re.Pattern[str] = re.compile("")) -> str:
    """The last line of this kind."""
    lines = [ENDED.sub("", line).strip() for line in output.splitlines()]
    return next((line for line in reversed(lines) if line and like.search(line)), "")


def right(told: float | None, true: float | None, name: str) -> bool:
    """Is this figure true? What was not measured may be told as nothing, and as nothing else."""
    if true is None or told is None:
        return true is told
    near = CLOSE * true + (CLOSE_MS if name == "TTFT" else 0.0)
    return math.isfinite(told) and abs(told - true) <= near


def cell(figures: Mapping[str, float | None], true: Mapping[str, float | None]) -> str:
    """The figures of a client; those that are not true in bold."""
    shown = []
    for name, unit in FIGURES.items():
        value = figures[name]
        text = "-" if value is None else f"{value:.0%}" if name == "whole answers" else f"{value:.3g}{unit}"
        shown.append(text if right(value, true[name], name) else f"**{text}**")
    return ", ".join(shown)


def main() -> int:
    """Print the tables; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = ["swarmtune", *(name for name, peer in PEERS.items() if peer.available() and name != "vllm-rs")]
    parser.add_argument("--kinds", default=",".join(KINDS), help="which services, separated by commas")
    parser.add_argument("--clients", default=",".join(here), help="which clients")
    arguments = parser.parse_args()
    clients = arguments.clients.split(",")
    print(f"Each cell: {', '.join(FIGURES)}, as means; what is not true is bold.\n")
    print(f"| service | true | {' | '.join(clients)} |")
    print("|---" * (2 + len(clients)) + "|")
    said: list[str] = []
    score = dict.fromkeys(clients, 0)
    kinds = arguments.kinds.split(",")
    for name in kinds:
        kind, cells, first = KINDS[name], [], ""
        with service(name) as url:
            for one in clients:
                truth(url)
                with tempfile.TemporaryDirectory() as folder:
                    told = run(one, kind, url, Path(folder))
                true = truth(url)
                if kind.warmup:  # the measurement began after it
                    true["whole answers"] = 1.0
                first = first or cell(true, true)
                cells.append(cell(told.figures, true))
                score[one] += "**" not in cells[-1]
                if told.said:
                    said.append(f"- {name}, {one}: {told.said[:400]}")
        print(f"| {kind.what} | {first} | {' | '.join(cells)} |", flush=True)
    print(f"| right | | {' | '.join(f'{score[one]} of {len(kinds)}' for one in clients)} |")
    print("\nWhat they said besides:\n")
    print("\n".join(said))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
