"""Load the built-in server harder and harder, and compare the measured with the true values."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.exports.report import report
from swarmtune.loadgen.judge.certify import Level
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Records
from swarmtune.loadgen.run import LoadRun, RunPart
from swarmtune.loadgen.selftest.server import read_log

TTFT_MS, ITL_MS, TOKENS = 50.0, 10.0, 64
STREAMS = (10, 50, 100, 200, 400, 700, 1000, 1500)
RATES = (100.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0)
ROUNDS = 3  # answers per stream
RATE_SECONDS = 3.0
SERVER_LATE_MS = 5.0  # p99 of the built-in server's own lateness above which it is the limit


@dataclass(frozen=True)
class Step:
    """One load: measured and true values (ms). ``events_per_s``: chunks received."""

    streams: int | None
    request_rate: float | None
    events_per_s: float
    requests_per_s: float
    cpu_us_per_event: float
    ttft_mean_ms: float
    true_ttft_mean_ms: float
    itl_p99_ms: float
    true_itl_p99_ms: float
    send_lag_p99_ms: float
    verdict: Level
    reasons: tuple[str, ...]
    server_late_p99_ms: float

    @property
    def server_is_the_limit(self) -> bool:
        """Was the built-in server itself late?"""
        return self.server_late_p99_ms > SERVER_LATE_MS

    @property
    def good(self) -> bool:
        """Whether this load can be measured on this machine."""
        return self.verdict == "valid"


def steps() -> Iterator[Step]:
    """Streams until the certificate is no longer valid or the server no longer exact, then rates in the same way."""
    for streams in STREAMS:
        step = measure(LoadgenOptions(concurrency=streams, osl=TOKENS, isl=16, request_count=ROUNDS * streams))
        yield step
        if not step.good or step.server_is_the_limit:
            break
    for rate in RATES:
        options = LoadgenOptions(request_rate=rate, osl=1, isl=16, benchmark_duration=RATE_SECONDS)
        step = measure(options)
        yield step
        if not step.good or step.server_is_the_limit:
            break


def measure(options: LoadgenOptions) -> Step:
    """One load on a fresh server."""
    with tempfile.TemporaryDirectory(prefix="swarmtune-self-test-") as folder:
        directory = Path(folder)
        with served(directory / "truth.bin") as url:
            spec = Spec(url=(url,), model="self-test", options=options)
            run = LoadRun(RunPart(spec, directory))
            try:
                run.prepare()
                before = _cpu_s()
                run.execute()
                cpu_s = _cpu_s() - before
            finally:
                run.close()
        return compare(spec, run.collected(), directory / "truth.bin", cpu_s)


@contextlib.contextmanager
def served(log: Path) -> Iterator[str]:
    """The built-in server as a process; its URL. Its log is there when the block has ended."""
    command = [sys.executable, "-P", "-m", "swarmtune.loadgen.selftest.server", str(TTFT_MS), str(ITL_MS), str(log)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a pipe was asked for")
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(spec: Spec, records: Records, log: Path, cpu_s: float) -> Step:
    """Measured beside true values."""
    made = report(spec, records)
    rows = records.requests[records.requests["outcome"] == Outcome.COMPLETED]
    truth = {name: (received, stamps) for name, received, stamps in read_log(log)}
    first, gaps, late = _truth(rows, records, truth)
    scalars, statistics = made.results.scalars, made.results.statistics
    seconds = max(1e-9, scalars["duration_s"])
    events = int(rows["chunks"].sum())
    itl = statistics.get("itl_ms")
    return Step(
        streams=spec.options.concurrency,
        request_rate=spec.options.request_rate,
        events_per_s=events / seconds,
        requests_per_s=len(rows) / seconds,
        cpu_us_per_event=cpu_s / max(1, events) * 1e6,
        ttft_mean_ms=statistics["ttft_ms"].mean if "ttft_ms" in statistics else float("nan"),
        true_ttft_mean_ms=float(first.mean()) if len(first) else float("nan"),
        itl_p99_ms=(itl.value("p99") if itl else None) or 0.0,
        true_itl_p99_ms=_p99(gaps),
        send_lag_p99_ms=scalars.get("client_send_lag_p99_ms", 0.0),
        verdict=made.certificate.level,
        reasons=made.certificate.reasons,
        server_late_p99_ms=_p99(late),
    )


Floats = NDArray[np.float64]


def _truth(
    rows: NDArray[np.void], records: Records, truth: dict[str, tuple[int, list[int]]]
) -> tuple[Floats, Floats, Floats]:
    """True TTFT (server's send - our send), true gaps, and how late the server was with each token, all ms."""
    first, gaps, late = [], [np.zeros(0)], [np.zeros(0)]
    for row in rows:
        received, stamps = truth[f"{records.request_prefix}{row['session']}-{row['turn']}"]
        sent = np.array(stamps, np.int64)
        first.append((sent[0] - row["sent_ns"]) / 1e6)
        gaps.append(np.diff(sent) / 1e6)
        late.append((sent - received) / 1e6 - TTFT_MS - ITL_MS * np.arange(len(sent)))
    return np.array(first), np.concatenate(gaps), np.concatenate(late)


def _p99(values: Floats) -> float:
    return float(np.percentile(values, 99, method="inverted_cdf")) if len(values) else 0.0


def conclusion(done: list[Step]) -> list[str]:
    """What the steps show, in sentences."""
    said = [f"{os.cpu_count()} cores, one worker on one of them and the built-in server on another."]
    for name, unit, part in (
        ("streams", "streams of 100 tokens/s", [s for s in done if s.request_rate is None]),
        ("rates", "requests/s", [s for s in done if s.request_rate is not None]),
    ):
        good = [s for s in part if s.good]
        if not good:
            said.append(
                f"No load of {name} could be measured with a valid result: this machine is too busy or too small."
            )
            continue
        best = good[-1]
        size = (
            f"{best.streams} {unit}, {best.events_per_s:,.0f} events/s"
            if best.streams
            else f"{best.request_rate:g} {unit}"
        )
        last = part[-1]
        why = "the end of the ladder"
        if last.server_is_the_limit:
            why = "beyond that the built-in server itself is late, so more may be possible"
        elif not last.good:
            why = f"beyond that the result was {last.verdict}: {last.reasons[0]}"
        said.append(f"Results are valid up to {size} per worker ({why}).")
    return said
