"""The process of one service, named after it: ``python -P -m swarmtune.loadgen.distributed.process``.

It ends with its parent: by PR_SET_PDEATHSIG where there is that, and because its end of the socket tells it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.links import SocketLink
from swarmtune.loadgen.distributed.service import BEAT_S, CONTROLLER, Service
from swarmtune.loadgen.distributed.services import make_service

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h


def bind_to_parent(parent: int, name: str) -> None:
    """Take this name in ps, and die with the parent. (Linux; elsewhere the socket alone tells of its end.)"""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def serve(service: Service) -> None:
    """Until it is dismissed. A thread gives the signs of life while the main thread is busy with one command."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            if not service.beats_itself:
                service.beat()

    service.initialize()
    service.beat()
    threading.Thread(target=beat, daemon=True).start()
    try:
        while not service.dismissed:
            service.bus.wait(BEAT_S)
    finally:
        over.set()
        service.clean()
        service.bus.close()


def main() -> None:
    """Serve until the parent says that it is enough, or is gone."""
    parser = argparse.ArgumentParser(prog="swarmtune.loadgen.distributed.process", description="started by Children")
    parser.add_argument("--service", required=True)
    parser.add_argument("--descriptor", required=True, type=int)
    parser.add_argument("--parent", required=True, type=int)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--clock-offset-ns", type=int, default=0, help="for tests: lets its clock look wrong")
    given = parser.parse_args()
    bind_to_parent(given.parent, given.service)
    parent = SocketLink(socket.socket(fileno=given.descriptor))
    bus = Bus(on_lost=lambda link: os._exit(1) if link is parent else None)
    bus.attach(parent, CONTROLLER, SocketLink.PEER)
    serve(make_service(bus, given.service, given.directory, given.descriptor, given.clock_offset_ns))


if __name__ == "__main__":
    main()
