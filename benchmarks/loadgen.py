"""Is the load generator true, and what does it cost? Ours beside the peers, in the same run, on the same machine.

    python benchmarks/loadgen.py                     the clients beside each other at 20, 100, 400 and 1000 streams
    python benchmarks/loadgen.py --part poisson      2,000 requests/s: lateness and the shape of the gaps
    python benchmarks/loadgen.py --part starved      50 runs with a free core, 50 starved of CPU: the verdicts
    python benchmarks/loadgen.py --part million      a million requests: memory, time of the results
    python benchmarks/loadgen.py --part tls          what TLS costs: CPU per event with it and without, on both wires
    python benchmarks/loadgen.py --part repeat       same seed, same bytes, same times
    python benchmarks/loadgen.py --part profile      where the wire in Python spends its time

The client is pinned to one core, a server of exact timing in C (native/mock.c) to another: first token after 50 ms, then
one every 10 ms, 64 of them. "True" is what the server wrote down, from the kernel's stamp of the request to the write of
the token.
Peers are those of peers.py that are installed (``python benchmarks/peers.py --install DIR``). Needs a C compiler, 2 cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pstats
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from peers import PEERS
from rich.console import Console
from rich.table import Table

from swarmtune.errors import SwarmTuneError

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1
TTFT_MS, ITL_MS, TOKENS = 50.0, 10.0, 64
STREAMS = (20, 100, 400, 1000)
OURS = ("swarmtune", "swarmtune (python wire)")
LIMIT = "C epoll client"
SAMPLE_S = 0.1
TIMEOUT_S = 240.0
CERTIFICATE, KEY = "localhost.pem", "localhost-key.pem"


# --- the server of exact timing ----------------------------------------------------------------------------------------


def compiled(name: str, folder: Path, *options: str) -> Path:
    """A program of native/."""
    path = folder / name
    subprocess.run(["cc", "-O2", "-o", str(path), str(HERE / "native" / f"{name}.c"), *options], check=True)
    return path


@dataclass(frozen=True)
class Truth:
    """What the server wrote down. ns; one entry per request, and per token in ``stamps``."""

    received: NDArray[np.int64]
    stamps: list[NDArray[np.int64]]

    @classmethod
    def read(cls, path: Path) -> Truth:
        """The log of native/mock.c."""
        data, at = path.read_bytes(), 0
        received, stamps = [], []
        while at + 16 <= len(data):
            tokens, _, at_ns = struct.unpack_from("<IIq", data, at)
            at += 16
            received.append(at_ns)
            stamps.append(np.frombuffer(data, np.int64, tokens, at))
            at += 8 * tokens
        return cls(np.array(received, np.int64), stamps)

    @property
    def seconds(self) -> float:
        """First request to last token."""
        return float(max(s[-1] for s in self.stamps) - self.received.min()) / 1e9

    @property
    def events(self) -> int:
        """Tokens sent."""
        return sum(len(s) for s in self.stamps)

    def ttft_ms(self) -> NDArray[np.float64]:
        """Of each request."""
        return np.array([s[0] - r for s, r in zip(self.stamps, self.received, strict=True)]) / 1e6

    def itl_ms(self) -> NDArray[np.float64]:
        """All gaps."""
        return np.concatenate([np.zeros(0), *(np.diff(s) for s in self.stamps)]) / 1e6


@contextlib.contextmanager
def served(mock: Path, log: Path, *, ttft_ms: float = TTFT_MS, itl_ms: float = ITL_MS) -> Iterator[int]:
    """The server, pinned; its port. With a certificate beside it, it speaks TLS."""
    files = [str(path) for path in (mock.with_name(CERTIFICATE), mock.with_name(KEY)) if path.exists()]
    command = [*pinned(SERVER_CORE), str(mock), "0", str(ttft_ms), str(itl_ms), str(log), *files]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def pinned(core: int) -> list[str]:
    """Words that put a command on one core."""
    return ["taskset", "-c", str(core)]


# --- a client as a process ---------------------------------------------------------------------------------------------


class CpuWatch(threading.Thread):
    """CPU seconds of a process and its children over time."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._over = threading.Event()
        self._seen: dict[int, float] = {}
        self.samples: list[tuple[int, float]] = []

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            with contextlib.suppress(psutil.Error):
                for one in (self._process, *self._process.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        used = one.cpu_times()
                        self._seen[one.pid] = used.user + used.system
            self.samples.append((time.monotonic_ns(), sum(self._seen.values())))

    def between(self, from_ns: int, until_ns: int) -> float:
        """CPU seconds in this time, interpolated."""
        self._over.set()
        self.join()
        if len(self.samples) < 2:
            return float("nan")
        at, used = np.array(self.samples).T
        return float(np.interp(until_ns, at, used) - np.interp(from_ns, at, used))


@dataclass(frozen=True)
class Told:
    """What a client said and cost in one run, beside the truth (ms)."""

    client: str
    streams: int
    events_per_s: float
    cpu_us: float
    told: Mapping[str, float]
    true: Mapping[str, float]
    note: str = ""


def measured(
    client: str,
    argv: Callable[[str], Sequence[str]],
    env: Mapping[str, str],
    streams: int,
    mock: Path,
    folder: Path,
    *,
    itl_ms: float = ITL_MS,
) -> tuple[Told, str]:
    """Run a client in ``folder`` against a fresh server, whose URL ``argv`` is given. The second value is its output."""
    log = mock.with_name("truth.bin")
    with served(mock, log, itl_ms=itl_ms) as port:
        command = [*pinned(CLIENT_CORE), *argv(f"http://127.0.0.1:{port}")]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}, cwd=folder
        )
        watch = CpuWatch(psutil.Process(process.pid))
        watch.start()
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for one in psutil.Process(process.pid).children(recursive=True):
                one.kill()
            process.kill()
            output, _ = process.communicate()
        time.sleep(2 * SAMPLE_S)
    truth = Truth.read(log)
    if process.returncode or not truth.stamps:
        return Told(client, streams, 0, 0, {}, {}, f"failed: {output.strip()[-200:]}"), output
    start, end = int(truth.received.min()), int(max(s[-1] for s in truth.stamps))
    true = {
        "ttft_mean_ms": float(truth.ttft_ms().mean()),
        "ttft_p50_ms": percentile(truth.ttft_ms(), 50),
        "ttft_p99_ms": percentile(truth.ttft_ms(), 99),
        "itl_p99_ms": percentile(truth.itl_ms(), 99),
    }
    cpu_us = watch.between(start, end) / truth.events * 1e6
    return Told(client, streams, truth.events / truth.seconds, cpu_us, {}, true), output


