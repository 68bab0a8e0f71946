"""How often does the proof find a gain, and how often is it wrong? Thousands of proofs, in simulated time.

    python benchmarks/proof.py                      closed loops and rates, 2,000 proofs a cell (about 15 minutes)
    python benchmarks/proof.py --proofs 200         a quick look
    python benchmarks/proof.py --part mock          a real server of exact timing: 50 against 40 ms a token, really measured

Every proof is two settings over some rounds, the second truly faster by 20 % (or by nothing). Each measurement is made of
single requests with their times: users who send again as soon as they have their answer, or arrivals of a Poisson process,
under an effect of the round (10 %), of the service's start (2 %), of slow waves of the machine (autocorrelated, 5 %) and of
each answer's length. The product's own functions make the rates and the verdict of them.

"ours": rates while the load is on, Student's t on the rounds. "before": answers by the time until the last one, and the
wider of Student's t and of a block bootstrap inside the rounds (until November 2026). "count + t": those answers with
Student's t, which is what a script around another load generator would do. Columns: coverage of the 95 % interval with and
without a gain, share of proofs that find the gain, share that find one where there is none, and the median width of the
interval in points.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.signal import lfilter
from scipy.special import ndtr

from swarmtune.loadgen.judge.latencies import Columns
from swarmtune.loadgen.judge.loaded import loaded_rates
from swarmtune.loadgen.records import REQUEST, Outcome
from swarmtune.records import Score
from swarmtune.tuner.proof.confirm import Observed, judge

NS = 1_000_000_000
GAIN = 0.2
ROUND, START, MACHINE = 0.10, 0.02, 0.05  # standard deviations of the logarithm
MEMORY = 0.8  # correlation of the machine's speed from one step to the next
LIMIT = 1.5  # mean answers: the SLO of a request under a rate
STEPS = 4  # of the machine's speed in a mean answer
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """A kind of load: ``users`` of a closed loop or requests per mean answer of a rate; ``waves``: mean answers that a
    measurement is long; ``spread``: of the answers' lengths.
    """

    users: int
    waves: float
    spread: float
    closed: bool = True

    @property
    def name(self) -> str:
        """For the table."""
        what = f"{self.users} users" if self.closed else f"rate, {self.users} at a time"
        return f"{what}, {self.waves:g} waves, spread {self.spread:g}"


CELLS = [
    *(Cell(users, waves, spread) for users in (1, 4, 16, 64) for waves in (2, 8, 40) for spread in (0.05, 0.4)),
    *(Cell(users, waves, 0.4, closed=False) for users in (4, 16) for waves in (8, 40)),
]


@dataclass(frozen=True)
class Measured:
    """One measurement: requests by their times, s, and which of them kept their limits."""

    sent: Floats
    ended: Floats
    kept: NDArray[np.bool_]


def measure(
    rng: np.random.Generator, cell: Cell, lengths: np.random.Generator, effect: float, speed: float
) -> Measured:
    """One measurement of mean answers of 1 / ``speed`` s. ``lengths``: the same for both sides of a round."""
    offered = cell.waves
    steps = int(STEPS * offered * 4) + 20
    fresh = rng.standard_normal(steps)
    fresh[1:] *= math.sqrt(1 - MEMORY**2)
    noise = lfilter([1.0], [1.0, -MEMORY], fresh)
    slow = np.exp(effect + START * rng.standard_normal() + MACHINE * noise) / speed

    def lasts(at: Floats) -> Floats:
        own = np.exp(cell.spread * lengths.standard_normal(len(at)) - cell.spread**2 / 2)
        return np.asarray(own * slow[np.minimum((at * STEPS).astype(int), steps - 1)])

    if not cell.closed:
        gaps = lengths.exponential(1 / cell.users, int(cell.users * offered * 2) + 20)
        sent = np.cumsum(gaps)
        sent = sent[sent < offered]
        taken = lasts(sent)
        return Measured(sent, sent + taken, taken < LIMIT)
    now, all_sent, all_ended = np.zeros(cell.users), [], []
    while (busy := now < offered).any():
        taken = lasts(now)
        all_sent.append(now[busy])
        all_ended.append((now + taken)[busy])
        now = np.where(busy, now + taken, now)
    sent, ended = np.concatenate(all_sent), np.concatenate(all_ended)
    return Measured(sent, ended, np.ones(len(sent), bool))


def columns(measured: Measured) -> Columns:
    """As the load generator records it."""
    rows = np.zeros(len(measured.sent), REQUEST)
    rows["sent_ns"], rows["end_ns"] = measured.sent * NS + NS, measured.ended * NS + NS
    rows["output_tokens"], rows["outcome"] = 1, Outcome.COMPLETED
    none = np.zeros(0, np.int64)
    return Columns(
        rows, none, none.astype(np.float32), none.astype(np.uint8), none.astype(np.int32), none, none, none, none, 0
    )


def ours(cell: Cell, measured: Measured) -> float:
    """Goodput while the load is on."""
    users = cell.users if cell.closed else None
    blocks = loaded_rates(columns(measured), measured.kept, NS, users, cell.waves)["request_goodput"]
    return float(np.mean(blocks))


def counted(measured: Measured) -> float:
    """Goodput of the whole run."""
    return float(np.count_nonzero(measured.kept) / measured.ended.max())


# --- the rule until November 2026 ------------------------------------------------------------------------------------------


def old_blocks(measured: Measured, count: int = 10) -> Floats:
    """Answers by their end, in ten equal stretches of the run."""
    place = np.minimum((measured.ended / measured.ended.max() * count).astype(int), count - 1)
    return np.asarray(np.bincount(place[measured.kept], minlength=count), np.float64)


def old_interval(logs: Sequence[float], blocks: Sequence[tuple[Floats, Floats]]) -> tuple[float, float]:
    """The wider of Student's t and a hierarchical block bootstrap (circular, two blocks together), log ratios."""
    (low, high), rng = t_interval(logs), np.random.default_rng(0)
    rounds = rng.integers(len(logs), size=(1000, len(logs)))
    drawn = np.asarray(logs)[rounds]
    for number, pair in enumerate(blocks):
        chosen = rounds == number
        amount = int(np.count_nonzero(chosen))
        for sign, values in zip((1, -1), pair, strict=True):
            if values.mean() > 0:
                circle = np.append(values, values[:1])
                means = (circle[1:] + circle[:-1]) / 2 / values.mean() - 1
                drawn[chosen] += sign * means[rng.integers(len(means), size=(amount, len(values) // 2))].mean(axis=1)
    below, above = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return min(low, float(below)), max(high, float(above))


def t_interval(logs: Sequence[float]) -> tuple[float, float]:
    """Student's t on the log ratios of the rounds."""
    from swarmtune.tuner.proof.paired import paired_t

    return paired_t(logs)[0]


# --- proofs ----------------------------------------------------------------------------------------------------------------


def proofs(cell: Cell, rounds: int, speed: float, count: int, seed: int) -> dict[str, list[Any]]:
    """Of so many proofs by each rule: does the interval hold the truth, is a gain found, and the interval's width. Of the
    slow rule until November 2026 a tenth.
    """
    truth = truth_of(cell, speed)
    found: dict[str, list[Any]] = {"ours": [], "count + t": [], "before": []}
    rng = np.random.default_rng(seed)
    for proof_number in range(count):
        pairs = []
        for _ in range(rounds):
            effect, requests = ROUND * rng.standard_normal(), int(rng.integers(2**62))
            pairs.append([measure(rng, cell, np.random.default_rng(requests), effect, s) for s in (1.0, speed)])
        seen = [{i: Observed(Score(ours(cell, m), 0.0, {})) for i, m in enumerate(pair)} for pair in pairs]
        proof = judge({}, seen, 0, 1, [1], "maximize").verdict
        low, high = (math.log1p(percent / 100) for percent in proof.ci95_percent or (-99.0, 1e9))
        found["ours"].append((low <= truth <= high, proof.significant, width(low, high)))
        logs = [math.log(counted(b) / counted(a)) for a, b in pairs]
        intervals = {"count + t": t_interval(logs)}
        if proof_number % 10 == 0:
            intervals["before"] = old_interval(logs, [(old_blocks(b), old_blocks(a)) for a, b in pairs])
        for name, (low, high) in intervals.items():
            found[name].append((low <= truth <= high, low > 0, width(low, high)))
    return found


def width(low: float, high: float) -> float:
    """Points of percent."""
    return 100 * (math.exp(min(high, 50)) - math.exp(low))


def truth_of(cell: Cell, speed: float) -> float:
    """The mean log ratio of the two goodputs: of a closed loop that of the speeds, of a rate that of the shares of answers
    which keep the limit, over all effects of a round.
    """
    if cell.closed or speed == 1.0:
        return math.log(speed)
    effects = ROUND * np.random.default_rng(99).standard_normal(100_000)
    spread = math.hypot(START, MACHINE, cell.spread)
    shares = [ndtr((math.log(LIMIT * s) + cell.spread**2 / 2 - effects) / spread) for s in (1.0, speed)]
    return float(np.mean(np.log(shares[1] / shares[0])))


def simulated(console: Console, count: int, rounds: Sequence[int], cells: Sequence[Cell]) -> None:
    """The table of all cells, worked out by as many processes as there are cores."""
    kinds = [(cell, number) for cell in cells for number in rounds]
    table = Table("load", "rounds", "rule", "coverage", "without a gain", "found", "false", "width", box=None)
    worst: dict[str, list[float]] = {}
    with ProcessPoolExecutor() as pool:
        with_gain = [pool.submit(proofs, *kind, 1 + GAIN, count, 2 * i) for i, kind in enumerate(kinds)]
        without = [pool.submit(proofs, *kind, 1.0, count, 2 * i + 1) for i, kind in enumerate(kinds)]
        for (cell, number), gained, equal in zip(kinds, with_gain, without, strict=True):
            for rule, rows in gained.result().items():
                covered, power = (float(np.mean([row[i] for row in rows])) for i in range(2))
                of_equal = equal.result()[rule]
                false, honest = (float(np.mean([row[i] for row in of_equal])) for i in (1, 0))
                middle = float(np.median([row[2] for row in rows]))
                worst.setdefault(rule, []).extend((covered, honest, false))
                first = rule == "ours"
                shown = (f"{covered:.1%}", f"{honest:.1%}", f"{power:.0%}", f"{false:.1%}", f"{middle:.1f}")
                table.add_row(cell.name if first else "", str(number) if first else "", rule, *shown)
            print(f"{cell.name}, {number} rounds", file=sys.stderr)
    console.print(table)
    for rule, shares in worst.items():
        coverages = shares[0::3] + shares[1::3]
        console.print(
            f"{rule}: coverage {min(coverages):.1%} to {max(coverages):.1%}, "
            f"at most {max(shares[2::3]):.1%} false gains in a cell"
        )


# --- a real server of exact timing ----------------------------------------------------------------------------------------


def mock(console: Console, rounds: Sequence[int]) -> None:
    """A server that answers after 100 ms with 32 tokens, 50 or 40 ms apart; 16 users, 3 s a measurement; truly +23.1 %."""
    table = Table("rounds", "gain", "95 % interval", "width", "verdict", box=None)
    truth = 100 * ((0.1 + 31 * 0.05) / (0.1 + 31 * 0.04) - 1)
    for number in rounds:
        with tempfile.TemporaryDirectory() as folder:
            seen = [
                {i: really(Path(folder) / f"{n}-{i}", n, ms) for i, ms in ((0, 50), (1, 40))} for n in range(number)
            ]
        verdict = judge({}, seen, 0, 1, [1], "maximize").verdict
        low, high = verdict.ci95_percent or (math.nan, math.nan)
        shown = (f"{verdict.gain_percent:+.1f} %", f"{low:+.1f} to {high:+.1f} %", f"{high - low:.1f}", verdict.reason)
        table.add_row(str(number), *shown)
    console.print(table)
    console.print(f"the truth: {truth:+.1f} %")


def really(folder: Path, seed: int, between_ms: int) -> Observed:
    """One measurement of our load generator against the server."""
    from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
    from swarmtune.loadgen.options import LoadgenOptions

    server = subprocess.Popen(
        [sys.executable, __file__, "--part", "serve", "--between-ms", str(between_ms)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        options = LoadgenOptions(concurrency=16, benchmark_duration=3.0, isl=16, osl=32, random_seed=seed)
        benchmark = SwarmtuneBenchmark(options)
        command = benchmark.command(benchmark.workload("mock", seed, {"ttft_ms": 1000.0}), url)
        folder.mkdir(parents=True)
        for file in command.files:
            (folder / file.path).write_text(file.content)
        subprocess.run(
            command.argv, cwd=folder, check=True, env={**os.environ, **command.env}, stdout=subprocess.DEVNULL
        )
        measurement = benchmark.read(folder)
    finally:
        server.kill()
        server.wait()
    goodput, blocks = measurement.metrics["request_goodput"], measurement.blocks["request_goodput"]
    return Observed(Score(goodput, -goodput, {}), float(np.mean(blocks)) / goodput)


async def serve(between_s: float) -> None:
    """The server: server-sent events at exact times after the request."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.StreamResponse:
        began, loop = asyncio.get_running_loop().time(), asyncio.get_running_loop()
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for token in range(32):
            await asyncio.sleep(max(0.0, began + 0.1 + token * between_s - loop.time()))
            chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "a "}, "finish_reason": None}]})
            await response.write(f"data: {chunk}\n\n".encode())
        usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": 32, "total_tokens": 48}})
        await response.write(f"data: {usage}\n\ndata: [DONE]\n\n".encode())
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_post("/v1/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run a part and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("simulated", "mock", "serve"), default="simulated")
    parser.add_argument("--proofs", type=int, default=2000, help="proofs a cell")
    parser.add_argument("--rounds", type=int, nargs="*", default=[3, 6, 10])
    parser.add_argument("--cells", type=int, nargs="*", help="only these cells, by number")
    parser.add_argument("--between-ms", type=float, default=50.0, help="of the server of exact timing")
    arguments = parser.parse_args()
    if arguments.part == "serve":
        asyncio.run(serve(arguments.between_ms / 1000))
    console = Console(highlight=False, width=120)
    if arguments.part == "mock":
        mock(console, arguments.rounds)
        return
    cells = CELLS if arguments.cells is None else [CELLS[i] for i in arguments.cells]
    simulated(console, arguments.proofs, arguments.rounds, cells)


if __name__ == "__main__":
    main()
