"""The way to a node as OpenSSH takes it: the jump hosts before it, and the keys that are there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import asyncssh

from swarmtune.execution.executors import ssh_config
from swarmtune.files import opened

MOST_HOPS = 16
MOST_KEY_BYTES = 1024 * 1024
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:/]*)(?::(?P<port>[0-9]+))?/?")


@dataclass(frozen=True)
class Hop:
    """A machine on the way. ``port`` and ``username`` None: as the configuration says. ``config``: files in place of
    ~/.ssh/config and /etc/ssh/ssh_config.

    The files are read once, when they are first needed. That blocks: it may run commands and look up names.
    """

    host: str
    port: int | None = None
    username: str | None = None
    config: Sequence[str] = ()

    @cached_property
    def effective(self) -> dict[str, ssh_config.Option]:
        """See ``ssh_config.effective``."""
        return ssh_config.effective(self.host, self.port, self.username, self.config)

    @property
    def real_host(self) -> tuple[str, str]:
        """The host that is connected to, and the file and line of its HostName; empty: there is none."""
        named = self.effective["hostname"]
        return named.values[0], named.where

    @property
    def proxy(self) -> list[str]:
        """The command of ProxyCommand; empty without one."""
        named = self.effective.get("proxycommand")
        return ssh_config.in_shell(named.expanded[0]) if named and named.values[0].lower() != "none" else []

    def options(self, **more: Any) -> asyncssh.SSHClientConnectionOptions:
        """The options of a login there. ValueError, OSError or asyncssh.Error if something in the files is wrong."""
        lines, origins = ssh_config.lines(self.effective)
        with tempfile.NamedTemporaryFile("w", errors="surrogateescape") as file:
            file.write("\n".join(lines))
            file.flush()
            try:
                return asyncssh.SSHClientConnectionOptions(
                    host=self.host, port=self.port or (), username=self.username or (), config=[file.name], **more
                )
            except asyncssh.ConfigParseError as error:
                number, _, reason = str(error).partition(" line ")[2].partition(": ")
                origin = origins[int(number) - 1] if number.isdecimal() else "ssh_config"
                raise ValueError(f"{origin}: {reason or error}") from error


def route(target: Hop) -> list[Hop]:
    """The hops to the target, in the order of the logins, the target last: those of ProxyJump, and before them those of the
    first jump host's own ProxyJump, and so on. ValueError if they go in a circle.
    """
    way = [target]
    while jumps := _jumps(way[0]):
        names = [hop.host.lower() for hop in way]
        for jump in jumps:
            if jump.host.lower() in names:
                circle = " through ".join(hop.host for hop in reversed([jump, *jumps[jumps.index(jump) + 1 :], *way]))
                raise ValueError(f"the jump hosts go in a circle (ProxyJump): {circle}")
        way[:0] = jumps
        if len(way) > MOST_HOPS:
            raise ValueError(f"more than {MOST_HOPS} jump hosts (ProxyJump)")
    return way


def _jumps(hop: Hop) -> list[Hop]:
    text = hop.options(client_keys=None).tunnel
    if not isinstance(text, str):
        return []
    jumps = []
    for part in text.split(","):
        match = _JUMP.fullmatch(part.strip())
        if match is None or not match["host"]:
            raise ValueError(f"ProxyJump {text!r}: {part.strip()!r} is not [USER@]HOST[:PORT]")
        port = int(match["port"]) if match["port"] else None
        jumps.append(Hop(match["host"].strip("[]"), port, match["user"] or None, hop.config))
    return jumps


class _NoKeys(list[str]):
    """No keys at all: for a list that is false asyncssh would load those of ~/.ssh."""

    def __bool__(self) -> bool:
        return True


def keys(hop: Hop) -> dict[str, Any]:
    """Options that name the keys of the configuration's IdentityFile and the certificates of its CertificateFile
    that can be used; empty without one.

    A file that is absent, or no key, is passed over. A public key, also beside an absent private one, chooses a key of the
    agent. A private key that asks for a passphrase is left to the agent.
    """
    found = hop.options(client_keys=None).config
    named = found.get("IdentityFile")
    private, public = [], []
    for name in named if isinstance(named, list) else ():
        path = Path(str(name)).expanduser()
        data = _read(path)
        if _is_private(data):  # first, since a private key can be read as its public one, too
            private.append(str(path))
        elif _is_public(data):
            public.append(str(path))
        beside = path.with_name(f"{path.name}.pub")
        if _is_public(_read(beside)):
            public.append(str(beside))
    chosen: dict[str, Any] = {}
    certificates = found.get("CertificateFile")
    if isinstance(certificates, list):
        paths = [str(Path(str(name)).expanduser()) for name in certificates]
        chosen["client_certs"] = [path for path in paths if _is_certificate(_read(Path(path)))]
    if named is None:
        return chosen
    chosen |= {"client_keys": private or _NoKeys(), "ignore_encrypted": True}
    if found.get("IdentitiesOnly") and public:
        chosen["agent_identities"] = public
    elif found.get("IdentitiesOnly") and not named:  # IdentityFile none
        chosen["agent_path"] = None
    return chosen


def _read(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return file.read(MOST_KEY_BYTES)
    except OSError:
        return b""


def _is_certificate(data: bytes) -> bool:
    try:
        asyncssh.import_certificate(data)
    except (asyncssh.KeyImportError, ValueError):
        return False
    return True


def _is_public(data: bytes) -> bool:
    try:
        asyncssh.import_public_key(data)
    except (asyncssh.KeyImportError, ValueError):
        return False
    return True


def _is_private(data: bytes) -> bool:
    try:
        asyncssh.import_private_key(data)
    except asyncssh.KeyEncryptionError:
        return True
    except (asyncssh.KeyImportError, ValueError) as error:
        return "passphrase" in str(error).lower()
    return True
