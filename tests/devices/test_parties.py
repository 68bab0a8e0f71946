"""Whose process is it? Real processes: a service with its tree, a load generator, and others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from swarmtune.devices.listeners import listening
from swarmtune.devices.neighbours import IDLE, OTHER, NeighbourSource
from swarmtune.devices.parties import Parties, Party, ServiceMark, listening_ports, stranger, successor
from swarmtune.devices.processes import TICKS_PER_S, process, process_ids, since_boot
from swarmtune.devices.readings import ReadError
from swarmtune.fleet.service_run import free_port

# A service: it listens, says where, and obeys. "child" starts a process, "orphan" one whose parent has ended.
SERVICE = """
import os, socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
ends, kept_open = os.pipe()  # its children end with it, and read none of its lines
for line in sys.stdin:
    if line == "child\\n":
        print(subprocess.Popen(wait, env={}, stdin=ends).pid, flush=True)
    elif line == "orphan\\n":
        if os.fork() == 0:
            print(subprocess.Popen(wait, stdin=ends).pid, flush=True)
            os._exit(0)
        os.wait()
    elif line.startswith("connect"):
        kept = socket.create_connection(("127.0.0.1", int(line.split()[1])))
        print("connected", flush=True)
"""


@contextlib.contextmanager
def started(program: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, as a supervisor starts it; it ends, and its children, with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env={**os.environ, **environment}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def says(process: subprocess.Popen[str], line: str = "") -> str:
    """The answer to this line."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.parametrize("marked", [True, False], ids=["by its token", "by its port"])
def test_the_service_is_its_tree_whatever_its_name(marked: bool) -> None:
    token = uuid4().hex if marked else ""
    with (
        started(SERVICE, SWARMTUNE_TOKEN=token or "another-token") as service,
        started(SERVICE) as load_generator,
    ):
        port = int(says(service))
        says(load_generator)
        parties = Parties(ServiceMark((port,), token), load_generator.pid)
        parties.find()
        assert parties.of(Party.SERVICE).keys() == {service.pid}
        assert parties.of(Party.LOAD_GENERATOR).keys() == {load_generator.pid}
        child, orphan, own = (
            int(says(service, "child")), int(says(service, "orphan")), int(says(load_generator, "child"))
        )  # fmt: skip
        parties.look()
        assert parties.of(Party.SERVICE).keys() >= {service.pid, child, orphan}
        assert parties.of(Party.LOAD_GENERATOR).keys() == {load_generator.pid, own}
        others = {one.pid for one in parties.others()}
        assert os.getpid() in others
        assert others.isdisjoint({service.pid, child, orphan, load_generator.pid, own})
        parties.check()
    parties.look()
    assert service.pid not in parties.of(Party.SERVICE)


def test_ranks_carry_the_token_with_a_suffix() -> None:
    token = uuid4().hex
    with started(SERVICE, SWARMTUNE_TOKEN=token) as master, started(SERVICE, SWARMTUNE_TOKEN=f"{token}-rank-1") as rank:
        port = int(says(master))
        says(rank)
        parties = Parties(ServiceMark((port,), token), os.getpid())
        parties.find()
        assert parties.of(Party.SERVICE).keys() == {master.pid, rank.pid}


def test_marked_processes_that_do_not_listen_are_not_the_service() -> None:
    """A script that has started a container, for example: the one that listens is the container's."""
    token = uuid4().hex
    with started(SERVICE, SWARMTUNE_TOKEN=token) as script, started(SERVICE) as container:
        says(script)
        port = int(says(container))
        with pytest.raises(ReadError, match=f"listens on port {port} of this machine"):
            Parties(ServiceMark((port,), token), os.getpid()).find()


def test_a_proxy_is_not_the_service() -> None:
    with started(SERVICE) as proxy, started(SERVICE) as service:
        port, behind = int(says(proxy)), int(says(service))
        parties = Parties(ServiceMark((port,)), os.getpid())
        parties.find()
        parties.check()
        assert says(proxy, f"connect {behind}") == "connected"
        with pytest.raises(ReadError, match="pass its requests on"):
            parties.check()
        both = Parties(ServiceMark((port, behind)), os.getpid())
        both.find()
        both.check()  # a connection within the service


def test_a_service_without_load_leaves_its_cpus_to_others() -> None:
    with started(SERVICE) as service:
        source = NeighbourSource(ServiceMark((int(says(service)),)), os.getpid())
        found = source.read()
        assert found == [], "nothing to compare with"
        while not found:
            found = source.read()
        values = {reading.name: reading.value for reading in found}
        assert values["cpu_service_share"] == 0.0
        assert values["cpu_load_generator_share"] > 0, "this test, which waits as fast as it can"
        assert values[OTHER] + values["cpu_load_generator_share"] + values[IDLE] == pytest.approx(1, abs=0.1)
    assert service.pid not in process_ids()


