"""Which class serves under which name. Adding a service is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.dataset_manager import DatasetManager
from swarmtune.loadgen.distributed.post_processor import PostProcessor
from swarmtune.loadgen.distributed.records_manager import RecordsManager
from swarmtune.loadgen.distributed.service import DATA, POST, RECORDS, TIMING, WORKERS, Service
from swarmtune.loadgen.distributed.timing_manager import TimingManager
from swarmtune.loadgen.distributed.worker import Worker
from swarmtune.loadgen.distributed.worker_manager import WorkerManager

MANAGERS: Mapping[str, type[Service]] = {
    DATA: DatasetManager,
    TIMING: TimingManager,
    WORKERS: WorkerManager,
    RECORDS: RecordsManager,
    POST: PostProcessor,
}


def make_service(bus: Bus, name: str, place: Path, descriptor: int = -1, clock_offset_ns: int = 0) -> Service:
    """A manager by its name; every other name is that of a worker, whose bus hears its parent over ``descriptor``."""
    if name in MANAGERS:
        return MANAGERS[name](bus, name, place)
    return Worker(bus, name, place, descriptor, clock_offset_ns)
