"""``--run-type single``: one worker, in this process."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed import OnProgress, Overview
from swarmtune.loadgen.distributed.signals import interruptible
from swarmtune.loadgen.records import Records
from swarmtune.loadgen.run import Part, WorkerRun
from swarmtune.loadgen.send.worker import Progress, Watch


def run_single(spec: Spec, directory: Path, on_progress: OnProgress) -> Records:
    """See services.run."""

    def tick(p: Progress) -> None:
        phase = Overview("warming up" if p.warming_up else "measuring", 1, p.sent, p.ended, p.failed, p.in_flight)
        on_progress(phase)

    directory.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="worker-", dir=directory))
    try:
        run = WorkerRun(Part(spec, place, watch=Watch(tick)))
        try:
            with interruptible(run.worker.stop):
                run.prepare()
                run.execute()
                return run.collected()
        finally:
            run.close()
    finally:
        shutil.rmtree(place, ignore_errors=True)
