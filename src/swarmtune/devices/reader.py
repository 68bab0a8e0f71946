"""The reader's process, as seen by whoever starts it."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from swarmtune.devices.parties import ServiceMark

START_S = 10.0  # a reader that is not ready by then is not waited for
END_S = 5.0  # for the last readings; then the process is killed


@dataclass(frozen=True)
class Wanted:
    """What to read: this machine's devices with these indices (None: all), and Prometheus addresses.

    ``service``: what the processes of the service on this machine are known by, to read what others take from it.
    """

    here: bool = False
    devices: tuple[int, ...] | None = None
    urls: tuple[str, ...] = ()
    service: ServiceMark | None = None


@contextlib.contextmanager
def reading(wanted: Wanted, spool: Path) -> Iterator[None]:
    """While the body runs, a process of its own reads, and writes to ``spool``; see ``spool.read_spool``.

    The body begins when each source has been tried once. However it ends, the process has ended then; it also ends by
    itself when this process dies. Nothing of it is an error here: a reader that does not start leaves no readings.
    """
    if not (wanted.here or wanted.urls):
        yield
        return
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "swarmtune.devices"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        yield
        return
    try:
        _begin(process, wanted, spool)
        yield
    finally:
        _end(process)


def _begin(process: subprocess.Popen[bytes], wanted: Wanted, spool: Path) -> None:
    assert process.stdin is not None  # noqa: S101 - they are pipes
    assert process.stdout is not None  # noqa: S101
    asked = {
        "spool": str(spool),
        "here": wanted.here,
        "devices": wanted.devices,
        "urls": wanted.urls,
        "service": None if wanted.service is None else asdict(wanted.service),
    }
    with contextlib.suppress(OSError):
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        if select.select([process.stdout], [], [], START_S)[0]:
            process.stdout.readline()


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
