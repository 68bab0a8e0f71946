"""Particles on groups of "nodes" of this machine: real processes, real HTTP, real deaths."""

from __future__ import annotations

import asyncio
import http.server
import json
import math
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from swarmtune.clock import RealClock
from swarmtune.cluster import ParallelConfig, ParticleDispatcher, ParticleResult, ServiceGroupConfig
from swarmtune.errors import ConfigurationError, ConfigValidationError, Culprit, SwarmTuneError
from swarmtune.execution.config import NodeConfig
from swarmtune.execution.executors import executor_class, executors_for
from swarmtune.execution.executors.base import Site
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.fleet.start_script import Script
from swarmtune.records import Event
from swarmtune.space import Field
from swarmtune.testing.executor import alive

SERVICE = """
import http.server, json, os, sys, time, urllib.request

rank, hosts = int(os.environ["SWARMTUNE_RANK"]), os.environ["SWARMTUNE_HOSTS"].split(",")
group, port = os.environ["SWARMTUNE_GROUP"], int(os.environ["SWARMTUNE_PORT"])
config = json.load(open(os.environ["SWARMTUNE_CONFIG"]))
with open(os.path.join(sys.argv[1], f"{os.getpid()}.pid"), "w"):
    pass
print("rank", rank, "of", group, "with", config, flush=True)
if config["x"] == 7 and rank == 0:
    print("out of memory", flush=True)
    sys.exit(3)
if group == "mute":
    time.sleep(600)


class Half(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/value" and group == "fragile" and rank == len(hosts) - 1:
            os._exit(9)
        value, status = config["x"] ** 2, 200
        if rank == 0 and len(hosts) == 2:
            try:
                value += json.load(urllib.request.urlopen(f"http://{hosts[1]}:{port}{self.path}"))["value"]
            except OSError:
                status = 503  # the other half is not there: not healthy
        body = json.dumps({"value": value, "group": group, **config}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer((hosts[rank], port), Half).serve_forever()
"""
"""x * x from each rank; the master asks the other one, and ends at once where x is 7."""

FIELDS = [Field("x", min=0, max=9), Field("y", dtype="times", dtype_param={"target_name": "x", "product": 3})]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Journals, scripts and results of this test are its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "pids").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_is_left(here: Path) -> Any:
    yield
    pids = [int(file.stem) for file in (here / "pids").iterdir()]
    assert [pid for pid in pids if alive(pid)] == []


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def group(here: Path, name: str, nodes: int = 1, **more: Any) -> ServiceGroupConfig:
    """Nodes 127.0.0.1, 127.0.0.2, ... with files of their own."""
    hosts = [{"host": f"127.0.0.{n + 1}", "npu_ids": (), "work_dir": str(here / name)} for n in range(nodes)]
    return ServiceGroupConfig.model_validate({"group_id": name, "nodes": hosts, "port": free_port(), **more})


def config(here: Path, *groups: ServiceGroupConfig, **more: Any) -> ParallelConfig:
    keys: dict[str, Any] = {
        "executor": "local",
        "start": "every_node",
        "start_script": f"{sys.executable} -S {here}/service.py {here}/pids",
        "retry_delay": 0.01,
        "service_groups": groups,
        "results_dir": str(here / "results"),
    }
    return ParallelConfig.model_validate(keys | more)


def ask(values: Mapping[str, Any], url: str) -> float:
    try:
        with urllib.request.urlopen(f"{url}/value", timeout=30) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    assert {name: told[name] for name in values} == dict(values)
    return float(told["value"])


class Heard:
    """Everything that was told."""

    def __init__(self, then: Callable[[Event], None] = lambda event: None) -> None:
        self.events: list[Event] = []
        self.then = then

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.then(event)

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event.facts for event in self.events if event.kind == kind]


