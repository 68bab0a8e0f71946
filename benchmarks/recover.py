"""Does the tuner recover from a bad baseline? Real llama.cpp, real weights, on this machine.

The baseline is bad on purpose (n_parallel 1, n_batch 32, n_ubatch 16, one thread). A random scan of the same space gives
the goodput that can be had; the tuner gets a third of its evaluations. Both winners are then measured again, interleaved.

    .venv/bin/python benchmarks/recover.py [--scan 60] [--evaluations 20] [--seed 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from swarmtune.clock import RealClock
from swarmtune.records import Event, Setting, Value
from swarmtune.settings import read_settings
from swarmtune.space import Space
from swarmtune.study.place import new_place
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.remeasure import in_order
from swarmtune.tuner.result import Result
from swarmtune.tuner.run import session, tune

BAD: Mapping[str, Value] = {"n_parallel": 1, "n_batch": 32, "n_ubatch": 16, "n_threads": 1, "n_threads_batch": 1}
USERS = 4
REQUESTS = 16
TARGET = 0.9
REPEATS = 4


def bad_plan(
    algorithm: str, evaluations: int, seed: int, folder: Path, requests: int = REQUESTS, early_stop: str = "report"
) -> Plan:
    """The plan of a study on the bad baseline, at a fixed load."""
    overrides: dict[str, Any] = {
        "optimizer": {"algorithm": algorithm, "evaluations": evaluations, "seed": seed, "confirm": 0, "warm_start": False},
        "objective": {"slo": {"p95_ttft_ms": 2000.0, "p95_tpot_ms": 150.0}},
        "load_search": {"enabled": False},
        "early_stop": {"mode": early_stop},
        "loadgen": {
            "concurrency": USERS, "request_count": requests, "warmup_request_count": min(USERS, requests // 4),
            "isl": 8, "osl": 12,
        },
        "output": str(folder),
    }  # fmt: skip
    plan = make_plan(read_settings(None, overrides))
    fields = [replace(f, value=BAD.get(f.name, f.value)) for f in plan.space.fields]
    return replace(plan, space=Space(fields, [c.text for c in plan.space.constraints]))


def study(plan: Plan, console: Console) -> Result:
    """Run one study to its end, a line per trial."""

    def listen(event: Event) -> None:
        if event.kind == "trial_finished":
            value = event.facts["value"]
            shown = (
                "cannot run"
                if value is None
                else f"{value:.3f} req/s{'' if event.facts['feasible'] else ' (breaks an SLO)'}"
            )
            console.print(f"  {plan.algorithm} trial {event.facts['trial']}: {shown}")

    clock = RealClock()
    return asyncio.run(tune(plan, new_place(plan.output, plan.algorithm, None, clock.wall()), {}, clock, listen))


def judged(settings: Mapping[str, Setting], plan: Plan) -> dict[str, list[float]]:
    """Goodput of each setting in interleaved re-measurements."""

    async def measure() -> dict[str, list[float]]:
        clock = RealClock()
        given = tuple(replace(s, origin=f"user:{name}") for name, s in settings.items())
        alone = replace(plan, user_settings=given, evaluations=1 + len({s.key for s in given}))
        async with session(
            alone, new_place(plan.output, "judge", None, clock.wall()), {}, clock, lambda _: None
        ) as open_study:
            trials = await open_study.coordinator.search()
            chosen = {name: next(t for t in trials if t.setting == s) for name, s in settings.items()}
            several = list({t.number: t for t in chosen.values()}.values())
            values: dict[int, list[float]] = {t.number: [] for t in several}
            for number in range(REPEATS):
                for trial in in_order(several, number):
                    outcome = await open_study.again.measure(trial, "local", "judge", None, {})
                    values[trial.number].append((outcome.score and outcome.score.value) or 0.0)
        return {n: values[t.number] for n, t in chosen.items()}

    return asyncio.run(measure())


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=int, default=60, help="points of the random scan")
    parser.add_argument("--evaluations", type=int, default=20, help="evaluations of the tuner")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="swarmtune-recover-") as folder:
        tuned_plan = bad_plan("swarm", args.evaluations, args.seed, Path(folder))
        tuned = study(tuned_plan, console)
        scanned = study(bad_plan("random", args.scan + 1, args.seed + 1000, Path(folder)), console)
        if tuned.best is None or scanned.best is None:
            raise SystemExit("one of the searches found nothing feasible; loosen the SLOs for this machine")
        settings = {
            "bad baseline": tuned_plan.baseline(),
            "random scan": scanned.best.setting,
            "swarm": tuned.best.setting,
        }
        again = judged(settings, tuned_plan)
    means = {name: sum(values) / len(values) for name, values in again.items()}
    table = Table("search", "evaluations", "goodput again, req/s (mean of 4)", "share of the scan's", box=None)
    for name, count in (("bad baseline", 1), ("random scan", args.scan), ("swarm", args.evaluations)):
        table.add_row(name, str(count), f"{means[name]:.3f}", f"{means[name] / means['random scan']:.1%}")
    console.print(table)
    share = means["swarm"] / means["random scan"]
    console.print(
        f"target: at least {TARGET:.0%} of the scan's goodput: {'met' if share >= TARGET else 'missed'} ({share:.1%})"
    )
    if args.json:
        args.json.write_text(json.dumps({"means": means, "values": again, "share": share}, indent=2) + "\n")
    raise SystemExit(0 if share >= TARGET else 1)


if __name__ == "__main__":
    main()
