"""What it gains to choose the next setting with the running service in mind: the same hours, with and without (C7).

    python benchmarks/search_restart.py --runs 40                        the same hours
    python benchmarks/search_restart.py --runs 40 --limit evaluations    the same number of evaluations

Made-up services whose number of users ("concurrency") needs no restart, everything else one. A start takes 120 s, a
measurement 40 s. Both searches have the time of so many evaluations with a start, or so many evaluations; who happens to
ask for a setting of the running service has no start in either. Reported: the deployed setting's gap to the optimum, how
many were measured, and in how many minutes.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import wilcoxon
from search_tasks import WORST, ServiceTask

from swarmtune.records import Score, Setting
from swarmtune.search.assisted import AssistedSwarm
from swarmtune.search.base import Running
from swarmtune.search.incumbent import deployable

FREE = frozenset({"concurrency"})
START_S, MEASURE_S = 120.0, 40.0
SHARE = START_S / (START_S + MEASURE_S)


def study(seed: int, evaluations: int, *, hours: bool, mindful: bool) -> tuple[float, int, float]:
    """The gap of the deployed setting (WORST if it breaks an SLO), how many were measured, and the seconds.

    ``hours``: the time of so many evaluations with a start is the limit, not their number.
    """
    task = ServiceTask(seed)
    # The search does not know what the time is enough for.
    search = AssistedSwarm(task.space, seed, 2 * evaluations if hours else evaluations)
    rng = np.random.default_rng([seed, 5])
    rows: list[tuple[Setting, Score]] = []
    running: Setting | None = None
    spent_s = 0.0
    while hours or len(rows) < evaluations:
        search.see(Running(running, FREE, SHARE) if mindful and running else None)
        setting = search.ask(()) if rows else task.baseline
        costs_s = MEASURE_S + (0.0 if running and _bound(running) == _bound(setting) else START_S)
        if hours and spent_s + costs_s > evaluations * (START_S + MEASURE_S):
            break
        spent_s += costs_s
        score = task.measure(setting, rng)
        running = setting if score.value is not None else None
        search.tell(setting, score)
        rows.append((setting, score))
    chosen = deployable(task.space, rows, 1)
    judged = task.judge(chosen[0] if chosen else None)
    return min(judged.gap, WORST), len(rows), spent_s


def _bound(setting: Setting) -> dict[str, object]:
    return {name: value for name, value in setting.values.items() if name not in FREE}


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="services")
    parser.add_argument("--evaluations", type=int, default=30, help="with a start each, that the time is enough for")
    parser.add_argument("--limit", choices=("hours", "evaluations"), default="hours")
    parser.add_argument("--first-seed", type=int, default=2000)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.runs)
    hours = arguments.limit == "hours"
    found = np.array(
        [
            [study(seed, arguments.evaluations, hours=hours, mindful=mindful) for mindful in (False, True)]
            for seed in track(seeds, "services", console=Console(stderr=True))
        ]
    )  # services, ways, (gap, measured, seconds)
    gaps = found[:, :, 0]
    table = Table("", "median gap", "broken promises", "measured", "minutes", box=None)
    for column, name in enumerate(("without regard", "with the running service in mind")):
        broken, means = int((gaps[:, column] >= WORST).sum()), found[:, column, 1:].mean(axis=0)
        table.add_row(name, f"{np.median(gaps[:, column]):.3f}", str(broken), f"{means[0]:.1f}", f"{means[1] / 60:.0f}")
    console.print(table)
    better, worse = int((gaps[:, 1] < gaps[:, 0]).sum()), int((gaps[:, 1] > gaps[:, 0]).sum())
    p = wilcoxon(gaps[:, 0], gaps[:, 1]).pvalue if better + worse else math.nan
    console.print(f"better {better}, worse {worse} of {len(found)} services; Wilcoxon p = {p:.3f}")


if __name__ == "__main__":
    main()
