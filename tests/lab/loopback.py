"""An sshd of our own on this machine, as this user, on a high port of the loopback."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from swarmtune.testing.executor import alive
from tests.lab.closing import Closing
from tests.lab.machine import DIES_WITH_US, answers
from tests.lab.sshd import CLIENT_CONFIG, SERVER_CONFIG, find_sshd, new_key


class Loopback(Closing):
    """What ``Lab`` and ``Machine`` have in common, where no machines can be made."""

    name = "loopback"

    def __init__(self) -> None:
        self._sshd = find_sshd()
        self.folder = Path(tempfile.mkdtemp(prefix="swarmtune-lab-"))
        self.config = self.folder / "ssh_config"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """See Closing."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (self.folder / "authorized_keys").write_text(new_key(self.folder / "id") + "\n")
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {new_key(self.folder / 'hostkey')}\n")
        client = CLIENT_CONFIG.format(folder=self.folder, user=getpass.getuser())
        self.config.write_text(f"Host {self.name}\n  HostName 127.0.0.1\n  Port {port}\n{client}")
        server = f"ListenAddress 127.0.0.1:{port}\nSetEnv XDG_STATE_HOME={self.folder}/state\n"
        (self.folder / "sshd_config").write_text(server + SERVER_CONFIG.format(folder=self.folder))
        argv = [*DIES_WITH_US, str(self._sshd.path), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self._process = subprocess.Popen(argv, env=self._sshd.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        answers(("127.0.0.1", port), self._process)

    def close(self) -> None:
        """Nothing is left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    def alive(self, pid: int) -> bool:
        """Does this process run?"""
        return alive(pid)
