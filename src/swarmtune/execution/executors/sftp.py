"""Files of a node over SFTP: private folders, paths that stay where they belong, copies that appear in one step."""

from __future__ import annotations

import contextlib
import logging
import stat
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath
from typing import cast

from swarmtune.errors import CommunicationError, Culprit, IPCCommandError
from swarmtune.execution import supervisor
from swarmtune.execution.executors.ssh_login import asyncssh

FOLDER = asyncssh.SFTPAttrs(permissions=0o700)
BLOCK_BYTES, BLOCKS = 32 * 1024, 16  # at most in flight: on a slow line everything else, leases too, waits behind them
Moved = Callable[..., None]
"""Called whenever a copy has made progress."""
GONE = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)


class _AbandonedBlocks(logging.Filter):
    """When a connection is lost, asyncssh forgets the blocks of a copy that were under way; the copy itself says so."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass every other record."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncssh.SFTPConnectionLost))


logging.getLogger("asyncio").addFilter(_AbandonedBlocks())


async def make_private(sftp: asyncssh.SFTPClient, folder: PurePosixPath) -> None:
    """Create the folder and what lies above it, readable by the owner only; those that exist stay as they are."""
    if await sftp.isdir(str(folder)):
        return
    if folder.parent != folder:
        await make_private(sftp, folder.parent)
    try:
        await sftp.mkdir(str(folder), FOLDER)
    except asyncssh.SFTPError:  # somebody was faster; version 3 has no word of its own for that
        if not await sftp.isdir(str(folder)):
            raise


async def inside(sftp: asyncssh.SFTPClient, root: PurePosixPath, path: str) -> PurePosixPath:
    """An absolute path as it is; a relative one below ``root``. IPCCommandError if a link or ".." leads out of it."""
    if PurePosixPath(path).is_absolute():
        return PurePosixPath(path)
    target, missing = root / path, PurePosixPath()
    while target != root and not await sftp.lexists(str(target)):
        target, missing = target.parent, target.name / missing
    target = await _real(sftp, target)
    if ".." not in PurePosixPath(path).parts and target.is_relative_to(await _real(sftp, root)):
        return target / missing
    raise IPCCommandError(f"{path!r} leads out of {root}; use an absolute path", culprit=Culprit.USER)


async def _real(sftp: asyncssh.SFTPClient, path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(str(await sftp.realpath(str(path))))


async def write(sftp: asyncssh.SFTPClient, path: PurePosixPath, content: bytes) -> None:
    """Write a file, readable by the owner only, in one step."""
    async with _fresh(sftp, path) as fresh:
        attributes = asyncssh.SFTPAttrs(permissions=0o600)
        async with sftp.open(fresh, "xb", attributes) as file:
            await file.write(content)


async def tail(sftp: asyncssh.SFTPClient, path: str, size_bytes: int) -> bytes:
    """The end of a file; empty if the file does not exist."""
    try:
        async with sftp.open(path, "rb") as file:
            size = (await file.stat()).size or 0
            return cast("bytes", await file.read(size_bytes, max(0, size - size_bytes)))  # the mode says so
    except GONE:
        return b""


async def put(sftp: asyncssh.SFTPClient, source: Path, target: PurePosixPath, moved: Moved) -> None:
    """Copy a file or folder to the node; links stay links, those in the way are replaced."""
    if source.is_dir() and not source.is_symlink():
        if await sftp.islink(str(target)):
            await sftp.unlink(str(target))
        await make_private(sftp, target)
        for entry in source.iterdir():
            await put(sftp, entry, target / entry.name, moved)
            moved()
        return
    async with _fresh(sftp, target) as fresh:
        if source.is_symlink():
            await sftp.symlink(str(source.readlink()), fresh)
        elif source.is_file():
            await sftp.put(
                str(source), fresh, preserve=True, block_size=BLOCK_BYTES, max_requests=BLOCKS, progress_handler=moved
            )
        else:
            raise _strange(source)


async def get(sftp: asyncssh.SFTPClient, source: PurePosixPath, target: Path, moved: Moved) -> None:
    """Copy a file or folder from the node; links stay links, those in the way are replaced."""
    mode = (await sftp.lstat(str(source))).permissions or 0
    if stat.S_ISDIR(mode):
        if target.is_symlink():
            target.unlink()
        supervisor.make_private(target)
        for name in map(str, await sftp.listdir(str(source))):
            if name not in (".", ".."):
                await get(sftp, source / name, target / Path(name).name, moved)
                moved()
        return
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        if stat.S_ISLNK(mode):
            fresh.symlink_to(str(await sftp.readlink(str(source))))
        elif stat.S_ISREG(mode):
            await sftp.get(
                str(source),
                str(fresh),
                preserve=True,
                block_size=BLOCK_BYTES,
                max_requests=BLOCKS,
                progress_handler=moved,
            )
        else:
            raise _strange(source)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _fresh(sftp: asyncssh.SFTPClient, path: PurePosixPath) -> AsyncIterator[str]:
    """A temporary name beside ``path`` that replaces it at the end; removed if that fails."""
    fresh = str(path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
    try:
        yield fresh
        await sftp.posix_rename(fresh, str(path))
    except BaseException:
        with contextlib.suppress(asyncssh.Error, OSError):
            await sftp.unlink(fresh)
        raise


async def is_full(sftp: asyncssh.SFTPClient, folder: PurePosixPath) -> bool:
    """Is the disk full? SFTP itself only says "Failure" then."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(asyncssh.Error, OSError):
            room = await sftp.statvfs(str(place))
            return not room.bavail or (bool(room.files) and not room.favail)
    return False


def _strange(path: Path | PurePosixPath) -> CommunicationError:
    return CommunicationError(f"{path} is neither a file nor a folder nor a link", culprit=Culprit.USER)
