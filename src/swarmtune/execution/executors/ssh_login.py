"""Login to a node over SSH: trusted host keys, and the culprit when a login fails."""

from __future__ import annotations

import asyncio
import shlex
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from swarmtune.errors import CommunicationError, Culprit, IPCTimeoutError, MissingExtraError

try:
    import asyncssh
except ImportError as missing:
    raise MissingExtraError("Nodes over SSH", "ssh") from missing

from swarmtune.execution.executors.ssh_config import NotNowError
from swarmtune.execution.executors.ssh_known_hosts import COMMAND, KnownHosts, ask, known_hosts
from swarmtune.execution.executors.ssh_proxy import open_proxy
from swarmtune.execution.executors.ssh_route import Hop, keys, route

__all__ = ["SshTarget", "asyncssh", "config_mistake", "login"]

CONNECT_S = 10.0  # TCP, key exchange and login
KEEPALIVE_S, KEEPALIVES = 5.0, 3  # a line that is cut is noticed after 5 x (3 + 1) s


@dataclass(frozen=True)
class SshTarget:
    """A node to log in to, and our folder and Python there.

    ``host``: a name, an address, or a ``Host`` of ~/.ssh/config, which is read (``config``: another file). Port 22 means: as
    ~/.ssh/config says, else 22. ``work_dir`` ("~" is the home there) is created; ``python``: any from 3.8 on.
    A ``temporary`` work_dir is ours alone, and goes when the executor is closed.
    Keys come from the agent, ~/.ssh/config and ~/.ssh. Host keys must be in ``known_hosts``, by default those that
    OpenSSH reads; there is no way to accept an unknown one.
    """

    host: str
    port: int = 22
    username: str | None = None
    work_dir: str = "~/.swarmtune"
    python: str = "python3"
    known_hosts: Path | None = None
    config: Path | None = None
    temporary: bool = False

    @property
    def by_hand(self) -> str:
        """An equivalent ``ssh`` command, to try by hand."""
        config = ("-F", str(self.config)) if self.config else ()
        trust = ("-o", f"UserKnownHostsFile={self.known_hosts}") if self.known_hosts else ()
        port = ("-p", str(self.port)) if self.port != 22 else ()
        return shlex.join(
            ["ssh", *config, *trust, *port, f"{self.username}@{self.host}" if self.username else self.host]
        )


async def login(target: SshTarget, again: bool = False) -> asyncssh.SSHClientConnection:
    """Log in, through the jump hosts of ~/.ssh/config. CommunicationError: for the user if a node, its key or our login is
    refused, else infrastructure; it names the jump host that failed. A failed or cancelled call leaves no connection open;
    a command of Match exec that runs then ends within 10 s.

    ``again``: an earlier login succeeded, so the host name is right.
    """
    last = _hop(target)
    try:
        way = await asyncio.to_thread(route, last)
    except (asyncssh.Error, OSError, ValueError) as error:
        raise _refusal(target, error, "", again) from error
    connection: asyncssh.SSHClientConnection | None = None
    for hop in way:
        at = target if hop is last else replace(target, host=hop.host, port=hop.port or 22, username=hop.username)
        try:
            following = await _login(hop, at, connection, again)
            if connection is not None:
                following.set_tunnel(connection)  # it closes with the connection through it
            connection = following
        except BaseException as error:
            if connection is not None:
                connection.abort()
            if isinstance(error, CommunicationError) and hop is not last:
                text = f"{target.host} is reached through {hop.host} (ProxyJump): {error.message}"
                raise type(error)(text, culprit=error.culprit) from error
            raise
    assert connection is not None  # noqa: S101 - a way has a hop
    return connection


def _hop(target: SshTarget) -> Hop:
    config = [str(target.config)] if target.config else []
    return Hop(target.host, target.port if target.port != 22 else None, target.username, config)


def config_mistake(target: SshTarget) -> str:
    """What is wrong with this machine's SSH configuration for the way to a node, as a sentence without the node; empty:
    nothing, as far as it is known without the network. Nothing is connected; it blocks as ``ssh_config.effective`` does.
    """
    try:
        for hop in route(_hop(target)):
            hop.options(client_keys=None)
    except NotNowError:
        return ""
    except (asyncssh.Error, OSError, ValueError) as error:
        return str(error)
    return ""


