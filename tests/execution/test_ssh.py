"""The SSH executor keeps the contract on a machine of its own, and its promises when machines and networks fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab import Lab, Loopback, Machine, NoLab
from tests.lab.machine import SMALL_DISK
from tests.lab.sshd import new_key
from tests.lab.tuner import kill, tuner_of

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError, Culprit, IPCCommandError
from swarmtune.execution.executors import ssh_login
from swarmtune.execution.executors.ssh import SshExecutor, SshTarget
from swarmtune.records import Command, File
from swarmtune.testing.executor import FAMILY, ExecutorContract, finished, printed, python

SLEEP = Command(("sleep", "600"))


@pytest.fixture(scope="module")
def lab_if_any(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab | NoLab]:
    with contextlib.ExitStack() as stack:
        try:
            found: Lab | NoLab = stack.enter_context(Lab(3, [tmp_path_factory.getbasetemp()]))
        except NoLab as reason:
            found = reason
        yield found


@pytest.fixture(scope="module")
def lab(lab_if_any: Lab | NoLab) -> Lab:
    if isinstance(lab_if_any, NoLab):
        pytest.skip(str(lab_if_any))
    return lab_if_any


@pytest.fixture(scope="module")
def place(lab_if_any: Lab | NoLab) -> Iterator[tuple[Machine | Loopback, Path]]:
    """A machine, else an sshd on this one; and how to get there."""
    if isinstance(lab_if_any, Lab):
        yield lab_if_any.machines[0], lab_if_any.config
        return
    with contextlib.ExitStack() as stack:
        try:
            loopback = stack.enter_context(Loopback())
        except NoLab as reason:
            pytest.skip(f"{lab_if_any}; {reason}")
        yield loopback, loopback.config


@pytest.fixture(autouse=True)
def whole(lab_if_any: Lab | NoLab) -> Iterator[None]:
    """Whatever a test has broken is whole for the next one."""
    yield
    for machine in lab_if_any.machines if isinstance(lab_if_any, Lab) else ():
        machine.heal()
        machine.thaw()


Open = Callable[..., SshExecutor]


@pytest.fixture
async def reach(lab: Lab) -> AsyncIterator[Open]:
    """Makes executors on machines, and closes them."""
    opened: list[SshExecutor] = []

    def make(machine: Machine, leftovers: tuple[str, ...] = (), **changes: Any) -> SshExecutor:
        target = SshTarget(machine.name, **{"python": sys.executable, "config": lab.config, **changes})
        opened.append(SshExecutor(target, RealClock(), leftovers))
        return opened[-1]

    yield make
    for executor in opened:
        await executor.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


async def started_family(executor: SshExecutor) -> tuple[Any, list[int]]:
    handle = await executor.start(Command(python(FAMILY, "600")))
    return handle, [int(word) for word in (await printed(handle, "family")).split()[1:]]


async def lost(handle: Any, words: str = r"connection to h\d is lost") -> CommunicationError:
    """Wait until poll says that the connection is lost."""
    with pytest.raises(CommunicationError, match=words) as caught:
        async with asyncio.timeout(60):
            assert await finished(handle) is None
    return caught.value


def logins(machine: Machine) -> int:
    """Connections to its sshd (state 01: established)."""
    rows = [line.split() for line in machine.run("cat", "/proc/net/tcp").splitlines()[1:]]
    return sum(row[1].endswith(":0016") and row[3] == "01" for row in rows)


class TestSshExecutor(ExecutorContract):
    """Inherited."""

    @pytest.fixture
    async def executor(
        self, place: tuple[Machine | Loopback, Path], tmp_path: Path, request: pytest.FixtureRequest
    ) -> AsyncIterator[SshExecutor]:
        self.place, config = place
        work_dir = str(tmp_path / "work")
        target = SshTarget(self.place.name, work_dir=work_dir, python=sys.executable, config=config)
        executor = SshExecutor(target, RealClock())
        yield executor
        await executor.close()

    def alive(self, pid: int) -> bool:
        return self.place.alive(pid)


# ------------------------------------------------------------------------------------------------------- who may come in


async def refused(executor: SshExecutor) -> CommunicationError:
    with pytest.raises(CommunicationError) as caught:
        await executor.start(Command(("true",)))
    return caught.value


async def test_an_unknown_host_key_is_refused(lab: Lab, reach: Open, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    error = await refused(reach(lab.machines[0], known_hosts=tmp_path / "known"))
    assert error.culprit is Culprit.USER
    assert "host key is not known (SHA256:" in str(error)
    assert f"UserKnownHostsFile={tmp_path}/known h1" in str(error)
    assert (tmp_path / "known").read_text() == ""


async def test_a_changed_host_key_is_refused_also_in_the_middle(lab: Lab, reach: Open) -> None:
    machine = lab.machines[1]
    executor = reach(machine)
    handle = await executor.start(SLEEP)
    key = machine.disk / "run/lab/hostkey"
    shutil.copy2(key, key.with_name("old"))
    machine.kill_sessions()
    await lost(handle)
    machine.off()
    machine.new_host_key()
    machine.on()
    try:
        error = await refused(executor)
        assert error.culprit is Culprit.USER
        assert "host key has changed" in str(error)
        assert f"ssh-keygen -f {lab.known_hosts} -R {machine.address}" in str(error)
    finally:
        machine.off()
        key.with_name("old").replace(key)
        machine.on()
    assert await finished(await executor.start(Command(("true",)))) == 0


async def test_a_config_that_checks_no_host_keys_is_refused(lab: Lab, reach: Open, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("UserKnownHostsFile none\n" + lab.config.read_text())
    error = await refused(reach(lab.machines[0], config=tmp_path / "config"))
    assert error.culprit is Culprit.USER
    assert "UserKnownHostsFile none" in str(error)


async def test_a_wrong_key_of_the_user_is_refused(lab: Lab, reach: Open, tmp_path: Path) -> None:
    new_key(tmp_path / "other")
    (tmp_path / "config").write_text(lab.config.read_text().replace(f"{lab.folder}/id", f"{tmp_path}/other"))
    error = await refused(reach(lab.machines[0], config=tmp_path / "config"))
    assert error.culprit is Culprit.USER
    assert "refuses the login" in str(error)
    assert "ssh-copy-id" in str(error)


@pytest.mark.parametrize(
    ("changes", "culprit", "text"),
    [
        ({"host": "no-such-host.invalid"}, Culprit.USER, "there is no host 'no-such-host.invalid'"),
        ({"port": 1}, Culprit.INFRASTRUCTURE, "no connection to h1: .*refused|no connection to h1: .*111"),
        ({"python": "no-such-python"}, Culprit.USER, "no-such-python on h1 cannot run our supervisor.*3.8"),
        ({"work_dir": "~nobody/x"}, Culprit.USER, "only your own home"),
        ({"work_dir": "/proc/swarmtune"}, Culprit.USER, "cannot use work_dir = '/proc/swarmtune' on h1"),
        ({"known_hosts": Path("/nowhere/known")}, Culprit.USER, "cannot log in to h1: .*/nowhere/known"),
        ({"config": Path("/nowhere/config")}, Culprit.USER, "cannot log in to h1: .*/nowhere/config"),
    ],
)
async def test_what_is_wrong_is_named(lab: Lab, changes: dict[str, Any], culprit: Culprit, text: str) -> None:
    arguments = {"host": "h1", "python": sys.executable, "config": lab.config, **changes}
    executor = SshExecutor(SshTarget(**arguments), RealClock())
    with pytest.raises(CommunicationError, match=text) as caught:
        await executor.start(Command(("true",)))
    assert caught.value.culprit is culprit
    await executor.close()


def config_with(lab: Lab, folder: Path, extra: str) -> Path:
    """The lab's configuration after these lines, which come first and so count."""
    path = folder / "config"
    path.write_text(f"{extra}\n{lab.config.read_text()}")
    return path


