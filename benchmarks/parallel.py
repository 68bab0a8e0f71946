"""How much faster do several groups of nodes search? Ours without a barrier, beside batches with one.

    python benchmarks/parallel.py                      4, 64 and 512 groups on a virtual clock
    python benchmarks/parallel.py --part ssh           4 groups of 2 nodes over real SSH (machines of namespaces; needs root)
    python benchmarks/parallel.py --part ray           the same on a real Ray cluster of these machines

Evaluations take between 20 and 100 s (on the virtual clock) or 6 and 30 s (on machines), whatever their order. With a
barrier a batch takes as long as its slowest evaluation, as in the older extension, which states 10 particles in 9 minutes
where one group needs 30: 3.3 of 4. On machines two loops are measured: particles that are known beforehand, longest first,
and the optimizer's own, which asks for each setting when a group is free. Speed-up: the sum of all evaluations' times,
which one group needs, by the time that passed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import work
from rich.console import Console
from rich.table import Table

from swarmtune.clock import Clock, RealClock, VirtualClock
from swarmtune.execution.config import NodeConfig, ParallelConfig
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.fleet.particles import ParticleDispatcher
from swarmtune.records import Event, Group, Score, Setting
from swarmtune.settings import read_settings
from swarmtune.space import Field
from swarmtune.testing.memory_store import MemoryStore
from swarmtune.testing.synthetic import SyntheticGroup
from swarmtune.tuner.loop.attempts import Attempts
from swarmtune.tuner.loop.coordinator import Coordinator
from swarmtune.tuner.loop.evaluation import Bench
from swarmtune.tuner.loop.groups import dispatcher_of
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan

PROJECT = work.PROJECT
SHORTEST_S, LONGEST_S = 20.0, 100.0
SCALE = 0.3  # on machines: 6 to 30 s


def seconds_of(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Evaluation times that differ fivefold, evenly spread."""
    return np.random.default_rng(seed).permutation(np.linspace(SHORTEST_S, LONGEST_S, count))


def batches(times: Sequence[float], width: int) -> float:
    """How long it takes with a barrier after each batch."""
    return float(sum(max(times[i : i + width]) for i in range(0, len(times), width)))


# --- the virtual clock ---------------------------------------------------------------------------------------------------


def plan_of(groups: int, evaluations: int) -> Plan:
    """A random search of the simulated engine: what is looked at is the loop, not the search."""
    settings = {
        "optimizer": {"engine": "simulated", "algorithm": "random", "evaluations": evaluations, "warm_start": False}
    }
    made = make_plan(read_settings(None, settings))
    return replace(made, groups=tuple(Group(f"g{i}") for i in range(groups)))


async def searched(groups: int, evaluations: int) -> tuple[float, float]:
    """Seconds that passed, and the sum of the evaluations' own."""
    clock, times = VirtualClock(), iter(seconds_of(evaluations))
    spent: list[float] = []

    def seconds(_: Setting) -> float:
        spent.append(float(next(times)))
        return spent[-1]

    def service(_: Setting) -> Score:
        return Score(1.0, -1.0, {})

    members = [SyntheticGroup(f"g{i}", clock, service, seconds) for i in range(groups)]
    began = clock.monotonic()
    plan, bench = plan_of(groups, evaluations), Bench(LocalExecutor(Path("unused"), clock), clock, Path("unused"))
    attempts = Attempts(plan, MemoryStore(), bench, lambda _: None)
    await Coordinator(plan, attempts, dispatcher_of(plan, members, clock, lambda _: None)).search()
    return clock.monotonic() - began, sum(spent)


def virtual(console: Console, per_group: int) -> None:
    """The loop of the tuner itself, on a clock that jumps."""
    table = Table("groups", "evaluations", "speed-up", "efficiency", "with a barrier", "efficiency", box=None)
    for groups in (4, 64, 512):
        count = groups * per_group
        passed, total = asyncio.run(searched(groups, count))
        barrier = batches(list(seconds_of(count)), groups)
        table.add_row(
            *(str(groups), str(count), f"{total / passed:.1f}", f"{total / passed / groups:.1%}"),
            *(f"{total / barrier:.1f}", f"{total / barrier / groups:.1%}"),
        )
    console.print(table)
    console.print("the older extension's own figure: 3.3 with 4 groups (82 %)")


# --- machines ------------------------------------------------------------------------------------------------------------


def measured(
    config: ParallelConfig,
    executors: Callable[[NodeConfig], Executor] | None,
    times: Sequence[float],
    barrier: int | None = None,
) -> tuple[float, list[Any]]:
    """Seconds that all particles took on these groups, in batches of ``barrier`` or without, once all groups are reached."""
    import urllib.request

    def fitness(_: Any, url: str) -> float:
        with urllib.request.urlopen(f"{url}/work", timeout=60) as answer:  # rank 1 has its part in it
            return float(json.load(answer)["milliseconds"])

    fields = [Field("milliseconds", dtype="int", min=1, max=60_000, value=1000)]
    particles = [{"milliseconds": round(1000 * t)} for t in times]
    with ParticleDispatcher(config, fields, fitness, executors=executors) as dispatcher:
        dispatcher.evaluate_particles([{"milliseconds": 1}] * len(config.service_groups))  # connections, actors
        began = time.monotonic()
        if barrier is None:
            results = [*dispatcher.evaluate_particles(particles)]
        else:
            parts = [particles[i : i + barrier] for i in range(0, len(particles), barrier)]
            results = [result for part in parts for result in dispatcher.evaluate_particles(part)]
        return time.monotonic() - began, results


