"""Each service on its own, in virtual time: its life, and what it does with messages."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from swarmtune.clock import VirtualClock
from swarmtune.errors import BenchmarkExecutionError, ConfigValidationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.ask.source import Block
from swarmtune.loadgen.ask.spec import ServiceNode, Spec
from swarmtune.loadgen.distributed import Patience
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.controller import RunSettings, SystemController
from swarmtune.loadgen.distributed.dataset_manager import DatasetManager, fingerprint
from swarmtune.loadgen.distributed.merge import REQUESTS_FILE
from swarmtune.loadgen.distributed.messages import (
    AtBarrier,
    Begin,
    BusMessage,
    Collect,
    Collected,
    Configure,
    Data,
    Died,
    Done,
    Execute,
    Grant,
    Kill,
    Low,
    Ping,
    Pong,
    Spawn,
    Start,
    Stop,
    TakePart,
)
from swarmtune.loadgen.distributed.post_processor import PostProcessor
from swarmtune.loadgen.distributed.records_manager import RecordsManager
from swarmtune.loadgen.distributed.service import CONTROLLER, DATA, POST, RECORDS, TIMING, WORKERS, Service, on_message
from swarmtune.loadgen.distributed.services import MANAGERS
from swarmtune.loadgen.distributed.timing_manager import LEAD_NS, TimingManager
from swarmtune.loadgen.distributed.worker import Worker
from swarmtune.loadgen.distributed.worker_manager import WorkerManager
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read import spool
from swarmtune.loadgen.records import Outcome, Progress
from swarmtune.loadgen.send.notes import Note
from swarmtune.loadgen.wire.base import NOTE, RECORD
from swarmtune.testing.service import ServiceContract

ENOUGH_S = 60.0
PIECE_OF_A_SPOOL = 600  # bytes


class TestDatasetManager(ServiceContract):
    def make_service(self, bus: Bus, place: Path) -> Service:
        return DatasetManager(bus, DATA, place)

    def test_it_tells_all_what_the_data_are(self, tmp_path: Path) -> None:
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        heard: list[Data] = []
        service.bus.channel("anybody").subscribe(Data, lambda _, data: heard.append(data))
        self.lead(service, "configure")
        service.bus.wait(0)
        spec = Spec.model_validate_json(self.order().spec)
        dataset, endpoint = make_dataset(spec.options, spec.seed), make_endpoint("m", spec.options)
        assert heard == [Data(fingerprint(dataset, endpoint, spec), Block(0, 3))]


class TestTimingManager(ServiceContract):
    def make_service(self, bus: Bus, place: Path) -> Service:
        return TimingManager(bus, TIMING, place)

    def test_workers_get_credits_until_there_are_no_more_and_begin_together(self, tmp_path: Path) -> None:
        bus = Bus(VirtualClock())
        service = self.make_service(bus, tmp_path)
        self.lead(service, "start")
        boss, heard = bus.channel(CONTROLLER), list[BusMessage]()
        ours, theirs = bus.channel("worker-0"), bus.channel("worker-1")
        for channel in (boss, ours, theirs):
            channel.subscribe(Begin, lambda _, message: heard.append(message))
            channel.subscribe(Grant, lambda _, message: heard.append(message))
        bus.channel("host").subscribe(Ping, lambda *_: Pong(5_000_000_000, 5_000_000_000))  # another clock
        boss.publish(Data("", Block(0, 2)))
        boss.request(TakePart(["worker-0", "worker-1"], {"worker-1": "host"}), TIMING, ENOUGH_S)
        for _ in range(3):
            ours.publish(Low(), TIMING)
        bus.wait(0)
        assert heard == [Grant(Block(0, 1)), Grant(Block(1, 1)), Grant(None)]
        heard.clear()
        ours.publish(AtBarrier(), TIMING)
        bus.wait(0)
        assert heard == []
        theirs.publish(AtBarrier(), TIMING)
        bus.wait(0)
        started_ns = round(bus.clock.monotonic() * 1e9) + LEAD_NS
        assert heard == [Begin(started_ns), Begin(5_000_000_000 + LEAD_NS), Begin(started_ns)]


class TestWorkerManager(ServiceContract):
    def make_service(self, bus: Bus, place: Path) -> Service:
        return WorkerManager(bus, WORKERS, place)


class TestRecordsManager(ServiceContract):
    def make_service(self, bus: Bus, place: Path) -> Service:
        return RecordsManager(bus, RECORDS, place)


class TestPostProcessor(ServiceContract):
    def make_service(self, bus: Bus, place: Path) -> Service:
        return PostProcessor(bus, POST, place)


class TestWorker(ServiceContract):
    @pytest.fixture(autouse=True)
    def _endpoint(self) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", 0)) as self.listener:
            yield

    def make_service(self, bus: Bus, place: Path) -> Service:
        return Worker(bus, "worker-0", place, descriptor=-1)

    def order(self) -> Configure:
        url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        spec = Spec(url=(url,), model="m", options=LoadgenOptions(request_count=3, concurrency=1))
        digest = fingerprint(make_dataset(spec.options, 0), make_endpoint("m", spec.options), spec)
        return Configure(spec.model_dump_json(exclude_unset=True), digest=digest)

    def test_other_data_than_the_controller_has_are_refused(self, tmp_path: Path) -> None:
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        self.lead(service, "initialize")
        wrong = Configure(self.order().spec, digest="other")
        with pytest.raises(ConfigValidationError, match="worker-0 would send other requests"):
            service.bus.channel(CONTROLLER).request(wrong, "worker-0", ENOUGH_S)
        service.clean()

    def test_its_reading_obeys_a_stop(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spool, "READ_BYTES", 5 * PIECE_OF_A_SPOOL)
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        self.lead(service, "start")
        assert isinstance(service, Worker)
        service.stop()
        note = Note(*[0] * 3, Outcome.FAILED, *[0] * 12, 200, False, "x" * 400).pack()
        record = RECORD.pack(len(note), NOTE, 1, 0, 0, 0) + note
        service.run.spool.write_bytes(record * 100)
        boss = service.bus.channel(CONTROLLER)
        collecting = boss.ask(Collect(), service.name)
        boss.publish(Stop())
        service.bus.wait(0)
        assert isinstance(collecting.answer(), Collected)
        assert 0 < len(np.load(tmp_path / REQUESTS_FILE)) < 20
        service.clean()


class Reading(Service):
    """A worker manager whose workers never end their reading; when it has begun, the run is interrupted."""

    controller: SystemController
    heard: ClassVar[list[BusMessage]] = []

    @on_message(Spawn)
    def spawn(self, _: str, message: Spawn) -> Done:
        for name in message.workers:
            worker = self.bus.channel(name)
            for kind in (Configure, Start, Execute):
                worker.subscribe(kind, lambda *_: Done())
            worker.subscribe(Collect, lambda *_: self.controller.interrupt())
            worker.subscribe(Stop, partial(self.stopped, name))
        return Done()

    def stopped(self, name: str, _: str, message: Stop) -> None:
        self.heard.append(message)
        self.channel.publish(Died(name, "has stopped"), CONTROLLER)


def test_a_signal_while_results_are_read_reaches_the_workers(tmp_path: Path) -> None:
    elsewhere = (ServiceNode(host="192.0.2.1"),)
    options = LoadgenOptions(request_count=9, concurrency=2)
    spec = Spec(url=("http://127.0.0.1:9",), model="m", options=options, nodes=elsewhere)
    managers = {**MANAGERS, WORKERS: Reading}
    settings = RunSettings(spec, 2, tmp_path, patience=Patience(100.0, 300.0), clock=VirtualClock(), managers=managers)
    Reading.controller = SystemController(settings)
    Reading.heard.clear()
    with pytest.raises(BenchmarkExecutionError, match=r"No worker is left: worker-0 has stopped"):
        Reading.controller.execute()
    assert Reading.heard == [Stop(), Stop()]  # one for each worker


class SilentWorkers(Service):
    """A worker manager whose workers obey until they are to measure; then nothing is heard of them any more."""

    @on_message(Spawn)
    def spawn(self, _: str, message: Spawn) -> Done:
        for name in message.workers:
            worker = self.bus.channel(name)
            for kind in (Configure, Start):
                worker.subscribe(kind, lambda *_: Done())
        return Done()

    @on_message(Kill)
    def kill(self, _: str, message: Kill) -> None:
        self.channel.publish(Died(message.service, message.reason), CONTROLLER)


def test_a_silent_worker_is_told_then_ended_in_virtual_time(tmp_path: Path) -> None:
    elsewhere = (ServiceNode(host="192.0.2.1"),)  # so that no reader of this machine is started
    options = LoadgenOptions(request_count=9, concurrency=2)
    spec = Spec(url=("http://127.0.0.1:9",), model="m", options=options, nodes=elsewhere)
    clock, told = VirtualClock(), list[Progress]()
    settings = RunSettings(
        spec, 2, tmp_path, told.append, patience=Patience(100.0, 300.0), clock=clock,
        managers={**MANAGERS, WORKERS: SilentWorkers},
    )  # fmt: skip
    began = clock.monotonic()
    controller = SystemController(settings)
    with pytest.raises(BenchmarkExecutionError, match=r"No worker is left: worker-0 gave no sign of life for 300 s"):
        controller.execute()
    assert "nothing heard from worker-0 for 100 s" in told[-1].notes
    assert 300 <= clock.monotonic() - began < 302
    assert list(tmp_path.iterdir()) == []
