"""Load from several processes and machines. Who does what:

SystemController: the run from its start to its end; watches all others. DatasetManager: the fingerprint of the data.
WorkerManager (one per machine): worker processes. WorkerService (one per process): a Worker. TimingManager: credits
and the common start. RecordsManager: brings together what all have recorded. PostProcessor: results, verdict and
files of that. They speak over a Bus, in messages.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.records import Records

if TYPE_CHECKING:
    from swarmtune.loadgen.exports.report import Report

RunType = Literal["single", "process", "distributed"]
PhaseName = Literal["waiting for hosts", "starting", "warming up", "measuring", "stopping", "collecting"]


@dataclass(frozen=True)
class Overview:
    """How far a run is: sums over all workers. ``notes``: what people should know, since the beginning."""

    phase: PhaseName
    workers: int = 0
    sent: int = 0
    ended: int = 0
    failed: int = 0
    in_flight: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remote:
    """Workers on other machines. ``address`` to listen on: tcp://HOST:PORT; ``token``: file of the keys, made if missing.

    ``listening`` is told the real address (port 0: any).
    """

    address: str
    hosts: int
    token: Path
    wait_s: float = 600.0  # for all hosts to come
    listening: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Patience:
    """With services that give no sign of life, seconds: until it is told, and until they count as dead."""

    tell_s: float = 10.0
    dead_s: float = 30.0


OnProgress = Callable[[Overview], None]


def run(
    spec: Spec,
    workers: int,
    directory: Path,
    on_progress: OnProgress = lambda _: None,
    *,
    remote: Remote | None = None,
    run_type: RunType | None = None,
    patience: Patience = Patience(),
) -> Records:
    """Run ``spec`` with so many worker processes here, and with those of ``remote``; everything that was recorded.

    ``on_progress`` is called a few times per second. ``run_type`` "single": one worker, in this process; default: what
    ``workers`` and ``remote`` say. SIGINT or SIGTERM (if this is the main thread) ends the run: the records are partial,
    with ``interrupted``; a second one raises KeyboardInterrupt. A worker that dies during the measurement leaves a note in
    its WorkerFacts, which makes the run invalid.

    ConfigurationError: bad data, or other data on another host. CommunicationError: the endpoint cannot be reached, or a
    host did not come. BenchmarkExecutionError: workers died before the measurement. OSError: the disk is full.
    """
    from swarmtune.errors import ConfigValidationError

    if run_type == "single":
        if workers > 1 or remote:
            raise ConfigValidationError(["--run-type single has one worker and no hosts; use process or distributed"])
        from swarmtune.loadgen.distributed.single import run_single

        return run_single(spec, directory, on_progress)
    if (run_type == "distributed") != (remote is not None) and run_type is not None:
        raise ConfigValidationError(["--run-type distributed and --listen go together"])
    if workers < 1 and not (remote and remote.hosts > 0):
        raise ConfigValidationError(["a run needs at least one worker"])
    from swarmtune.loadgen.distributed.controller import Plan, SystemController

    return SystemController(Plan(spec, workers, directory, on_progress, remote, patience)).execute()


def process(spec: Spec, records: Records, directory: Path, formats: tuple[str, ...], command: str = "") -> Report:
    """What comes after a run: results, verdict, files. See PostProcessor."""
    from swarmtune.loadgen.distributed.bus import Bus
    from swarmtune.loadgen.distributed.post_processor import PostProcessor

    processor = PostProcessor(Bus(), spec)
    processor.initialize()
    processor.configure()
    processor.start()
    try:
        return processor.process(records, directory, formats, command)
    finally:
        processor.stop()
        processor.clean()


def serve_host(
    address: str,
    token: Path,
    workers: int,
    directory: Path,
    on_note: Callable[[str], None] = lambda _: None,
    *,
    wait_s: float = 60.0,
    patience: Patience = Patience(),
    clock_offset_ns: int = 0,
) -> None:
    """``swarmtune bench-worker``: give ``workers`` processes of this machine to the controller at ``address``, for one run.

    ``wait_s``: for the controller to take this host. ``clock_offset_ns``: for tests, lets this machine's clock look wrong.
    CommunicationError if the controller cannot be reached, refuses the token, or is lost; ConfigPathError: see Token.read.
    """
    from swarmtune.loadgen.distributed.host import Host, Lent

    Host(Lent(address, token, workers, directory, on_note, patience, clock_offset_ns)).serve(wait_s)
