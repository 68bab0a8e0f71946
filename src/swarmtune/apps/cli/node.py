"""``swarmtune node``: run commands on this machine for a tuner that shares only a file system with it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import socket
import sys
from pathlib import Path

from swarmtune.apps.cli import EXIT_DONE
from swarmtune.clock import RealClock
from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.files import refuse_planted

NAME = re.compile(r"[A-Za-z0-9:_][A-Za-z0-9:._-]{0,252}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--shared", metavar="FOLDER", required=True, help="folder that this machine and the tuner's both see"
    )
    parser.add_argument(
        "--name", metavar="NODE", default=socket.gethostname(), help="this node (default: its host name)"
    )
    parser.add_argument(
        "--work-dir", metavar="FOLDER", default="~/.swarmtune", help="where commands run, on a disk of this machine"
    )


def run(args: argparse.Namespace) -> int:
    """Serve tuners until SIGINT or SIGTERM."""
    shared = Path(args.shared).expanduser()
    if not shared.is_dir():
        raise ConfigPathError(f"{shared}: no such folder; create it where the tuner's machine sees it, too")
    if not NAME.fullmatch(args.name):
        text = "a node is named like its host: letters, digits, dots, dashes, underscores, colons"
        raise ConfigValidationError([f"--name {args.name!r:.100}: {text}"])
    try:
        refuse_planted(shared)
    except PermissionError as error:
        raise ConfigPathError(
            f"{shared}: {error.strerror}, who could lead it elsewhere: name the folder itself."
        ) from error
    folder, root = shared / args.name, Path(args.work_dir).expanduser() / "node"
    print(f"serving as {folder.name} in {shared}; Ctrl-C ends it and all that it runs", file=sys.stderr)
    asyncio.run(_serve(folder, root))
    return EXIT_DONE


async def _serve(folder: Path, root: Path) -> None:
    from swarmtune.execution.executors.node_agent import serve

    work = asyncio.ensure_future(serve(folder, root, RealClock()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work