# A tuner with two groups on this machine: it starts a service, its load and the service of the other group, as tuners do.
TUNER = """
import asyncio, sys
from pathlib import Path
from swarmtune.clock import RealClock
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.records import Command

async def main():
    executor = LocalExecutor(Path(sys.argv[1]), RealClock())
    for token, program in (("token-one", sys.argv[2]), ("token-one-load", WAIT), ("token-two", WAIT)):
        handle = await executor.start(Command((sys.executable, "-c", program), env={"SWARMTUNE_TOKEN": token}))
        while not (told := await handle.logs(1)).endswith(chr(10)):
            await asyncio.sleep(0.01)
        print(told, end="", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await executor.close()

WAIT = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
asyncio.run(main())
"""
LISTENS = """
import os, signal, socket
server = socket.create_server(("127.0.0.1", 0))
print(os.getpid(), server.getsockname()[1], flush=True)
signal.pause()
"""


def test_what_the_tuner_has_started_beside_the_service_is_no_neighbour(tmp_path: Path) -> None:
    """Its other service and itself are its user's wish; a stranger's are not."""
    with started(TUNER, str(tmp_path), LISTENS) as ours, started(SERVICE) as stranger:
        service, port = map(int, says(ours).split())
        load, other_group = int(says(ours)), int(says(ours))
        parties = Parties(ServiceMark((port,), "token-one"), load)
        parties.find()
        assert parties.of(Party.SERVICE).keys() == {service}
        assert {load, other_group, ours.pid} <= parties.of(Party.LOAD_GENERATOR).keys()
        others = {one.pid for one in parties.others()}
        assert {stranger.pid, os.getpid()} <= others


def test_the_ports_of_a_service_are_known_by_its_token() -> None:
    token = uuid4().hex
    with started(SERVICE, SWARMTUNE_TOKEN=f"{token}-rank-1") as service, started(SERVICE) as other:
        port = int(says(service))
        says(other)
        assert listening_ports(token) == {port}
        assert listening_ports(uuid4().hex) == set()
    assert listening_ports("") == set()


# --- whose is the port -------------------------------------------------------------------------------------------------


def test_a_process_that_was_there_before_the_service_is_a_stranger() -> None:
    with started(SERVICE) as other:
        port = int(says(other))
        born = process(other.pid)
        assert born is not None
        while since_boot() < born.started + TICKS_PER_S // 10:
            time.sleep(0.01)
        since = since_boot()
        with started(SERVICE) as service:
            says(service)
            found = stranger(port, uuid4().hex, since)
            assert found is not None
            assert found.pid == other.pid
            assert stranger(port, uuid4().hex, since - 60 * TICKS_PER_S) is None  # it may be ours: a clean environment
            assert stranger(port, uuid4().hex, since + 3600 * TICKS_PER_S) is None  # no time of this kernel compares
    assert stranger(port, uuid4().hex, since) is None


@pytest.mark.parametrize(("suffix", "ours"), [("", True), ("-rank-1", True), ("0", False)])
def test_the_mark_tells_whose_a_new_process_is(suffix: str, ours: bool) -> None:
    token = uuid4().hex
    with started(SERVICE, SWARMTUNE_TOKEN=token + suffix) as service:
        port = int(says(service))
        assert (stranger(port, token, 0) is None) is ours
        assert (stranger(port, token, since_boot()) is None) is ours  # ours, however old it looks


# At each word it starts a server with an empty environment, or ends it.
SERVES_AGAIN = """
import os, subprocess, sys
code = "import socket, sys; kept = socket.create_server(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()"
for line in sys.stdin:
    child = subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], stdin=subprocess.PIPE, env={})
    print(child.pid, flush=True)
    sys.stdin.readline()
    child.kill()
    child.wait()
    print("gone", flush=True)
"""


def listening_soon(port: int) -> dict[str, int]:
    until = time.monotonic() + 20
    while not (found := listening(port)) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def test_what_takes_the_port_of_a_ready_service_is_not_the_service() -> None:
    """Its own server may come back; another program, or another user's, may not come in its place."""
    token, port = uuid4().hex, free_port()
    with started(SERVES_AGAIN, str(port), SWARMTUNE_TOKEN=token) as service, started(SERVES_AGAIN, str(port)) as other:
        says(service, "serve")
        before = listening_soon(port)
        assert list(before.values()) == [os.getuid()]
        assert successor(port, token, before) == ""
        says(service, "end")
        assert successor(port, token, before) == ""  # nobody has it
        pid = says(other, "serve")
        listening_soon(port)
        assert successor(port, token, before).endswith(f"(pid {pid})")
        says(other, "end")
        says(service, "serve")
        assert listening_soon(port).keys() != before.keys()
        assert successor(port, token, before) == ""


@pytest.mark.parametrize(("user", "told"), [(0, ""), (1, "a process of user {now}")])
def test_a_holder_that_cannot_be_seen_is_known_by_its_user(
    monkeypatch: pytest.MonkeyPatch, user: int, told: str
) -> None:
    with started(SERVICE) as other:
        port = int(says(other))
        monkeypatch.setattr("swarmtune.devices.listeners.held_by", lambda pid: set())
        assert successor(port, "mark", {"1": os.getuid() + user}) == told.format(now=os.getuid())
