"""What becomes of a tuner in a bad world?

    python benchmarks/adversary.py --minutes 60 --seed 1       all four parts, side by side with nothing else
    python benchmarks/adversary.py --part services             one of: inputs, services, kills, faults

inputs    20,000 malformed inputs for every reader of what comes from outside (adversary_inputs.py)
services  services that answer to do harm, one behaviour at one place each, for the tuner's probes, its readers of
          metrics and its load generator (hostile_service.py)
kills     signals (kill, terminate, stop and go on, hang up) to tuner, supervisors, load generator, service, readers of
          accelerators and node agent at random moments of a study, which is resumed after each until it is done
faults    a full disk, a database that is locked, removed, damaged, or taken over, files that are pipes or have no end

Each part gets its share of the minutes and stops there; what was not reached is told. Counted are Python's tracebacks, hangs
(a command that does not end in its time), finished trials that were lost or measured twice,
what is left behind (processes,
memory beyond a gigabyte, escapes on the screen). Exit code 1 if anything was counted. Linux; the full disk needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hostile_service
import psutil
from adversary_inputs import READERS
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
INPUTS, SERVICES, KILLS = 20_000, 50, 100
MEMORY = 1 << 30  # bytes of one process of ours
PATIENCE_S = 8.0  # a signal waits so long for the process that it is for
SLOWEST_S = 120.0  # a command that lasts longer hangs
STEERS = (b"\x1b]", b"\x1b[2J", b"\x07", "\u202e".encode(), b"\xc2\x9b")
PARTS = ("inputs", "services", "kills", "faults")
SHARES = {"inputs": 0.15, "services": 0.35, "kills": 0.4, "faults": 0.1}
STUDY = """
[optimizer]
engine = "{engine}"
evaluations = {evaluations}
confirm = 0
[objective]
slo = {{ p95_ttft_ms = 8000, p95_tpot_ms = 4000 }}
[load_search]
enabled = false
[loadgen]
concurrency = 2
request_count = 8
warmup_request_count = 0
request_timeout_seconds = 3
max_unsure_share = 1.0
max_idle_share = 1.0
max_contended_cpu_share = 1.0
isl = 16
osl = 8
"""
HOSTILE = """
[command]
argv = ["{python}", "{service}", "$PORT", "{place}", "{behaviour}"]
model = "m"
[[command.target_field]]
name = "SEQS"
config_position = "env"
dtype = "int"
min = 1
max = 8
value = 4
"""
SHARED = """
[parallel]
enabled = true
executor = "shared_dir"
node_string = "127.0.0.1"
nodes_per_group = 1
npus_per_node = 0
work_dir = "{shared}"
retry_delay = 0.2
"""


@dataclass
class Found:
    """The counts of a part."""

    part: str
    tried: int = 0
    of: int = 0
    what: str = ""
    tracebacks: int = 0
    hangs: int = 0
    lost: int = 0
    twice: int = 0
    leaks: int = 0
    processes: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """All that must not be."""
        return self.tracebacks + self.hangs + self.lost + self.twice + self.leaks + self.processes

    def note(self, text: str) -> None:
        """Keep an example."""
        self.examples.append(text[-1500:])


@dataclass
class Ended:
    """A command that has ended, or was ended because it did not."""

    code: int | None
    shown: bytes
    memory: int


class Place:
    """A folder with a configuration, and the command in it."""

    def __init__(self, folder: Path, configuration: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(configuration)
        (folder / "home").mkdir()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the command, its output in a file."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWARMTUNE", "MODEL"))}
        environment |= {"XDG_STATE_HOME": str(self.folder / "home")}
        with (self.folder / "shown").open("ab") as shown:
            return subprocess.Popen(
                [sys.executable, "-m", "swarmtune", *arguments], cwd=self.folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=shown, stderr=shown, start_new_session=True,
            )  # fmt: skip

    def run(self, *arguments: str, limit_s: float = SLOWEST_S) -> Ended:
        """Run it to its end, and watch its memory."""
        before = self.size()
        process = self.start(*arguments)
        memory, until = 0, time.monotonic() + limit_s
        while process.poll() is None and time.monotonic() < until:
            memory = max([memory, *self.memory()])
            time.sleep(0.1)
        code = process.poll()
        if code is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        return Ended(code, (self.folder / "shown").read_bytes()[before:], memory)

    def size(self) -> int:
        """Bytes that the command has shown so far."""
        shown = self.folder / "shown"
        return shown.stat().st_size if shown.exists() else 0

    def processes(self) -> list[psutil.Process]:
        """Processes that work below this folder, or have it in their environment or command line."""
        own, found = str(self.folder), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                texts = (process.cwd(), *process.cmdline(), *process.environ().values())
                if process.status() != psutil.STATUS_ZOMBIE and any(f"{own}/" in f"{text}/" for text in texts):
                    found.append(process)
        return found

    def memory(self) -> Iterator[int]:
        """Bytes in use by each of them, hostile services left out."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error, OSError):
                if not any("hostile_service" in word for word in process.cmdline()):
                    yield process.memory_info().rss

    def left(self, wait_s: float = 20.0) -> list[str]:
        """Command lines of what does not end by itself; it is ended."""
        until = time.monotonic() + wait_s
        while (living := self.processes()) and time.monotonic() < until:
            time.sleep(0.2)
        told = []
        for process in living:
            with contextlib.suppress(psutil.Error):
                told.append(" ".join(process.cmdline())[:200])
                process.kill()
        return told

    def rows(self, query: str) -> list[Any]:
        """Rows of the study's database; none while there is none."""
        for path in self.folder.glob("swarmtune-studies/*/study.db"):
            with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=5)) as db:
                return db.execute(query).fetchall()
        return []

    def finished(self) -> dict[int, str]:
        """The results of trials that are finished."""
        query = "SELECT trial_number, outcome FROM swarmtune_attempts WHERE kind = 'trial' AND state = 'done'"
        return dict(self.rows(query))


