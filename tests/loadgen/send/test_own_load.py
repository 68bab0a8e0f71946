"""What a worker records of itself, and the memory that it keeps."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from swarmtune.loadgen.records import WorkerFacts
from swarmtune.loadgen.send.ownload import OwnLoad, memory_kept


def locked_kib() -> int:
    """Memory of this process that the kernel may not take away."""
    found = re.search(r"VmLck:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def test_memory_is_kept_as_long_as_the_run_lasts_and_the_kernel_lets_us() -> None:
    allowed = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    before = locked_kib()
    with memory_kept():
        assert locked_kib() > before or not allowed
    assert locked_kib() == 0


def test_pages_that_were_there_cost_no_wait_for_the_disk() -> None:
    facts, load = WorkerFacts("worker-0", "native", kernel_stamps=True), OwnLoad()
    load.look(facts)
    assert facts.page_faults <= 1  # nothing has happened since the load began; another program may have taken a page
