"""A run over several processes and machines, from its start to its end. ``SystemController.execute`` is the whole of it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmtune.errors import BenchmarkExecutionError, CommunicationError, IPCTimeoutError
from swarmtune.loadgen.ask.spec import Spec, headers_of
from swarmtune.loadgen.distributed import OnProgress, Overview, Patience, PhaseName, Remote
from swarmtune.loadgen.distributed.bus import Bus, Pending
from swarmtune.loadgen.distributed.clocks import Relation, Sample, measure
from swarmtune.loadgen.distributed.dataset_manager import DatasetManager
from swarmtune.loadgen.distributed.lifecycle import State
from swarmtune.loadgen.distributed.messages import (
    Collect,
    Configure,
    Counts,
    Died,
    Done,
    Execute,
    Gone,
    Heartbeat,
    Hello,
    Kill,
    Message,
    Ping,
    Prepare,
    Shutdown,
    Spawn,
    Stop,
)
from swarmtune.loadgen.distributed.records_manager import RecordsManager
from swarmtune.loadgen.distributed.service import BEAT_S, CONTROLLER, Service, Watchdog
from swarmtune.loadgen.distributed.signals import interruptible
from swarmtune.loadgen.distributed.timing_manager import TimingManager, useful_workers
from swarmtune.loadgen.distributed.worker_manager import WorkerManager
from swarmtune.loadgen.records import Records

LOOK_S = 0.2
PING_TIMEOUT_S = 10.0
LOCAL = "worker-manager"


@dataclass(frozen=True)
class Plan:
    """See services.run."""

    spec: Spec
    workers: int
    directory: Path
    on_progress: OnProgress = lambda _: None
    remote: Remote | None = None
    patience: Patience = field(default_factory=Patience)


class SystemController(Service):
    """Starts, watches and ends all others."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(Bus(), CONTROLLER)
        self.plan = plan
        plan.directory.mkdir(parents=True, exist_ok=True)
        self._place = Path(tempfile.mkdtemp(prefix="run-", dir=plan.directory))
        self._data = DatasetManager(self.bus, plan.spec)
        self._timing = TimingManager(self.bus, plan.spec)
        self._local = WorkerManager(self.bus, LOCAL, self._place)
        self._records = RecordsManager(self.bus, self._place)
        self._services = (self, self._data, self._timing, self._local, self._records)
        self._watchdog = Watchdog(plan.patience.tell_s, plan.patience.dead_s)
        self._room: dict[str, int] = {}  # of worker managers, for workers
        self._manager_of: dict[str, str] = {}
        self._counts: dict[str, Counts] = {}
        self._dead: dict[str, str] = {}
        self._phase: PhaseName = "starting"
        self._notes: list[str] = []
        self._told_at = 0.0
        self._interrupted = self._stopping = False
        self._beat_hosts_at = 0.0

    def interrupt(self) -> None:
        """End the run; its records are partial. From a signal handler or a callback."""
        self._interrupted = True

    def execute(self) -> Records:
        """The run. See services.run."""
        try:
            with interruptible(self.interrupt):
                return self._execute()
        finally:
            self._end()

    def _execute(self) -> Records:
        self._listen()
        for service in self._services:
            service.initialize()
            service.configure()
            service.start()
        self._gather_hosts()
        self._spawn()
        self._configure_workers()
        self._all(lambda name: Prepare(self._timing.first(name)))
        before = self._measure_clocks()
        self._timing.relations = {w: Relation(before[m]) for w, m in self._manager_of.items() if m in before}
        self._phase = "warming up"
        self._all(lambda _: Execute(), survivors=True)
        self._stopping, self._phase = True, "collecting"
        collected = self._all(lambda _: Collect(), survivors=True)
        return self._bring_together(collected, before)

    # --- the steps -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self.subscribe(Hello, self._hello)
        self.subscribe(Heartbeat, lambda sender, _: self._watchdog.heard(sender, time.monotonic()))
        self.subscribe(Counts, self._count)
        self.subscribe(Died, lambda _, message: self._lose(message.worker, message.reason))
        self.subscribe(Gone, self._gone)

    def _gather_hosts(self) -> None:
        """CommunicationError if not all have come in time."""
        self._room = {LOCAL: self.plan.workers}
        remote = self.plan.remote
        if remote is None:
            return
        from swarmtune.loadgen.distributed.network import Hub, Token

        hub = Hub(remote.address, Token.at(remote.token))
        self.bus.attach(hub)
        remote.listening(hub.address)
        self._phase = "waiting for hosts"
        deadline, refused = time.monotonic() + remote.wait_s, 0
        while len(self._room) <= remote.hosts:
            self._look()
            if hub.refused and not refused:
                self._note("a host with a wrong token was refused")
            refused = hub.refused
            if self._interrupted:
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                came = f"{len(self._room) - 1} of {remote.hosts} hosts came within {remote.wait_s:g} s"
                wrong = f"; others were refused, they have not the token {remote.token}" if refused else ""
                raise IPCTimeoutError(f"{came}{wrong}. On each: swarmtune bench-worker {hub.address}")
        self._phase = "starting"

    def _spawn(self) -> None:
        names = [manager for manager, room in self._room.items() for _ in range(room)]
        useful = useful_workers(self.plan.spec.options, len(names))
        if useful < len(names):
            self._note(f"{useful} of {len(names)} workers are used: the load has no slot for more")
        names = names[:useful]
        self._manager_of = {f"worker-{number}": manager for number, manager in enumerate(names)}
        started = [
            self.ask(Spawn([w for w, m in self._manager_of.items() if m == manager]), manager) for manager in self._room
        ]
        self._until(started)
        for worker, manager in self._manager_of.items():
            self._watchdog.heard(worker, time.monotonic())
            if manager != LOCAL:
                self.bus.learn(worker, manager)

    def _configure_workers(self) -> None:
        workers = list(self._manager_of)
        granted = self._timing.deal(self._data.dataset, workers)
        text = self._spec_for_workers(len(workers))
        found = self._all(lambda name: Configure(text, workers.index(name), len(workers), granted))
        self._data.check({worker: answer.digest for worker, answer in found.items()})

    def _spec_for_workers(self, workers: int) -> str:
        """With the headers of our environment. What was not given stays so: the data depend on it."""
        options = self.plan.spec.options
        update: dict[str, Any] = {}
        if headers := headers_of(options):
            update["header"] = tuple(f"{name}: {value}" for name, value in headers.items())
        if workers > 1 and options.stop_when_decided:
            self._note("one worker can stop when decided, several cannot: this run goes to its end")
            update["stop_when_decided"] = False
        options = options.model_copy(update=update)
        return self.plan.spec.model_copy(update={"options": options}).model_dump_json(exclude_unset=True)

    def _measure_clocks(self) -> dict[str, Sample]:
        """Of the other hosts."""
        return {manager: self._measure_clock(manager) for manager in self._room if manager != LOCAL}

    def _measure_clock(self, manager: str) -> Sample:
        def exchange() -> tuple[int, int]:
            pong = self.request(Ping(), manager, PING_TIMEOUT_S)
            return pong.received_ns, pong.sent_ns

        return measure(exchange)

    def _bring_together(self, collected: dict[str, Any], before: dict[str, Sample]) -> Records:
        self._tell()
        places = {worker: Path(told.directory) for worker, told in collected.items()}
        relations: dict[str, Relation] = {}
        for manager, first in before.items():
            theirs = [worker for worker in collected if self._manager_of[worker] == manager]
            try:
                after = self._measure_clock(manager)
                relations |= {worker: Relation(first, after) for worker in theirs}
                places |= {worker: self._records.fetch(worker, manager) for worker in theirs}
            except CommunicationError:
                self._gone(manager, Gone())
            self.publish(Shutdown(), manager)
        left = {worker: told for worker, told in collected.items() if worker not in self._dead}
        if not left:
            raise BenchmarkExecutionError(f"No worker is left: {'; '.join(self._reasons())}")
        records = self._records.records(left, places, relations, self._dead, self._timing.started_ns)
        return replace(records, interrupted=self._interrupted and not records.lost)

    def _reasons(self) -> list[str]:
        return [f"{worker} {reason}" for worker, reason in self._dead.items()]

    def _end(self) -> None:
        try:
            for manager in self._room:
                if manager != LOCAL:
                    self.publish(Shutdown("the controller has given the run up"), manager)
            with ExitStack() as stack:
                for service in self._services:
                    stack.callback(service.clean)
                    if service.state is State.RUNNING:
                        stack.callback(service.stop if self._phase == "collecting" else service.fail)
        finally:
            self.bus.close()
            shutil.rmtree(self._place, ignore_errors=True)

    # --- commands to all workers -----------------------------------------------------------------------------------

    def _all(self, message: Callable[[str], Message], *, survivors: bool = False) -> dict[str, Any]:
        """Send each worker its message; all answers. An error of one is raised, unless it died and ``survivors`` suffice."""
        pendings = {name: self.ask(message(name), name) for name in self._manager_of if name not in self._dead}
        self._until(list(pendings.values()), survivors=survivors)
        return {name: pending.answer() for name, pending in pendings.items() if name not in self._dead}

    def _until(self, pendings: list[Pending], *, survivors: bool = False) -> None:
        while not all(pending.done for pending in pendings):
            self._look()
            for pending in pendings:
                if pending.error and not (survivors and pending.to in self._dead):
                    raise pending.error
            if survivors and not self._stopping and (self._interrupted or self._dead):
                self._stopping, self._phase = True, "stopping"
                self.publish(Stop())
        for pending in pendings:
            if not (survivors and pending.to in self._dead):
                pending.answer()

    # --- watching --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Deliver what has come; see who is silent; tell how far the run is."""
        self.bus.wait(LOOK_S)
        now = time.monotonic()
        for service in self._services:
            service.beat()
        if now >= self._beat_hosts_at:
            self._beat_hosts_at = now + BEAT_S
            for manager in self._room:
                if manager != LOCAL:
                    self.publish(Heartbeat(self.state), manager)
        for name in self._watchdog.missing(now):
            self._note(f"nothing heard from {name} for {self._watchdog.tell_s:g} s")
        for name in self._watchdog.dead(now):
            self._silent(name)
        if now >= self._told_at + LOOK_S:
            self._told_at = now
            self._tell()

    def _tell(self) -> None:
        counts = self._counts.values()
        if self._phase in ("warming up", "measuring") and counts:
            self._phase = "warming up" if not self._timing.started_ns else "measuring"
        self.plan.on_progress(
            Overview(
                self._phase,
                len(self._manager_of) - len(self._dead),
                sum(c.sent for c in counts),
                sum(c.ended for c in counts),
                sum(c.failed for c in counts),
                sum(c.in_flight for c in counts),
                tuple(self._notes),
            )
        )

    def _note(self, text: str) -> None:
        self._notes.append(text)

    def _count(self, worker: str, counts: Counts) -> None:
        self._counts[worker] = counts
        self._watchdog.heard(worker, time.monotonic())

    def _hello(self, host: str, message: Hello) -> Done:
        remote = self.plan.remote
        if remote is None or len(self._room) > remote.hosts:
            raise CommunicationError("the run has all the hosts that it waits for; start it with a larger --hosts")
        self._room[host] = message.workers
        self._note(f"{host} has come with {message.workers} workers")
        return Done()

    def _silent(self, name: str) -> None:
        self._watchdog.forget([name])
        reason = f"gave no sign of life for {self._watchdog.dead_s:g} s and was ended"
        if name in self._manager_of:
            self.publish(Kill(name, reason), self._manager_of[name])
        elif name in self._room:
            self._gone(name, Gone())

    def _gone(self, name: str, _: Gone) -> None:
        """A host; workers of this machine are told by their manager."""
        if name not in self._room or name == LOCAL:
            return
        self._watchdog.forget([name])
        self.bus.abandon(name, CommunicationError(f"The host {name} cannot be reached any more"))
        for worker, manager in self._manager_of.items():
            if manager == name:
                self._lose(worker, f"is gone with its host {name}")

    def _lose(self, worker: str, reason: str) -> None:
        if worker in self._dead:
            return
        self._dead[worker] = reason
        self._counts.pop(worker, None)
        self._watchdog.forget([worker])
        self._note(f"{worker} {reason}")
        self.bus.abandon(worker, BenchmarkExecutionError(f"{worker} {reason}"))
