"""How fast are predictions, and how far are they right?

    python benchmarks/simulator.py                 all rows that this machine has data for
    python benchmarks/simulator.py --row fidelity  one of: fidelity, sharegpt, mooncake, settings, million, answer
    python benchmarks/simulator.py --run DIR --kernels DIR --model-config FILE --max-num-seqs N --kv-blocks N
                                                   fidelity of another run of LLMServingSim's layout

fidelity  a run that vLLM was measured in: a model is trained on kernel tables of the same GPU, anchored by the first 60
          requests, and judged by the others
sharegpt  the requests of that run, in virtual time, on one core
mooncake  the conversation trace of Mooncake with a prefix cache, on one and on eight replicas
settings  500 settings of the simulated engine with one load of 3,000 requests each, metrics included, on two cores
million   1,000,000 requests of 16 tokens in a closed loop, metrics included; peak memory
answer    the first answer of `swarmtune simulate`

sharegpt and mooncake run AISimulate beside it, where it is installed (python benchmarks/peers.py --install .cache/peers): by
its tables of the device, and by its polynomial of no device. Its seconds are of its core alone, by its own clock.

Data by SWARMTUNE_DATA (../shared/data of the checkout); rows without their data are named and left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.judge.summary import results
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.scheduling import Rules
from swarmtune.settings import read_settings
from swarmtune.simulator.calibration import calibrated, replayed
from swarmtune.simulator.latency.model import Identity, LatencyModel
from swarmtune.simulator.latency.observed import Observed
from swarmtune.simulator.latency.readers import kernels
from swarmtune.simulator.latency.readers.base import Reading, Source
from swarmtune.simulator.latency.readers.requests import observed
from swarmtune.simulator.latency.tables import CostTables, linear
from swarmtune.simulator.latency.training import train
from swarmtune.simulator.virtual.fleet import Fleet
from swarmtune.simulator.virtual.replicas import make_replica
from swarmtune.simulator.virtual.requests import Requests
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.simulation.contents import Contents
from swarmtune.tuner.simulation.predict import Predictor, Service
from swarmtune.tuner.simulation.virtual_load import VirtualLoad

DATA = Path(os.environ.get("SWARMTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SERVING = DATA / "llmservingsim"
RUN, KERNELS = SERVING / "run_RTXPRO6000_Llama-3.1-8B", SERVING / "perf_RTXPRO6000_Llama-3.1-8B" / "tp1"
MOONCAKE = DATA / "mooncake" / "conversation_trace.jsonl"
PEER = Path(__file__).parents[1] / ".cache" / "peers" / "aisimulate" / "bin" / "python"
LLAMA = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
COST = linear(0.0025, 10e-6, 80e-6, 1e-7, 1024, 10e-6)
GOALS = {"e2e mean": 2.0, "tpot mean": 2.0, "ttft p50": 6.0, "e2e p99": 8.0, "tpot p99": 8.0, "ttft p99": 8.0}
FIRST = 60
ROWS: dict[str, Callable[[argparse.Namespace], list[tuple[str, str, str]]]] = {}


def row(function: Callable[[argparse.Namespace], list[tuple[str, str, str]]]) -> Callable[..., Any]:
    """A row of the table, under the name of its function."""
    ROWS[function.__name__] = function
    return function


def trained(folder: Path, config: Path | None) -> LatencyModel:
    """A model of the kernel tables in this folder."""
    with tempfile.TemporaryDirectory() as temporary:
        path = config or Path(temporary) / "config.json"
        if config is None:
            path.write_text(json.dumps(LLAMA))
        found = kernels.read(Source(folder, b""), Reading(config=path))
    return train(found.rows, Identity("kernels"), notes=found.notes)


def best_of(times: int, call: Callable[[], Any]) -> float:
    """Seconds, the least of several."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


