"""Does anything get lost when machines, cables and processes fail all the time?

    python benchmarks/chaos.py        200 evaluations on 8 groups of 2 machines and one that is sick, a fault every 10 s
                                      (about 10 minutes)

The machines are namespaces with their own sshd (needs root). The optimizer's own loop (study, search, dispatcher, SSH) runs
twice, without faults and with them: the cable of a machine is pulled, it is powered off, it freezes, its logins are killed,
its service is killed or stopped, its sshd is replaced. What is broken is whole again after 3 to 25 s. In the run with faults
there is one more group, on which every start fails at once, as with a broken installation. With faults as without, each
evaluation must have exactly one result, no setting may be recorded as failed, the winner must be as good, and no process and
no file of ours may be left on any machine.
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

import work
from parallel import login
from rich.console import Console
from rich.table import Table

from swarmtune.execution.config import ParallelConfig
from swarmtune.records import Event, Trial, TrialState

sys.path.insert(0, str(work.PROJECT))

REPAIR_S = (3.0, 25.0)
LEASE_S = 60.0  # what lost its tuner has ended by then
SHORTEST_MS, LONGEST_MS = 2000, 8000  # one evaluation
EVALUATION_S = 40.0
JOURNALS = (".local", "state", "swarmtune", "commands")
WHOLE = {"config_position": "env", "dtype": "int"}
FIELDS = [
    *({"name": name, "min": 0, "max": 100, "value": 5, **WHOLE} for name in work.BEST),
    {"name": "milliseconds", "min": SHORTEST_MS, "max": LONGEST_MS, "value": SHORTEST_MS, **WHOLE},
]


@dataclass
class Run:
    """What came of one search."""

    trials: list[Trial] = field(default_factory=list)
    finished: Counter[int] = field(default_factory=Counter)  # by trial: exactly once each
    events: Counter[str] = field(default_factory=Counter)
    by_group: Counter[str] = field(default_factory=Counter)  # results
    seconds: float = 0.0
    processes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def complete(self) -> list[Trial]:
        """The trials that have a score."""
        return [trial for trial in self.trials if trial.state is TrialState.COMPLETE]

    @property
    def failures(self) -> list[str]:
        """Why settings were recorded as failed."""
        return [str(trial.failure) for trial in self.trials if trial.failure is not None]

    @property
    def winner_cost(self) -> float:
        """What the setting with the best score truly costs."""
        best = min(self.complete, key=lambda trial: trial.score.rank if trial.score else (9, 0.0))
        return work.true_cost(best.setting.values)

    def whole(self, evaluations: int) -> bool:
        """Is nothing lost, nothing double, nothing left?"""
        once = len(self.finished) == evaluations and set(self.finished.values()) == {1}
        return once and len(self.complete) == evaluations and not (self.failures or self.processes or self.files)


# --- the search ----------------------------------------------------------------------------------------------------------


async def search(run: Run, config: ParallelConfig, count: int, seed: int, folder: Path) -> None:
    """The optimizer's own loop."""
    began = time.monotonic()
    groups: dict[int, str] = {}

    def listen(event: Event) -> None:
        run.events[event.kind] += 1
        if event.kind == "trial_started":
            groups[event.facts["trial"]] = event.facts["group"]
        if event.kind == "trial_finished":
            run.finished[event.facts["trial"]] += 1
            run.by_group[groups[event.facts["trial"]]] += 1
            run.seconds = time.monotonic() - began

    options = {"evaluations": count, "seed": seed}
    run.trials = await work.optimized(folder, config, FIELDS, options, listen, EVALUATION_S)


# --- what goes wrong -----------------------------------------------------------------------------------------------------


class Faults:
    """Breaks something now and then, and repairs it later. Machines die with the thread that started them: the main one."""

    def __init__(self, machines: Any, every_s: float, seed: int, count: int) -> None:
        """``count``: after so many results nothing is broken any more."""
        self._count = count
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
            if time.monotonic() >= due and sum(run.finished.values()) < self._count:
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
            if str(work.SERVICE).encode() in words:
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


def report(console: Console, runs: Mapping[str, Run], evaluations: int, groups: int, faults: Counter[str]) -> None:
    """The table, and what is wrong."""
    table = Table("", *runs, box=None)
    for name, value in (
        ("results", lambda run: f"{len(run.complete)} of {evaluations}"),
        ("settings recorded as failed", lambda run: str(len(run.failures))),
        ("finished twice", lambda run: str(sum(n > 1 for n in run.finished.values()))),
        ("attempts lost and repeated", lambda run: str(run.events["trial_retried"])),
        ("results of the sick group", lambda run: str(run.by_group[f"group{groups}"])),
        ("winner's true cost (best: 1)", lambda run: f"{run.winner_cost:.3f}"),
        ("seconds", lambda run: f"{run.seconds:.0f}"),
        ("processes left", lambda run: str(len(run.processes))),
        ("files left", lambda run: str(len(run.files))),
    ):
        table.add_row(name, *map(value, runs.values()))
    console.print(table)
    console.print("faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())), soft_wrap=True)
    for run in runs.values():
        for line in run.failures[:5] + run.processes[:5] + run.files[:5]:
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

    work.register()
    count, runs = arguments.evaluations, {}
    with contextlib.ExitStack() as stack:
        os.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmtune-chaos-")))
        lab, thread = stack.enter_context(Lab(2 * arguments.groups + 1)), stack.enter_context(ThreadPoolExecutor(1))
        login(stack, lab)
        addresses = [machine.address for machine in lab.machines]
        well = ":".join(",".join(addresses[i : i + 2]) for i in range(0, len(addresses) - 1, 2))
        options: dict[str, Any] = {
            "npus_per_node": 0, "retry_count": 20, "retry_delay": 0.5, "breaker_recovery": 15.0,
            "health_check_interval": 5.0, "work_dir": "~/chaos",
        }  # fmt: skip
        (lab.machines[-1].disk / "root" / "sick").touch()
        for machine in lab.machines:
            (machine.disk / "root" / "chaos").mkdir()  # the user's work_dir stays; what is in it must not
        before = {machine.name: files_of(machine) for machine in lab.machines}
        for name, every_s, nodes in (
            ("without faults", float("inf"), well),
            ("with faults", arguments.every, f"{well}:{addresses[-1]}"),
        ):
            config = ParallelConfig.from_node_string(nodes, **options)
            faults = Faults(lab.machines[:-1], every_s, arguments.seed, count)
            runs[name] = Run()
            searching = search(runs[name], config, count, arguments.seed, Path(name.replace(" ", "-")).absolute())
            running = thread.submit(asyncio.run, searching)
            faults.until(running, runs[name])
            running.result()
            look(runs[name], lab.machines, before)
    report(Console(highlight=False), runs, count, arguments.groups, faults.done)
    calm, stormy = runs.values()
    same = abs(calm.winner_cost - stormy.winner_cost) <= 3 * work.NOISE
    raise SystemExit(0 if same and calm.whole(arguments.evaluations) and stormy.whole(arguments.evaluations) else 1)


if __name__ == "__main__":
    main()
