"""The Slurm executor on a real Slurm: the contract, one job for each group, and what happens when jobs and tuners die."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.lab import Lab, Machine, NoLab
from tests.lab.slurm import Slurm
from tests.lab.tuner import kill, tuner_of

from swarmtune.clock import RealClock
from swarmtune.cluster import ParticleDispatcher
from swarmtune.errors import CommunicationError, ConfigValidationError, Culprit
from swarmtune.execution.config import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.execution.executors import executors_for
from swarmtune.execution.executors.base import NotHeldError, Site
from swarmtune.execution.executors.slurm import SlurmExecutor, SlurmReservation
from swarmtune.execution.executors.slurm_jobs import job_options, squeue, submit
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.health import HealthMonitor
from swarmtune.fleet.pool import ServiceGroupPool
from swarmtune.fleet.service_run import ServiceRun
from swarmtune.records import Command, File, Group
from swarmtune.space.field import Field
from swarmtune.testing.executor import FAMILY, ExecutorContract, alive, family_of, finished, printed, python

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Of three machines; whoever submits a job is in one himself."""
    with contextlib.ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab(3, [tmp_path_factory.getbasetemp()]))
            made = stack.enter_context(Slurm(lab))
        except NoLab as reason:
            pytest.skip(str(reason))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PATH", f"{made.path}:{os.environ['PATH']}")
        patch.setenv("SLURM_JOB_ID", "99999")
        patch.setenv("SLURM_GPUS_PER_NODE", "2")  # srun refuses the agents if it sees this
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reservation(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SlurmReservation]:
    """The first machine, for all tests of the contract."""
    node = node_of(slurm.lab.machines[0], tmp_path_factory.mktemp("contract"))
    made = SlurmReservation([node], job_options(ParallelConfig(), [node]), 60.0, RealClock())
    made.use()
    yield made
    await made.release()


@pytest_asyncio.fixture(loop_scope="module")
async def executor(reservation: SlurmReservation, slurm: Slurm) -> AsyncIterator[SlurmExecutor]:
    executor = SlurmExecutor(reservation, slurm.lab.machines[0].address, RealClock())
    yield executor
    await executor.close()


@pytest.fixture
def others(slurm: Slurm, tmp_path: Path) -> Iterator[Sequence[Machine]]:
    """The other machines, whole and free, before and after."""
    one, two = slurm.lab.machines[1:]
    idle_at_first = 2 + ("idle" in slurm.run("sinfo", "-h", "-n", slurm.lab.machines[0].address, "-o", "%t"))
    yield one, two
    slurm.await_idle(idle_at_first)
    assert [slurm.left_on(machine) for machine in (one, two)] == [[], []]
    assert [*(tmp_path / "work").glob("*")] == []


def node_of(machine: Machine, work_dir: Path) -> NodeConfig:
    return NodeConfig(host=machine.address, npu_ids=(), work_dir=str(work_dir))


def group(machines: Sequence[Machine], tmp_path: Path, **options: Any) -> list[SlurmExecutor]:
    """Executors for a group of these."""
    nodes = [node_of(machine, tmp_path / "work") for machine in machines]
    return [*SlurmExecutor.for_nodes(ParallelConfig(executor="slurm", **options), nodes, Site(RealClock()))]


async def close(executors: Sequence[SlurmExecutor]) -> None:
    await asyncio.gather(*(executor.close() for executor in executors))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - other processes have no events
        await asyncio.sleep(0.05)


async def abandoned(executor: SlurmExecutor, when: Awaitable[None]) -> None:
    """A start that is cancelled then."""
    starting = asyncio.create_task(executor.start(Command(("true",))))
    await when
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


def jobs(slurm: Slurm, machines: Sequence[Machine]) -> list[str]:
    """Job, state and nodes of what is asked of these machines or runs there."""
    lines = slurm.run("squeue", "-h", "-o", "%i %T %N%n").splitlines()
    return [
        line for line in lines if any(machine.address.rpartition(".")[2] in line.split(".")[-1] for machine in machines)
    ]


async def none_left(machine: Machine, pids: Sequence[int]) -> None:
    await until(lambda: not any(machine.alive(pid) for pid in pids))


class TestSlurmExecutor(ExecutorContract):
    """Inherited."""

    @pytest.fixture(autouse=True)
    def _on_the_machine(self, slurm: Slurm) -> None:
        self.machine = slurm.lab.machines[0]

    def alive(self, pid: int) -> bool:
        return self.machine.alive(pid)


