"""One service on one group, in virtual time: reused where it can be, always stopped otherwise, and watched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from swarmtune.clock import VirtualClock
from swarmtune.errors import (
    BenchmarkExecutionError,
    CommunicationError,
    Culprit,
    IPCTimeoutError,
    SimulatorStartError,
    SwarmTuneError,
)
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.job import Job, RunResult, Service, Stage
from swarmtune.fleet.service_run import ServiceRun, is_taken
from swarmtune.fleet.turns import Turns
from swarmtune.records import Command, Group, Node
from swarmtune.testing.virtual import Life, VirtualExecutor


@dataclass
class Asked(Job[str]):
    """Needs a service called ``name``, which is ready after ``loads_s``, and uses it for ``uses_s``."""

    clock: VirtualClock
    name: str = "a"
    loads_s: float = 5.0
    uses_s: float = 10.0
    error: SwarmTuneError | None = None
    keeps_service: bool = True
    token: str = "mark"
    ready_s: float = 60.0
    began: float | None = None
    calls: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    def commands(self, group: Group) -> tuple[Command, ...]:
        return tuple(Command((self.name, str(group.port))) for _ in group.nodes)

    async def ready(self, service: Service) -> bool:
        if self.began is None:
            self.began = self.clock.monotonic()
        return self.clock.monotonic() >= self.began + self.loads_s

    def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
        return SimulatorStartError(f"{exit_code}: {log}")

    async def use(self, service: Service) -> str:
        self.calls.append("use")
        self.marks.append(service.token)
        await self.clock.sleep(self.uses_s)
        if self.error is not None:
            raise self.error
        return f"{self.name} at {service.url}"

    async def before_stop(self, service: Service) -> None:
        self.calls.append("before stop")

    async def after_stop(self, nodes: ServiceGroup) -> None:
        self.calls.append("after stop")


class Bench:
    """A group of virtual nodes, and the phases that its runs report."""

    def __init__(self, life: Any = lambda _: Life(), nodes: int = 1, port: int = 8000, **options: Any) -> None:
        self.clock = VirtualClock()
        self.executors = [VirtualExecutor(self.clock, life) for _ in range(nodes)]
        group = Group("g", tuple(Node(f"n{i}") for i in range(nodes)), port)
        self.busy = False

        async def listening(_: Group) -> bool:
            return self.busy

        executors: list[Executor] = [*self.executors]
        self.run_: ServiceRun[str] = ServiceRun(
            ServiceGroup(group, executors), self.clock, listening=listening, **options
        )
        self.phases: list[str] = []

    async def run(self, job: Asked) -> RunResult[str]:
        def report(phase: str, facts: Mapping[str, Any]) -> None:
            self.phases.append(phase)

        return await self.run_.run(job, report)

    @property
    def started(self) -> list[str]:
        return [handle.command.argv[0] for executor in self.executors for handle in executor.started]

    @property
    def running(self) -> int:
        return sum(len(executor.running) for executor in self.executors)


async def test_look_start_ready_use_and_the_times_of_each() -> None:
    bench = Bench()
    done = await bench.run(job := Asked(bench.clock))
    assert (done.result, done.error, done.stage) == ("a at http://n0:8000", None, Stage.USE)
    assert 5.0 <= done.start_s <= 5.5
    assert done.seconds == pytest.approx(done.start_s + 10.0)
    assert bench.phases == ["starting", "ready"]
    (handle,) = bench.executors[0].started
    assert handle.command.env["SWARMTUNE_TOKEN"] == "mark"
    assert handle.command.nice > 0  # it gives way to the load generator
    assert (bench.running, job.calls) == (1, ["use"])
    await bench.run_.stop()
    assert (bench.running, job.calls) == (0, ["use", "before stop", "after stop"])


async def test_the_very_same_service_is_not_started_again() -> None:
    bench = Bench(port=0)
    for name in ("a", "a", "b", "a"):
        done = await bench.run(Asked(bench.clock, name))
        assert done.error is None
    assert bench.started == ["a", "b", "a"]
    assert bench.running == 1
    assert done.start_s > 0


async def test_a_service_that_is_kept_has_the_mark_of_the_job_that_started_it() -> None:
    bench = Bench()
    first, second = Asked(bench.clock, token="first"), Asked(bench.clock, token="second")
    await bench.run(first)
    await bench.run(second)
    assert (bench.started, first.marks, second.marks) == (["a"], ["first"], ["first"])


async def test_a_service_that_has_ended_meanwhile_is_started_again() -> None:
    bench = Bench(lambda _: Life(seconds=20.0))
    await bench.run(Asked(bench.clock))
    await bench.clock.sleep(30.0)
    assert (await bench.run(Asked(bench.clock))).error is None
    assert bench.started == ["a", "a"]


async def test_a_job_that_does_not_keep_its_service_leaves_none() -> None:
    bench = Bench(nodes=2)
    job = Asked(bench.clock, keeps_service=False)
    assert (await bench.run(job)).result is not None
    assert (bench.running, job.calls) == (0, ["use", "before stop", "after stop"])


async def test_a_crash_at_the_start_is_diagnosed_from_its_log() -> None:
    bench = Bench(lambda _: Life(2.0, 127, "first\nno such library"))
    done = await bench.run(Asked(bench.clock))
    assert (done.stage, str(done.error), done.nodes_answer) == (Stage.READY, "127: first\nno such library", True)
    assert bench.running == 0


async def test_a_service_that_is_never_ready_is_stopped() -> None:
    bench = Bench()
    done = await bench.run(Asked(bench.clock, loads_s=1e9))
    assert (done.stage, str(done.error)) == (Stage.READY, "None: ")
    assert 60.0 <= done.seconds <= 61.0
    assert bench.running == 0


async def test_a_death_while_it_is_used_ends_the_use_at_once() -> None:
    bench = Bench(lambda _: Life(8.0, 1, "out of memory"))
    done = await bench.run(Asked(bench.clock))
    assert (done.stage, str(done.error)) == (Stage.USE, "1: out of memory")
    assert done.seconds < 9.0
    assert bench.running == 0


async def test_a_use_that_fails_as_the_service_dies_is_blamed_on_the_death() -> None:
    bench = Bench(lambda _: Life(15.9, -9, "killed"))
    done = await bench.run(Asked(bench.clock, error=BenchmarkExecutionError("connection refused")))
    assert str(done.error) == "-9: killed"


async def test_the_error_of_a_use_is_kept_and_the_service_stopped() -> None:
    bench = Bench()
    error = BenchmarkExecutionError("no file")
    done = await bench.run(Asked(bench.clock, error=error))
    assert (done.error, done.stage, done.nodes_answer) == (error, Stage.USE, None)
    assert bench.running == 0


async def test_a_port_that_somebody_else_answers_on_is_not_used() -> None:
    bench = Bench()
    bench.busy = True
    done = await bench.run(Asked(bench.clock))
    assert (done.stage, bench.started) == (Stage.LOOK, [])
    assert isinstance(done.error, CommunicationError)
    assert "another service already answers at http://n0:8000" in done.error.message


@pytest.mark.parametrize(
    ("answer", "taken"),
    [(b"HTTP/1.1 404 Not Found\r\n\r\n", True), (b"\x15\x03\x01", True), (None, True), (b"", False)],
    ids=["http", "no http", "silent", "hangs up"],
)
async def test_whatever_takes_connections_has_the_port(
    answer: bytes | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that answers /health alone, or slowly, is as much another's as one that answers all."""
    monkeypatch.setattr("swarmtune.fleet.service_run.LOOK_S", 0.3)
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await over.wait()
        writer.write(answer or b"")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await is_taken(Group("g", port=port)) is taken
        over.set()
    assert not await is_taken(Group("g", port=port))


