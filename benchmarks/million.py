"""A million requests through the load generator in one process; started by loadgen.py --part million."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.exports.report import report
from swarmtune.loadgen.run import LoadRun, RunPart


def peak_mb() -> float:
    """Resident memory at its highest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(port: str, folder: str, requests: str) -> int:
    """Run, and print what it took as JSON."""
    begun = time.monotonic()
    options = {"concurrency": 100, "request_count": int(requests), "isl": 16, "osl": 2}
    spec = Spec.model_validate({"url": f"http://127.0.0.1:{port}", "model": "mock", "options": options})
    run = LoadRun(RunPart(spec, Path(folder)))
    run.prepare()
    ready = time.monotonic()
    run.execute()
    ran, ran_mb = time.monotonic(), peak_mb()
    records = run.collected()
    read, read_mb = time.monotonic(), peak_mb()
    made = report(spec, records)
    done = time.monotonic()
    found = {
        "requests": len(records.requests),
        "completed": made.results.scalars["completed"],
        "start_up_s": ready - begun,
        "run_s": ran - ready,
        "requests_per_s": len(records.requests) / (ran - ready),
        "reading_the_answers_s": read - ran,
        "results_s": done - read,
        "peak_memory_recording_mb": ran_mb,
        "peak_memory_reading_mb": read_mb,
        "peak_memory_results_mb": peak_mb(),
        "spool_mb": run.spool.stat().st_size / 2**20,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
