"""AISimulate replays a trace: the peer of simulator.py. Run it with the Python of the peer's own environment.

    python benchmarks/peers.py --install .cache/peers
    .cache/peers/aisimulate/bin/python benchmarks/simulator_peer.py < request.json

The request: what ("sharegpt" or "mooncake"); paths (sharegpt: the directory of a run as LLMServingSim writes it; mooncake: a
trace with hash_ids); replicas; engine (max_num_seqs, max_num_batched_tokens, block_size, kv_blocks, prefix_caching). May
also be there: model and hardware by AISimulate's names, timing ("default": its device tables, "polynomial": its cheapest),
repeats (3), first (60: the "rest" are the requests after so many), records (false; true adds the stamps of every request).

One JSON line comes back. seconds: the simulation alone, best of the repeats, by AISimulate's own clock; cpu_seconds: the
same in CPU time (it has one thread), estimated by the CPU share of the native call, for machines that are not idle; call_s
and call_cpu_s: the whole native call, which reads the trace and the device tables too; total_s: from the start of this
program to the first result, imports included. These runs keep no records; the metrics are of one more run, which does.
Nothing is fitted.
Exit code 2 and a sentence on stderr if the request is wrong or AISimulate refuses it.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import importlib  # noqa: E402 - the clock starts first
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

VERSION = "0.13.0.dev202610270000000085"
MODEL, HARDWARE = "meta-llama/Meta-Llama-3.1-8B", "rtx_pro_6000_server"
TRACE_BLOCK = 512  # tokens of a hash id
APART_MS = 1e-6  # between requests of one arrival time: the peer puts equal times in a random order
Row = dict[str, Any]
NOT_SAME = (
    "engine version: one set of vLLM rules for all versions, sync or async scheduling cannot be chosen",
    "step times: {times}; no calibration to the run",
    "KV blocks: one fewer than asked, as it has no null block and vLLM has one",
    "arrivals at the same time: moved 1 ns apart, as it would take them in a random order",
    "front end (HTTP, tokeniser, streaming): not in its times",
)
LIMITS = ("max_num_seqs", "max_num_batched_tokens", "block_size", "kv_blocks", "prefix_caching")
ROUTER = "router: round-robin is the only one of the wheel; others need Dynamo"


def sharegpt_rows(directory: Path) -> list[Row]:
    """The requests of a run as a trace, each prompt of its own, with what was measured (s after the first arrival)."""
    lines = (directory / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    requests = sorted((json.loads(line) for line in lines), key=lambda row: float(row["queued_ts"]))
    zero, block, rows = requests[0]["queued_ts"], 0, []
    for request in requests:
        blocks = -(-request["input_toks"] // TRACE_BLOCK)
        row = {
            "timestamp": (request["queued_ts"] - zero) * 1e3,
            "input_length": request["input_toks"],
            "output_length": request["output_toks"],
            "hash_ids": list(range(block, block + blocks)),
            "measured": (request["first_token_ts"] - zero, request["last_token_ts"] - zero),
        }
        block += blocks
        rows.append(row)
    return rows


def mooncake_rows(path: Path) -> list[Row]:
    """The requests of a trace."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_trace(rows: Sequence[Row], path: Path) -> None:
    """The trace as the peer reads it; no two arrivals at the same time."""
    with path.open("w", encoding="utf-8") as file:
        for index, row in enumerate(rows):
            told = {key: value for key, value in row.items() if key != "measured"}
            file.write(json.dumps({**told, "timestamp": row["timestamp"] + index * APART_MS}) + "\n")


def configuration(request: Mapping[str, Any], trace: Path) -> Row:
    """A prediction.yaml of ``aisimulate predict``, as a mapping."""
    engine = request["engine"]
    worker = {
        "parallelism": {"replicas": request.get("replicas", 1)},
        "scheduler": {
            "max_batched_tokens": engine["max_num_batched_tokens"],
            "max_sequences": engine["max_num_seqs"],
        },
        "kv_cache": {
            "block_size": engine["block_size"],
            "prefix_caching": engine["prefix_caching"],
            "capacity": {"type": "fixed", "blocks": engine["kv_blocks"] - 1},
        },
        "timing": {"type": request.get("timing", "default")},
    }
    return {
        "traffic": {
            "source": {"type": "trace", "paths": [str(trace)], "format": "mooncake", "block_size": TRACE_BLOCK},
            "load": {"type": "trace_timestamps"},
        },
        "engine": {
            "mode": "aggregated",
            "backend": "vllm",
            "enable_chunked_prefill": True,
            "model": request.get("model", MODEL),
            "hardware": request.get("hardware", HARDWARE),
            "workers": {"aggregated": worker},
        },
    }


class Clocked:
    """The peer's Rust core, and how long each of its calls took."""

    def __init__(self) -> None:
        self.core = importlib.import_module("aisimulate._runtime").run_replay_json
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []

    def run_replay_json(self, text: str) -> str:
        """What the peer's runner calls."""
        wall, cpu = time.perf_counter(), time.process_time()
        report: str = self.core(text)
        self.wall_s.append(time.perf_counter() - wall)
        self.cpu_s.append(time.process_time() - cpu)
        return report


class Peer:
    """The peer's public entry for one prediction."""

    def __init__(self, config: Row) -> None:
        self.config = importlib.import_module("aisimulate.config").CorePredictionConfig.model_validate(config)
        self.run_prediction = importlib.import_module("aisimulate.predict").run_prediction
        self.wanted = importlib.import_module("aisimulate").ReplayOutputRequirements
        self.core = Clocked()
        self.factory = importlib.import_module("aisimulate").EngineReplayRunnerFactory(runtime=self.core)

    def replay(self, records: bool = False) -> Row:
        """Its report, with a record of each request if asked for."""
        wanted = self.wanted(include_raw_report=True, capture_per_request=records)
        result = self.run_prediction(
            self.config, stack="engine", runner_factory=self.factory, output_requirements=wanted
        )
        report: Row = result.native
        return report