async def test_nodes_that_do_not_start_a_command_in_time() -> None:
    bench = Bench(start_s=30.0)
    bench.executors[0].start_s = 1000.0
    done = await bench.run(Asked(bench.clock))
    assert isinstance(done.error, IPCTimeoutError)
    assert (done.stage, done.error.culprit) == (Stage.START, Culprit.INFRASTRUCTURE)


async def test_if_one_rank_cannot_start_none_is_left() -> None:
    refused = CommunicationError("no route")
    bench = Bench(nodes=2)
    bench.executors[1].life = lambda _: Life(refused=refused)
    done = await bench.run(Asked(bench.clock))
    assert (done.error, done.stage, bench.running) == (refused, Stage.START, 0)


async def test_a_setting_is_blamed_only_if_the_nodes_answer() -> None:
    lost = CommunicationError("no route")
    bench = Bench(lambda c: Life(2.0, 1) if c.argv[0] == "a" else Life(refused=lost))
    done = await bench.run(Asked(bench.clock))
    assert (done.stage, done.nodes_answer) == (Stage.READY, False)


async def test_a_cancelled_run_leaves_nothing() -> None:
    bench = Bench(nodes=2)
    for seconds in (1.0, 12.0):  # while it loads, while it is used
        task = asyncio.create_task(bench.run(Asked(bench.clock, uses_s=1e6)))
        await bench.clock.sleep(seconds)
        assert bench.running == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bench.running == 0


async def test_a_cancellation_in_the_middle_of_a_stop_still_ends_the_service() -> None:
    bench = Bench()
    stops = 0

    class Slow(Asked):
        async def before_stop(self, service: Service) -> None:
            nonlocal stops
            stops += 1
            await self.clock.sleep(10.0)

    await bench.run(Slow(bench.clock, "a"))
    task = asyncio.create_task(bench.run(Slow(bench.clock, "b")))  # has to stop the first one
    await bench.clock.sleep(3.0)
    assert stops == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.running == 0


async def test_the_wait_for_a_turn_is_told_apart() -> None:
    turns, clock = Turns(), VirtualClock()
    from swarmtune.execution.config import NodeConfig

    turn = turns.of([NodeConfig(host="n0")])
    bench = Bench(turn=turn)
    bench.clock = clock
    bench.executors[0].clock = clock
    bench.run_._clock = clock

    async def other() -> None:
        async with turn():
            await clock.sleep(100.0)

    others = asyncio.create_task(other())
    await asyncio.sleep(0)
    began = clock.monotonic()
    done = await bench.run(job := Asked(clock))
    await others
    assert job.started_at == pytest.approx(began + done.waited_s)
    assert done.waited_s == pytest.approx(100.0 - done.start_s, abs=0.5)
    assert done.seconds == pytest.approx(done.start_s + 10.0, abs=0.5)
    assert bench.phases == ["starting", "ready", "waiting"]
