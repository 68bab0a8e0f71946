"""One node over SSH: the connection, the supervisor at its other end, and translated errors."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shlex
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path, PurePosixPath

from swarmtune.errors import CommunicationError, Culprit, IPCTimeoutError, SimulatorStopError
from swarmtune.execution import supervisor
from swarmtune.execution.executors import sftp
from swarmtune.execution.executors.ssh_login import SshTarget, asyncssh, login
from swarmtune.execution.executors.supervised import left_behind

PREPARE_S = 60.0  # for the upload of the supervisor and its first run
CLOSE_S = 5.0
STALLED_S = 120.0  # without progress, the connection is given up: a disk that hangs has no time-out of its own


class SshNode:
    """An open connection. Made by ``open_node``."""

    def __init__(self, target: SshTarget, connection: asyncssh.SSHClientConnection, files: asyncssh.SFTPClient) -> None:
        self.target = target
        self.connection = connection
        self.files = files
        self.root = PurePosixPath(target.work_dir)
        """The work_dir; absolute once ``prepare`` has run."""
        self._supervisor = ""

    async def prepare(self) -> None:
        """Upload the supervisor and run it once. CommunicationError, for the user, if that is not possible."""
        source = Path(supervisor.__file__).read_bytes()
        async with self.translated(f"cannot use work_dir = {self.target.work_dir!r}"):
            home = PurePosixPath(str(await self.files.realpath(".")))
            self.root = _from_home(home, self.target.work_dir)
            folder = self.root / "supervisor"
            file = folder / f"{hashlib.sha256(source).hexdigest()[:16]}.py"
            await sftp.make_private(self.files, folder)
            await self.files.chmod(str(folder), 0o700)  # also fails if it is not ours
            await sftp.write(self.files, file, source)
        python = self.target.python
        python = str(_from_home(home, python)) if python.startswith("~") else python
        self._supervisor = f"exec {shlex.join([python, '-I', str(file)])}"
        await self.sweep(())

    async def supervise(self) -> asyncssh.SSHClientProcess[bytes]:
        """Start a supervisor, which waits for its command."""
        opening = asyncio.ensure_future(
            self.connection.create_process(self._supervisor, stderr=asyncssh.STDOUT, encoding=None, request_pty=False)
        )
        try:
            async with self.translated("cannot start a command"):
                return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_let_go)
            raise

    async def sweep(self, tokens: Iterable[str]) -> None:
        """End the leftovers of these commands, and restore their files. SimulatorStopError if that fails."""
        async with self.translated("cannot run the supervisor"):
            done = await self.connection.run(
                f"{self._supervisor} --sweep {shlex.join(tokens)}",
                stdin=asyncssh.DEVNULL,
                stderr=asyncssh.STDOUT,
                errors="replace",
                request_pty=False,
            )
        output = str(done.stdout or "").strip()
        if done.exit_status is None:
            raise CommunicationError(f"the connection to {self.target.host} is lost")
        if '"swept"' in output and done.exit_status != 0:
            raise SimulatorStopError(
                f"leftovers of an earlier run could not all be removed on {self.target.host}: {left_behind(output)}",
                details={"tokens": sorted(tokens)},
            )
        if done.exit_status != 0:
            raise CommunicationError(
                f"{self.target.python} on {self.target.host} cannot run our supervisor: {output}; "
                "any Python from 3.8 on will do: install one there, or give its path",
                culprit=Culprit.USER,
            )

    @contextlib.asynccontextmanager
    async def translated(self, what: str) -> AsyncIterator[sftp.Moved]:
        """Translate errors of the library into CommunicationError: for the user if a path is wrong, else infrastructure.

        Yields a function to call on progress; without a call for STALLED_S the connection is closed.
        """
        patience = _Patience(self.connection.abort)
        try:
            yield patience.moved
        except sftp.GONE as error:
            text = f"{what} on {self.target.host}: no such file"
            raise CommunicationError(text, culprit=Culprit.USER) from error
        except (asyncssh.Error, OSError) as error:
            reason, culprit = str(error), Culprit.INFRASTRUCTURE
            if patience.lost:
                reason = f"nothing moved for {STALLED_S:g} s; does its disk hang?"
            elif isinstance(error, asyncssh.SFTPPermissionDenied):
                culprit = Culprit.USER
            elif isinstance(error, asyncssh.SFTPFailure) and await sftp.is_full(self.files, self.root):
                reason = f"no space is left in {self.root}"
            elif isinstance(error, asyncssh.ChannelOpenError) and not self.connection.is_closed():
                reason += "; its sshd allows no more sessions at a time (MaxSessions)"
            raise CommunicationError(f"{what} on {self.target.host}: {reason}", culprit=culprit) from error
        finally:
            patience.end()

    async def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.connection.wait_closed()
        except TimeoutError:
            self.connection.abort()


class _Patience:
    """Calls ``give_up`` after STALLED_S without a call of ``moved``."""

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.lost = False
        self._give_up = give_up
        self._alarm = asyncio.get_running_loop().call_later(STALLED_S, self._lose)

    def moved(self, *_: object) -> None:
        """Report progress."""
        if not self.lost:
            self.end()
            self._alarm = asyncio.get_running_loop().call_later(STALLED_S, self._lose)

    def end(self) -> None:
        """Stop watching."""
        self._alarm.cancel()

    def _lose(self) -> None:
        self.lost = True
        self._give_up()


async def open_node(target: SshTarget, again: bool = False) -> SshNode:
    """Log in and send the supervisor. CommunicationError: see ``login``; for the user also if work_dir or Python fail."""
    connection = await login(target, again)
    try:
        async with asyncio.timeout(PREPARE_S):
            node = SshNode(target, connection, await connection.start_sftp_client())
            await node.prepare()
            return node
    except BaseException as error:
        connection.abort()
        if isinstance(error, TimeoutError):
            raise IPCTimeoutError(
                f"{target.host} accepted the login, but was not ready after {PREPARE_S:.0f} s"
            ) from error
        if isinstance(error, (asyncssh.Error, OSError)):
            text = f"{target.host} offers no file transfer (Subsystem sftp in its sshd_config): {error}"
            raise CommunicationError(text) from error
        raise


def _from_home(home: PurePosixPath, path: str) -> PurePosixPath:
    if path.startswith("~") and not (path == "~" or path.startswith("~/")):
        raise CommunicationError(f"{path!r}: '~' is only your own home; write an absolute path", culprit=Culprit.USER)
    return home / path.removeprefix("~/") if path != "~" else home


def _let_go(opening: asyncio.Task[asyncssh.SSHClientProcess[bytes]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