def optimizer(folder: Path, config: ParallelConfig, count: int) -> tuple[float, list[float]]:
    """Seconds that the optimizer's own loop took for so many settings, and the service's own seconds of each.

    The times are part of the settings, which a random search draws, so that the loop does not know them.
    """
    shortest, longest = 1000 * SHORTEST_S * SCALE, 1000 * LONGEST_S * SCALE
    field = {"name": "milliseconds", "config_position": "env", "dtype": "int", "min": shortest, "max": longest}
    stamps: list[float] = []

    def listen(event: Event) -> None:
        if event.kind in ("trial_started", "trial_finished"):
            stamps.append(event.at)

    options = {"evaluations": count, "algorithm": "random"}
    trials = asyncio.run(work.optimized(folder, config, [field], options, listen))
    assert all(trial.failure is None for trial in trials), [trial.failure for trial in trials if trial.failure]
    return stamps[-1] - stamps[0], [float(trial.setting.values["milliseconds"]) / 1000 for trial in trials]


def on_machines(console: Console, kind: str, count: int, groups: int) -> None:
    """Groups of 2 machines, made of namespaces, reached over SSH or in a Ray cluster; one group alone for comparison."""
    sys.path.insert(0, str(PROJECT))
    from tests.lab import Lab  # the machines of the tests

    times = [float(t) * SCALE for t in seconds_of(count)]
    with contextlib.ExitStack() as stack:
        os.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmtune-parallel-")))
        lab = stack.enter_context(Lab(2 * groups))
        addresses = [m.address for m in lab.machines]
        together = ":".join(",".join(addresses[2 * i : 2 * i + 2]) for i in range(groups))
        options: dict[str, Any] = {
            "npus_per_node": 0,
            "start": "every_node",
            "start_script": f"{sys.executable} -S {work.SERVICE}",
        }
        executors: Callable[[NodeConfig], Executor] | None = None
        if kind == "ray":
            options |= in_ray(stack, lab)
        else:
            executors = over_ssh(lab)

        def config(nodes: str) -> ParallelConfig:
            return ParallelConfig.from_node_string(nodes, **options)

        rows = []
        one = [times[i] for i in range(0, count, groups)]  # a quarter of them is enough to know what one group needs
        alone, found = measured(config(together.split(":")[0]), executors, one)
        per_evaluation = (alone - sum(one)) / len(one)
        sequential = sum(times) + per_evaluation * count
        rows.append(("one group (from a part of them)", sequential, len(found)))
        for name, barrier in (("no barrier", None), ("a barrier after each batch", groups)):
            passed, found = measured(config(together), executors, times, barrier)
            assert all(r.failure is None for r in found), [r.failure for r in found if r.failure]
            rows.append((name, passed, len(found)))
        login(stack, lab)
        work.register()
        alone, took = optimizer(Path("alone"), config(together.split(":")[0]), count // groups)
        own_overhead = (alone - sum(took)) / len(took)
        passed, took = optimizer(Path("studies"), config(together), count)
        loop = (passed, (sum(took) + own_overhead * count) / passed, len(took))
    title = f"{groups} groups of 2 nodes {'in a Ray cluster' if kind == 'ray' else 'over SSH'}"
    table = Table("", "seconds", "speed-up", "evaluations", box=None, title=title)
    for name, passed, number in rows:
        table.add_row(name, f"{passed:.1f}", f"{sequential / passed:.2f}", str(number))
    table.add_row("the optimizer's own loop", f"{loop[0]:.1f}", f"{loop[1]:.2f}", str(loop[2]))
    table.add_row("the barrier, by arithmetic", "", f"{sum(times) / batches(times, groups):.2f}", "")
    console.print(table)
    console.print(
        f"beside the service's own time an evaluation takes {per_evaluation:.2f} s, most of it the start of two Pythons"
    )
    console.print("the older extension's own figure: 3.3 with 4 groups")


def over_ssh(lab: Any) -> Callable[[NodeConfig], Executor]:
    """How the lab's machines are reached."""
    from swarmtune.execution.executors.ssh import SshExecutor, SshTarget

    clock: Clock = RealClock()
    return lambda node: SshExecutor(SshTarget(node.host, python=sys.executable, config=lab.config), clock)


def login(stack: contextlib.ExitStack, lab: Any) -> None:
    """A home for this process whose SSH configuration opens the lab's machines."""
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmtune-home-")))
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "config").write_text(lab.config.read_text())
    os.environ["HOME"] = str(home)


def in_ray(stack: contextlib.ExitStack, lab: Any) -> dict[str, Any]:
    """The options with which the machines are reached through a Ray cluster of theirs, which is started."""
    from tests.lab.ray import RayCluster

    cluster = stack.enter_context(RayCluster(lab))
    os.environ.update(cluster.env)
    import ray

    stack.callback(ray.shutdown)
    return {"executor": "ray", "ray_address": cluster.address}


def main() -> None:
    """Run a part and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("clock", "ssh", "ray"), default="clock")
    parser.add_argument("--per-group", type=int, default=20, help="evaluations per group on the virtual clock")
    parser.add_argument("--evaluations", type=int, default=40, help="on machines")
    parser.add_argument("--groups", type=int, default=4, help="on machines")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    if arguments.part == "clock":
        virtual(console, arguments.per_group)
    else:
        on_machines(console, arguments.part, arguments.evaluations, arguments.groups)


if __name__ == "__main__":
    main()