def judge(found: Found, what: str, place: Place, ended: Ended, codes: Sequence[int] = (0, 1, 2, 3)) -> None:
    """Count what must not be after a command."""
    if ended.code is None:
        found.hangs += 1
        found.note(f"{what}: hangs; it showed {ended.shown[-400:]!r}")
    elif b"Traceback (most recent" in ended.shown or ended.code not in codes:
        found.tracebacks += 1
        found.note(f"{what}: code {ended.code}: {ended.shown[-1200:].decode(errors='replace')}")
    if ended.memory > MEMORY:
        found.leaks += 1
        found.note(f"{what}: {ended.memory >> 20} MiB in one process")
    if any(mark in ended.shown for mark in STEERS):
        found.leaks += 1
        found.note(f"{what}: escapes on the screen: {ended.shown[-600:]!r}")
    if left := place.left():
        found.processes += len(left)
        found.note(f"{what}: left {left}")


# --- the parts ------------------------------------------------------------------------------------------------------


def inputs(folder: Path, chosen: random.Random, until: float) -> Found:
    """Malformed inputs for every reader, two readers at a time."""
    found = Found("inputs", of=INPUTS, what=f"{len(READERS)} readers")
    sample = Place(folder / "sample", STUDY.format(engine="simulated", evaluations=3))
    sample.run("optimizer")
    (database,) = sample.folder.glob("swarmtune-studies/*/study.db")
    environment = {**os.environ, "ADVERSARY_STUDY": str(database)}
    each, seed = 40, chosen.randrange(10**6)
    with ThreadPoolExecutor(2) as pool:
        while found.tried < INPUTS and time.monotonic() < until:
            read = partial(_read, folder, environment, each, seed, until)
            for counts in pool.map(read, READERS):
                found.tried += counts["inputs"]
                found.tracebacks += counts["tracebacks"]
                found.hangs += counts["hangs"]
                found.leaks += counts["raw"]
                found.examples += counts["examples"]
            each, seed = 250, seed + 1
    return found


def _read(
    folder: Path, environment: Mapping[str, str], count: int, seed: int, until: float, name: str
) -> Mapping[str, Any]:
    """Give a reader so many inputs, in a process of its own; what came of them. Nothing is begun after ``until``."""
    counts = {"inputs": 0, "tracebacks": 0, "hangs": 0, "raw": 0, "examples": []}
    if time.monotonic() >= until:
        return counts
    own = folder / f"{re.sub('[^a-zA-Z]', '-', name)}-{seed}"
    own.mkdir()
    words = [sys.executable, str(HERE / "adversary_inputs.py"), str(own), str(count), str(seed), name]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    shutil.rmtree(own)
    try:
        return dict(json.loads(done.stdout))
    except ValueError:  # the process itself has died
        return counts | {"tracebacks": 1, "examples": [f"{name}: {done.stderr[-1500:]}"]}


