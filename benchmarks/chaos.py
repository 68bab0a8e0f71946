"""Does anything get lost when machines, cables and processes fail all the time?

    python benchmarks/chaos.py        200 evaluations on 8 groups of 2 machines, a fault every 10 s (about 10 minutes)

The machines are namespaces with their own sshd (needs root). A search runs twice, without faults and with them: the cable of
a machine is pulled, it is powered off, it freezes, its logins are killed, its service is killed or stopped, its sshd is
replaced. What is broken is whole again after 3 to 25 s. With faults as without, each evaluation must have exactly one
result, the winner must be as good, and no process and no file of ours may be left on any machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from parallel import PROJECT, SERVICE
from rich.console import Console
from rich.table import Table

from swarmtune.clock import RealClock
from swarmtune.execution.config import NodeConfig, ParallelConfig
from swarmtune.execution.executors.base import Executor
from swarmtune.fleet.particle_values import ParticleResult
from swarmtune.fleet.particles import ParticleDispatcher
from swarmtune.records import Event, Score, Setting, Value
from swarmtune.search.assisted import AssistedSwarm
from swarmtune.space import Field, Space

sys.path.insert(0, str(PROJECT))

REPAIR_S = (3.0, 25.0)
LEASE_S = 60.0  # what lost its tuner has ended by then
WORK_S = (2.0, 8.0)  # one evaluation
NOISE = 0.02  # standard deviation of a cost
FIELDS = [Field(name, min=0, max=100, value=5) for name in ("a", "b", "c")]
BEST = {"a": 37, "b": 81, "c": 64}
JOURNALS = (".local", "state", "swarmtune", "commands")
DURATION = Field("milliseconds", dtype="int", min=1, max=60_000, value=1000)


def true_cost(values: Mapping[str, Value]) -> float:
    """At least 1, where the best setting is."""
    return 1.0 + sum(((float(values[name]) - best) / 50.0) ** 2 for name, best in BEST.items())


@dataclass
class Run:
    """What came of one search."""

    results: list[ParticleResult] = field(default_factory=list)
    finished: Counter[str] = field(default_factory=Counter)  # by particle: exactly once each
    events: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    processes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def winner_cost(self) -> float:
        """What the setting with the lowest cost truly costs."""
        return true_cost(min(self.results, key=lambda result: result.cost).values)

    def whole(self, evaluations: int) -> bool:
        """Is nothing lost, nothing double, nothing left?"""
        once = len(self.finished) == evaluations and set(self.finished.values()) == {1}
        failed = any(result.failure for result in self.results)
        return once and len(self.results) == evaluations and not (failed or self.processes or self.files)


# --- the search ----------------------------------------------------------------------------------------------------------


async def search(
    run: Run, config: ParallelConfig, executor: Callable[[NodeConfig], Executor], count: int, seed: int
) -> None:
    """Ask, measure on whichever group is free, tell; as many at a time as there are groups."""
    import aiohttp

    noise = np.random.default_rng(seed)

    async def fitness(values: Mapping[str, Value], url: str) -> float:
        async with aiohttp.ClientSession() as http, http.get(f"{url}/work") as answer:  # both ranks have a part in it
            answer.raise_for_status()
            await answer.read()
        return true_cost(values) + float(noise.normal(0.0, NOISE))

    def listen(event: Event) -> None:
        run.events[event.kind] += 1
        if event.kind == "particle_finished":
            run.finished[str(event.facts["particle"])] += 1

    space = Space(FIELDS)
    swarm = AssistedSwarm(space, seed, count)
    pending: dict[str, Setting] = {}
    left = iter(range(count))

    async def work(dispatcher: ParticleDispatcher) -> None:
        for _ in left:
            setting = swarm.ask(tuple(pending.values()))
            pending[setting.key] = setting
            milliseconds = round(1000 * float(noise.uniform(*WORK_S)))
            (result,) = await dispatcher.evaluate([{**setting.values, "milliseconds": milliseconds}])
            pending.pop(setting.key, None)
            run.results.append(result)
            failed = result.failure is not None
            swarm.tell(setting, Score.failed() if failed else Score(result.cost, result.cost, {}))

    began = time.monotonic()
    fields = [*FIELDS, DURATION]
    async with ParticleDispatcher(config, fields, fitness, executors=executor, listen=listen) as dispatcher:
        await asyncio.gather(*(work(dispatcher) for _ in config.service_groups))
        run.seconds = time.monotonic() - began


# --- what goes wrong -----------------------------------------------------------------------------------------------------


class Faults:
    """Breaks something now and then, and repairs it later. Machines die with the thread that started them: the main one."""

    def __init__(self, machines: Any, every_s: float, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._machines = machines
        self._every_s = every_s
        self._random = random.Random(seed)
        self._repairs: list[tuple[float, Any, Callable[[], None]]] = []

    def until(self, done: Future[None], run: Run) -> None:
        """Go on until all results are there; leave everything whole when the search has let go of the machines."""
        due = time.monotonic() + self._every_s
        while not done.done():
            time.sleep(0.2)
            self._repair(time.monotonic())
            if time.monotonic() >= due and not run.seconds:
                due += self._every_s
                ill = {machine.name for _, machine, _ in self._repairs}
                self._break(self._random.choice([m for m in self._machines if m.name not in ill]))
        self._repair(float("inf"))

    def _repair(self, now: float) -> None:
        for entry in [entry for entry in self._repairs if entry[0] <= now]:
            entry[2]()
            self._repairs.remove(entry)

    def _break(self, machine: Any) -> None:
        """One of the kinds."""
        kind, do, undo = self._random.choice(self._kinds(machine))
        if do() is not False:
            self.done[kind] += 1
            if undo is not None:
                self._repairs.append((time.monotonic() + self._random.uniform(*REPAIR_S), machine, undo))

    def _kinds(self, machine: Any) -> list[tuple[str, Callable[[], Any], Callable[[], None] | None]]:
        def restart() -> None:
            machine.off()
            machine.on()

        return [
            ("cable pulled", machine.cut, machine.heal),
            ("powered off", machine.off, machine.on),
            ("rebooted", restart, None),
            ("frozen", machine.freeze, machine.thaw),
            ("logins killed", machine.kill_sessions, None),
            ("service killed", lambda: signal_service(machine, signal.SIGKILL), None),
            (
                "service hung",
                lambda: signal_service(machine, signal.SIGSTOP),
                lambda: signal_service(machine, signal.SIGCONT) and None,
            ),
        ]


def signal_service(machine: Any, number: signal.Signals) -> bool:
    """Send it to the service there; False if there is none."""
    sent = False
    for pid in machine.processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if str(SERVICE).encode() in words:
                os.kill(pid, number)
                sent = True
    return sent


# --- looking ---------------------------------------------------------------------------------------------------------------


def files_of(machine: Any) -> set[str]:
    """What is on its own disk. Empty folders count but for that of the journals, ``~/.local/state/swarmtune/commands``."""
    found = (path for part in ("root", "tmp") for path in (machine.disk / part).rglob("*"))
    return {str(path.relative_to(machine.disk)) for path in found if path.name not in JOURNALS or not path.is_dir()}


def look(run: Run, machines: Any, before: Mapping[str, set[str]]) -> None:
    """What is left of us on the machines, once all leases are over."""
    deadline = time.monotonic() + LEASE_S
    while True:
        run.processes = [
            f"{m.name}: {c}" for m in machines for c in m.commands() if not c.startswith(("sshd", "nsenter"))
        ]
        run.files = [f"{m.name}: {name}" for m in machines for name in sorted(files_of(m) - before[m.name])]
        if not (run.processes or run.files) or time.monotonic() > deadline:
            return
        time.sleep(1.0)


def report(console: Console, runs: Mapping[str, Run], evaluations: int, faults: Counter[str]) -> None:
    """The table, and what is wrong."""
    table = Table("", *runs, box=None)
    for name, value in (
        ("results", lambda run: f"{len(run.results)} of {evaluations}"),
        ("with a failure", lambda run: str(sum(result.failure is not None for result in run.results))),
        ("finished twice", lambda run: str(sum(n > 1 for n in run.finished.values()))),
        ("tries lost and repeated", lambda run: str(run.events["particle_retried"])),
        ("winner's true cost (best: 1)", lambda run: f"{run.winner_cost:.3f}"),
        ("seconds", lambda run: f"{run.seconds:.0f}"),
        ("processes left", lambda run: str(len(run.processes))),
        ("files left", lambda run: str(len(run.files))),
    ):
        table.add_row(name, *map(value, runs.values()))
    console.print(table)
    console.print("faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())), soft_wrap=True)
    for run in runs.values():
        for line in [*(str(r.failure) for r in run.results if r.failure)][:5] + run.processes[:5] + run.files[:5]:
            console.print(f"  {line}", markup=False, soft_wrap=True)


def main() -> None:
    """Run it and print the table; exit code 1 if anything was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    from tests.lab import Lab  # the machines of the tests

    from swarmtune.execution.executors.ssh import SshExecutor, SshTarget

    runs: dict[str, Run] = {}
    with contextlib.ExitStack() as stack:
        os.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmtune-chaos-")))
        lab, thread = stack.enter_context(Lab(2 * arguments.groups)), stack.enter_context(ThreadPoolExecutor(1))
        addresses = [machine.address for machine in lab.machines]
        nodes = ":".join(",".join(addresses[i : i + 2]) for i in range(0, len(addresses), 2))
        config = ParallelConfig.from_node_string(
            nodes, npus_per_node=0, start_script=f"{sys.executable} {SERVICE}", retry_count=20, retry_delay=0.5,
            breaker_recovery=15.0, health_check_interval=5.0, health_check_timeout=30.0, evaluation_timeout=40.0,
        )  # fmt: skip

        def executor(node: NodeConfig) -> Executor:
            target = SshTarget(node.host, python=sys.executable, config=lab.config, work_dir="~/chaos", temporary=True)
            return SshExecutor(target, RealClock())

        before = {machine.name: files_of(machine) for machine in lab.machines}
        for name, every_s in (("without faults", float("inf")), ("with faults", arguments.every)):
            faults = Faults(lab.machines, every_s, arguments.seed)
            runs[name] = Run()
            work = search(runs[name], config, executor, arguments.evaluations, arguments.seed)
            running = thread.submit(asyncio.run, work)
            faults.until(running, runs[name])
            running.result()
            look(runs[name], lab.machines, before)
    report(Console(highlight=False), runs, arguments.evaluations, faults.done)
    calm, stormy = runs.values()
    same = abs(calm.winner_cost - stormy.winner_cost) <= 3 * NOISE
    raise SystemExit(0 if same and calm.whole(arguments.evaluations) and stormy.whole(arguments.evaluations) else 1)


if __name__ == "__main__":
    main()