async def test_an_identity_file_that_is_absent_or_no_key_is_passed_over(lab: Lab, reach: Open, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nxx\n")
    lines = "\n".join(
        f"IdentityFile {path}" for path in (tmp_path / "absent", tmp_path / "broken", f"{lab.folder}/id.pub")
    )
    executor = reach(lab.machines[0], config=config_with(lab, tmp_path, lines))
    assert await finished(await executor.start(Command(("true",)))) == 0


async def test_files_that_are_absent_or_malformed_stop_no_login(lab: Lab, reach: Open, tmp_path: Path) -> None:
    (tmp_path / "known").write_text(f"|1|bad x y\n{lab.known_hosts.read_text()}")
    lines = f"UserKnownHostsFile {tmp_path}/absent {tmp_path}/known\nGlobalKnownHostsFile {tmp_path}/absent"
    lines += f"\nCertificateFile {tmp_path}/absent"
    executor = reach(lab.machines[0], config=config_with(lab, tmp_path, lines))
    assert await finished(await executor.start(Command(("true",)))) == 0


async def test_a_command_that_tells_known_hosts_is_asked_with_the_key(lab: Lab, reach: Open, tmp_path: Path) -> None:
    script = tmp_path / "known.sh"
    script.write_text('#!/bin/sh\n[ "$1" = NONE ] || echo "$3 $1 $2"\n')
    script.chmod(0o755)
    lines = f"UserKnownHostsFile none\nKnownHostsCommand {script} %t %K "
    executor = reach(lab.machines[0], config=config_with(lab, tmp_path, f"{lines} %H"))
    assert await finished(await executor.start(Command(("true",)))) == 0
    error = await refused(reach(lab.machines[0], config=config_with(lab, tmp_path, f"{lines} other")))
    assert "host key is not known (SHA256:" in str(error)
    assert "is not in KnownHostsCommand)" in str(error)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed")
async def test_a_proxy_command_that_needs_a_shell_carries_a_login(lab: Lab, reach: Open, tmp_path: Path) -> None:
    _, two, three = lab.machines
    marker = tmp_path / "ends"
    proxy = f"`echo ssh` -F {lab.config} -W %h:%p {two.name}"
    lines = f"Host {three.name}\n  ProxyCommand sh -c 'echo words >&2; {proxy}; touch {marker}' # by h2\nHost *"
    for silence in ("", " 2>/dev/null"):
        executor = reach(three, config=config_with(lab, tmp_path, lines.replace(" # by", f"{silence} # by")))
        assert await finished(await executor.start(Command(("true",)))) == 0
        assert (logins(two), logins(three)) >= (1, 1)
        await executor.close()
        await until(lambda: (logins(two), logins(three)) == (0, 0))
    assert not marker.exists()  # all of it was ended


async def test_a_node_behind_jump_hosts_is_reached_and_leaves_nothing(lab: Lab, reach: Open, tmp_path: Path) -> None:
    one, two, three = lab.machines
    lines = f"Host {three.name}\n  ProxyJump {one.name},{two.name}\nHost *"
    executor = reach(three, config=config_with(lab, tmp_path, lines))
    assert await finished(await executor.start(Command(("true",)))) == 0
    assert (logins(one), logins(two), logins(three)) >= (1, 1, 1)
    await executor.close()
    await until(lambda: (logins(one), logins(two), logins(three)) == (0, 0, 0))


@pytest.mark.parametrize(
    ("jumps", "culprit", "text"),
    [
        (
            "no-such-host.invalid",
            Culprit.USER,
            "h3 is reached through no-such-host.invalid .*there is no host 'no-such-host",
        ),
        ("h1,no-such-host.invalid", Culprit.INFRASTRUCTURE, "h3 is reached through no-such-host.invalid "),
        ("h1:1", Culprit.INFRASTRUCTURE, "h3 is reached through h1 .*no connection to h1"),
        ("h3", Culprit.USER, "go in a circle .*: h3 through h3"),
    ],
)
async def test_a_jump_host_that_fails_is_named(
    lab: Lab, reach: Open, tmp_path: Path, jumps: str, culprit: Culprit, text: str
) -> None:
    executor = reach(lab.machines[2], config=config_with(lab, tmp_path, f"Host h3\n  ProxyJump {jumps}\nHost *"))
    error = await refused(executor)
    assert re.search(text, str(error)), error
    assert error.culprit is culprit


# ------------------------------------------------------------------------------------------------------ one connection


async def test_all_share_one_connection_that_is_opened_late_and_leaves_nothing(lab: Lab, reach: Open) -> None:
    machine = lab.machines[0]
    await until(lambda: logins(machine) == 0)
    executor = reach(machine)
    assert logins(machine) == 0
    handles = await asyncio.gather(*(executor.start(SLEEP) for _ in range(4)))
    assert logins(machine) == 1
    assert len([c for c in machine.commands() if "sleep 600" in c]) == 4
    await executor.close()
    assert all([await handle.poll() == -signal.SIGTERM for handle in handles])
    await until(lambda: logins(machine) == 0 and machine.commands() == [])
    with pytest.raises(IPCCommandError, match="closed"):
        await executor.start(SLEEP)


async def test_a_start_that_is_cancelled_leaves_nothing(lab: Lab, reach: Open) -> None:
    machine = lab.machines[0]
    executor = reach(machine)
    for turns in range(8):
        task = asyncio.create_task(executor.start(SLEEP))
        await asyncio.sleep(0.03 * turns)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(outcome, BaseException):
            await outcome.stop()
        await until(lambda: machine.commands() == [])


async def test_paths_cannot_leave_the_work_dir(lab: Lab, reach: Open, tmp_path: Path) -> None:
    executor = reach(lab.machines[0], work_dir=str(tmp_path / "work"))
    (tmp_path / "secret").write_text("x")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to(tmp_path)
    for path in ("../secret", "link/secret", "a/../../secret", "link/new"):
        with pytest.raises(IPCCommandError, match="leads out"):
            await executor.get(path, tmp_path / "stolen")
        with pytest.raises(IPCCommandError, match="leads out"):
            await executor.put(tmp_path / "secret", path)
    with pytest.raises(IPCCommandError, match="leads out"):
        await executor.start(Command(("true",), directory="link/run"))
    with pytest.raises(CommunicationError, match="no such file"):
        await executor.put(tmp_path / "nothing", "x")


async def test_copies_replace_links_instead_of_following_them(lab: Lab, reach: Open, tmp_path: Path) -> None:
    executor = reach(lab.machines[0], work_dir=str(tmp_path / "work"))
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_text("new")
    (tmp_path / "source" / "f").chmod(0o750)
    for target in (tmp_path / "work" / "target", tmp_path / "back"):
        target.mkdir(parents=True)
        (target / "f").symlink_to(tmp_path / "outside")
    await executor.put(tmp_path / "source", "target")
    await executor.get("target", tmp_path / "back")
    assert (tmp_path / "outside").read_text() == "untouched"
    for target in (tmp_path / "work" / "target", tmp_path / "back"):
        assert [path.name for path in target.iterdir()] == ["f"]
        assert (target / "f").read_text() == "new"
        assert (target / "f").stat().st_mode & 0o777 == 0o750


# -------------------------------------------------------------------------------------------------------------- faults


async def survive(executor: SshExecutor, machine: Machine, harm: Callable[[], None], mend: Callable[[], None]) -> None:
    handle, family = await started_family(executor)
    assert len([c for c in machine.commands() if "sleep" in c]) == len(family) == 3
    harm()
    error = await lost(handle)
    assert error.culprit is Culprit.INFRASTRUCTURE
    with pytest.raises(CommunicationError, match="lost"):
        await handle.stop()
    assert executor.leftovers == {handle.token}
    if harm == machine.cut:
        await until(lambda: machine.commands() == [])  # by the lease, while nobody can get there
        assert (await refused(executor)).culprit is Culprit.INFRASTRUCTURE
    mend()
    assert await finished(await executor.start(Command(("true",)))) == 0
    assert executor.leftovers == set()
    assert [c for c in machine.commands() if "sleep" in c] == []
    await executor.close()
    await until(lambda: machine.commands() == [])


async def test_nodes_that_fall_silent_are_lost_and_come_back_clean(
    lab: Lab, reach: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_login, "CONNECT_S", 2.0)  # only so that we need not wait for it
    one, two, three = lab.machines
    await asyncio.gather(
        survive(reach(one), one, one.cut, one.heal),
        survive(reach(two), two, two.off, two.on),
        survive(reach(three), three, three.freeze, three.thaw),
    )
    one.off()  # its sshd still waits for the connection that was cut
    one.on()


async def test_a_node_that_is_away_in_the_end_is_cleared_when_it_comes_back(
    lab: Lab, reach: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_login, "CONNECT_S", 1.0)
    machine = lab.machines[1]
    executor = reach(machine, work_dir="~/away", temporary=True)
    await executor.start(Command(("sleep", "600")))
    there = ("sh", "-c", "ls -d /root/away || true")
    assert machine.run(*there) != ""
    machine.kill_sessions()
    await until(lambda: executor.leftovers != set())  # the loss is noticed
    machine.off()
    closing = asyncio.create_task(executor.close())
    await asyncio.wait({closing}, timeout=1.5 * ssh_login.CONNECT_S)  # it has tried in vain
    machine.on()
    await closing
    assert machine.run(*there) == ""


async def test_a_killed_sshd_leaves_nothing(lab: Lab, reach: Open) -> None:
    machine = lab.machines[0]
    executor = reach(machine)
    handle, _ = await started_family(executor)
    machine.kill_sessions()
    await lost(handle)
    await until(lambda: machine.commands() == [])
    assert await finished(await executor.start(Command(("true",)))) == 0


@pytest.mark.parametrize("who", ["same", "another"])
async def test_what_killed_supervisors_left_is_swept_before_the_next_start(
    lab: Lab, reach: Open, tmp_path: Path, who: str
) -> None:
    machine = lab.machines[0]
    executor = reach(machine)
    config = tmp_path / "config.json"
    config.write_text("original")
    files = (File(str(config), "tuned", restore=True),)
    handle = await executor.start(Command(python(FAMILY, "600", "polite"), files=files))
    family = [int(word) for word in (await printed(handle, "family")).split()[1:]]
    supervisors = [pid for pid, inner in machine.processes().items() if parent_of(handle.pid, machine) == inner]
    assert len(supervisors) == 1
    os.kill(supervisors[0], signal.SIGKILL)
    machine.kill_sessions()
    await lost(handle, "h1")
    assert any(map(machine.alive, family))
    assert config.read_text() == "tuned"
    next_one = executor if who == "same" else reach(machine, leftovers=(handle.token,))
    assert await finished(await next_one.start(Command(("true",)))) == 0
    assert not any(map(machine.alive, family))
    assert config.read_text() == "original"
    assert next_one.leftovers == set()


def parent_of(pid: int | None, machine: Machine) -> int:
    stat = machine.run("cat", f"/proc/{pid}/stat")
    return int(stat.rpartition(")")[2].split()[1])


async def test_a_full_disk_is_no_fault_of_the_setting(lab: Lab, reach: Open) -> None:
    machine = lab.machines[0]
    executor = reach(machine, work_dir=f"{SMALL_DISK}/work")
    command = Command(("true",), files=(File("config.json", "x" * 100_000),))
    assert await finished(await executor.start(command)) == 0
    machine.fill_disk()
    try:
        with pytest.raises(IPCCommandError, match="No space left") as caught:
            await executor.start(command)
        assert caught.value.culprit is Culprit.INFRASTRUCTURE
        error = await refused(reach(machine, work_dir=f"{SMALL_DISK}/work"))
        assert error.culprit is Culprit.INFRASTRUCTURE
        assert "no space is left" in str(error)
        with pytest.raises(CommunicationError, match="no space is left") as caught_copy:
            await executor.put(Path(sys.executable), "python")
        assert caught_copy.value.culprit is Culprit.INFRASTRUCTURE
    finally:
        machine.empty_disk()
    assert await finished(await executor.start(command)) == 0
    assert machine.run("find", f"{SMALL_DISK}/work", "-name", ".*.*").split() == []


async def test_a_killed_tuner_leaves_nothing(lab: Lab) -> None:
    machine = lab.machines[0]
    target = f"SshTarget({machine.name!r}, python=sys.executable, config=Path({str(lab.config)!r}))"
    tuner, family = await tuner_of(
        f"SshExecutor({target}, RealClock())", "from swarmtune.execution.executors.ssh import SshExecutor, SshTarget"
    )
    assert [machine.alive(pid) for pid in family] == [True] * 3
    kill(tuner)
    await until(lambda: machine.commands() == [] and logins(machine) == 0)