def test_every_particle_gets_its_result_in_order_from_two_node_groups(here: Path) -> None:
    heard = Heard()
    parallel = config(here, group(here, "a", 2), group(here, "b", 2))
    with ParticleDispatcher(parallel, FIELDS, ask, listen=heard) as dispatcher:
        results = dispatcher.evaluate_particles([[3.0], [7.0], [1.2], [5]])
        folder = dispatcher.results_dir
        again = dispatcher.evaluate_particles([{"x": 2}])
    assert [r.cost for r in results] == [18, math.inf, 2, 50]  # both ranks computed
    assert [dict(r.values) for r in results] == [{"x": x, "y": 3 * x} for x in (3, 7, 1, 5)]
    assert {r.group for r in results} == {"a", "b"}
    assert results[1].failure is not None
    assert "ended with code 3 before it was healthy; its last line: out of memory" in results[1].failure
    assert [r.failure for r in results[:1] + results[2:] + again] == [None] * 4
    last = heard.of("particle_finished")[3]
    assert (last["evaluated"], last["failed"], last["total"], last["healthy_groups"], last["eta_s"]) == (4, 1, 4, 2, 0)
    assert again[0].cost == 8
    kept = json.loads((folder / "000-00000-1" / "result.json").read_text())
    assert (kept["cost"], kept["values"], kept["failure"]) == (18, {"x": 3, "y": 9}, None)
    assert "rank 0 of" in (folder / "000-00000-1" / "output.log").read_text()
    assert "rank 1 of" in (folder / "000-00000-1" / "output-rank-1.log").read_text()
    on_master = here / str(results[0].group) / "127.0.0.1" / "particles" / folder.name / "000-00000-1"
    assert json.loads((on_master / "result.json").read_text()) == kept


def test_there_is_no_barrier(here: Path) -> None:
    """The first particle ends after all others: in batches of two that would never be."""
    others = threading.Semaphore(0)

    def fitness(values: Mapping[str, Any], url: str) -> float:
        if values["x"] == 0:
            assert all(others.acquire(timeout=60) for _ in range(4))
        else:
            others.release()
        return ask(values, url)

    with ParticleDispatcher(config(here, group(here, "a"), group(here, "b")), FIELDS, fitness) as dispatcher:
        results = dispatcher.evaluate_particles([[x] for x in range(5)])
    assert [r.cost for r in results] == [0, 1, 4, 9, 16]
    assert len({r.group for r in results[1:]}) == 1


def test_in_turn_one_is_measured_while_the_next_one_starts(here: Path) -> None:
    """The first measurement ends only when the other group serves, too; and never are two measured at once."""
    measuring = threading.Semaphore(1)
    other_serves: list[bool] = []

    def fitness(values: Mapping[str, Any], url: str) -> float:
        assert measuring.acquire(blocking=False), "two at once"
        try:
            if not other_serves:
                other_serves.append(eventually(lambda: len(list((here / "pids").iterdir())) == 2))
            return ask(values, url)
        finally:
            measuring.release()

    parallel = config(here, group(here, "a"), group(here, "b"), in_turn=True)
    with ParticleDispatcher(parallel, FIELDS, fitness) as dispatcher:
        results = dispatcher.evaluate_particles([[x] for x in range(5)])
    assert [r.cost for r in results] == [0, 1, 4, 9, 16]
    assert {r.group for r in results} == {"a", "b"}
    assert other_serves == [True]