def services(folder: Path, chosen: random.Random, until: float) -> Found:
    """Hostile services, two at a time."""
    pairs = [(place, behaviour) for place, known in hostile_service.BEHAVIOURS.items() for behaviour in known]
    found = Found("services", of=len(pairs), what=f"of these at least {SERVICES}")
    chosen.shuffle(pairs)
    lock = threading.Lock()

    def work() -> None:
        while time.monotonic() < until:
            with lock:
                if not pairs:
                    return
                number, (place, behaviour) = len(pairs), pairs.pop()
            text = STUDY.format(engine="command", evaluations=2)
            text += HOSTILE.format(
                python=sys.executable,
                service=HERE / "hostile_service.py",
                place=place,
                behaviour=behaviour.replace('"', '\\"'),
            )
            one = Place(
                folder / str(number), "wait_start_time = 5\n" + text.replace("[optimizer]", "[optimizer]\ntimeout = 40")
            )
            ended = one.run("optimizer", "--log-level", "INFO")
            with lock:
                found.tried += 1
                judge(found, f"{behaviour} at {place}", one, ended, (0, 1, 3))
            shutil.rmtree(one.folder, ignore_errors=True)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def role(process: psutil.Process) -> str:
    """What a process of a study is."""
    words = " ".join(process.cmdline())
    roles = {
        "swarmtune.loadgen": "load generator", "swarmtune.devices": "reader", "swarmtune.simulator": "service",
        "supervisor.py": "supervisor", "swarmtune node": "node agent", "swarmtune optimizer": "tuner",
    }  # fmt: skip
    return next((name for part, name in roles.items() if part in words), "")


SIGNALS = {"SIGKILL": 5, "SIGTERM": 2, "SIGINT": 1, "SIGHUP": 1, "SIGSTOP": 2}