async def test_one_job_serves_a_group_and_ends_with_it(slurm: Slurm, others: Sequence[Machine], tmp_path: Path) -> None:
    executors = group(others, tmp_path, slurm={"comment": "of a test", "time": "01:30:00"})
    code = (
        "import os, socket; print(socket.gethostname(), [v for v in os.environ if v.startswith(('SLURM', 'SUBMITIT'))])"
    )
    handles = await asyncio.gather(*(executor.start(Command(python(code))) for executor in executors))
    assert [await finished(handle) for handle in handles] == [0, 0]
    assert [await handle.logs() for handle in handles] == [f"{machine.name} []\n" for machine in others]
    found = [line.split("|") for line in slurm.run("squeue", "-h", "-o", "%j|%D|%T|%l|%k").splitlines()]
    assert ["swarmtune", "2", "RUNNING", "1:30:00", "of a test"] in found
    await close(executors)
    assert [await handle.poll() for handle in handles] == [0, 0]


async def test_a_killed_tuner_leaves_no_job(slurm: Slurm, others: Sequence[Machine], tmp_path: Path) -> None:
    machine, other = others
    node = node_of(other, tmp_path)
    submit(
        tmp_path / "work" / "slurm-late", job_options(ParallelConfig(), [node])
    )  # by a tuner that died before the job began
    node_there = f"NodeConfig(host={machine.address!r}, npu_ids=(), work_dir={str(tmp_path / 'work')!r})"
    tuner, family = await tuner_of(
        f"executors_for(ParallelConfig(executor='slurm'), [{node_there}], Site(RealClock()))[0]",
        "from swarmtune.execution.config import NodeConfig, ParallelConfig\n"
        "from swarmtune.execution.executors import executors_for\n"
        "from swarmtune.execution.executors.base import Site",
    )
    kill(tuner)
    assert all(machine.alive(pid) for pid in family)
    await asyncio.wait_for(none_left(machine, family), 60)


@pytest.mark.parametrize("how", [(), ("--signal=USR2",)], ids=["cancelled", "time-limit"])
async def test_a_job_that_slurm_ends_is_lost_and_the_next_command_gets_another(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path, how: Sequence[str]
) -> None:
    executors = group(others, tmp_path)
    first, second = await asyncio.gather(
        *(executor.start(Command(python(FAMILY, "600", "polite"))) for executor in executors)
    )
    families = [[int(word) for word in (await printed(handle, "family")).split()[1:]] for handle in (first, second)]
    slurm.run("scancel", *how, "-n", "swarmtune", "-w", others[0].address)
    with pytest.raises(CommunicationError, match="is lost"):
        await finished(first)
    with pytest.raises(CommunicationError, match="is over"):
        await second.poll()
    with pytest.raises(CommunicationError, match="is over"):
        await executors[0].put(Path(__file__), "it")
    with pytest.raises(CommunicationError, match="is over"):
        await executors[1].get("it", tmp_path / "it")
    for machine, family in zip(others, families, strict=True):
        await asyncio.wait_for(none_left(machine, family), 30)
    assert await finished(await executors[1].start(Command(("true",)))) == 0  # another job
    with pytest.raises(CommunicationError, match="is over"):
        await first.stop()
    await close(executors)


