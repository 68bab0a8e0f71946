"""End a run as soon as the rest of it cannot matter: a process of its own reads the spools of all workers as they grow, with
low priority, and says when it has seen enough. Asked for by ``stop_when_decided`` or the spec's ``early_stop``.

It decides on what all workers have recorded up to the last moment of which each of them has told. So a worker that tells
late delays the decision, and cannot turn it.

``python -m swarmtune.loadgen.judge.deciding SPEC SPOOL...`` prints one line when the question is decided.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarmtune.files import created
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.judge.decision import LimitDecision, decided
from swarmtune.loadgen.judge.early import early_stop
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.spool import SpoolReader
from swarmtune.loadgen.read.tokenizer import counter
from swarmtune.loadgen.records import Outcome, Phase, Records
from swarmtune.loadgen.send.plan import least_requests_of, longest_s, mode_of
from swarmtune.records import EarlyStop

SPEC_FILE = "deciding.json"
LOOK_S = 0.5
FIRST_LOOK_S = 5.0  # of early stopping: a shorter run is not worth the start of a process
LEAVE_S = 2.0  # to end by itself; it may be behind with its reading
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
class Answer:
    """What the process has said. ``early_stop`` None: nothing yet, or a limit of goodput was decided.

    ``descriptor`` can be read when there is an answer; None: no process is asked. ``enough`` is called when the run may end.
    """

    enough: Callable[[], None] = lambda: None
    descriptor: int | None = None
    early_stop: EarlyStop | None = None

    def read(self) -> None:
        """Take the answer, if it has come."""
        if self.descriptor is None or not select.select([self.descriptor], [], [], 0)[0]:
            return
        line = os.read(self.descriptor, LONGEST_LINE).strip()
        if not line:  # the end of the line: a Python without buffers writes it on its own
            return
        self.early_stop = ANSWER.decode(line)
        if self.early_stop is None or self.early_stop.done:
            self.enough()


def asks(spec: Spec) -> bool:
    """Does this spec ask for an end as soon as the question is decided?"""
    return _asks_for_limits(spec) or spec.early_stop is not None


def _asks_for_limits(spec: Spec) -> bool:
    return bool(spec.options.stop_when_decided and spec.request_slos)


@contextlib.contextmanager
def deciding(spec: Spec, spools: Sequence[Path], folder: Path, enough: Callable[[], None]) -> Iterator[Answer]:
    """While this lasts, the question is looked at, if the spec asks for it and there are spools; see ``Answer``.

    ``folder``: for a file of its own, which is gone afterwards, as is the process.
    """
    answer = Answer(enough)
    if not asks(spec) or not spools:
        yield answer
        return
    path = folder / SPEC_FILE
    with created(path, "w") as file:  # it may hold a key
        file.write(spec.to_json())
    command = [sys.executable, "-P", "-c", START, str(NICE), str(path), *map(str, spools)]
    answer.descriptor, writing_end = os.pipe()
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writing_end))

    later = threading.Timer(LOOK_S if _asks_for_limits(spec) else FIRST_LOOK_S, start)  # a short run keeps its cores
    later.start()
    try:
        yield answer
    finally:
        later.cancel()
        later.join()
        for process in started:
            _end(process)
        os.close(answer.descriptor)
        os.close(writing_end)
        answer.descriptor = None
        path.unlink(missing_ok=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()  # it ends when its input ends
    try:
        process.wait(LEAVE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Looker:
    """Evaluates growing spools again and again: those of all workers of a run."""

    def __init__(self, spec: Spec, readers: Sequence[SpoolReader]) -> None:
        self._spec = spec
        self._readers = readers
        self._in_flight: list[int] = []
        self._trend_at = 0

    def look(self) -> EarlyStop | LimitDecision | None:
        """The decision so far; None: it is still open."""
        records, running = self._so_far()
        spec, options = self._spec, self._spec.options
        if _asks_for_limits(spec):
            share, confidence = options.slo_attainment_fraction, options.confidence_level
            known = _with_running(records, running)
            found = decided(known, spec.request_slos, share=share, confidence=confidence).answer
            if found is not LimitDecision.OPEN:
                return found
        ended = len(records.requests)
        if spec.early_stop is None or not ended:
            return None
        self._in_flight.append(running)
        run_s = None
        if ended >= self._trend_at:  # looks at a trend are few: they are not corrected for
            self._trend_at, run_s = round(MORE * ended), _expected_s(options)
        return early_stop(records, spec.early_stop, dict(spec.request_slos), self._in_flight, run_s)

    def _so_far(self) -> tuple[Records, int]:
        """What had ended, in order of the ends, when the worker that is furthest behind last told of itself; and how many
        requests ran then, at least.
        """
        for reader in self._readers:
            reader.advance()
        until_ns = min(reader.until_ns for reader in self._readers)
        requests, chunks = _joined(self._readers)
        measured = requests[requests["phase"] == Phase.MEASURED]
        ended = measured[measured["end_ns"] <= until_ns]
        running = sum(reader.in_flight for reader in self._readers) + len(measured) - len(ended)
        ended = ended[np.argsort(ended["end_ns"], kind="stable")]
        return Records(ended, chunks, [], [], 0, 0, 0), running


def _joined(readers: Sequence[SpoolReader]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Requests and chunks of all, as copies; without the texts of errors."""
    parts = [reader.columns() for reader in readers]
    requests = np.concatenate([part[0] for part in parts])
    chunks = np.concatenate([part[1] for part in parts])
    before = np.cumsum([0, *(len(part[1]) for part in parts)])[:-1]
    requests["first_chunk"] += np.repeat(before, [len(part[0]) for part in parts])
    return requests, chunks


def _with_running(records: Records, count: int) -> Records:
    running = np.zeros(count, records.requests.dtype)
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


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    spec_path, *spools = arguments
    spec = Spec.read(Path(spec_path))
    endpoint = make_endpoint(spec.model, spec.options)
    count = counter(spec.options.tokenizer, spec.model).count
    looker = Looker(spec, [SpoolReader(Path(spool), endpoint, count=count) for spool in spools])
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        found = looker.look()
        if found is not None:
            print(msgspec.json.encode(found if isinstance(found, EarlyStop) else None).decode(), flush=True)  # noqa: T201 - its parent reads it
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
