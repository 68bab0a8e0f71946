"""``swarmtune bench-worker``: lend this machine to a ``swarmtune bench --listen`` on another one."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the controller is, and how much of this machine it may have."""
    parser.add_argument("address", metavar="tcp://HOST:PORT", help="what swarmtune bench --listen printed")
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        default="swarmtune-bench.key",
        help="copy of the controller's key file (default %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes that send (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Serve one run; the exit code."""
    from swarmtune.loadgen.distributed import serve_host

    with tempfile.TemporaryDirectory(prefix="swarmtune-bench-") as folder:
        notes = lambda note: print(note, file=sys.stderr)  # noqa: E731
        serve_host(arguments.address, Path(arguments.key_file), arguments.workers, Path(folder), notes)
    return 0
