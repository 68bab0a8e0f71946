"""``--run-type single``: one worker, in this process."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed import OnProgress
from swarmtune.loadgen.distributed.signals import interruptible
from swarmtune.loadgen.observe.observing import discard, observed, observing
from swarmtune.loadgen.records import Records
from swarmtune.loadgen.run import LoadRun, RunPart
from swarmtune.loadgen.send.sender import Observer


def run_single(spec: Spec, directory: Path, on_progress: OnProgress) -> Records:
    """See distributed.run."""
    directory.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="worker-", dir=directory))
    try:
        run = LoadRun(RunPart(spec, place, observer=Observer(lambda p: on_progress(replace(p)))))
        try:
            with interruptible(run.sender.stop):
                with observing(spec, directory):
                    run.prepare()
                    run.execute()
                return replace(run.collected(), observed=observed(spec, directory))
        finally:
            run.close()
            discard(directory)
    finally:
        shutil.rmtree(place, ignore_errors=True)