@row
def fidelity(given: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Errors over the requests behind the first 60, as they come from the tables and after they were anchored."""
    seen, model = observed(given.run / "requests.jsonl"), trained(given.kernels, given.model_config)
    rules = Rules(
        given.max_num_seqs, given.max_num_batched_tokens, given.kv_blocks, 16, asynchronous=True, version=given.version
    )
    began = time.perf_counter()
    anchored = calibrated(model, seen, rules, FIRST)
    taken = time.perf_counter() - began
    found = [("calibration", f"{taken:.1f} s", f"multipliers {_told(anchored.fit.multipliers)}")]
    for name, made, front in (("as trained", model, 0.0), ("anchored", anchored.model, anchored.fit.front_s)):
        errors = _errors(made.tables(), seen, rules, front)
        text = ", ".join(f"{key} {by:+.1f} %" for key, by in errors.items())
        missed = [key for key, goal in GOALS.items() if abs(errors[key]) > goal]
        found.append((f"error, {name}", text, f"goals missed: {', '.join(missed) or 'none'}"))
    return found


def _told(multipliers: Any) -> str:
    return ", ".join(f"{name} {by:.2f}" for name, by in multipliers.items())


def _errors(tables: CostTables, seen: Observed, rules: Rules, front_s: float) -> dict[str, float]:
    found, rest = replayed(tables, seen, rules, front_s=front_s), slice(FIRST, None)
    statistics: dict[str, Callable[[Any], float]] = {
        "mean": np.nanmean, "p50": np.nanmedian, "p99": lambda v: np.nanpercentile(v, 99)
    }  # fmt: skip
    errors = {}
    for key in GOALS:
        measure, name = key.split()
        errors[key] = 100 * (
            statistics[name](found[measure][rest]) / statistics[name](getattr(seen, measure)[rest]) - 1
        )
    return errors


@row
def sharegpt(given: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Times real time."""
    seen, tables = observed(given.run / "requests.jsonl"), trained(given.kernels, given.model_config).tables()
    rules = Rules(given.max_num_seqs, given.max_num_batched_tokens, given.kv_blocks, 16, version=given.version)
    requests = Requests.of(seen.sent - seen.sent[0], seen.prompt, seen.output)

    def run() -> None:
        replica = make_replica(rules, tables)
        replica.add(requests)
        replica.run()
        replica.answers()

    taken, real = best_of(20, run), float(np.max(seen.sent + seen.e2e) - seen.sent[0])
    limits = (given.max_num_seqs, given.max_num_batched_tokens, given.kv_blocks)
    beside = peer("sharegpt", {"sharegpt": str(given.run)}, 1, taken, 16, False, limits)
    return [
        ("300 requests of ShareGPT, one core", f"{taken * 1000:.1f} ms", f"{real / taken:,.0f} times real time"),
        *beside,
    ]


def peer(
    what: str, paths: dict[str, str], replicas: int, ours: float, block: int, cache: bool, limits: tuple[int, ...]
) -> list[tuple[str, str, str]]:
    """The same load by AISimulate; nothing where it is not installed."""
    if not PEER.exists():
        return []
    found = []
    sequences, tokens, blocks = limits
    engine = {"max_num_seqs": sequences, "max_num_batched_tokens": tokens, "kv_blocks": blocks}
    engine |= {"block_size": block, "prefix_caching": cache}
    for timing, name in (("default", "tables"), ("polynomial", "polynomial")):
        asked = {"what": what, "replicas": replicas, "paths": paths, "engine": engine, "timing": timing, "repeats": 2}
        command = [str(PEER), str(Path(__file__).with_name("simulator_peer.py"))]
        ended = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
        if ended.returncode:
            found.append((f"  AISimulate, {name}", "failed", ended.stderr.strip()[-200:]))
            continue
        told = json.loads(ended.stdout)
        seconds = told["seconds"]
        rate = (
            f"{told['times_real']:,.0f} times real time"
            if what == "sharegpt"
            else f"{told['requests_per_s']:,.0f} requests/s"
        )
        found.append(
            (f"  AISimulate, {name}", f"{seconds:.2f} s", f"{rate}; we are {seconds / ours:,.0f} times as fast")
        )
    return found


def mooncake_requests(block: int) -> Requests:
    """The trace, with the contents of blocks of so many tokens."""
    rows = [json.loads(line) for line in MOONCAKE.read_text().splitlines()]
    parts = 512 // block
    contents = [
        [h * parts + i for h in one["hash_ids"] for i in range(parts)][: one["input_length"] // block] for one in rows
    ]
    prompts, outputs = ([one[name] for one in rows] for name in ("input_length", "output_length"))
    return Requests.of([one["timestamp"] / 1000 for one in rows], prompts, outputs, None, contents)


@row
def mooncake(_: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Requests per second of the simulation; the trace is parsed before."""
    found = []
    for block in (16, 64, 512):
        requests = mooncake_requests(block)
        for replicas in (1, 8):
            rules = Rules(256, 8192, 400_000 // block, block, prefix_caching=True)

            def run(replicas: int = replicas, rules: Rules = rules, requests: Requests = requests) -> None:
                fleet = Fleet([make_replica(rules, COST) for _ in range(replicas)], "round-robin")
                fleet.add(requests)
                fleet.run()

            taken = best_of(3, run)
            name = f"Mooncake, {replicas} replica{'s' * (replicas > 1)}, blocks of {block}"
            found.append((name, f"{taken:.2f} s", f"{len(requests) / taken:,.0f} requests/s"))
            if block != 512:
                limits = (rules.max_num_seqs, rules.max_num_batched_tokens, rules.blocks)
                found += peer("mooncake", {"mooncake": str(MOONCAKE)}, replicas, taken, block, True, limits)
    return found


def _setting(number: int) -> float:
    settings = read_settings(None, {
        "optimizer": {"engine": "simulated"}, "load_search": {"enabled": False},
        "loadgen": {"isl": 256, "osl": 128, "concurrency": 32, "request_count": 3000, "warmup_until_steady": False},
    })  # fmt: skip
    global _predictor  # noqa: PLW0603 - one for each process
    if _predictor is None:
        _predictor = Predictor(make_plan(settings), Service())
    space = _predictor.plan.space
    setting = space.decode(space.sample(np.random.default_rng(number)))
    (load,) = _predictor.loads(setting)
    return load.results.scalars["duration_s"]


_predictor: Predictor | None = None


@row
def settings(given: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Two processes, as many settings as were asked for."""
    count = given.settings
    began = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        simulated = sum(pool.imap_unordered(_setting, range(count), chunksize=10))
    taken = time.perf_counter() - began
    told = f"{count / taken:.1f} settings/s, {simulated / taken:,.0f} times real time"
    return [(f"{count} settings x 3,000 requests, two cores", f"{taken:.0f} s", told)]


@row
def million(given: argparse.Namespace) -> list[tuple[str, str, str]]:
    """In a process of its own, for its memory."""
    code = (
        "import resource, sys, time; sys.path.insert(0, sys.argv[1]); import simulator; began = time.perf_counter(); "
        "simulator.closed_loop(int(sys.argv[2])); "
        "print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(given.requests)]
    taken, peak = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    told = f"{given.requests / taken:,.0f} requests/s, peak memory {peak:.2f} GiB"
    return [(f"{given.requests:,} requests of 16 tokens, metrics included", f"{taken:.0f} s", told)]


def closed_loop(count: int) -> None:
    """So many requests of 64 users."""
    options = LoadgenOptions(request_count=count, concurrency=64, isl=64, osl=16)
    rules = Rules(64, 2048, 20_000, 16)
    dataset = make_dataset(options, 1).without_texts()
    fleet = Fleet([make_replica(rules, COST)])
    results(VirtualLoad(options, dataset, 1, fleet, rules, Contents(options, rules)).run())


@row
def answer(_: argparse.Namespace) -> list[tuple[str, str, str]]:
    """From the shell."""
    command = [str(Path(sys.executable).with_name("swarmtune")), "simulate", "-e", "simulated", "--json"]
    taken = best_of(3, lambda: subprocess.run(command, check=True, capture_output=True))
    return [("first answer of swarmtune simulate", f"{taken:.1f} s", "four loads of 100 requests")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=sorted(ROWS), action="append")
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--kernels", type=Path, default=KERNELS)
    parser.add_argument("--model-config", type=Path)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--kv-blocks", type=int, default=20_000)
    parser.add_argument("--version", type=lambda text: tuple(map(int, text.split("."))), default=(0, 19))
    parser.add_argument("--settings", type=int, default=500)
    parser.add_argument("--requests", type=int, default=1_000_000)
    given = parser.parse_args()
    needed = {"fidelity": given.run, "sharegpt": given.run, "mooncake": MOONCAKE}
    table = Table(title="simulation", title_justify="left", box=None)
    for name in ("what", "taken", ""):
        table.add_column(name)
    for name in given.row or ROWS:
        if name in needed and not needed[name].exists():
            table.add_row(name, "left out", f"{needed[name]} is not here (SWARMTUNE_DATA)")
            continue
        for line in ROWS[name](given):
            table.add_row(*line)
    Console().print(table)


if __name__ == "__main__":
    main()
