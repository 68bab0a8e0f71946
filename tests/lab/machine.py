"""Machines made of namespaces: own network, processes, mounts, host name and IPC, own sshd (process 1) and host key.

All processes end with the test process, whatever ends it, and with them the namespaces, mounts and links: nothing is named
outside, but for one end of a cable (``ip link``) that goes with its other end. Learned from research/cluster.md 2.4.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from tests.lab.closing import Closing
from tests.lab.sshd import CLIENT_CONFIG, PROJECT, SERVER_CONFIG, NoLab, find_sshd, new_key
from tests.lab.tools import find_faketime, find_nft

HERE = "/run/lab"  # on a machine: what sshd needs
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
TOOLS = ("setpriv", "unshare", "nsenter", "ip", "mount")
SMALL_DISK = "/run/small"  # on a machine: SMALL_DISK_MIB and no more
SMALL_DISK_MIB = 4

BOOT = """
set -e
mount --make-rprivate /
hostname {name}
for shared in {shared}; do
  case $shared in /root/*|/tmp/*|/run/*) mkdir -p {disk}$shared; mount --rbind $shared {disk}$shared;; esac
done
for own in root run tmp; do mount --rbind {disk}/$own /$own; done
for own in hosts passwd shadow; do mount --bind {here}/$own /etc/$own; done
mount -t tmpfs -o size=256m tmpfs /dev/shm
mount -t tmpfs -o size={small}m tmpfs {small_disk}
mount -t proc proc /proc
echo up
exec {sshd} -D -e -f {here}/sshd_config >&2
"""


class Lab(Closing):
    """Machines h1, h2, ... on one network with this one. ``shared``: folders that all see at the same path."""

    def __init__(self, count: int, shared: Sequence[Path] = ()) -> None:
        if os.geteuid() != 0:
            raise NoLab("machines need namespaces, and those need root")
        if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
            raise NoLab(f"machines need {', '.join(missing)} (Debian: util-linux, iproute2)")
        self.sshd = find_sshd()
        self.folder = Path(tempfile.mkdtemp(prefix="swarmtune-lab-"))
        self.shared = {
            *(p.resolve() for p in shared),
            PROJECT,
            Path(sys.prefix).resolve(),
            Path(sys.base_prefix).resolve(),
        }
        self.network = _free_network()
        self.cable = f"lab{secrets.token_hex(4)}"
        self.config = self.folder / "ssh_config"
        self.known_hosts = self.folder / "known_hosts"
        self.machines = tuple(Machine(self, number) for number in range(1, count + 1))
        self._switch: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """See Closing."""
        self._connect()
        self.public_key = new_key(self.folder / "id")
        hosts = [f"Host {m.name}\n  HostName {m.address}\n" for m in self.machines]
        self.config.write_text("".join(hosts) + CLIENT_CONFIG.format(folder=self.folder, user="root"))
        keys = [f"{m.name},{m.address} {m.install()}\n" for m in self.machines]
        self.known_hosts.write_text("".join(keys))
        for machine in self.machines:
            machine.on()

    def close(self) -> None:
        """Nothing is left."""
        for machine in self.machines:
            machine.off()
        if self._switch is not None:
            _end(self._switch)
        with contextlib.suppress(subprocess.CalledProcessError):  # gone with its other end
            run("ip", "link", "del", self.cable)
        shutil.rmtree(self.folder)

    def switch(self, *argv: str) -> None:
        """Run this where all cables meet."""
        assert self._switch is not None
        run("nsenter", "-t", str(self._switch.pid), "-n", *argv)

    def _connect(self) -> None:
        self._switch = _start("unshare", "--net", "sh", "-c", "echo up; exec sleep infinity")
        try:
            _await_up(self._switch, "the switch")
            run(
                "ip",
                "link",
                "add",
                self.cable,
                "type",
                "veth",
                "peer",
                "name",
                "uplink",
                "netns",
                str(self._switch.pid),
            )
        except subprocess.CalledProcessError as error:
            raise NoLab(f"no network of namespaces can be made here: {error.stderr.decode().strip()}") from error
        run("ip", "addr", "add", f"{self.network}.254/24", "dev", self.cable)
        run("ip", "link", "set", self.cable, "up")
        self.switch("ip", "link", "add", "br0", "type", "bridge")
        self.switch("ip", "link", "set", "br0", "up")
        self.switch("ip", "link", "set", "uplink", "master", "br0", "up")


class Machine:
    """One of them. Its /root, /tmp and /run are a disk of its own, which outlives ``off``."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.name = f"h{number}"
        self.address = f"{lab.network}.{number}"
        self.disk = lab.folder / self.name
        self._lab = lab
        self._link = f"v{number}"
        self._hardware = f"02:00:00:00:00:{number:02x}"  # the same after every ``on``, or others would look for the old
        self._process: subprocess.Popen[bytes] | None = None

    def install(self) -> str:
        """Make its disk; its public host key."""
        for name in ("tmp", "root", "run/sshd", "run/lab", SMALL_DISK[1:]):
            (self.disk / name).mkdir(parents=True, mode=0o755)
        (self.disk / "tmp").chmod(0o1777)
        here = self.disk / HERE[1:]
        names = "".join(f"{m.address} {m.name}\n" for m in self._lab.machines)
        (here / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        users = Path("/etc/passwd").read_text()
        (here / "passwd").write_text(
            users + "" if "sshd:" in users else users + "sshd:x:65533:65534::/run/sshd:/bin/false\n"
        )
        (here / "shadow").write_text("root:*::0:99999:7:::\n")
        (here / "authorized_keys").write_text(self._lab.public_key + "\n")
        (here / "sshd_config").write_text(SERVER_CONFIG.format(folder=HERE) + "PermitUserEnvironment yes\n")
        return self.new_host_key()

    def new_host_key(self) -> str:
        """Another host key, from the next ``on`` on; the public half."""
        return new_key(self.disk / HERE[1:] / "hostkey")

    def on(self) -> None:
        """Power on; returns when sshd answers."""
        script = BOOT.format(
            name=self.name,
            shared=" ".join(f"'{path}'" for path in sorted(self._lab.shared)),
            disk=self.disk,
            here=HERE,
            small=SMALL_DISK_MIB,
            small_disk=SMALL_DISK,
            sshd=self._lab.sshd.path,
        )
        spaces = ("--mount", "--uts", "--ipc", "--pid", "--net", "--fork", "--kill-child=KILL")
        self._process = _start("unshare", *spaces, "sh", "-c", script, env=self._lab.sshd.env)
        _await_up(self._process, self.name)
        pid = str(self._process.pid)
        self._lab.switch("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._lab.switch("ip", "link", "set", self._link, "master", "br0", "up")
        inside = ("nsenter", "-t", pid, "-n", "ip")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "address", self._hardware, "up")
        answers((self.address, 22), self._process)

    def off(self) -> None:
        """Pull the plug: nothing says goodbye."""
        if self._process is not None:
            with contextlib.suppress(subprocess.CalledProcessError):
                self._lab.switch("ip", "link", "del", self._link)
            with contextlib.suppress(ValueError, ProcessLookupError):  # it did not come so far
                os.kill(self._init(), signal.SIGKILL)  # ends all of them, and unshare, which has waited for it
                self._process.wait()
            _end(self._process)
            self._process = None

    def cut(self) -> None:
        """Pull its network cable."""
        self._lab.switch("ip", "link", "set", self._link, "down")

    def heal(self) -> None:
        """Put it back."""
        self._lab.switch("ip", "link", "set", self._link, "up")

    def drop(self, direction: Literal["to", "from"]) -> None:
        """Lose every packet to it, or from it; the other way is open. NoLab without nft."""
        hook = {"to": "input", "from": "output"}[direction]
        self.undrop()
        rules = f"add table inet lab; add chain inet lab lab {{ type filter hook {hook} priority 0; policy drop; }}"
        self._network(*find_nft(), rules)

    def undrop(self) -> None:
        """Undo ``drop``."""
        self._network(*find_nft(), "add table inet lab; delete table inet lab")

    def shape(self, mbit: float) -> None:
        """So many Mbit/s to it, and as many from it (htb)."""
        for end, link in ((self._lab.switch, self._link), (self._network, "eth0")):
            end("tc", "qdisc", "replace", "dev", link, "root", "handle", "1:", "htb", "default", "1")
            end("tc", "class", "replace", "dev", link, "parent", "1:", "classid", "1:1", "htb", "rate", f"{mbit}mbit")

    def unshape(self) -> None:
        """Undo ``shape``."""
        for end, link in ((self._lab.switch, self._link), (self._network, "eth0")):
            end("tc", "qdisc", "del", "dev", link, "root")

    def skew(self, offset_s: float) -> None:
        """Show another time of day to all who log in from now on, and to those whom it was shown to. NoLab if we cannot.

        Only the time of day: the monotonic clock never jumps. (Python's time.sleep fails there: libfaketime 0.9.10.)
        """
        clock = self.disk / HERE[1:] / "clock"
        clock.with_name("clock.new").write_text(f"{offset_s:+f}")
        clock.with_name("clock.new").replace(clock)
        (self.disk / "root/.ssh").mkdir(exist_ok=True)
        (self.disk / "root/.ssh/environment").write_text(
            f"LD_PRELOAD={find_faketime()}\nFAKETIME_TIMESTAMP_FILE={HERE}/clock\n"
            "FAKETIME_NO_CACHE=1\nFAKETIME_DONT_FAKE_MONOTONIC=1\n"
        )

    def unskew(self) -> None:
        """Undo ``skew``."""
        self.skew(0.0)
        (self.disk / "root/.ssh/environment").unlink()

    def _network(self, *argv: str) -> None:
        run("nsenter", "-t", str(self._init()), "-n", *argv)

    def freeze(self) -> None:
        """Stop every process."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)

    def run(self, *argv: str) -> str:
        """What a command prints there, not over the network."""
        return run(*self.inside(*argv))

    def inside(self, *argv: str) -> tuple[str, ...]:
        """The command line that runs this there, from here."""
        return ("nsenter", "-t", str(self._init()), "-a", *argv)

    def fill_disk(self) -> None:
        """No byte is free on SMALL_DISK."""
        self.run("sh", "-c", f"dd if=/dev/zero of={SMALL_DISK}/filler bs=4k 2>/dev/null || true")

    def empty_disk(self) -> None:
        """Undo ``fill_disk``."""
        self.run("rm", f"{SMALL_DISK}/filler")

    def kill_sessions(self) -> None:
        """Kill the processes of sshd that serve logins."""
        init = self._init()
        for pid in self.processes():
            if pid != init and _name(pid) == "sshd":
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)

    def processes(self) -> dict[int, int]:
        """Its processes (no zombies): our number -> its own."""
        return dict(_numbers(Path(f"/proc/{self._init()}/ns/pid").readlink()))

    def commands(self) -> list[str]:
        """The command lines of all that is not sshd."""
        others = [pid for pid in self.processes() if _name(pid) != "sshd"]
        return [_command_line(pid) for pid in others]

    def pids(self, words: str) -> list[int]:
        """Our numbers of its processes with these words in their command lines."""
        return [pid for pid in self.processes() if words in _command_line(pid)]

    def alive(self, pid: int) -> bool:
        """Does a process with this number of its own run there?"""
        return pid in self.processes().values()

    def _init(self) -> int:
        assert self._process is not None, f"{self.name} is off"
        return int(_read(f"/proc/{self._process.pid}/task/{self._process.pid}/children"))


def run(*argv: str) -> str:
    """What it prints. CalledProcessError with stderr if it fails."""
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout.decode()


def answers(address: tuple[str, int], sshd: subprocess.Popen[bytes], within_s: float = 20.0) -> None:
    """Wait until it listens there. NoLab if it does not."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and sshd.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=0.2):
            return
        time.sleep(0.02)
    raise NoLab(f"the sshd of this test does not answer at {address}")


def _start(*argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*DIES_WITH_US, *argv], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _await_up(process: subprocess.Popen[bytes], what: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if line == b"up\n":
            return
        said.append(line.decode().strip())
    raise NoLab(f"{what} cannot be made here: {' '.join(said)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.read()  # until the last process of the machine is gone
    process.stdout.close()


def _free_network() -> str:
    routes = run("ip", "-4", "route")
    while True:
        network = f"10.{secrets.randbelow(190) + 64}.{secrets.randbelow(256)}"
        if f"{network}." not in routes:
            return network


def _numbers(space: Path) -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            if (entry / "ns/pid").readlink() == space:
                status = _read(entry / "status").splitlines()
                state = next(line for line in status if line.startswith("State:")).split()[1]
                inner = next(line for line in status if line.startswith("NSpid:")).split()[-1]
                if state != "Z":
                    yield int(entry.name), int(inner)


def _command_line(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ")


def _name(pid: int) -> str:
    return _read(f"/proc/{pid}/comm").strip()


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
