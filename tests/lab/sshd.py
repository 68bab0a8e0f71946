"""An OpenSSH server, its keys and its configuration: the installed one, or Debian's, unpacked without installing it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

PROJECT = Path(__file__).parents[2]
CACHE = PROJECT / ".cache" / "sshd"
PACKAGES = ("openssh-server", "libwrap0")

SERVER_CONFIG = """
HostKey {folder}/hostkey
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
LogLevel ERROR
Subsystem sftp internal-sftp
MaxStartups 100:30:200
"""

CLIENT_CONFIG = """
Host *
  User {user}
  IdentityFile {folder}/id
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
"""


class NoLab(Exception):  # noqa: N818 - a reason to skip, not a mistake
    """Why there is no such machine here."""


@dataclass(frozen=True)
class Sshd:
    """The program, and the environment it needs to run."""

    path: Path
    env: dict[str, str]

    def works(self) -> bool:
        """Are its libraries there? (It refuses "-?" with its usage.)"""
        if not self.path.is_file():
            return False
        done = subprocess.run([self.path, "-?"], env=self.env, capture_output=True, check=False)
        return b"usage" in done.stderr


def find_sshd() -> Sshd:
    """NoLab if there is none and none can be had."""
    plain = {"PATH": os.environ.get("PATH", os.defpath)}
    libraries = sorted({str(p.parent) for p in CACHE.rglob("lib*.so.*")})
    for found in (
        Sshd(Path("/usr/sbin/sshd"), plain),
        Sshd(CACHE / "usr/sbin/sshd", plain | {"LD_LIBRARY_PATH": ":".join(libraries)}),
    ):
        if found.works():
            return found
    if CACHE.exists():
        raise NoLab(f"the sshd in {CACHE} does not run here; install openssh-server")
    unpack(PACKAGES, CACHE, "sshd")
    return find_sshd()


def unpack(packages: Sequence[str], folder: Path, what: str) -> None:
    """Debian's packages, unpacked there without installing them. NoLab, for want of ``what``, if they cannot be had."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise NoLab(f"there is no {what} here; install {packages[0]}")
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / ".unpacking").open("w") as lock, tempfile.TemporaryDirectory(dir=folder.parent) as name:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if folder.is_dir():
            return
        for package in packages:
            subprocess.run(["apt-get", "download", package], cwd=name, capture_output=True, check=False)
        found = sorted(Path(name).glob("*.deb"))
        if not found:
            raise NoLab(f"there is no {what} here, and apt-get cannot download it; install {packages[0]}")
        for file in found:
            subprocess.run(["dpkg", "-x", file, Path(name) / "root"], check=True)
        (Path(name) / "root").rename(folder)


def new_key(path: Path) -> str:
    """A new key pair; the public half, as lines of authorized_keys and known_hosts want it."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(path)
    path.chmod(0o600)
    return key.export_public_key().decode().strip()
