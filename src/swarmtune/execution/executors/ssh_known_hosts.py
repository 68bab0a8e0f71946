"""Which host keys are trusted: those of the files of known hosts and of KnownHostsCommand, as OpenSSH reads them.

Source: ssh_config(5), sshd(8), and sshconnect.c and hostfile.c of OpenSSH.
"""

from __future__ import annotations

import base64
import contextlib
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from swarmtune.execution.executors.ssh_config import Option, with_variables
from swarmtune.execution.executors.ssh_words import expanded, split
from swarmtune.files import opened

COMMAND_S = 10.0
MOST_BYTES = 64 * 1024 * 1024  # of a file, or of what the command prints
COMMAND = "KnownHostsCommand"
USUAL = {
    "userknownhostsfile": ("~/.ssh/known_hosts", "~/.ssh/known_hosts2"),
    "globalknownhostsfile": ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"),
}


@dataclass
class KnownHosts:
    """``lines``: those that can be read, by their source: a file, or "KnownHostsCommand". ``absent``: files that are not
    there; ``notes``: what else could not be read, and why.
    """

    lines: dict[str, list[str]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def all(self) -> asyncssh.SSHKnownHosts:
        """Of all sources together."""
        return asyncssh.import_known_hosts("\n".join(line for lines in self.lines.values() for line in lines))

    def accepted(self, host: str, addr: str, port: int) -> dict[str, list[asyncssh.SSHKey]]:
        """The keys of a host by the source that has them."""
        standard = port if port != 22 else None
        found = {
            source: list(asyncssh.import_known_hosts("\n".join(lines)).match(host, addr, standard)[0])
            for source, lines in self.lines.items()
        }
        return {source: keys for source, keys in found.items() if keys}

    def __str__(self) -> str:
        """Where a key was looked for."""
        places = " or ".join(self.lines) or f"{' or '.join(self.absent)}, as there is no such file"
        return "; ".join([places, *self.notes])

    def add(self, source: str, data: bytes) -> None:
        """A line that is malformed is passed over, as ssh does."""
        kept = self.lines.setdefault(source, [])
        for line in data.decode("utf-8", "surrogateescape").split("\n"):
            with contextlib.suppress(ValueError):
                asyncssh.import_known_hosts(line)
                kept.append(line)


def known_hosts(options: Mapping[str, Option], only: Path | None = None) -> KnownHosts:
    """What the configuration of a host names, or that file ``only``. It blocks: KnownHostsCommand is run, as ssh runs it to
    choose the kind of key. ValueError: the command fails, or nothing is left to check keys with; OSError: ``only`` cannot be
    read.
    """
    found = KnownHosts()
    if only is not None:
        with opened(only.expanduser()) as file:
            found.add(str(only), file.read(MOST_BYTES))
        return found
    for key, usual in USUAL.items():
        option = options.get(key)
        names = option.expanded if option else [str(Path(name).expanduser()) for name in usual]
        for name in names:
            if name.lower() != "none":
                _read(found, name)
    ask(found, options, None)
    named = options.get("userknownhostsfile")
    if not found.lines and named and named.values[0].lower() == "none":
        raise ValueError("UserKnownHostsFile none leaves nothing to check host keys with; let it name a file")
    return found


def ask(found: KnownHosts, options: Mapping[str, Option], key: asyncssh.SSHKey | None) -> bool:
    """Add what KnownHostsCommand prints; ``key``: that of the host, None: before it is known. False: there is no command. It
    blocks; ValueError: the command fails.
    """
    option = options.get(COMMAND.lower())
    if option is None or option.values[0].lower() == "none":
        return False
    program, *arguments = split(option.values[0], option.where, comments=False)
    if not program.startswith("/"):
        found.notes[:] = [f"{option.where}: {COMMAND} {program[:80]!r} is not run, since it is no absolute path"]
        return False
    tokens = {**option.tokens, "I": "ORDER", "t": "NONE", "f": "NONE", "K": "NONE"}
    if key is not None:
        kind, data = key.algorithm.decode(), base64.b64encode(key.public_data).decode()
        tokens |= {"I": "HOSTNAME", "t": kind, "f": key.get_fingerprint(), "K": data}
    argv = [program, *(with_variables(expanded(word, tokens, option.where)) for word in arguments)]
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(argv, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, timeout=COMMAND_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{option.where}: {COMMAND} did not end within {COMMAND_S:.0f} s") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{option.where}: {COMMAND} does not run: {error}") from error
    if done.returncode:
        shown = shlex.join(argv)[:200]
        raise ValueError(f"{option.where}: {COMMAND} ended with code {done.returncode}; try it by hand: {shown}")
    found.add(COMMAND, done.stdout[:MOST_BYTES])
    return True


def _read(found: KnownHosts, name: str) -> None:
    """A file that is absent or cannot be read is passed over, as ssh does."""
    try:
        with opened(Path(name)) as file:
            found.add(name, file.read(MOST_BYTES))
    except FileNotFoundError:
        found.absent.append(name)
    except OSError as error:
        found.notes.append(f"{name} cannot be read ({error.strerror})")