async def _login(
    hop: Hop, at: SshTarget, through: asyncssh.SSHClientConnection | None, again: bool
) -> asyncssh.SSHClientConnection:
    doorkeeper = _Doorkeeper()
    try:
        doorkeeper.known = await asyncio.to_thread(known_hosts, hop.effective, at.known_hosts)
        options = await asyncio.to_thread(
            hop.options,
            **await asyncio.to_thread(keys, hop),
            client_factory=lambda: doorkeeper,
            agent_forwarding=False,
            connect_timeout=CONNECT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES,
            tunnel=through,
        )
        try:
            return await _connect(hop, options, doorkeeper.known, through)
        except asyncssh.HostKeyNotVerifiable:
            if not await asyncio.to_thread(doorkeeper.learns, hop, at):
                raise
        return await _connect(hop, options, doorkeeper.known, through)
    except (asyncssh.Error, OSError, ValueError) as error:
        if isinstance(error, socket.gaierror) and not again and (refusal := _unresolved(hop, error)):
            raise refusal from error
        raise _refusal(at, error, doorkeeper.story, again) from error


async def _connect(
    hop: Hop,
    options: asyncssh.SSHClientConnectionOptions,
    known: KnownHosts,
    through: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:
    if through is not None or not hop.proxy:
        return await asyncssh.connect(hop.host, options=options, known_hosts=known.all(), tunnel=through)
    sock, proxy = await open_proxy(hop.proxy)
    try:
        connection = await asyncssh.connect(hop.host, options=options, known_hosts=known.all(), sock=sock)
    except BaseException:
        proxy.close()
        raise
    connection.set_tunnel(proxy)
    return connection


class _Doorkeeper(asyncssh.SSHClient):
    """Refuses host keys that are not trusted, and keeps an explanation for the error message."""

    def __init__(self) -> None:
        self.known = KnownHosts()
        self.refused: tuple[str, str, int, asyncssh.SSHKey] | None = None
        self.story = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Never."""
        self.refused = (host, addr, port, key)
        accepted = self.known.accepted(host, addr, port)
        seen = key.get_fingerprint()
        if not accepted:
            self.story = f"its host key is not known ({seen} is not in {self.known})"
            return False
        entry = shlex.quote(host if port == 22 else f"[{host}]:{port}")
        expected = " or ".join(dict.fromkeys(k.get_fingerprint() for keys in accepted.values() for k in keys))
        files = [source for source in accepted if source != COMMAND]
        remedy = "; ".join(f"ssh-keygen -f {shlex.quote(file)} -R {entry}" for file in files)
        self.story = (
            f"its host key has changed: it is {seen} now, and {expected} in {' and '.join(accepted)}. "
            "Another machine may pretend to be this one. Only if you know why it changed, remove the old key: "
            f"{remedy or f'from what {COMMAND} prints'}"
        )
        return False

    def learns(self, hop: Hop, at: SshTarget) -> bool:
        """Does KnownHostsCommand know the key that was refused? It is asked again, as ssh does, now that the key is here."""
        if self.refused is None or at.known_hosts is not None:
            return False
        host, addr, port, key = self.refused
        if not ask(self.known, hop.effective, key):
            return False
        return any(key in keys for keys in self.known.accepted(host, addr, port).values())


def _unresolved(hop: Hop, error: socket.gaierror) -> CommunicationError | None:
    """A HostName of the configuration that does not resolve; None for a host that is meant by its own name."""
    real, where = hop.real_host
    if not where or real == hop.host.lower() or error.errno == socket.EAI_AGAIN:
        return None
    text = f"there is no host {real!r} ({error.strerror}), which {where} means by {hop.host}; correct that line"
    return CommunicationError(text, culprit=Culprit.USER)


def _refusal(target: SshTarget, error: Exception, story: str, again: bool) -> CommunicationError:
    node, by_hand = target.host, target.by_hand
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        advice = f"Log in by hand once and compare the fingerprint with the node's own: {by_hand}"
        return CommunicationError(f"{node} cannot be trusted: {story or error}. {advice}", culprit=Culprit.USER)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        advice = f"if known_hosts has only an old kind of key of it, log in by hand to learn the new one: {by_hand}"
        return CommunicationError(
            f"{node} has no SSH algorithm in common with us: {error}; {advice}", culprit=Culprit.USER
        )
    if isinstance(error, asyncssh.PermissionDenied):
        advice = f"let your key in (ssh-copy-id) or load it (ssh-add), until this asks nothing: {by_hand}"
        return CommunicationError(f"{node} refuses the login: {error}; {advice}", culprit=Culprit.USER)
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN and not again:
        return CommunicationError(
            f"there is no host {node!r} ({error.strerror}); correct its name", culprit=Culprit.USER
        )
    if isinstance(error, TimeoutError):
        return IPCTimeoutError(f"{node} does not answer: no login over SSH within {CONNECT_S:.0f} s")
    if isinstance(error, ValueError) or (isinstance(error, OSError) and error.filename):
        return CommunicationError(f"cannot log in to {node}: {error}", culprit=Culprit.USER)
    return CommunicationError(f"no connection to {node}: {error}")
