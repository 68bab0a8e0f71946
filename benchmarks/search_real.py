"""The searches on the real thing: llama.cpp with SmolLM2, 25 evaluations each, every winner measured again, interleaved.

    python benchmarks/search_real.py --runs 3 --evaluations 25 --folder DIR

Ours, Optuna's TPE and random search tune the embedded llama.cpp at a fixed load of four users, from the bad baseline of
recover.py; a measurement that has broken an SLO for good ends early, for all three. What each would deploy is then
measured again, all in turns, because the speed of a shared machine drifts.
Nothing is learned from earlier studies. Finished studies stay in --folder: called again, the benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from recover import bad_plan, judged, study
from rich.console import Console
from rich.table import Table

from swarmtune.records import Setting
from swarmtune.tuner.planning.plan import Plan

ALGORITHMS = ("swarm", "tpe", "random")


def search_plan(algorithm: str, evaluations: int, seed: int, folder: Path) -> Plan:
    """The plan of one study."""
    return bad_plan(algorithm, evaluations, seed, folder, requests=8, early_stop="on")


def winners(folder: Path, runs: int, evaluations: int, console: Console) -> dict[str, Setting]:
    """What each study would deploy, by "algorithm run"; the baseline's place where nothing kept the SLOs."""
    kept = folder / "winners.json"
    found: dict[str, Setting] = {}
    if kept.exists():
        found = {name: Setting(values) for name, values in json.loads(kept.read_text()).items()}
    for run in range(runs):
        for algorithm in ALGORITHMS[run % 3 :] + ALGORITHMS[: run % 3]:  # in turns, so that drift hits all alike
            name = f"{algorithm} {run + 1}"
            if name in found:
                continue
            result = study(search_plan(algorithm, evaluations, 100 + run, folder), console)
            found[name] = result.best.setting if result.best else search_plan(algorithm, 1, 1, folder).baseline()
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({n: dict(s.values) for n, s in found.items()}, indent=2) + "\n")
    return found


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="studies of each search")
    parser.add_argument("--evaluations", type=int, default=25, help="of each study")
    parser.add_argument("--folder", type=Path, required=True, help="where the studies are kept")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    found = winners(arguments.folder, arguments.runs, arguments.evaluations, console)
    plan = bad_plan("swarm", 1, 1, arguments.folder)
    again = judged({"bad baseline": plan.baseline(), **found}, plan)
    table = Table("search", "goodput of each winner again, req/s", "geometric mean", box=None)
    best = max(float(np.mean(v)) for v in again.values())
    for algorithm in ALGORITHMS:
        means = [float(np.mean(again[f"{algorithm} {run + 1}"])) for run in range(arguments.runs)]
        middle = math.exp(float(np.mean(np.log(np.maximum(means, 1e-9)))))
        table.add_row(
            algorithm, "  ".join(f"{m:.2f}" for m in means), f"{middle:.2f} ({middle / best:.0%} of the best)"
        )
    table.add_row("bad baseline", f"{float(np.mean(again['bad baseline'])):.2f}", "")
    console.print(table)


if __name__ == "__main__":
    main()
