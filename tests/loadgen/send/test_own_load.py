"""What a worker records of itself, and the memory that it keeps."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from swarmtune.loadgen.records import WorkerFacts
from swarmtune.loadgen.send.ownload import OwnLoad, memory_kept


def locked_kib() -> int:
    """Memory of this process that the kernel may not take away."""
    found = re.search(r"VmLck:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


LIMIT = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


@pytest.mark.skipif(os.geteuid() != 0 and LIMIT != resource.RLIM_INFINITY, reason="this user may keep little memory")
def test_memory_is_kept_as_long_as_the_run_lasts() -> None:
    with memory_kept():
        assert locked_kib() > 1024
    assert locked_kib() == 0


def test_waits_for_the_disk_are_counted_from_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((5, 5, 12))
    monkeypatch.setattr("swarmtune.loadgen.send.ownload._page_faults", lambda: next(counts))
    facts, load = WorkerFacts("worker-0", "native", kernel_stamps=True), OwnLoad()
    seen = []
    for _ in range(3):
        load.look(facts)
        seen.append(facts.page_faults)
    assert seen == [0, 0, 7]
