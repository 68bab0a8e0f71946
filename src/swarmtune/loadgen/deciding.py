"""End a run as soon as it is sure whether enough requests keep the limits: a process of its own reads the spool as it grows,
with low priority, and tells the worker when it has seen enough.

``python -m swarmtune.loadgen.deciding SPEC SPOOL`` prints one line when the question is decided.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.records import Outcome, Phase, Records
from swarmtune.loadgen.results.decision import Verdict, decided
from swarmtune.loadgen.spec import Spec
from swarmtune.loadgen.spool import SpoolReader
from swarmtune.loadgen.worker import Worker

SPEC_FILE = "deciding.json"
LOOK_S = 0.5
NICE = 10


@contextlib.contextmanager
def deciding(spec: Spec, spool: Path, worker: Worker) -> Iterator[None]:
    """While this lasts, the worker finishes when the question is decided; nothing if the spec does not ask for it."""
    if not spec.options.stop_when_decided or not spec.request_slos:
        yield
        return
    path = spool.with_name(SPEC_FILE)
    path.write_text(spec.to_json())
    command = [sys.executable, "-P", "-m", "swarmtune.loadgen.deciding", str(path), str(spool)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a pipe was asked for")
    output = process.stdout

    def heard() -> None:
        if os.read(output.fileno(), 100):
            worker.finish()
        worker.unfollow(output.fileno())  # it says one thing only

    worker.follow(output.fileno(), heard)
    try:
        yield
    finally:
        process.stdin.close()  # it ends when nobody is interested any more
        process.wait()
        output.close()
        path.unlink(missing_ok=True)


def look(spec: Spec, reader: SpoolReader) -> Verdict:
    """What is sure by now."""
    reader.advance()
    requests, chunks, errors = reader.columns()
    running = np.zeros(reader.in_flight, requests.dtype)
    running["phase"], running["outcome"], running["error"] = Phase.MEASURED, Outcome.INCOMPLETE, -1
    records = Records(np.concatenate([requests, running]), chunks.copy(), errors, [], 0, 0, 0)
    del requests, chunks  # views of what is about to grow
    options = spec.options
    share, confidence = options.slo_attainment_fraction, options.confidence_level
    return decided(records, spec.request_slos, share=share, confidence=confidence).verdict


def main(arguments: list[str]) -> int:
    """See the module."""
    spec_path, spool = arguments
    spec = Spec.read(Path(spec_path))
    os.nice(NICE)
    reader = SpoolReader(Path(spool), make_endpoint(spec.model, spec.options))
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        verdict = look(spec, reader)
        if verdict is not Verdict.OPEN:
            print(verdict.value, flush=True)  # noqa: T201 - whoever started us reads it
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
