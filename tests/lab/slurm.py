"""A real Slurm on the machines of a lab: the installed one, or Debian's, unpacked without installing it.

The controller runs here, a slurmd on each machine. Nothing of the system's own Slurm, if it has one, is read or changed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.lab.closing import Closing
from tests.lab.machine import DIES_WITH_US, Lab, Machine
from tests.lab.sshd import PROJECT, NoLab, unpack

CACHE = PROJECT / ".cache" / "slurm"
PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libmunge2", "libhwloc15"),
    *("libreadline8", "libjson-c5", "libyaml-0-2", "libdbus-1-3", "libnuma1", "libpam0g", "liblz4-1", "libgcrypt20"),
)
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
CONFIG = """
ClusterName=lab
SlurmctldHost={controller}({address})
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=8
KillWait=10
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm(Closing):
    """Its nodes are called by their addresses. ``path`` goes before PATH for whoever wants to submit jobs."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.folder = lab.folder / "slurm"  # there on each machine, too, with a content of its own
        self.path = self.folder / "bin"
        self._root = _find_root()
        self._plugins = next((self._root / "usr/lib").glob("*/slurm-wlm"))
        self._libraries = f"{self._plugins}:{self._plugins.parent}"
        self._running: list[subprocess.Popen[bytes]] = []

    def open(self) -> None:
        """See Closing."""
        self._write()
        self._munge(self.folder)
        self._start(str(self._root / "usr/sbin/slurmctld-wlm"), "-D", "-i")
        for machine in self.lab.machines:
            shutil.copytree(
                self.folder, self._disk(machine), ignore=shutil.ignore_patterns("state", "munge.s*", "*.log")
            )
            self.on(machine)
        self.await_idle(len(self.lab.machines))

    def close(self) -> None:
        """What runs on the machines goes with them."""
        for process in self._running:
            process.kill()
            process.wait()

    def on(self, machine: Machine) -> None:
        """Start the node's part on a machine that is on."""
        (self._disk(machine) / "munge.socket").unlink(missing_ok=True)
        self._munge(self._disk(machine), machine)
        sbin = self._root / "usr/sbin"
        slurmd = (str(sbin / "slurmd-wlm"), "-D", "-N", machine.address, "-d", str(sbin / "slurmstepd-wlm"))
        self._start(*machine.inside(*slurmd))

    def run(self, client: str, *argv: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run([self.path / client, *argv], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def await_idle(self, count: int, within_s: float = 30.0) -> None:
        """Wait until so many nodes are free for jobs. NoLab if they are not."""
        deadline = time.monotonic() + within_s
        while len((found := self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N")).split()) != count:
            if time.monotonic() > deadline:
                logs = "".join(log.read_text(errors="replace")[-300:] for log in self.folder.glob("*.log"))
                raise NoLab(f"this Slurm does not come up here: {found} {logs}")
            time.sleep(0.05)

    def left_on(self, machine: Machine, within_s: float = 30.0) -> list[str]:
        """Command lines of what is no part of the machine; Slurm is given time to end its own."""
        deadline = time.monotonic() + within_s
        while found := [c for c in machine.commands() if not c.startswith(str(self._root / "usr/sbin"))]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return found

    def _disk(self, machine: Machine) -> Path:
        return machine.disk / str(self.folder)[1:]

    def _munge(self, folder: Path, machine: Machine | None = None) -> None:
        """Start the daemon that vouches for who asks, here or there; ``folder`` is ours as seen from here."""
        kinds = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{end}" for option, end in kinds.items()]
        argv = (str(self._root / "usr/sbin/munged"), "-F", "-f", *options)
        self._start(*(machine.inside(*argv) if machine else argv))
        deadline = time.monotonic() + 10
        while not (folder / "munge.socket").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _start(self, *argv: str) -> None:
        process = subprocess.Popen(
            [*DIES_WITH_US, *argv], env=self._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._running.append(process)

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        return inherited | {"LD_LIBRARY_PATH": self._libraries, "SLURM_CONF": f"{self.folder}/slurm.conf"}

    def _write(self) -> None:
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        with socket.create_server((f"{self.lab.network}.254", 0)) as free:
            port = free.getsockname()[1]
        nodes = [f"NodeName={m.address} CPUs=2 State=UNKNOWN" for m in self.lab.machines]
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                controller=socket.gethostname().partition(".")[0],
                address=f"{self.lab.network}.254",
                port=port,
                folder=self.folder,
                plugins=self._plugins,
                nodes="\n".join(nodes),
            )
        )
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        plugin = "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n" if unified else "CgroupPlugin=cgroup/v1\n"
        (self.folder / "cgroup.conf").write_text(plugin)
        (self.folder / "plugstack.conf").write_text("")
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge.key").chmod(0o400)
        for client in CLIENTS:
            environment = f"LD_LIBRARY_PATH={self._libraries} SLURM_CONF={self.folder}/slurm.conf"
            (self.path / client).write_text(f'#!/bin/sh\n{environment} exec {self._root}/usr/bin/{client} "$@"\n')
            (self.path / client).chmod(0o755)


def _find_root() -> Path:
    """Below which Slurm lies as in Debian. NoLab if there is none and none can be had."""
    needed = ("usr/sbin/slurmctld-wlm", "usr/sbin/slurmd-wlm", "usr/sbin/munged", "usr/bin/sbatch")
    for root in (Path("/"), CACHE):
        if all((root / file).exists() for file in needed):
            return root
    if CACHE.exists():
        raise NoLab(f"the Slurm in {CACHE} is not complete; install slurmctld, slurmd, slurm-client and munge")
    unpack(PACKAGES, CACHE, "Slurm")
    return _find_root()
