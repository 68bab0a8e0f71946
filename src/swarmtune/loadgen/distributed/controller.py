"""A run over several processes and machines, from its start to its end. ``SystemController.execute`` is the whole of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from swarmtune.clock import Clock, RealClock
from swarmtune.errors import BenchmarkExecutionError, CommunicationError, IPCTimeoutError
from swarmtune.loadgen.ask.source import Block
from swarmtune.loadgen.ask.spec import Spec, headers_of
from swarmtune.loadgen.distributed import OnProgress, Output, Patience, Remote
from swarmtune.loadgen.distributed.bus import Bus, Pending
from swarmtune.loadgen.distributed.children import Children
from swarmtune.loadgen.distributed.lifecycle import State, on_cleanup, on_initialize, on_start
from swarmtune.loadgen.distributed.messages import (
    Begin,
    BusMessage,
    Clocks,
    Collect,
    Collected,
    Configure,
    Data,
    Died,
    Done,
    Execute,
    Finish,
    Gone,
    Heartbeat,
    Hello,
    Kill,
    MeasureClocks,
    Merge,
    Process,
    Processed,
    Shutdown,
    Spawn,
    Start,
    Stop,
    TakePart,
)
from swarmtune.loadgen.distributed.records_manager import records_of
from swarmtune.loadgen.distributed.service import (
    BEAT_S,
    CONTROLLER,
    POST,
    RECORDS,
    TIMING,
    WORKERS,
    Service,
    Watchdog,
    on_message,
)
from swarmtune.loadgen.distributed.services import MANAGERS
from swarmtune.loadgen.distributed.signals import interruptible
from swarmtune.loadgen.distributed.timing_manager import granted_in_blocks, useful_workers
from swarmtune.loadgen.distributed.worker_manager import spool_of
from swarmtune.loadgen.exports.report import Report, facts_of
from swarmtune.loadgen.judge.deciding import Answer, deciding
from swarmtune.loadgen.observe.observing import discard, observed, observing
from swarmtune.loadgen.records import Progress, Records, Stage

LOOK_S = 0.2
T = TypeVar("T")


@dataclass(frozen=True)
class RunSettings:
    """See distributed.run. ``apart``: every manager in a process of its own. ``managers``: their classes, by name."""

    spec: Spec
    workers: int
    directory: Path
    on_progress: OnProgress = lambda _: None
    remote: Remote | None = None
    patience: Patience = field(default_factory=Patience)
    apart: bool = False
    clock: Clock = field(default_factory=RealClock)
    managers: Mapping[str, type[Service]] = field(default_factory=lambda: MANAGERS)


class SystemController(Service):
    """Starts, watches and ends all other services."""

    def __init__(self, settings: RunSettings) -> None:
        settings.directory.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="run-", dir=settings.directory))
        super().__init__(Bus(settings.clock), CONTROLLER, place)
        self.settings = settings
        self._children = Children(self.channel, place)
        self._services: list[Service] = []  # those that run in this process
        self._watchdog = Watchdog(settings.patience.tell_s, settings.patience.dead_s)
        self._room: dict[str, int] = {}  # of worker managers, for workers
        self._manager_of: dict[str, str] = {}
        self._progress: dict[str, Progress] = {}
        self._data = Data("", Block(0))
        self._answer = Answer()  # of the process that reads all spools
        self._dead: dict[str, str] = {}
        self._stage: Stage = "starting"
        self._notes: list[str] = []
        self._told_at = 0.0
        self._interrupted = self._stopping = False
        self._beat_hosts_at = 0.0
        self._started_ns = 0

    def interrupt(self) -> None:
        """End the run; its records are partial. From a signal handler or a callback."""
        self._interrupted = True

    def execute(self) -> Records:
        """The run. See distributed.run."""
        return self._run_and(self._records)

    def report(self, output: Output) -> Report:
        """The run, its results and its files. See distributed.measure."""
        return self._run_and(lambda collected, interrupted: self._process(collected, interrupted, output))

    def _run_and(self, conclude: Callable[[Collected, bool], T]) -> T:
        """``conclude`` gets what was collected, and whether the run was interrupted, while the services are there."""
        try:
            with interruptible(self.interrupt):
                with observing(self.settings.spec, self.settings.directory):
                    collected = self._measure()
                return conclude(collected, self._interrupted and not collected.lost)
        finally:
            discard(self.settings.directory)
            self._end()

    def _records(self, collected: Collected, interrupted: bool) -> Records:
        records = records_of(collected, interrupted=interrupted)
        return replace(records, observed=observed(self.settings.spec, self.settings.directory))

    def _measure(self) -> Collected:
        self.initialize()
        self.configure()
        self.start()
        self._gather_hosts()
        self._spawn()
        self._configure_workers()
        workers, managers = list(self._manager_of), self._on_hosts()
        self._one(TakePart(workers, managers), TIMING)
        self._all(lambda _: Start())
        self._stage = "warming up"
        with self._deciding() as self._answer:
            self._all(lambda _: Execute(), survivors=True)
        self._stopping, self._stage = self._interrupted, "collecting"  # a signal from now on ends the reading
        collected = self._all(lambda _: Collect(), survivors=True)
        return self._bring_together(collected)

    # --- the steps -------------------------------------------------------------------------------------------------

    @on_initialize
    def make_managers(self) -> None:
        """Create the managers, here or in processes of their own."""
        for name, cls in self.settings.managers.items():
            if self.settings.apart:
                self._children.start(name)
                continue
            place = self.place / name
            place.mkdir()
            service = cls(self.bus, name, place)
            self._services.append(service)
            service.initialize()

    @on_start
    def start_managers(self) -> None:
        """Configure and start the managers. ConfigurationError: the data cannot be read."""
        self._spec = self._spec_for_services()
        self._spec_text = self._spec.model_dump_json(exclude_unset=True)
        for message in (Configure(self._spec_text), Start()):
            self._until([self.channel.ask(message, name) for name in self.settings.managers])

    def _gather_hosts(self) -> None:
        """CommunicationError if not all have come in time."""
        self._room = {WORKERS: self.settings.workers}
        remote = self.settings.remote
        if remote is None:
            return
        from swarmtune.loadgen.distributed.network import Hub, Token

        hub = Hub(remote.address, Token.at(remote.token))
        self.bus.attach(hub)
        remote.listening(hub.address)
        self._stage = "waiting for hosts"
        deadline, refused = self.clock.monotonic() + remote.wait_s, 0
        while len(self._room) <= remote.hosts:
            self._look()
            if hub.refused and not refused:
                self._note("a host with a wrong token was refused")
            refused = hub.refused
            if self._interrupted:
                raise KeyboardInterrupt
            if self.clock.monotonic() > deadline:
                came = f"{len(self._room) - 1} of {remote.hosts} hosts came within {remote.wait_s:g} s"
                wrong = f"; others were refused, they have not the token {remote.token}" if refused else ""
                raise IPCTimeoutError(f"{came}{wrong}. On each: swarmtune bench-worker {hub.address}")
        self._stage = "starting"

    def _spawn(self) -> None:
        names = [manager for manager, room in self._room.items() for _ in range(room)]
        useful = useful_workers(self.settings.spec.options, len(names))
        if useful < len(names):
            self._note(f"{useful} of {len(names)} workers are used: the load has no slot for more")
        names = names[:useful]
        self._manager_of = {f"worker-{number}": manager for number, manager in enumerate(names)}
        of = {manager: [w for w, m in self._manager_of.items() if m == manager] for manager in self._room}
        self._until([self.channel.ask(Spawn(workers), manager) for manager, workers in of.items()])
        for worker, manager in self._manager_of.items():
            self._watchdog.sign_of_life(worker, self.clock.monotonic())
            self.bus.learn(worker, manager)

    def _configure_workers(self) -> None:
        workers = list(self._manager_of)
        text, digest = self._spec_text, self._data.digest
        granted = granted_in_blocks(self.settings.spec.options, self._data.credits)
        self._all(lambda name: Configure(text, workers.index(name), len(workers), granted, digest))

    def _spec_for_services(self) -> Spec:
        """With the headers of our environment. What was not given stays so: the data depend on it."""
        spec = self.settings.spec
        update: dict[str, Any] = {}
        if headers := headers_of(spec.options):
            update["header"] = tuple(f"{name}: {value}" for name, value in headers.items())
        early_stop = spec.early_stop
        if self.settings.remote and (spec.options.stop_when_decided or early_stop):
            self._note("answers on other hosts are not seen before the end: this run is not ended early")
            update["stop_when_decided"], early_stop = False, None
        options = spec.options.model_copy(update=update)
        return spec.model_copy(update={"options": options, "early_stop": early_stop})

    def _deciding(self) -> AbstractContextManager[Answer]:
        """While this lasts, a process reads what all workers record; it alone decides, and all are told to finish."""
        spools = [spool_of(worker, self.place / WORKERS) for worker in self._manager_of]
        return deciding(self._spec, spools, self.place, lambda: self.channel.publish(Finish()))

    def _on_hosts(self) -> dict[str, str]:
        """The workers on other hosts, with their managers."""
        return {worker: manager for worker, manager in self._manager_of.items() if manager != WORKERS}

    def _bring_together(self, collected: dict[str, Any]) -> Collected:
        self._tell()
        managers = self._on_hosts()
        hosts = [manager for manager in self._room if manager != WORKERS]
        clocks: Clocks = self._one(MeasureClocks(hosts), TIMING)
        for manager in set(hosts) - set(clocks.relations):
            self._gone(manager, Gone())
        present = {worker: told for worker, told in collected.items() if worker not in self._dead}
        merged: Collected = self._one(Merge(present, managers, clocks.relations, self._dead, self._started_ns), RECORDS)
        for manager in hosts:
            self.channel.publish(Shutdown(), manager)
        return msgspec.structs.replace(merged, early_stop=self._answer.early_stop)

    def _process(self, collected: Collected, interrupted: bool, output: Output) -> Report:
        self._stage = "working out results"
        self._tell()
        directory = str(output.directory.absolute())
        made: Processed = self._one(Process(collected, interrupted, directory, output.formats, output.command), POST)
        facts = facts_of(self.settings.spec, made.certificate, output.command, made.inputs_sha256, collected.early_stop)
        return Report(self._records(collected, interrupted), made.results, made.certificate, facts)

    @on_cleanup
    def end_processes(self) -> None:
        """End the processes of the managers."""
        self._children.end()

    def _end(self) -> None:
        well = self._stage in ("collecting", "working out results")
        try:
            for manager in self._room:
                if manager != WORKERS:
                    self.channel.publish(Shutdown("the controller has given the run up"), manager)
            with ExitStack() as stack:
                stack.callback(self.clean)
                for service in self._services:
                    stack.callback(service.clean)
                    if service.state is State.RUNNING:
                        stack.callback(service.stop if well else service.fail)
                if well:
                    stack.callback(self._children.dismiss)
                if self.state is State.RUNNING:
                    self.stop() if well else self.fail()
        finally:
            self.bus.close()
            shutil.rmtree(self.place, ignore_errors=True)

    # --- commands to others ----------------------------------------------------------------------------------------

    def _one(self, message: BusMessage, to: str) -> Any:
        """Send one service a command and wait for its answer. Raises the error that the service raised."""
        pending = self.channel.ask(message, to)
        self._until([pending])
        return pending.answer()

    def _all(self, message: Callable[[str], BusMessage], *, survivors: bool = False) -> dict[str, Any]:
        """Send each worker its message; all answers. An error of one is raised, unless it died and ``survivors`` suffice."""
        pendings = {name: self.channel.ask(message(name), name) for name in self._manager_of if name not in self._dead}
        self._until(list(pendings.values()), survivors=survivors)
        return {name: pending.answer() for name, pending in pendings.items() if name not in self._dead}

    def _until(self, pendings: list[Pending], *, survivors: bool = False) -> None:
        while not all(pending.done for pending in pendings):
            self._look()
            for pending in pendings:
                if pending.error and not (survivors and pending.to in self._dead):
                    raise pending.error
            reading = self._stage == "collecting"
            if survivors and not self._stopping and (self._interrupted or (self._dead and not reading)):
                self._stopping, self._stage = True, self._stage if reading else "stopping"
                self.channel.publish(Stop())
        for pending in pendings:
            if not (survivors and pending.to in self._dead):
                pending.answer()

    # --- watching --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Deliver messages, check for silent services, report the progress."""
        self.bus.wait(LOOK_S)
        self._answer.read()
        now = self.clock.monotonic()
        if now >= self._beat_hosts_at:
            self._beat_hosts_at = now + BEAT_S
            for manager in self._room:
                if manager != WORKERS:
                    self.channel.publish(Heartbeat(self.state), manager)
        for name in self._watchdog.missing(now):
            self._note(f"nothing heard from {name} for {self._watchdog.tell_s:g} s")
        for name in self._watchdog.dead(now):
            self._silent(name)
        if now >= self._told_at + LOOK_S:
            self._told_at = now
            self._tell()

    def _tell(self) -> None:
        known = self._progress.values()
        if self._stage == "warming up" and self._started_ns:
            self._stage = "measuring"
        self.settings.on_progress(
            Progress(
                self._stage,
                len(self._manager_of) - len(self._dead),
                sum(p.sent for p in known),
                sum(p.ended for p in known),
                sum(p.failed for p in known),
                sum(p.in_flight for p in known),
                tuple(self._notes),
            )
        )

    def _note(self, text: str) -> None:
        self._notes.append(text)

    @on_message(Data)
    def _hear_data(self, _: str, message: Data) -> None:
        self._data = message

    @on_message(Begin)
    def _hear_begin(self, _: str, message: Begin) -> None:
        self._started_ns = message.started_ns

    @on_message(Heartbeat)
    def _hear_heartbeat(self, name: str, message: Heartbeat) -> None:
        if name in self._dead:
            return
        self._watchdog.sign_of_life(name, self.clock.monotonic())
        if message.progress:
            self._progress[name] = message.progress

    @on_message(Hello)
    def _hello(self, host: str, message: Hello) -> Done:
        remote = self.settings.remote
        if remote is None or len(self._room) > remote.hosts:
            raise CommunicationError("the run has all the hosts that it waits for; start it with a larger --hosts")
        self._room[host] = message.workers
        self._note(f"{host} has come with {message.workers} workers")
        return Done()

    def _silent(self, name: str) -> None:
        self._watchdog.forget([name])
        reason = f"gave no sign of life for {self._watchdog.dead_s:g} s and was ended"
        if name in self._room and name != WORKERS:
            self._gone(name, Gone())
        else:
            self.channel.publish(Kill(name, reason), self._manager_of.get(name, CONTROLLER))

    @on_message(Gone)
    def _gone(self, name: str, _: Gone) -> None:
        """A host is lost. The end of a process on this machine comes as Died."""
        if name not in self._room or name == WORKERS:
            return
        self._watchdog.forget([name])
        self.bus.abandon(name, CommunicationError(f"The host {name} cannot be reached any more"))
        for worker, manager in self._manager_of.items():
            if manager == name:
                self._lose(worker, f"is gone with its host {name}")

    @on_message(Died)
    def _died(self, _: str, message: Died) -> None:
        """The run goes on without a worker, and ends without a manager: BenchmarkExecutionError."""
        if message.service in self._manager_of:
            self._lose(message.service, message.reason)
        else:
            raise BenchmarkExecutionError(f"{message.service} {message.reason}")

    def _lose(self, worker: str, reason: str) -> None:
        if worker in self._dead:
            return
        self._dead[worker] = reason
        self._progress.pop(worker, None)
        self._watchdog.forget([worker])
        self._note(f"{worker} {reason}")
        self.bus.abandon(worker, BenchmarkExecutionError(f"{worker} {reason}"))