def kills(folder: Path, chosen: random.Random, until: float) -> Found:
    """Studies that are shot at, on this machine and over a node agent; two at a time."""
    found = Found("kills", of=KILLS)
    done: dict[str, int] = {}
    numbers = itertools.count(1)

    def work(own: random.Random) -> None:
        while found.tried < KILLS and time.monotonic() < until:
            number = next(numbers)
            place = Place(folder / f"study{number}", STUDY.format(engine="simulated", evaluations=8))
            _shot_study(found, f"study {number}", place, own, done, shared=number % 3 == 0)

    threads = [threading.Thread(target=work, args=(random.Random(chosen.random()),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.what = ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
    return found


def _shot_study(
    found: Found, what: str, place: Place, chosen: random.Random, done: dict[str, int], *, shared: bool
) -> None:
    """One study, resumed after each shot until it is done."""
    agent = None
    if shared:
        (place.folder / "shared").mkdir(mode=0o700)
        with (place.folder / "config.toml").open("a") as file:
            file.write(SHARED.format(shared=place.folder / "shared"))
    finished: dict[int, str] = {}
    for run in range(40):
        if shared and (agent is None or agent.poll() is not None):
            agent = place.start("node", "--shared", str(place.folder / "shared"), "--name", "127.0.0.1")
        before = place.size()
        begun = bool(place.rows("SELECT 1 FROM swarmtune_studies"))
        if not begun:
            shutil.rmtree(place.folder / "swarmtune-studies", ignore_errors=True)
        process = place.start("optimizer", *(["-lb"] if begun else []))
        last = found.tried >= KILLS or run == 39
        hit = shoot(place, process, chosen, 0 if last else chosen.randint(1, 3), done)
        found.tried += hit
        shown = (place.folder / "shown").read_bytes()[before:]
        if process.poll() is None:
            found.hangs += 1
            found.note(f"{what}, run {run}: hangs: {shown[-500:]!r}")
            process.kill()
            process.wait()
        if b"Traceback (most recent" in shown:
            found.tracebacks += 1
            at = shown.index(b"Traceback (most recent")
            found.note(f"{what}, run {run}: {shown[max(0, at - 500) : at + 1000].decode(errors='replace')}")
        now = place.finished()
        if gone := finished.items() - now.items():
            found.lost += len(gone)
            found.note(f"{what}, run {run}: lost {sorted(n for n, _ in gone)}")
        finished = now
        if process.returncode in (0, 3):
            break
    else:
        found.lost += 1
        found.note(f"{what}: it is not done after 40 runs: {shown[-500:]!r}")
    query = "SELECT trial_number, count(*) FROM swarmtune_attempts WHERE kind='trial' AND state='done' GROUP BY 1"
    found.twice += sum(count > 1 for _, count in place.rows(query))
    if agent is not None:
        agent.terminate()
        agent.wait(30)
    if left := place.left():
        found.processes += len(left)
        found.note(f"{what}: left {left}")


def shoot(place: Place, tuner: subprocess.Popen[bytes], chosen: random.Random, shots: int, done: dict[str, int]) -> int:
    """Send so many signals to processes of the study while it runs; the number that was sent."""
    sent = 0
    until = time.monotonic() + 3 * SLOWEST_S  # a node is waited for, for a minute each time that its agent was killed
    due = [time.monotonic() + chosen.uniform(0.2, 2.0) + chosen.expovariate(0.25) for _ in range(shots)]
    wanted = [chosen.choice(("tuner", "service", "load generator", "supervisor", "node agent", "reader")) for _ in due]
    stopped: list[psutil.Process] = []
    while tuner.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
        if not due or time.monotonic() < min(due):
            continue
        with contextlib.suppress(psutil.Error, OSError):
            roles = {process: kind for process in place.processes() if (kind := role(process))}
            if not roles:
                continue
            if wanted[-1] not in roles.values() and time.monotonic() < min(due) + PATIENCE_S:
                continue  # it is not there yet
            due.remove(min(due))
            kind = wanted.pop()
            kind = kind if kind in roles.values() else chosen.choice(sorted(set(roles.values())))
            process = chosen.choice(sorted((p for p, k in roles.items() if k == kind), key=lambda p: p.pid))
            (name,) = chosen.choices(list(SIGNALS), list(SIGNALS.values()))
            process.send_signal(getattr(signal, name))
            sent += 1
            done[kind] = done.get(kind, 0) + 1
            if name == "SIGSTOP":
                pause = threading.Timer(chosen.uniform(1.0, 15.0), lambda p=process: _go_on(p))
                pause.daemon = True
                pause.start()
                stopped.append(process)
    for process in stopped:
        _go_on(process)
    return sent


def _go_on(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error, OSError):
        process.send_signal(signal.SIGCONT)


# --- faults of disk and database ------------------------------------------------------------------------------------


def _database(place: Place) -> Path:
    return next(place.folder.glob("swarmtune-studies/*/study.db"))


def _locked(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(_database(place))) as db:
        db.execute("BEGIN EXCLUSIVE")
        time.sleep(8)


def _removed(place: Place) -> None:
    for path in _database(place).parent.glob("study.db*"):
        path.unlink()


def _garbage(place: Place) -> None:
    path = _database(place)
    data = bytearray(path.read_bytes())
    for at in range(100, len(data), 7):
        data[at] ^= 0x5A
    path.write_bytes(data)


def _cut(place: Place) -> None:
    os.truncate(_database(place), 5000)


def _taken(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(_database(place), timeout=30)) as db:
        db.execute("UPDATE swarmtune_studies SET owner = 'other:1:1', owner_expires_at = ?", (time.time() + 600,))
        db.commit()


def _dropped(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(_database(place), timeout=30)) as db:
        db.execute("DROP TABLE swarmtune_attempts")
        db.commit()


def _folder_gone(place: Place) -> None:
    shutil.rmtree(_database(place).parent, ignore_errors=True)


DURING: dict[str, Callable[[Place], None]] = {
    "the database is locked for 8 s": _locked, "the database is removed": _removed, "the database is damaged": _garbage,
    "the database is cut off": _cut, "another tuner takes the study": _taken, "a table is dropped": _dropped,
    "the study's folder is removed": _folder_gone,
}  # fmt: skip


def _pipe(place: Place) -> list[str]:
    os.mkfifo(place.folder / "pipe")
    return ["optimizer", "-c", "pipe"]


def _pipe_of_hosts(place: Place) -> list[str]:
    os.mkfifo(place.folder / "hosts")
    return ["optimizer", "--hostfile", "hosts"]


def _pipe_of_study(place: Place) -> list[str]:
    os.mkfifo(place.folder / "x.db")
    return ["optimizer", "-lb", "--study", "x.db"]


BEFORE: dict[str, Callable[[Place], list[str]]] = {
    "a configuration without end": lambda _: ["optimizer", "-c", "/dev/zero"],
    "a configuration that is a pipe": _pipe,
    "a hostfile that is a pipe": _pipe_of_hosts,
    "a hostfile without end": lambda _: ["optimizer", "--hostfile", "/dev/zero"],
    "a study that is a pipe": _pipe_of_study,
    "a study without end": lambda _: ["optimizer", "-lb", "--study", "/dev/zero"],
    "a study on a full device": lambda _: ["optimizer", "--study", "/dev/full"],
    "a server that does not exist": lambda _: ["optimizer", "--study", "postgresql://u:pw@127.0.0.1:9/x"],
    "a host string of 60,000 brackets": lambda _: ["check", "--executor", "ssh", "--node-string", "[0-9" * 15_000],
    "2^60 hosts": lambda _: ["check", "--executor", "ssh", "--node-string", "n[0-99999]-[0-99999]-[0-99999]"],
    "requests without end": lambda _: ["bench", "-m", "m", "--url", "http://127.0.0.1:9", "--input-file", "/dev/zero"],
}  # fmt: skip


def faults(folder: Path, chosen: random.Random, until: float) -> Found:
    """A disk and a database that fail, and files that are none."""
    found = Found("faults", of=len(DURING) + len(BEFORE) + 1)
    text = STUDY.format(engine="simulated", evaluations=6)
    before, during = list(BEFORE.items()), list(DURING.items())
    chosen.shuffle(before)
    chosen.shuffle(during)
    for number, (what, prepare) in enumerate(before):
        if time.monotonic() < until:
            place = Place(folder / f"before{number}", text)
            found.tried += 1
            judge(found, what, place, place.run(*prepare(place), limit_s=90))
    for number, (what, harm) in enumerate(during):
        if time.monotonic() < until:
            place = Place(folder / f"during{number}", text)
            found.tried += 1
            ended = _harmed(place, harm)
            judge(found, what, place, ended)
            if harm is _locked and len(place.finished()) < 6:
                found.lost += 1
                found.note(f"{what}: {sorted(place.finished())} of 6 finished")
    if os.geteuid() == 0 and time.monotonic() < until:
        _full_disk(found, Place(folder / "full", text))
    return found


def _harmed(place: Place, harm: Callable[[Place], None]) -> Ended:
    """Run the study, and do the harm once a trial is finished."""

    def later() -> None:
        until = time.monotonic() + 60
        while not place.finished() and time.monotonic() < until:
            time.sleep(0.05)
        with contextlib.suppress(OSError, sqlite3.Error, StopIteration):
            harm(place)

    thread = threading.Thread(target=later)
    thread.start()
    ended = place.run("optimizer")
    thread.join()
    return ended


def _full_disk(found: Found, place: Place) -> None:
    """A small disk that fills up; then a larger one, on which the study is resumed."""
    studies = place.folder / "swarmtune-studies"
    studies.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(studies)], check=False)
    if mounted.returncode:
        return
    try:
        found.tried += 1
        judge(found, "a full disk", place, place.run("optimizer"))
        before = place.finished()
        subprocess.run(["mount", "-o", "remount,size=64m", str(studies)], check=True)
        if place.rows("SELECT 1 FROM swarmtune_studies"):
            judge(found, "a disk with room again", place, place.run("optimizer", "-lb"))
            found.lost += len(before.items() - place.finished().items())
    finally:
        subprocess.run(["umount", "-l", str(studies)], check=False)


def main() -> None:
    """Run the parts and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", action="append", choices=PARTS)
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    whole = sum(SHARES[part] for part in parts)
    console = Console(highlight=False, markup=False, width=150)
    table = Table(
        "", "tried", "tracebacks", "hangs", "trials lost", "twice", "leaks", "processes left", "seconds", box=None
    )
    bad = []
    with tempfile.TemporaryDirectory(prefix="swarmtune-adversary-") as name:
        for part in parts:
            began = time.monotonic()
            until = began + arguments.minutes * 60 * SHARES[part] / whole
            run: Callable[[Path, random.Random, float], Found] = globals()[part]
            (Path(name) / part).mkdir()
            found = run(Path(name) / part, random.Random(f"{arguments.seed}:{part}"), until)
            counts = (found.tracebacks, found.hangs, found.lost, found.twice, found.leaks, found.processes)
            seconds = f"{time.monotonic() - began:.0f}"
            table.add_row(part, f"{found.tried:,} of {found.of:,}", *map(str, counts), seconds)
            console.print(f"{part}: {found.tried:,} tried{f' ({found.what})' if found.what else ''}, {found.bad} bad")
            bad += found.examples
    console.print(table)
    for text in bad[:40]:
        console.print(f"\n{text}", soft_wrap=True)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