async def test_agents_that_slurm_kills_take_their_commands_along(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmtune.execution.mailbox.LOST_S", 3.0)
    (machine, _) = others
    (executor,) = group([machine], tmp_path)
    tuned = tmp_path / "config.json"
    tuned.write_text("as it was")
    files = (File(str(tuned), "tuned", restore=True),)
    handle = await executor.start(Command(python(FAMILY, "600", "polite"), files=files))
    family = [int(word) for word in (await printed(handle, "family")).split()[1:]]
    slurm.run("scancel", "--signal=KILL", "-n", "swarmtune", "-w", machine.address)
    await asyncio.wait_for(none_left(machine, family), 30)
    with pytest.raises(CommunicationError, match="is lost"):
        await finished(handle)
    await executor.close()
    assert tuned.read_text() == "as it was"


async def test_a_machine_without_power_is_lost_with_its_group_and_comes_back(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmtune.execution.mailbox.LOST_S", 3.0)
    executors = group(others, tmp_path)
    family = await family_of(executors[0])
    handle = await executors[1].start(Command(("sleep", "600")))
    await asyncio.to_thread(others[1].off)
    with pytest.raises(CommunicationError, match="is lost"):
        await finished(handle)
    await asyncio.wait_for(none_left(others[0], family), 30)
    await asyncio.to_thread(others[1].on)
    slurm.on(others[1])
    assert await finished(await executors[1].start(Command(("true",)))) == 0
    await close(executors)


async def test_more_groups_than_nodes_wait_for_each_other(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path
) -> None:
    (machine, _) = others
    (first,), (second,) = group([machine], tmp_path), group([machine], tmp_path)
    (impatient,) = group([machine], tmp_path, slurm_pending_timeout=1.5)
    with pytest.raises(CommunicationError, match="is over"):
        await first.ask("process_poll", handle="unknown")
    assert jobs(slurm, [machine]) == []  # only a command is worth a job
    await (await first.start(Command(("true",)))).stop()
    with pytest.raises(CommunicationError, match=r"it waits for 1.5 s already \(PENDING: \w+\); it is cancelled"):
        await impatient.start(Command(("true",)))
    await abandoned(second, until(lambda: len(jobs(slurm, [machine])) == 2))
    assert sorted(line.split()[1] for line in jobs(slurm, [machine])) == ["PENDING", "RUNNING"]  # it keeps its place
    starting = asyncio.create_task(second.start(Command(("true",))))
    await first.close()
    assert await finished(await starting) == 0
    await close([second, impatient])


async def test_a_look_reserves_no_nodes(slurm: Slurm, others: Sequence[Machine], tmp_path: Path) -> None:
    (machine, _) = others
    (executor,) = group([machine], tmp_path)
    service = ServiceGroup(Group("a"), [executor])
    pool = ServiceGroupPool(["a"], RealClock(), lambda name: name, failures=1)
    monitor = HealthMonitor(pool, check=lambda _: service.answers())
    with pytest.raises(NotHeldError):
        await ServiceRun(service, RealClock()).answers()
    await monitor.look()
    assert jobs(slurm, [machine]) == []
    await finished(await executor.start(Command(("true",))))
    await monitor.look()
    assert pool.counts.healthy == 1
    slurm.run("scancel", "-n", "swarmtune", "-w", machine.address)
    while pool.counts.open == 0:
        await monitor.look()
    await monitor.look()
    assert [line for line in jobs(slurm, [machine]) if "COMPLETING" not in line] == []
    await executor.close()


async def test_a_question_to_slurm_that_fails_once_does_no_harm(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine, _) = others
    (first,), (second,) = group([machine], tmp_path), group([machine], tmp_path)
    await finished(await first.start(Command(("true",))))
    real, failed = asyncio.create_subprocess_exec, asyncio.Event()

    async def once(*argv: str, **options: Any) -> asyncio.subprocess.Process:
        if argv[0] == "squeue" and not failed.is_set():
            failed.set()
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return await real(*argv, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", once)
    starting = asyncio.create_task(second.start(Command(("true",))))
    await asyncio.wait({starting, asyncio.create_task(failed.wait())}, return_when=asyncio.FIRST_COMPLETED)
    await first.close()
    assert await finished(await starting) == 0
    await second.close()


async def test_a_job_that_failed_while_nobody_waited_is_followed_by_another(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path
) -> None:
    (machine, _) = others
    (first,), (second,) = group([machine], tmp_path), group([machine], tmp_path, slurm_pending_timeout=3.0)
    await finished(await first.start(Command(("true",))))
    await abandoned(second, until(lambda: len(jobs(slurm, [machine])) == 2))
    await until(lambda: len(jobs(slurm, [machine])) == 1)
    await first.close()
    assert await finished(await second.start(Command(("true",)))) == 0
    await second.close()


async def test_a_question_to_slurm_that_nobody_waits_for_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pid\nexec sleep 600\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asking = asyncio.create_task(squeue("1"))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_who_asks_is_told_to_slurm(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JWT", "no token")
    (executor,) = group([others[0]], tmp_path)
    with pytest.raises(CommunicationError, match="auth"):
        await executor.start(Command(("true",)))
    await executor.close()


async def test_the_dispatcher_measures_on_groups_that_slurm_allots(others: Sequence[Machine], tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(f"""#!{sys.executable}
import http.server, json, os
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(open(os.environ["SWARMTUNE_CONFIG"], "rb").read())
http.server.HTTPServer(("", int(os.environ["SWARMTUNE_PORT"])), Answers).serve_forever()
""")
    script.chmod(0o755)
    groups = [
        ServiceGroupConfig(group_id=machine.name, nodes=(node_of(machine, tmp_path / "work"),)) for machine in others
    ]
    config = ParallelConfig(
        executor="slurm", service_groups=tuple(groups), start_script=str(script), results_dir=str(tmp_path / "results")
    )

    def cost(values: Mapping[str, Any], url: str) -> float:
        with urllib.request.urlopen(url) as answer:
            return float(json.load(answer)["x"]) + float(url.split(":")[1].rpartition(".")[2]) / 10

    async with ParticleDispatcher(config, [Field("x", min=0, max=9)], cost) as dispatcher:
        results = await dispatcher.evaluate([{"x": x} for x in range(4)])
    assert [result.failure for result in results] == [None] * 4
    assert {result.group for result in results} == {machine.name for machine in others}
    machine_of = {machine.name: float(machine.address.rpartition(".")[2]) for machine in others}
    assert [r.cost for r in results] == [x + machine_of[str(r.group)] / 10 for x, r in enumerate(results)]


@pytest.mark.parametrize("options", [{"partition": "nowhere"}, {"no-such-option": "1"}])
async def test_a_job_that_slurm_refuses_is_told_to_the_user(
    slurm: Slurm, others: Sequence[Machine], tmp_path: Path, options: dict[str, str]
) -> None:
    (executor,) = group([others[0]], tmp_path, slurm=options)
    with pytest.raises(CommunicationError, match=r"Slurm does not take the job: sbatch: .*no") as caught:
        await executor.start(Command(("true",)))
    assert caught.value.culprit is Culprit.USER
    await executor.close()


async def test_a_machine_without_slurm_is_told_to_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommunicationError, match="there is no Slurm here: sbatch, srun, squeue, scancel") as caught:
        executors_for(ParallelConfig(executor="slurm"), [NodeConfig(host="n1")], Site(RealClock()))
    assert caught.value.culprit is Culprit.USER


async def test_whole_nodes_with_their_devices_unless_the_user_says_otherwise() -> None:
    nodes = [NodeConfig(host=host, npu_ids=(2, 3)) for host in ("n1", "n2")]
    options = job_options(ParallelConfig(slurm_resource="npu"), nodes)
    assert (options["nodelist"], options["nodes"], options["ntasks_per_node"]) == ("n1,n2", 2, 1)
    assert (options["exclusive"], options["mem"], options["gres"], options["time"]) == (True, "0", "npu:4", None)
    given = {
        "gres": "gpu:h100:4",
        "exclusive": False,
        "qos": "night",
        "reservation": "tuning",
        "contiguous": False,
        "mem-per-gpu": "40G",
    }
    options = job_options(ParallelConfig(slurm=given), nodes)
    assert (options["exclusive"], options["gres"], options["qos"]) == (None, "gpu:h100:4", "night")
    assert "mem" not in options
    assert options["additional_parameters"] == {"no-requeue": True, "reservation": "tuning"}
    halves = [NodeConfig(host="n1", npu_ids=(4, 5))]
    options = job_options(ParallelConfig(slurm={"exclusive": False}), halves)
    assert (options["gres"], options["exclusive"], "mem" in options) == ("gpu:2", None, False)
    assert "gres" not in job_options(ParallelConfig(), [NodeConfig(host="n1", npu_ids=())])
    assert options["wckey"] is None  # submitit's own would be refused where these are known by name


async def test_all_that_slurm_could_not_do_is_told_at_once() -> None:
    twice = ServiceGroupConfig(
        group_id="a", nodes=(NodeConfig(host="n1", npu_ids=()), NodeConfig(host="n1", npu_ids=()))
    )
    unlike = ServiceGroupConfig(group_id="b", nodes=(NodeConfig(host="n2"), NodeConfig(host="n3", npu_ids=(0,))))
    shared = ServiceGroupConfig(group_id="c", nodes=(NodeConfig(host="n3", npu_ids=(1,)),))
    groups: dict[str, Any] = {"executor": "slurm", "service_groups": (twice, unlike, shared)}
    with pytest.raises(ConfigValidationError) as caught:
        ParallelConfig(slurm={"nodelist": "n7", "no-requeue": True, "clusters": "b"}, **groups).resolved()
    assert [mistake.partition(": ")[0] for mistake in caught.value.mistakes] == [
        *("parallel.slurm", "parallel.slurm", "parallel.slurm", "group a", "group b", "group b", "group c"),
    ]
    with pytest.raises(ConfigValidationError) as caught:
        ParallelConfig(slurm={"exclusive": False, "gres": "npu:1"}, **groups).resolved()
    assert [mistake.partition(": ")[0] for mistake in caught.value.mistakes] == ["group a"]
    for options in ({"partition": "day\nrm -r"}, {"partition": ""}, {"partition day": "x"}):
        with pytest.raises(ValueError, match="slurm"):
            ParallelConfig(slurm=options)