def percentile(values: NDArray[np.float64], p: float) -> float:
    """Nearest rank."""
    return float(np.percentile(values, p, method="inverted_cdf"))


def with_told(made: Told, told: Mapping[str, float], note: str = "") -> Told:
    """The same with what the client said."""
    return Told(made.client, made.streams, made.events_per_s, made.cpu_us, told, made.true, note or made.note)


def run_ours(name: str, streams: int, requests: int, mock: Path, folder: Path) -> Told:
    """``swarmtune bench`` or its wire in Python, as a process of its own."""
    out = folder / "ours"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    argv = [
        *(sys.executable, "-m", "swarmtune", "bench", "-m", "mock", "--quiet", "--run-type", "single"),
        *("--concurrency", str(streams), "--request-count", str(requests), "--isl", "64", "--osl", str(TOKENS)),
        *("--wire", "python" if "python" in name else "native", "--artifact-dir", str(out), "--export", ""),
    ]
    made, _ = measured(name, lambda url: [*argv, "--url", url], {}, streams, mock, folder)
    if made.note:
        return made
    return _with_results(made, out)


def _with_results(made: Told, out: Path) -> Told:
    measurement = json.loads((out / "measurement.json").read_text())
    metrics = measurement["metrics"]
    told = {
        "ttft_mean_ms": metrics["mean_ttft_ms"], "ttft_p50_ms": metrics["p50_ttft_ms"],
        "ttft_p99_ms": metrics["p99_ttft_ms"], "itl_p99_ms": metrics["p99_itl_ms"],
    }  # fmt: skip
    verdict = json.loads((out / "results.json").read_text())["verdict"]
    return with_told(made, told, f"{verdict}{': ' + measurement['reasons'][0] if measurement['reasons'] else ''}")


