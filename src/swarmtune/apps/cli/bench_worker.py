"""``swarmtune bench-worker``: send load from this machine for ``swarmtune bench --listen`` elsewhere."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The controller's address, and the number of workers on this machine."""
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
