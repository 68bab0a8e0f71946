"""Nothing survives a command, and no file stays changed: whoever is killed, whenever."""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmtune.execution import supervisor
from swarmtune.execution.executors.supervised import left_behind
from swarmtune.redaction import FORMS
from swarmtune.testing.executor import FAMILY, STUBBORN, alive, python

ORIGINAL = b'{"original": true}\r\n\xff'
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users, or mount")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journals of this test are its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "swarmtune" / "commands"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class Supervised:
    """A supervisor process and what it says."""

    def __init__(self, directory: Path, argv: tuple[str, ...], launcher: tuple[str, ...] = (), **spec: Any) -> None:
        self.token = uuid.uuid4().hex
        self.directory = directory
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*(launcher or (sys.executable, "-I")), supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.say(
            {
                "argv": argv,
                "env": dict(os.environ),
                "files": [],
                "directory": str(directory),
                "memory_limit_bytes": None,
                "grace_s": 0.1,
                "lease_s": None,
                "token": self.token,
                **spec,
            }
        )

    def say(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((message if isinstance(message, str) else json.dumps(message)).encode() + b"\n")
        self.process.stdin.flush()

    def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the supervisor ended: {self.process.wait()}"
        self.events.append(json.loads(line))
        return self.events[-1]

    def rest(self) -> list[str]:
        """The names of all further events; the supervisor has ended then."""
        assert self.process.stdout is not None
        new = [json.loads(line) for line in self.process.stdout]
        self.events += new
        self.process.wait()
        return [event["event"] for event in new]

    def family(self) -> list[int]:
        """The pids of FAMILY once all of them run; until then the lease is renewed."""
        log = self.directory / "output.log"
        while not log.exists() or not log.read_text().endswith("\n"):
            self.say(".")
            time.sleep(0.02)
        return [int(word) for word in log.read_text().split()[1:]]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def parent_of(pid: int) -> int:
    process = supervisor.read_process(pid)
    assert process is not None
    return process.parent


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def start(*argv: str, folder: str = "run", **spec: Any) -> Supervised:
        started.append(Supervised(tmp_path / folder, argv, **spec))
        return started[-1]

    yield start
    for supervised in started:
        supervised.close()


def tuned(path: Path, restore: bool = True) -> dict[str, Any]:
    return {"path": str(path), "content": "tuned", "restore": restore}


# A daemon as old programs make it: it leaves session, parent, environment, folder and every open file behind.
CLOSED_DAEMON = """
import os, time
if os.fork():
    time.sleep(600)
os.setsid()
if os.fork():
    os._exit(0)
with open("daemon.new", "w") as file:
    print(os.getpid(), file=file)
os.rename("daemon.new", "daemon")
os.chdir("/")
os.closerange(0, 1000)
os.execve("/bin/sleep", ["sleep", "600"], {})
"""
# As a script starts one: only its output is turned away.
HOLDING_DAEMON = """
setsid env -i sleep 600 </dev/null >/dev/null 2>&1 &
echo $! > daemon.new; mv daemon.new daemon; sleep 600
"""
WITHOUT_CGROUPS = (
    *(sys.executable, "-I", "-c"),
    "import sys; name = sys.argv[1]; text = open(name).read().replace('mountinfo', 'no'); exec(compile(text, name, 'exec'))",
)


class TestEnding:
    """Everything ends, and the supervisor says how."""

    def test_events_of_a_command_that_ends_by_itself(self, run: Callable[..., Supervised], state: Path) -> None:
        supervised = run("sh", "-c", "exit 7")
        assert supervised.event()["event"] == "started"
        assert supervised.event() == {"event": "exited", "code": 7, "signal": None}
        assert supervised.rest() == ["done"]
        assert supervised.process.returncode == 0
        assert list(state.iterdir()) == []

    def test_what_a_script_leaves_behind_lives_on_with_its_files(
        self, run: Callable[..., Supervised], tmp_path: Path
    ) -> None:
        path = tmp_path / "config.json"
        path.write_text("mine")
        supervised = run("sh", "-c", "sleep 600 & echo $!", lives_on=True, files=[tuned(path)])
        assert supervised.event()["event"] == "started"
        log = supervised.directory / "output.log"
        until(lambda: log.read_text().endswith("\n"))
        left = int(log.read_text())
        until(lambda: parent_of(left) == supervised.process.pid)  # the script has ended
        assert path.read_text() == "tuned"
        supervised.say("stop")
        assert supervised.rest() == ["done"]
        assert (alive(left), path.read_text()) == (False, "mine")

    @pytest.mark.parametrize("code", [0, 3])
    def test_only_a_script_that_ends_well_lives_on(self, run: Callable[..., Supervised], code: int) -> None:
        supervised = run("sh", "-c", f"exit {code}", lives_on=True)
        pid = supervised.event()["pid"]
        if code == 0:
            until(lambda: supervisor.read_process(pid) is None)
            supervised.say("stop")
            assert supervised.rest() == ["done"]
        else:
            assert supervised.event() == {"event": "exited", "code": 3, "signal": None}

    @pytest.mark.parametrize("how", ["eof", "stop", "json", "lease", "term", "int", "hup"])
    def test_a_stubborn_family_ends(self, run: Callable[..., Supervised], how: str) -> None:
        supervised = run(*python(FAMILY, "600"), lease_s=1.0 if how == "lease" else None)
        family = supervised.family()
        assert len(family) == 3
        assert all(map(alive, family))
        match how:
            case "eof":
                supervised.process.stdin.close()  # type: ignore[union-attr]
            case "stop":
                supervised.say("stop")
            case "json":
                supervised.say({"stop": 0.05})
            case "term" | "int" | "hup":
                supervised.process.send_signal(getattr(signal, f"SIG{how.upper()}"))
        assert supervised.rest() == ["started", *(["lapsed"] if how == "lease" else []), "exited", "done"]
        assert supervised.process.returncode == 0
        assert [pid for pid in family if alive(pid)] == []

    def test_a_renewed_lease_holds(self, run: Callable[..., Supervised]) -> None:
        supervised = run("sleep", "600", lease_s=2.0)
        supervised.event()
        for _ in range(25):
            time.sleep(0.1)
            supervised.say(".")
        assert supervised.process.poll() is None
        supervised.say("stop")
        assert supervised.rest() == ["exited", "done"]

    def test_a_second_request_can_only_make_it_sooner(self, run: Callable[..., Supervised]) -> None:
        supervised = run(*python(STUBBORN))
        until((supervised.directory / "output.log").exists)
        until(lambda: "up" in (supervised.directory / "output.log").read_text())
        supervised.say({"stop": 600})
        supervised.say({"stop": 0})
        supervised.say({"stop": 600})
        assert supervised.rest() == ["started", "exited", "done"]

    def test_requests_that_come_with_the_command_are_heard(self, run: Callable[..., Supervised]) -> None:
        supervised = run("sleep", "600")
        supervised.say("stop")
        assert supervised.rest() == ["started", "exited", "done"]

    def test_a_stopped_process_ends_too(self, run: Callable[..., Supervised]) -> None:
        supervised = run("sleep", "600")
        os.kill(supervised.event()["pid"], signal.SIGSTOP)
        supervised.say({"stop": 600})
        assert supervised.rest() == ["exited", "done"]
        assert supervised.events[-2]["signal"] == signal.SIGTERM

    def test_a_service_that_floods_while_it_ends_is_not_blocked(self, run: Callable[..., Supervised]) -> None:
        code = "import os, signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: os.write(1, b'x' * 65536)"
        supervised = run(*python(code))
        supervised.event()
        until(lambda: (supervised.directory / "output.log").stat().st_size > 1 << 20)
        supervised.say({"stop": 0.3})
        assert supervised.rest() == ["exited", "done"]
        assert (supervised.directory / "output.log").stat().st_size < 10 << 20

    def test_a_command_that_makes_no_sense_is_refused(self, run: Callable[..., Supervised]) -> None:
        for argv, spec in ((("true",), {"token": ""}), (("true",), {"token": "../x"}), (("a\0b",), {}), ((), {})):
            supervised = run(*argv, **spec)
            assert supervised.rest() == ["failed"]
            assert supervised.process.returncode == 1

    @pytest.mark.parametrize("files", [8, 9, 10, 11])
    def test_a_node_without_room_is_no_missing_program(self, run: Callable[..., Supervised], files: int) -> None:
        """Its limit of open files is reached at the log, at the journal, or at the start itself."""
        limit = f"import resource, os, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({files},) * 2); os.execv(sys.executable, sys.orig_argv[:1] + sys.argv[1:])"  # noqa: E501
        supervised = run("true", launcher=(sys.executable, "-c", limit, "-I"))
        event = supervised.event()
        supervised.rest()
        assert (event["event"], event["program"], event["errno"]) == ("failed", False, errno.EMFILE)

    def test_no_command_at_all_is_no_trouble(self, run: Callable[..., Supervised]) -> None:
        process = subprocess.run([sys.executable, "-I", supervisor.__file__], stdin=subprocess.DEVNULL, check=False)
        assert process.returncode == 0


class TestKilledSupervisor:
    """What a killed supervisor leaves is found by its token."""

    def sweep(self, token: str) -> dict[str, Any]:
        arguments = [sys.executable, "-I", supervisor.__file__, "--sweep", token]
        done = subprocess.run(arguments, capture_output=True, check=True)
        return dict(json.loads(done.stdout))

    @needs_root
    @pytest.mark.parametrize("home", ["closed", "of another", "a file", "nowhere", "a loop"])
    def test_what_cannot_have_been_written_leaves_nothing(
        self, public: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: str
    ) -> None:
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", str(public / home))
        kept = Path(".local/state/swarmtune/commands")
        (public / "closed" / kept).mkdir(parents=True)
        (public / "closed").chmod(0o700)
        (public / "of another" / kept).mkdir(parents=True)
        (public / "of another" / kept).chmod(0o700)
        (public / "a file").touch()
        (public / "a loop").symlink_to(public / "a loop")
        with self.as_nobody():
            assert supervisor.sweep(["token-of-nobody"], 0.0) == 0, capfd.readouterr().out

    @needs_root
    def test_journals_of_ours_that_cannot_be_listed_are_not_taken_for_none(
        self, public: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(public))
        folder = public / "swarmtune" / "commands"
        folder.mkdir(parents=True)
        os.chown(folder, NOBODY, NOBODY)
        folder.chmod(0o300)
        with self.as_nobody():
            assert supervisor.main(["--sweep", "token-of-nobody"]) == 2
        told = left_behind(capfd.readouterr().out)
        assert told == f"{folder}: this user's own journals cannot be listed; chmod u+rwx"

    @contextlib.contextmanager
    def as_nobody(self) -> Iterator[None]:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    def test_what_is_left_is_told_in_words(self) -> None:
        swept = json.dumps({"event": "swept", "token": "t", "left": [7, 8], "unrestored": ["/a/config.json: denied"]})
        assert left_behind(f"{swept}\nKilled") == (
            "process 7 cannot be ended; process 8 cannot be ended; /a/config.json: denied; Killed"
        )

    def test_family(self, run: Callable[..., Supervised], state: Path) -> None:
        supervised = run(*python(FAMILY, "600"))
        bystander = run(*python(FAMILY, "600"), folder="other")
        family, others = supervised.family(), bystander.family()
        supervised.process.kill()
        supervised.process.wait()
        until(lambda: not alive(family[0]))  # the direct child dies with its parent
        assert all(map(alive, family[1:]))
        assert self.sweep(supervised.token)["left"] == []
        assert [pid for pid in family if alive(pid)] == []
        assert all(map(alive, others))
        assert self.sweep(supervised.token)["left"] == []

    def test_a_process_without_our_mark_in_its_environment(self, run: Callable[..., Supervised]) -> None:
        supervised = run(*python(UNMARKED))
        log = supervised.directory / "output.log"
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        pid = int(log.read_text())
        until(lambda: Path(f"/proc/{pid}/environ").read_bytes() == b"")
        supervised.process.kill()
        supervised.process.wait()
        assert alive(pid)
        assert self.sweep(supervised.token)["left"] == []
        assert not alive(pid)

    @pytest.mark.parametrize("by", ["its control group", "what it holds"])
    def test_a_daemon_with_a_clean_environment(self, run: Callable[..., Supervised], state: Path, by: str) -> None:
        if by == "what it holds":  # as where no user may make control groups
            supervised = run("sh", "-c", HOLDING_DAEMON, launcher=WITHOUT_CGROUPS)
        else:
            supervised = run(*python(CLOSED_DAEMON))
        told = supervised.directory / "daemon"
        until(lambda: told.exists() and told.read_text().endswith("\n"))
        pid = int(told.read_text())
        until(lambda: Path(f"/proc/{pid}/environ").read_bytes() == b"")
        group = json.loads((state / f"{supervised.token}.json").read_text())["cgroup"]
        assert bool(group) == (by == "its control group"), "this machine lets nobody make control groups"
        supervised.process.kill()
        supervised.process.wait()
        assert alive(pid)
        assert self.sweep(supervised.token)["left"] == []
        assert not alive(pid)
        assert not group or not Path(group).exists()

    def test_a_token_is_never_a_pattern(self) -> None:
        for token in ("", "*", "a" * 7, "x=1 SWARMTUNE"):
            arguments = [sys.executable, "-I", supervisor.__file__, "--sweep", token]
            assert subprocess.run(arguments, capture_output=True, check=False).returncode == 2

    def test_a_longer_token_is_another_one(self, run: Callable[..., Supervised]) -> None:
        supervised = run("sleep", "600")
        pid = supervised.event()["pid"]
        self.sweep(supervised.token[:-1])
        self.sweep(supervised.token + "0")
        assert alive(pid)


class TestPidReuse:
    """A number alone is no identity."""

    def test_a_later_process_with_the_same_number_is_not_touched(self) -> None:
        with subprocess.Popen(["sleep", "600"]) as child:
            process = supervisor.read_process(child.pid)
            assert process is not None
            earlier = process._replace(started=process.started - 1)
            assert not supervisor.signal_process(earlier, signal.SIGKILL)
            assert child.poll() is None
            assert supervisor.signal_process(process, signal.SIGKILL)
        assert not supervisor.signal_process(process, signal.SIGKILL)

    def test_a_name_with_brackets_and_spaces_is_read(self, tmp_path: Path) -> None:
        program = tmp_path / "a) S 1 (b"
        shutil.copy("/bin/sleep", program)
        with subprocess.Popen([program, "600"]) as child:
            process = supervisor.read_process(child.pid)
            assert process is not None
            assert process.parent == os.getpid()
            child.kill()


UNMARKED = """
import os, time
if os.fork():
    time.sleep(600)
os.setsid()
print(os.getpid(), flush=True)
os.execve("/bin/sleep", ["sleep", "600"], {})
"""
"""A grandchild in a session of its own that has thrown its environment away."""

KILL_AT_NTH_CHANGE = """
import os, runpy, signal, sys
limit, path = int(sys.argv[1]), sys.argv[2]
changes = 0
def count(event, arguments):
    global changes
    changing = event in {"os.link", "os.rename", "os.remove", "os.mkdir", "os.chmod", "fcntl.flock", "subprocess.Popen"}
    if changing or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        changes += 1
        if changes == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
runpy.run_path(path, run_name="__main__")
"""
"""Runs a supervisor that is killed just before its n-th change to the file system."""


class TestRestore:
    """The original comes back, to the byte."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return self.furnish(tmp_path / "conf")

    def furnish(self, place: Path) -> Path:
        place.mkdir()
        (place / "config.json").write_bytes(ORIGINAL)
        (place / "config.json").chmod(0o640)
        return place

    def untouched(self, place: Path) -> bool:
        config = place / "config.json"
        return (
            [p.name for p in place.iterdir()] == ["config.json"]
            and config.read_bytes() == ORIGINAL
            and stat.S_IMODE(config.stat().st_mode) == 0o640
        )

    def files(self, place: Path) -> list[dict[str, Any]]:
        return [tuned(place / "config.json"), tuned(place / "absent.json"), {"path": "own", "content": "x"}]

    @pytest.mark.parametrize(("then", "step"), [("sweep", 1), ("restart", 4)])
    def test_killed_before_each_change(self, tmp_path: Path, then: str, step: int) -> None:
        outcomes = []
        for number in range(1, 200, step):
            place = self.furnish(tmp_path / f"conf-{number}")
            directory = tmp_path / f"run-{number}"
            launcher = (sys.executable, "-I", "-B", "-c", KILL_AT_NTH_CHANGE, str(number))
            supervised = Supervised(directory, ("true",), launcher, files=self.files(place))
            supervised.rest()
            supervised.close()
            outcomes.append(supervised.process.returncode)
            self.recover(then, supervised, place)
            assert self.untouched(place), (number, list(place.iterdir()))
            if supervised.process.returncode == 0:
                break
        assert outcomes[-1] == 0
        assert set(outcomes[:-1]) == {-signal.SIGKILL}
        assert len(outcomes) * step > 20

    def recover(self, then: str, killed: Supervised, place: Path) -> None:
        if then == "restart":
            restarted = Supervised(killed.directory, ("true",), files=self.files(place))
            assert restarted.rest()[-1] == "done"
            restarted.close()
        else:
            assert supervisor.sweep([killed.token]) == 0

    def test_killed_at_random_moments(self, tmp_path: Path, place: Path) -> None:
        dice = random.Random(20261122)
        for _ in range(20):
            supervised = Supervised(tmp_path / "run", ("sleep", "600"), files=self.files(place))
            time.sleep(dice.uniform(0.0, 0.2))
            supervised.process.kill()
            supervised.close()
            assert supervisor.sweep([supervised.token]) == 0
            assert self.untouched(place)

    def test_original_is_never_replaced_by_a_tuned_one(self, tmp_path: Path, place: Path) -> None:
        for _ in range(3):
            supervised = Supervised(tmp_path / "run", ("sleep", "600"), files=self.files(place))
            supervised.event()
            assert (place / "config.json").read_text() == "tuned"
            assert stat.S_IMODE((place / "config.json").stat().st_mode) == 0o640
            assert (place / "config.json.swarmtune-original").read_bytes() == ORIGINAL
            supervised.process.kill()
            supervised.close()
        assert supervisor.sweep([supervised.token]) == 0
        assert self.untouched(place)

    def test_a_later_command_in_the_same_folder_puts_back_first(
        self, run: Callable[..., Supervised], place: Path, state: Path
    ) -> None:
        killed = run("sleep", "600", files=self.files(place))
        killed.event()
        killed.process.kill()
        killed.process.wait()
        shutil.rmtree(state)
        later = run("cat", str(place / "config.json"))
        assert later.rest()[-1] == "done"
        assert (later.directory / "output.log").read_bytes() == ORIGINAL
        assert self.untouched(place)
        assert not (later.directory / supervisor.JOURNAL).exists()

    def test_a_broken_journal_is_reported(self, run: Callable[..., Supervised], tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / supervisor.JOURNAL).write_text("{")
        supervised = run("true")
        assert supervised.rest() == ["failed"]
        assert "by hand" in supervised.events[0]["error"]

    def test_the_journal_alone_is_enough(self, tmp_path: Path, place: Path, state: Path) -> None:
        supervised = Supervised(tmp_path / "run", ("sleep", "600"), files=self.files(place))
        supervised.event()
        supervised.process.kill()
        supervised.close()
        shutil.rmtree(state)
        arguments = [sys.executable, "-I", supervisor.__file__, "--restore", str(tmp_path / "run" / supervisor.JOURNAL)]
        assert json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)["unrestored"] == []
        assert self.untouched(place)

    def test_where_there_are_no_hard_links(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", refuse)
        file = supervisor.TunedFile(place / "config.json")
        file.lock()
        file.write("tuned", restore=True)
        assert file.original.read_bytes() == ORIGINAL
        file.put_back()
        file.unlock()
        assert self.untouched(place)

    def test_two_commands_cannot_have_the_same_file(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "LOCK_WAIT_S", 0.0)
        first, second = (supervisor.TunedFile(place / "config.json") for _ in range(2))
        first.lock()
        with pytest.raises(supervisor.Refused, match="in use"):
            second.lock()
        first.unlock()
        second.lock()
        second.unlock()

    def test_a_service_that_rewrites_its_file(self, run: Callable[..., Supervised], place: Path) -> None:
        supervised = run("sh", "-c", f"echo mine > {place / 'config.json'}", files=self.files(place))
        assert supervised.rest()[-1] == "done"
        assert self.untouched(place)

    def test_a_file_that_cannot_be_put_back_is_named_and_kept(
        self, run: Callable[..., Supervised], place: Path
    ) -> None:
        config = place / "config.json"
        supervised = run("sh", "-c", f"rm {config}; mkdir {config}; touch {config}/x", files=[tuned(config)])
        assert supervised.rest() == ["started", "exited", "unrestored"]
        assert supervised.process.returncode == 2
        assert supervised.events[-1]["path"] == str(config)
        assert (place / "config.json.swarmtune-original").read_bytes() == ORIGINAL
        shutil.rmtree(config)
        assert supervisor.sweep([supervised.token]) == 0
        assert self.untouched(place)

    @needs_root
    def test_a_full_disk_leaves_the_original(self, run: Callable[..., Supervised], tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "swarmtune-test", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine does not let us mount a small disk")
        try:
            place = self.furnish(disk / "conf")
            large = {"path": str(place / "config.json"), "content": "x" * 100_000, "restore": True}
            supervised = run("true", files=[tuned(place / "absent.json"), large])
            assert supervised.rest() == ["failed"]
            assert "No space left" in supervised.events[-1]["error"]
            assert str(place / "config.json") in supervised.events[-1]["error"]
            assert self.untouched(place)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


class TestOwners:
    """Files of other users are out of reach; those of ours keep mode and owner."""

    @needs_root
    def test_a_link_to_a_file_of_another_user_is_refused(self, run: Callable[..., Supervised], tmp_path: Path) -> None:
        theirs, link = tmp_path / "theirs", tmp_path / "link"
        theirs.write_text("theirs")
        os.chown(theirs, NOBODY, NOBODY)
        link.symlink_to(theirs)
        supervised = run("true", files=[tuned(link)])
        assert supervised.rest() == ["failed"]
        assert "another user" in supervised.events[0]["error"]
        assert theirs.read_text() == "theirs"

    @needs_root
    @pytest.mark.parametrize("name", ["link", "folder/mine"])
    def test_a_link_made_by_another_user_is_refused(
        self, run: Callable[..., Supervised], tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "mine").write_text("mine")
        for link, target in (("link", tmp_path / "mine"), ("folder", tmp_path)):
            (tmp_path / link).symlink_to(target)
            os.chown(tmp_path / link, NOBODY, NOBODY, follow_symlinks=False)
        assert run("true", files=[tuned(tmp_path / name)]).rest() == ["failed"]
        assert (tmp_path / "mine").read_text() == "mine"

    def test_a_link_of_ours_stays_a_link(self, run: Callable[..., Supervised], tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("mine")
        (tmp_path / "link").symlink_to("mine")
        supervised = run("cat", str(tmp_path / "link"), files=[tuned(tmp_path / "link")])
        assert supervised.rest()[-1] == "done"
        assert (supervised.directory / "output.log").read_text() == "tuned"
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "mine").read_text() == "mine"

    @needs_root
    def test_mode_and_owner_are_kept(self, run: Callable[..., Supervised], tmp_path: Path) -> None:
        path = tmp_path / "service.json"
        path.write_text("before")
        path.chmod(0o604)
        os.chown(path, NOBODY, NOBODY)
        run("true", files=[tuned(path, restore=False)]).rest()
        assert path.read_text() == "tuned"
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o604, NOBODY)

    @pytest.mark.parametrize("kind", ["link", "fifo"])
    def test_the_log_is_never_written_through_something_else(
        self, run: Callable[..., Supervised], tmp_path: Path, kind: str
    ) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "precious").write_text("precious")
        log = tmp_path / "run" / "output.log"
        if kind == "link":
            log.symlink_to(tmp_path / "precious")
        else:
            os.mkfifo(log)
        supervised = run("echo", "overwritten")
        assert supervised.rest() == ["failed"]
        assert str(log) in supervised.events[0]["error"]
        assert (tmp_path / "precious").read_text() == "precious"


class TestLog:
    """Bounded output."""

    def test_beginning_and_end_are_kept(self, tmp_path: Path) -> None:
        log = supervisor.Log(tmp_path / "log", ())
        block = 1 << 16
        for number in range(600):
            log.write(b"%08d" % number * (block // 8))
            assert (tmp_path / "log").stat().st_size <= supervisor.LOG_HEAD_BYTES + 2 * supervisor.LOG_TAIL_BYTES + 200
        content = (tmp_path / "log").read_bytes()
        head, tail = supervisor.LOG_HEAD_BYTES // block, supervisor.LOG_TAIL_BYTES // block
        assert content.startswith(b"".join(b"%08d" % n * (block // 8) for n in range(head)))
        assert content.endswith(b"".join(b"%08d" % n * (block // 8) for n in range(600 - tail, 600)))
        assert content.count(b"left out here") == 1

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_secrets_in_pieces(self, tmp_path: Path, size: int) -> None:
        log = supervisor.Log(tmp_path / "log", ["abcabd", "abca-longer", "abc"])
        text = b"abcabcabd abca-longer abca-longe abc!abcabd"
        for start in range(0, len(text), size):
            log.write(text[start : start + size])
        log.write(b"", last=True)
        assert (tmp_path / "log").read_bytes() == b"abc*** *** abca-longe abc!***"

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_keys_that_nobody_named_in_pieces(self, tmp_path: Path, size: int) -> None:
        log = supervisor.Log(tmp_path / "log", ["known-1"], FORMS)
        pem = b"-----BEGIN PRIVATE KEY-----\nMIIE\nabc=\n-----END PRIVATE KEY-----"
        text = (
            b"a known-1 hf_"
            + b"aB3" * 9
            + b" b\n"
            + pem
            + b"\nsk-lm and gsk_"
            + b"x1" * 12
            + b" words.words "
            + b"-" * 5000
        )
        for start in range(0, len(text), size):
            log.write(text[start : start + size])
        log.write(b"", last=True)
        assert (tmp_path / "log").read_bytes() == b"a *** *** b\n***\nsk-lm and *** words.words " + b"-" * 5000

    def test_what_is_whole_is_written_at_once(self, tmp_path: Path) -> None:
        log = supervisor.Log(tmp_path / "log", ["known-1"], FORMS)
        log.write(b"ready on port 8000\n")
        assert (tmp_path / "log").read_bytes() == b"ready on port 8000\n"

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_nothing_steers_the_terminal_of_who_reads_it(self, tmp_path: Path, size: int) -> None:
        log = supervisor.Log(tmp_path / "log", ())
        text = "\x1b[31mred\x1b[0m \x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x9b31m"
        text += "\u2028\u200b\ufeff\U0001f600c\u202ed\u2066e\x07\x00 10 %\r20 %\r\n\tä€\x1bM\x1b["
        text += "\u061c\u180e\xad\u2060\u206a\ufff9\U000e0041"
        data = text.encode()
        for start in range(0, len(data), size):
            log.write(data[start : start + size])
        log.write(b"", last=True)
        assert (tmp_path / "log").read_bytes().decode() == "red ab31m\U0001f600cde 10 %\n20 %\r\n\tä€["


def test_it_is_old_python_without_dependencies() -> None:
    tree = ast.parse(Path(supervisor.__file__).read_text(), feature_version=(3, 8))
    imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
