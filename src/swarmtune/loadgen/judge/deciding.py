"""End a run as soon as the rest of it cannot matter: a process of its own reads the spool as it grows, with low priority,
and tells the sender when it has seen enough. Asked for by ``stop_when_decided`` or the spec's ``early_stop``.

``python -m swarmtune.loadgen.judge.deciding SPEC SPOOL`` prints one line when the question is decided.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.judge.decision import LimitDecision, decided
from swarmtune.loadgen.judge.early import early_stop
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.spool import SpoolReader
from swarmtune.loadgen.records import Outcome, Phase, Records
from swarmtune.loadgen.send.plan import least_requests_of, longest_s, mode_of
from swarmtune.loadgen.send.sender import Sender
from swarmtune.records import EarlyStop

SPEC_FILE = "deciding.json"
LOOK_S = 0.5
FIRST_LOOK_S = 5.0  # of early stopping: a shorter run is not worth the start of a process
LONGEST_LINE = 4096
NICE = 10
MORE = 1.5  # times as many requests as at the last test for a trend, until the next

# It gives way to the load generator before it imports anything.
START = """
import os, runpy, sys
os.nice(int(sys.argv.pop(1)))
runpy.run_module("swarmtune.loadgen.judge.deciding", run_name="__main__")
"""

ANSWER = msgspec.json.Decoder(EarlyStop | None)


@dataclass
class Told:
    """The answer of the process; ``early_stop`` None: none yet, or a limit of goodput was decided."""

    early_stop: EarlyStop | None = None


@contextlib.contextmanager
def deciding(spec: Spec, spool: Path, sender: Sender) -> Iterator[Told]:
    """While this lasts, the sender finishes when the question is decided; nothing if the spec does not ask for it."""
    told = Told()
    asked = spec.options.stop_when_decided and spec.request_slos
    if not asked and spec.early_stop is None:
        yield told
        return
    path = spool.with_name(SPEC_FILE)
    path.write_text(spec.to_json())
    command = [sys.executable, "-P", "-c", START, str(NICE), str(path), str(spool)]
    told_by, tells = os.pipe()
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=tells))

    def heard() -> None:
        if line := os.read(told_by, LONGEST_LINE):
            told.early_stop = ANSWER.decode(line)
            if told.early_stop is None or told.early_stop.done:
                sender.finish()
        sender.unfollow(told_by)  # it says one thing only

    sender.follow(told_by, heard)
    later = threading.Timer(LOOK_S if asked else FIRST_LOOK_S, start)  # a short run must not share its cores
    later.start()
    try:
        yield told
    finally:
        later.cancel()
        later.join()
        for process in started:
            if process.stdin is not None:
                process.stdin.close()  # it ends when its input ends
            process.wait()
        os.close(told_by)
        os.close(tells)
        path.unlink(missing_ok=True)


class Looker:
    """Evaluates a growing spool again and again."""

    def __init__(self, spec: Spec, reader: SpoolReader) -> None:
        self._spec = spec
        self._reader = reader
        self._in_flight: list[int] = []
        self._trend_at = 0

    def look(self) -> EarlyStop | LimitDecision | None:
        """The decision so far; None: it is still open."""
        self._reader.advance()
        requests, chunks, errors = self._reader.columns()
        ended = requests[requests["phase"] == Phase.MEASURED]
        records = Records(ended, chunks.copy(), errors, [], 0, 0, 0)
        del requests, chunks  # views of what is about to grow
        spec, options = self._spec, self._spec.options
        if options.stop_when_decided and spec.request_slos:
            share, confidence = options.slo_attainment_fraction, options.confidence_level
            found = decided(self._with_running(records), spec.request_slos, share=share, confidence=confidence).answer
            if found is not LimitDecision.OPEN:
                return found
        if spec.early_stop is None or not len(ended):
            return None
        self._in_flight.append(self._reader.in_flight)
        run_s = None
        if len(ended) >= self._trend_at:  # looks at a trend are few: they are not corrected for
            self._trend_at, run_s = round(MORE * len(ended)), _expected_s(options)
        return early_stop(records, spec.early_stop, dict(spec.request_slos), self._in_flight, run_s)

    def _with_running(self, records: Records) -> Records:
        running = np.zeros(self._reader.in_flight, records.requests.dtype)
        running["phase"], running["outcome"], running["error"] = Phase.MEASURED, Outcome.INCOMPLETE, -1
        return replace(records, requests=np.concatenate([records.requests, running]))


def _expected_s(options: LoadgenOptions) -> float | None:
    """How long a run at a rate will last; None for another load."""
    if options.request_rate is None or mode_of(options) != "rate":
        return None
    counted = math.inf if options.request_count is None else options.request_count / options.request_rate
    least = least_requests_of(options) / options.request_rate
    expected = min(counted, longest_s(options) or math.inf, max(least, options.benchmark_duration or math.inf))
    return expected if math.isfinite(expected) else None


def main(arguments: list[str]) -> int:
    """See the module."""
    spec_path, spool = arguments
    spec = Spec.read(Path(spec_path))
    looker = Looker(spec, SpoolReader(Path(spool), make_endpoint(spec.model, spec.options)))
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        found = looker.look()
        if found is not None:
            print(msgspec.json.encode(found if isinstance(found, EarlyStop) else None).decode(), flush=True)  # noqa: T201 - its parent reads it
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