def run_limit(streams: int, requests: int, mock: Path, client: Path, folder: Path) -> Told:
    """The minimal client in C."""

    def argv(url: str) -> list[str]:
        return [str(client), url.rpartition(":")[2], str(streams), str(requests), str(TOKENS)]

    made, output = measured(LIMIT, argv, {}, streams, mock, folder)
    return made if made.note else with_told(made, json.loads(output.strip().splitlines()[-1]))


def run_peer(name: str, streams: int, requests: int, mock: Path, folder: Path) -> Told:
    """A peer of peers.py."""
    peer, out = PEERS[name], folder / "peer"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    made, output = measured(
        name, lambda url: peer.argv(url, streams, requests, TOKENS, out), peer.env(), streams, mock, out
    )
    if made.note:
        return made
    try:
        told = asdict(peer.read(out))
        return with_told(made, {key: value for key, value in told.items() if value is not None})
    except (OSError, ValueError, LookupError, SwarmTuneError) as error:
        return with_told(made, {}, f"no result: {error!r}; {output.strip()[-120:]}")


def compare(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """All clients at all numbers of streams."""
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        mock, client = compiled("mock", folder), compiled("client", folder)
        names = [LIMIT, *OURS, *(name for name, peer in PEERS.items() if peer.available())]
        missing = [name for name, peer in PEERS.items() if not peer.available()]
        if missing:
            console.print(f"not installed here: {', '.join(missing)}")
        for streams in arguments.streams:
            for name in (n for n in names if not arguments.only or n in arguments.only):
                requests = arguments.rounds * streams
                if name == LIMIT:
                    told = run_limit(streams, requests, mock, client, folder)
                elif name in OURS:
                    told = run_ours(name, streams, requests, mock, folder)
                else:
                    told = run_peer(name, streams, requests if name not in SLOW else min(requests, 300), mock, folder)
                rows.append(told)
                console.print(f"{streams} streams: {name}: {told.events_per_s:,.0f} events/s {told.note}", style="dim")
    console.print(_table(rows))
    return [told.__dict__ for told in rows]


HOGS = 8  # processes that starve the client: it gets a ninth of its core
SLOW = ("guidellm",)  # minutes otherwise


def _table(rows: list[Told]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    heads = ("streams", "client", "events/s", "CPU us/event", "x C", "TTFT mean told / true", "p50", "p99")
    for head in (*heads, "ITL p99 told / true", ""):
        shown.add_column(head, justify="left" if head in ("client", "") else "right")
    for told in rows:
        limit = next((r.cpu_us for r in rows if r.client == LIMIT and r.streams == told.streams), float("nan"))
        pairs = [_pair(told, name) for name in ("ttft_mean_ms", "ttft_p50_ms", "ttft_p99_ms", "itl_p99_ms")]
        shown.add_row(
            str(told.streams), told.client, f"{told.events_per_s:,.0f}", f"{told.cpu_us:.1f}", f"{told.cpu_us / limit:.2f}",
            *pairs, told.note[:60],
        )  # fmt: skip
    return shown


def _pair(told: Told, name: str) -> str:
    said, true = told.told.get(name), told.true.get(name)
    return f"{'-' if said is None else f'{said:.1f}'} / {'-' if true is None else f'{true:.1f}'}"


# --- the other parts ---------------------------------------------------------------------------------------------------


def bench(port: int, out: Path, *options: str, core: int = CLIENT_CORE) -> dict[str, Any]:
    """``swarmtune bench`` with these options, pinned; its results.json."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["-m", "swarmtune", "bench", "-m", "mock", "--quiet", "--url", f"http://127.0.0.1:{port}"]
    command = [*pinned(core), sys.executable, *words, "--artifact-dir", str(out), *options]
    subprocess.run(command, check=True)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def poisson(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """2,000 requests/s: are they sent when they should be, and are the gaps exponential?"""
    from scipy import stats

    rate = 2000.0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with served(compiled("mock", folder), folder / "truth.bin") as port:
            load = ("--request-rate", f"{rate:g}", "--osl", "1", "--benchmark-duration", str(arguments.seconds))
            results = bench(port, folder / "out", *load, "--export", "jsonl")
        rows = [json.loads(line) for line in (folder / "out" / "requests.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"requests": len(rows), "verdict": results["verdict"]}
    found["requests_per_s"] = len(rows) / arguments.seconds
    lag = np.array([row["sent_ns"] - row["scheduled_ns"] - row["connect_ns"] for row in rows]) / 1e6
    found |= {f"lag_p{p}_ms": percentile(lag, p) for p in (50, 99, 99.9)}
    for name in ("scheduled_ns", "sent_ns"):
        gaps = np.diff(np.sort(np.array([row[name] for row in rows]))) / 1e9
        test = stats.kstest(gaps * rate, "expon")
        kind = name.removesuffix("_ns")
        found |= {f"{kind}_gaps_ks_d": float(test.statistic), f"{kind}_gaps_ks_p": float(test.pvalue)}
    _print(console, found)
    return found


def starved(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The same load with a free core and with hogs on it: are the verdicts right?"""
    counts: dict[str, Any] = {"free": {}, "starved": {}}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        mock = compiled("mock", folder)
        for number in range(arguments.runs):
            for case in ("free", "starved"):
                load = ("--concurrency", "400", "--request-count", "1200", "--osl", "64", "--run-type", "single")
                with served(mock, folder / "truth.bin") as port, hogs(HOGS if case == "starved" else 0):
                    results = bench(port, folder / "out", *load, "--export", "")
                counts[case][results["verdict"]] = counts[case].get(results["verdict"], 0) + 1
                reason = (results["reasons"] or [""])[0]
                console.print(f"{number + 1}/{arguments.runs} {case}: {results['verdict']} {reason}", style="dim")
    _print(
        console, {f"{case}, {verdict}": number for case, found in counts.items() for verdict, number in found.items()}
    )
    return counts


@contextlib.contextmanager
def hogs(number: int) -> Iterator[None]:
    """Processes that burn the client's core."""
    command = [*pinned(CLIENT_CORE), sys.executable, "-c", "while True: pass"]
    burning = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def tls(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """CPU per event with TLS and without, and the verdicts: the same load, one after the other. Needs OpenSSL's headers."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        plain, secret = Path(made) / "plain", Path(made) / "tls"
        plain.mkdir()
        secret.mkdir()
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(secret / KEY), "-out", str(secret / CERTIFICATE)]
        names = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run([*command, *names, *files], check=True, capture_output=True)
        mocks = {"http": compiled("mock", plain), "https": compiled("mock", secret, "-DTLS", "-lssl", "-lcrypto")}
        for streams in arguments.streams:
            cost = {}
            for wire in ("native", "python"):
                for scheme, mock in mocks.items():
                    told = _run_scheme(scheme, wire, streams, arguments.rounds, mock, Path(made), arguments.itl)
                    cost[wire, scheme] = told.cpu_us
                    text = f"{told.cpu_us:.1f} us of CPU per event, {told.events_per_s:,.0f} events/s, {told.note}"
                    found[f"{streams} streams, wire {wire}, {scheme}"] = text
                    console.print(f"{streams} streams, wire {wire}, {scheme}: {text}", style="dim")
                found[f"{streams} streams, wire {wire}, TLS / plain"] = cost[wire, "https"] / cost[wire, "http"]
    _print(console, found)
    return found


def _run_scheme(scheme: str, wire: str, streams: int, rounds: int, mock: Path, folder: Path, itl_ms: float) -> Told:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    argv = [
        *(sys.executable, "-m", "swarmtune", "bench", "-m", "mock", "--quiet", "--run-type", "single", "--wire", wire),
        *("--concurrency", str(streams), "--request-count", str(rounds * streams), "--isl", "64", "--osl", str(TOKENS)),
        *("--artifact-dir", str(out), "--export", ""),
        *(("--ca-file", str(mock.with_name(CERTIFICATE))) if scheme == "https" else ()),
    ]
    made, _ = measured(
        scheme,
        lambda url: [*argv, "--url", f"{scheme}://localhost:{url.rpartition(':')[2]}"],
        {},
        streams,
        mock,
        folder,
        itl_ms=itl_ms,
    )
    return made if made.note else _with_results(made, out)


def million(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """A million requests of two tokens: memory of the recording, time of the results."""
    program = HERE / "million.py"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with served(compiled("mock", folder), folder / "truth.bin", ttft_ms=5, itl_ms=1) as port:
            words = [str(program), str(port), str(folder / "out"), str(arguments.requests)]
            done = subprocess.run(
                [*pinned(CLIENT_CORE), sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True
            )
    found: dict[str, Any] = json.loads(done.stdout)
    _print(console, found)
    return found


def repeat(_: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Two runs in two processes: the same bytes at the same times?"""
    seen = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        mock = compiled("mock", folder)
        for seed in ("1", "1", "2"):
            with served(mock, folder / "truth.bin") as port:
                load = ("--request-rate", "500", "--request-count", "2000", "--random-seed", seed)
                lengths = ("--isl-stddev", "20", "--osl-stddev", "5", "--osl", "8")
                results = bench(port, folder / "out", *load, *lengths, "--export", "jsonl")
            rows = [json.loads(line) for line in (folder / "out" / "requests.jsonl").read_text().splitlines()]
            begun = rows[0]["scheduled_ns"]
            seen.append((results["inputs_sha256"], [(r["session"], r["scheduled_ns"] - begun) for r in rows]))
    found = {
        "same seed, same bytes": seen[0][0] == seen[1][0],
        "same seed, same times": seen[0][1] == seen[1][1],
        "other seed, other bytes": seen[0][0] != seen[2][0],
        "other seed, other times": seen[0][1] != seen[2][1],
    }
    _print(console, found)
    return found


def profile(_: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Where the wire in Python spends its time, by cProfile (which itself costs much): share of the time of the run."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        words = ["-m", "cProfile", "-o", str(folder / "profile"), "-m", "swarmtune", "bench", "-m", "mock", "--quiet"]
        load = ["--concurrency", "400", "--request-count", "1200", "--osl", "64", "--wire", "python"]
        with served(compiled("mock", folder), folder / "truth.bin") as port:
            url = ["--url", f"http://127.0.0.1:{port}", "--run-type", "single", "--artifact-dir", str(folder)]
            subprocess.run([*pinned(CLIENT_CORE), sys.executable, *words, *load, *url, "--export", ""], check=True)
        times: dict[Any, Any] = pstats.Stats(str(folder / "profile")).stats  # type: ignore[attr-defined] # is there
    (whole,) = [entry[3] for (file, _, name), entry in times.items() if file.endswith("worker.py") and name == "run"]
    waits = ("epoll", "sleep")
    busy = whole - sum(entry[2] for (_, _, name), entry in times.items() if any(wait in name for wait in waits))
    inside = {}
    for (file, _, name), entry in times.items():
        callers = {Path(caller[0]).name for caller in entry[4]}
        if (Path(file).name in HOT or callers & HOT) and not any(wait in name for wait in waits):
            inside[f"{Path(file).name} {name}"] = entry[2] / busy
    found = dict(sorted(inside.items(), key=lambda item: -item[1])[:12])
    _print(console, {name: f"{share:.0%}" for name, share in found.items()})
    return found


HOT = {"python.py", "framing.py", "selectors.py"}


def _print(console: Console, found: Mapping[str, Any]) -> None:
    shown = Table(box=None, show_header=False)
    for name, value in found.items():
        shown.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
    console.print(shown)


PARTS = {
    "clients": compare,
    "poisson": poisson,
    "starved": starved,
    "million": million,
    "tls": tls,
    "repeat": repeat,
    "profile": profile,
}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="clients")
    parser.add_argument(
        "--streams", type=lambda text: [int(n) for n in text.split(",")], default=list(STREAMS), metavar="N,..."
    )
    parser.add_argument("--rounds", type=int, default=10, help="answers per stream")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="CLIENT,...")
    parser.add_argument("--itl", type=float, default=ITL_MS, metavar="MS", help="of --part tls: between two tokens")
    parser.add_argument("--seconds", type=float, default=20.0, help="of --part poisson")
    parser.add_argument("--runs", type=int, default=50, help="of --part starved, each")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of --part million")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here, too")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        parser.error("this needs two cores: one for the server, one for the client")
    found = PARTS[arguments.part](arguments, Console(width=max(150, Console().width)))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