def stamps(report: Row) -> list[tuple[float, float, float, int]]:
    """Arrival, first token, last token (s) and output tokens of each request, in the order of the trace."""
    rows = sorted(report["per_request"], key=lambda row: int(row["session_id"].rpartition("_")[2]))
    return [
        (row["arrival_time_ms"] / 1e3, row["first_token_ms"] / 1e3, row["last_token_ms"] / 1e3, row["output_length"])
        for row in rows
        if row["terminal_status"] == "completed"
    ]


def metrics(requests: Sequence[tuple[float, float, float, int]]) -> dict[str, float]:
    """E2E, TPOT and TTFT in ms, from (arrival, first token, last token, tokens); percentiles by linear interpolation."""
    np = importlib.import_module("numpy")
    arrival, first, last, tokens = np.array(requests, float).T
    ttft, e2e = (first - arrival) * 1e3, (last - arrival) * 1e3
    several = tokens > 1
    tpot = (last - first)[several] * 1e3 / (tokens[several] - 1)
    found = {"e2e_mean_ms": e2e.mean(), "tpot_mean_ms": tpot.mean(), "ttft_p50_ms": np.percentile(ttft, 50)}
    for name, values in (("e2e", e2e), ("tpot", tpot), ("ttft", ttft)):
        found[f"{name}_p99_ms"] = np.percentile(values, 99)
    return {name: round(float(value), 3) for name, value in found.items()}


def compared(rows: Sequence[Row], predicted: Sequence[tuple[float, float, float, int]], first: int) -> Row:
    """Metrics of "all" requests and of the "rest" after the ``first``; where measured, that and the errors in %."""
    measured = len(predicted) == len(rows) and all("measured" in row for row in rows)
    real = [(row["timestamp"] / 1e3, *row["measured"], row["output_length"]) for row in rows] if measured else []
    found: Row = {}
    for name, start in (("all", 0), ("rest", first)):
        if start >= len(predicted):
            continue
        told = metrics(predicted[start:])
        found[name] = {"requests": len(predicted) - start, "predicted": told}
        if measured:
            was = metrics(real[start:])
            errors = {key: round((told[key] / was[key] - 1) * 100, 2) for key in was}
            found[name] |= {"measured": was, "error_percent": errors}
    return found


def answer(request: object) -> Row:
    """The line of JSON. ValueError, TypeError or OSError if the request is wrong; else the errors of the peer."""
    if not isinstance(request, dict):
        raise TypeError("the request must be a JSON object")
    what, load = request.get("what"), os.getloadavg()
    readers = {"sharegpt": sharegpt_rows, "mooncake": mooncake_rows}
    if what not in readers:
        raise ValueError(f"what must be sharegpt or mooncake, not {what!r}")
    lacking = [f"engine.{name}" for name in LIMITS if name not in request.get("engine", {})]
    lacking += [f"paths.{what}"] if what not in request.get("paths", {}) else []
    if lacking:
        raise ValueError(f"the request lacks {', '.join(lacking)}")
    rows = readers[what](Path(request["paths"][what]))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        write_trace(rows, trace)
        peer = Peer(configuration(request, trace))
        runs = [peer.replay()]
        total_s = time.perf_counter() - START
        runs += [peer.replay() for _ in range(request.get("repeats", 3) - 1)]
        timed = len(runs)
        report = peer.replay(records=True)
    seconds = [run["wall_time_ms"] / 1e3 for run in runs]
    spent = zip(seconds, peer.core.cpu_s, peer.core.wall_s, strict=False)
    best, simulated = min(seconds), report["duration_ms"] / 1e3
    data = report["prediction_provenance"]["aggregated"].get("data_version")
    times = f"its own tables of the device, measured with vLLM {data}" if data else "its polynomial of no device"
    told = stamps(report)
    return {
        "peer": f"aisimulate {VERSION}",
        "what": what,
        "replicas": request.get("replicas", 1),
        "engine": request["engine"],
        "model": request.get("model", MODEL),
        "hardware": request.get("hardware", HARDWARE),
        "timing": request.get("timing", "default"),
        "seconds": round(best, 4),
        "runs_s": [round(value, 4) for value in seconds],
        "cpu_seconds": round(min(alone * cpu / wall for alone, cpu, wall in spent), 4),
        "call_s": round(min(peer.core.wall_s[:timed]), 4),
        "call_cpu_s": round(min(peer.core.cpu_s[:timed]), 4),
        "total_s": round(total_s, 4),
        "load": [round(load[0], 2), round(os.getloadavg()[0], 2)],
        "simulated_s": round(simulated, 4),
        "requests": len(rows),
        "completed": len(told),
        "times_real": round(simulated / best, 1),
        "requests_per_s": round(len(rows) / best, 1),
        "prefix_hit": round(report["first_admission_prefix_cache_reused_ratio"], 4),
        "metrics": compared(rows, told, request.get("first", 60)),
        "not_same": [text.format(times=times) for text in NOT_SAME] + [ROUTER] * (request.get("replicas", 1) > 1),
        **({"records": told} if request.get("records") else {}),
    }


def main() -> int:
    """Exit code: 0, or 2 if there is no answer."""
    try:
        line = json.dumps(answer(json.load(sys.stdin)))
    except ImportError as error:
        print(f"AISimulate is not in this Python ({error}): python benchmarks/peers.py --install DIR", file=sys.stderr)
        return 2
    except (LookupError, ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"no answer: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        return 2
    print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