def eventually(true: Callable[[], bool], within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return true()


def test_who_leaves_is_let_go_of_when_nobody_works_there(here: Path) -> None:
    closed: list[str] = []

    class Told(LocalExecutor):
        async def close(self) -> None:
            closed.append(self.root.name)
            await super().close()

    def executor(node: NodeConfig) -> LocalExecutor:
        return Told(Path(node.work_dir), RealClock())

    parallel = config(here, group(here, "a"), group(here, "b"))
    with ParticleDispatcher(parallel, FIELDS, ask, executors=executor) as dispatcher:
        dispatcher.leave("a")
        results = dispatcher.evaluate_particles([[1], [2]])
        assert closed == ["a"]
    assert closed == ["a", "b"]
    assert {r.group for r in results} == {"b"}


def test_a_busy_group_that_leaves_finishes_while_idle_ones_leave_too(here: Path) -> None:
    """Nobody closes what another group that has left still works with."""
    left = threading.Event()

    def fitness(values: Mapping[str, Any], url: str) -> float:
        dispatcher.leave("a")
        dispatcher.leave("b")
        left.set()
        return ask(values, url)

    with ParticleDispatcher(config(here, group(here, "a"), group(here, "b")), FIELDS, fitness) as dispatcher:
        (result,) = dispatcher.evaluate_particles([[3]])
    assert left.is_set()
    assert (result.cost, result.failure) == (9, None)


def test_what_is_lost_with_a_rank_goes_to_another_group(here: Path) -> None:
    heard = Heard()
    parallel = config(here, group(here, "fragile", 2), group(here, "solid", 2))
    with ParticleDispatcher(parallel, FIELDS, ask, listen=heard) as dispatcher:
        results = dispatcher.evaluate_particles([[1], [2], [3]])
    assert [(r.cost, r.group) for r in results] == [(2, "solid"), (8, "solid"), (18, "solid")]
    retried = heard.of("particle_retried")
    assert {facts["group"] for facts in retried} == {"fragile"}
    assert all(
        "a process of the service ended with code 9 while it was measured" in facts["failure"] for facts in retried
    )
    assert sum(r.attempts for r in results) == 3 + len(retried)


def test_a_killed_rank_is_a_loss_and_alone_tried_again(here: Path) -> None:
    killed: list[int] = []

    def fitness(values: Mapping[str, Any], url: str) -> float:
        if not killed:
            killed.extend(int(file.stem) for file in (here / "pids").iterdir())
            os.kill(killed[0], signal.SIGKILL)
        return ask(values, url)

    with ParticleDispatcher(config(here, group(here, "only")), FIELDS, fitness) as dispatcher:
        (result,) = dispatcher.evaluate_particles([[3]])
    assert (result.cost, result.attempts, result.group, result.failure) == (9, 2, "only", None)


def test_a_group_that_never_serves_swallows_nothing(here: Path) -> None:
    mute = group(here, "mute", health_check_timeout=1.5)
    parallel = config(here, mute, group(here, "good"), breaker_failures=1)
    heard = Heard()
    with ParticleDispatcher(parallel, FIELDS, ask, listen=heard) as dispatcher:
        results = dispatcher.evaluate_particles([[x] for x in range(3)])
    assert [(r.cost, r.group, r.failure) for r in results] == [(x * x, "good", None) for x in range(3)]
    (retried,) = heard.of("particle_retried")
    assert "did not answer at http://127.0.0.1:" in retried["failure"]
    assert heard.of("particle_finished")[-1]["open_groups"] == 1


def test_a_measurement_that_takes_too_long_ends_with_a_reason(here: Path) -> None:
    never = threading.Event()

    def fitness(values: Mapping[str, Any], url: str) -> float:
        never.wait(60)
        return 1.0

    parallel = config(here, group(here, "a"), evaluation_timeout=0.3)
    with ParticleDispatcher(parallel, FIELDS, fitness) as dispatcher:
        (result,) = dispatcher.evaluate_particles([[3]])
        never.set()
    assert (result.cost, result.attempts) == (math.inf, 1)
    assert result.failure == "no result within evaluation_timeout, 0.3 s"


def test_what_a_fitness_function_may_do_wrong(here: Path) -> None:
    def fitness(values: Mapping[str, Any], url: str) -> Any:
        match values["x"]:
            case 0:
                raise ValueError("bad answer")
            case 1:
                return None
            case 2:
                sys.exit(4)
        return "2.5"

    with ParticleDispatcher(config(here, group(here, "a")), FIELDS, fitness) as dispatcher:
        results = dispatcher.evaluate_particles([[x] for x in range(4)])
    assert [r.failure for r in results] == [
        "fitness_func raised ValueError: bad answer",
        "fitness_func returned 'None', which is not a number",
        "fitness_func raised RuntimeError: SystemExit: 4",
        None,
    ]
    assert [r.cost for r in results] == [math.inf] * 3 + [2.5]


def test_groups_join_and_leave_while_particles_are_measured(here: Path) -> None:
    """The first group is held until the second has done two; then it leaves, and the rest is the second's."""
    go_on = threading.Event()
    late = group(here, "late")

    def then(event: Event) -> None:
        if event.kind == "particle_started" and event.facts["particle"] == "000-00000":
            dispatcher.join(late)
        if event.kind == "particle_finished" and event.facts["evaluated"] == 2:
            dispatcher.leave("first")
            go_on.set()

    def fitness(values: Mapping[str, Any], url: str) -> float:
        if values["x"] == 0:
            assert go_on.wait(60)
        return ask(values, url)

    heard = Heard(then)
    with ParticleDispatcher(config(here, group(here, "first")), FIELDS, fitness, listen=heard) as dispatcher:
        results = dispatcher.evaluate_particles([[x] for x in range(5)])
        assert [g.group_id for g in dispatcher.config.service_groups] == ["late"]
        with pytest.raises(ConfigurationError, match="unknown group 'first'; the groups are: late"):
            dispatcher.leave("first")
        with pytest.raises(ConfigValidationError, match="group late: given more than once"):
            dispatcher.join(late)
    assert [(r.cost, r.group) for r in results] == [(0, "first"), *((x * x, "late") for x in range(1, 5))]
    assert heard.of("particle_finished")[-1]["gone_groups"] == 1


def test_a_group_whose_machine_needs_its_user_leaves(here: Path) -> None:
    heard = Heard()
    bad = group(here, "bad", start_script="/no/such/program")
    with ParticleDispatcher(config(here, bad, group(here, "good")), FIELDS, ask, listen=heard) as dispatcher:
        results = dispatcher.evaluate_particles([[1], [2]])
        assert [r.group for r in results] == ["good", "good"]
        (left,) = heard.of("group_left")
        assert (left["group"], "no such program" in left["message"]) == ("bad", True)


def test_when_no_group_can_work_the_reason_is_raised(here: Path) -> None:
    bad = [group(here, name, start_script="/no/such/program") for name in ("a", "b")]
    with ParticleDispatcher(config(here, *bad), FIELDS, ask) as dispatcher:
        with pytest.raises(SwarmTuneError, match="no such program") as caught:
            dispatcher.evaluate_particles([[1], [2], [3]])
        assert caught.value.culprit is Culprit.USER


def test_calls_of_one_particle_do_not_spoil_those_that_follow(here: Path) -> None:
    """As a swarm of one particle calls it: settings that cannot start cost inf, and the next one is tried."""
    with ParticleDispatcher(config(here, group(here, "a")), FIELDS, ask) as dispatcher:
        costs = [dispatcher.evaluate_particles([[x]])[0].cost for x in (7, 7, 7, 7, 3)]
    assert costs == [math.inf] * 4 + [9]


def test_one_particle_on_a_group_that_needs_its_user_raises(here: Path) -> None:
    bad = group(here, "bad", start_script="/no/such/program")
    with (
        ParticleDispatcher(config(here, bad), FIELDS, ask) as dispatcher,
        pytest.raises(SwarmTuneError, match="no such program"),
    ):
        dispatcher.evaluate_particles([[1]])


def test_the_health_of_somebody_else_is_not_taken_for_ours(here: Path) -> None:
    """Another program has the port of the first group: its particles go to the second."""
    taken = group(here, "taken")
    stranger = http.server.ThreadingHTTPServer(("127.0.0.1", taken.port or 0), http.server.SimpleHTTPRequestHandler)
    stranger.daemon_threads = True
    thread = threading.Thread(target=stranger.serve_forever)
    thread.start()
    taken = taken.model_copy(update={"health_check_url": "/"})
    heard = Heard()
    try:
        with ParticleDispatcher(config(here, taken, group(here, "good")), FIELDS, ask, listen=heard) as dispatcher:
            results = dispatcher.evaluate_particles([[1], [2]])
    finally:
        stranger.shutdown()
        thread.join()
        stranger.server_close()
    assert [(r.cost, r.group) for r in results] == [(1, "good"), (4, "good")]
    assert {"another service already answers" in facts["failure"] for facts in heard.of("particle_retried")} == {True}


async def test_coroutines_all_the_way(here: Path) -> None:
    async def fitness(values: Mapping[str, Any], url: str) -> float:
        return await asyncio.to_thread(ask, values, url)

    async with ParticleDispatcher(config(here, group(here, "a")), FIELDS, fitness) as dispatcher:
        (result,) = await dispatcher.evaluate([[4]])
        with pytest.raises(ConfigurationError, match=r"await d\.evaluate"):
            dispatcher.evaluate_particles([[4]])
    assert result == ParticleResult(16, {"x": 4, "y": 12}, "a", result.seconds, 1)


async def test_who_gives_up_leaves_nothing(here: Path) -> None:
    began = asyncio.Event()

    async def fitness(values: Mapping[str, Any], url: str) -> float:
        began.set()
        await asyncio.Event().wait()
        return 0.0

    parallel = config(here, group(here, "a", 2), group(here, "b"))
    async with ParticleDispatcher(parallel, FIELDS, fitness) as dispatcher:
        asking = asyncio.create_task(dispatcher.evaluate([[1], [2], [3]]))
        await began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        pids = [int(file.stem) for file in (here / "pids").iterdir()]
        assert pids
        assert [pid for pid in pids if alive(pid)] == []


def test_scripts_are_sent_along_and_stopped_by_their_own(here: Path) -> None:
    (here / "stop.py").write_text(
        "import os, sys\nopen(sys.argv[1] + '/stopped' + os.environ['SWARMTUNE_RANK'], 'w').close()\n"
    )
    start = f"./start_service.sh {here}/pids"
    (here / "start_service.sh").write_text(f'#!/bin/sh -e\nexec {sys.executable} -S {here}/service.py "$1"\n')
    stop = f"{sys.executable} {here}/stop.py {here}"
    parallel = config(here, group(here, "a", 2), start_script=start, stop_script=stop)
    with ParticleDispatcher(parallel, FIELDS, ask) as dispatcher:
        (result,) = dispatcher.evaluate_particles([[3]])
    assert result.cost == 18
    assert sorted(file.name for file in here.glob("stopped*")) == ["stopped0", "stopped1"]


BEHIND = """
import http.server, json, os, subprocess, sys

rank, hosts = int(os.environ["SWARMTUNE_RANK"]), os.environ["SWARMTUNE_HOSTS"].split(",")
pids, flag, path, *told = sys.argv[1:]
if flag != "--config" or rank != 0:
    sys.exit(f"started wrongly: {sys.argv}, rank {rank}")
if not told:  # the script: starts the service behind it, and ends
    print("rank", rank, "of", len(hosts), "starts with", json.load(open(path)), flush=True)
    if json.load(open(path))["x"] == 7:
        sys.exit(3)
    subprocess.Popen([sys.executable, "-S", *sys.argv, "serve"])
    sys.exit()
with open(os.path.join(pids, f"{os.getpid()}.pid"), "w"):
    pass


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        values = json.load(open(path))
        if self.path == "/value" and values["x"] == 5 and not os.path.exists("../died"):
            open("../died", "w").close()
            os._exit(0)
        body = json.dumps({"value": values["x"] ** 2, **values}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer((hosts[0], int(os.environ["SWARMTUNE_PORT"])), Answers).serve_forever()
"""
"""The start script of the older extension: it runs on the master alone, and ends when it has started the service."""


def started_by_master(here: Path, name: str, nodes: int = 1, **more: Any) -> ServiceGroupConfig:
    (here / "behind.py").write_text(BEHIND)
    script = f"{sys.executable} -S {here}/behind.py {here}/pids"
    return group(here, name, nodes, start_script=script, start="master", **more)


def test_a_script_on_the_master_may_end_before_its_service(here: Path) -> None:
    (here / "stop.py").write_text("import os, sys\nopen(sys.argv[1] + os.environ['SWARMTUNE_RANK'], 'w').close()\n")
    stop = f"{sys.executable} {here}/stop.py {here}/stopped"
    heard = Heard()
    parallel = config(here, started_by_master(here, "a", 2, stop_script=stop))
    seen: list[str] = []

    def fitness(values: Mapping[str, Any], url: str) -> float:
        for node in ("127.0.0.1", "127.0.0.2"):  # each node has the values
            (file,) = (here / "a" / node / "particles").glob("*/000-*/config.json")
            seen.append(f"{file.parent.name[10:]} {json.loads(file.read_text())['x']}")
        return ask(values, url)

    with ParticleDispatcher(parallel, FIELDS, fitness, listen=heard) as dispatcher:
        results = dispatcher.evaluate_particles([{"x": 3}])
        folder = dispatcher.results_dir / "000-00000-1"
    assert [(r.cost, r.failure) for r in results] == [(9, None)]
    assert seen == ["1 3", "1-rank-1 3"]
    assert [file.name for file in here.glob("stopped*")] == ["stopped0"]
    assert (folder / "output.log").read_text() == "rank 0 of 2 starts with {'x': 3, 'y': 9}\n"
    assert not (folder / "output-rank-1.log").exists()
    assert heard.of("group_trouble") == []


def test_what_a_script_on_the_master_leaves_behind_is_watched_and_ended(here: Path) -> None:
    """A script that fails is the setting's fault; a service that goes away while it is measured is tried again."""
    with ParticleDispatcher(config(here, started_by_master(here, "a")), FIELDS, ask) as dispatcher:
        results = dispatcher.evaluate_particles([{"x": 3}, {"x": 7}, {"x": 5}])
    assert [r.cost for r in results] == [9, math.inf, 25]
    assert "ended with code 3 before it was healthy" in str(results[1].failure)
    assert (results[2].attempts, results[2].failure) == (2, None)


def test_a_configuration_at_an_absolute_path_comes_back(here: Path) -> None:
    path = here / "config.json"
    path.write_text("mine")
    with ParticleDispatcher(config(here, group(here, "a"), config_path=str(path)), FIELDS, ask) as dispatcher:
        (result,) = dispatcher.evaluate_particles([[3]])
    assert result.cost == 9
    assert path.read_text() == "mine"


def test_mistakes_are_told_before_anything_starts(here: Path) -> None:
    missing = config(here, group(here, "a"), start_script="./none.sh", stop_script="'")
    with pytest.raises(ConfigValidationError) as caught:
        ParticleDispatcher(missing, FIELDS, ask)
    first, second = caught.value.mistakes
    assert "script './none.sh': cannot be sent along" in first
    assert 'script "\'": No closing quotation' in second
    with pytest.raises(ConfigurationError, match="fitness_func must be a function"):
        ParticleDispatcher(config(here, group(here, "a")), FIELDS, 3)
    with (
        ParticleDispatcher(config(here, group(here, "a")), FIELDS, ask) as dispatcher,
        pytest.raises(ConfigValidationError, match="particle 1: a row of"),
    ):
        dispatcher.evaluate_particles([[1], [1, 2, 3]])


def test_scripts_and_their_interpreters(here: Path) -> None:
    (here / "plain.sh").write_text("echo\n")
    assert Script.read("./plain.sh 'a b'").argv == ("/bin/sh", "./plain.sh", "a b")
    (here / "odd.py").write_text("#! /usr/bin/env -S python3 -u\n")
    assert Script.read("./odd.py").argv == ("/usr/bin/env", "-S python3 -u", "./odd.py")
    (here / "windows.sh").write_bytes(b"#!/bin/bash\r\necho x\r\n")
    (file,) = Script.read("./windows.sh").files
    assert file.content == "#!/bin/bash\necho x\n"
    assert Script.read("./windows.sh").argv[0] == "/bin/bash"
    assert Script.read("/opt/start.sh x").argv == ("/opt/start.sh", "x")
    assert Script.read("vllm serve").files == ()
    os.mkfifo(here / "pipe.sh")
    for wrong in ("", "~/start.sh", "./pipe.sh", "./absent.sh"):
        with pytest.raises(ConfigValidationError):
            Script.read(wrong)


def test_executors_by_name(here: Path) -> None:
    node = group(here, "a").nodes[0]
    (executor,) = executors_for(ParallelConfig(executor="local"), [node], Site(RealClock()))
    assert isinstance(executor, LocalExecutor)
    assert executor.root == here / "a" / "127.0.0.1"
    with pytest.raises(ConfigurationError, match=r"no executor named 'shh'. Did you mean 'ssh'\?"):
        executor_class("shh")
