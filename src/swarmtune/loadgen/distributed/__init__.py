"""Distributed: load from several processes and machines. The services and their work:

SystemController: the run from its start to its end; watches all others. DatasetManager: the data and their fingerprint.
WorkerManager (one per machine): worker processes. Worker (one per process): sends. TimingManager: credits, clocks, the
common start. RecordsManager: brings together what all have recorded. PostProcessor: results, certificate and files of
that. They speak in messages.py over a Bus. A manager lives in the controller's process or in its own: nothing differs
but its bus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.records import Progress, Records

if TYPE_CHECKING:
    from swarmtune.loadgen.exports.report import Report

RunType = Literal["single", "process", "distributed"]


@dataclass(frozen=True)
class Remote:
    """Workers on other machines. ``address`` to listen on: tcp://HOST:PORT; ``token``: file of the keys, made if missing.

    ``listening`` is called with the real address (port 0: any).
    """

    address: str
    hosts: int
    token: Path
    wait_s: float = 600.0  # for all hosts to come
    listening: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Patience:
    """How long a service may be silent, s: until it is reported, and until the service counts as dead."""

    tell_s: float = 10.0
    dead_s: float = 30.0


@dataclass(frozen=True)
class Output:
    """The files that a run leaves: their folder, their formats, and the command line that they name."""

    directory: Path
    formats: tuple[str, ...]
    command: str = ""


OnProgress = Callable[[Progress], None]


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

    ``on_progress`` is called a few times per second. ``run_type`` "single": one worker, and all in this process; "process":
    every service in a process of its own, named after it; default: workers in their own, the managers here. SIGINT or
    SIGTERM (if this is the main thread) ends the run: the records are partial, with ``interrupted``; a second one raises
    KeyboardInterrupt. A worker that dies during the measurement leaves a note in its WorkerFacts, which makes the run
    invalid. However it ends, no process and no file of it stays.

    ConfigurationError: bad data, or other data on another host. CommunicationError: the endpoint cannot be reached, or a
    host did not come. BenchmarkExecutionError: workers died before the measurement, or a manager did. OSError: the disk is
    full.
    """
    if _is_single(run_type, workers, remote):
        from swarmtune.loadgen.distributed.single import run_single

        return run_single(spec, directory, on_progress)
    from swarmtune.loadgen.distributed.controller import RunSettings, SystemController

    apart = run_type == "process"
    return SystemController(RunSettings(spec, workers, directory, on_progress, remote, patience, apart)).execute()


def measure(
    spec: Spec,
    workers: int,
    output: Output,
    on_progress: OnProgress = lambda _: None,
    *,
    remote: Remote | None = None,
    run_type: RunType | None = None,
) -> Report:
    """As ``run``, and then the results, the certificate and the files. ConfigPathError if those cannot be written."""
    if _is_single(run_type, workers, remote):
        from swarmtune.loadgen.distributed.single import run_single
        from swarmtune.loadgen.exports.report import report, write_files

        made = report(spec, run_single(spec, output.directory, on_progress), output.command)
        write_files(made, output.directory, output.formats)
        return made
    from swarmtune.loadgen.distributed.controller import RunSettings, SystemController

    settings = RunSettings(spec, workers, output.directory, on_progress, remote, apart=run_type == "process")
    return SystemController(settings).report(output)


def _is_single(run_type: RunType | None, workers: int, remote: Remote | None) -> bool:
    """ConfigValidationError: the options contradict each other."""
    from swarmtune.errors import ConfigValidationError

    if run_type == "single" and (workers > 1 or remote):
        raise ConfigValidationError(["--run-type single has one worker and no hosts; use process or distributed"])
    if run_type == "distributed" and remote is None:
        raise ConfigValidationError(["--run-type distributed and --listen go together"])
    if workers < 1 and not (remote and remote.hosts > 0):
        raise ConfigValidationError(["a run needs at least one worker"])
    return run_type == "single"


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
