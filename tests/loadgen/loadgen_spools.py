"""Runs without a service and without a clock: what would have been received, at the times that a test says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loadgen_servers import DONE, HEAD, Done, chunk

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.exports import jsonl
from swarmtune.loadgen.exports.report import report
from swarmtune.loadgen.read.spool import collect
from swarmtune.loadgen.records import Outcome, Phase, Records, WorkerFacts
from swarmtune.loadgen.send.notes import Note
from swarmtune.loadgen.wire.base import NOTE, PIECE, RECORD
from swarmtune.workload.session import Turn

MS = 1_000_000
START = 10_000_000_000
FIRST_MS = 40  # from the request to the first read,
STEP_MS = 10  # and from one read to the next


def spooled(
    directory: Path,
    *reads: bytes | Sequence[bytes],
    requests: int = 3,
    slos: dict[str, float] | None = None,
    asked: int = 11,
    **given: Any,
) -> Done:
    """A run of these requests, one after the other; each is answered with these reads and, with the last, [DONE].

    ``asked``: tokens of each prompt, of six bytes.

    A read is one event or several; the first comes after 40 ms, each later one 10 ms after the one before.
    """
    options = {"concurrency": 1, "osl": 16, "request_count": requests, **given}
    spec = Spec.model_validate({"url": "http://s", "model": "m", "options": options, "request_slos": slos or {}})
    endpoint = make_endpoint("m", spec.options)
    turn = Turn(("a",), asked, spec.options.osl and int(spec.options.osl))
    path, ns = directory / "spool", START
    with path.open("wb") as file:
        for number in range(requests):
            sent, ns = ns, ns + (FIRST_MS - STEP_MS) * MS
            for at, read in enumerate(reads):
                ns += STEP_MS * MS
                data = chunk(read if isinstance(read, bytes) else b"".join(read))
                data = (HEAD if at == 0 else b"") + data + (chunk(DONE) + chunk(b"") if at == len(reads) - 1 else b"")
                file.write(RECORD.pack(len(data), PIECE, number, ns + 1000, ns, ns - 1000) + data)
            note = Note(
                number, 0, Phase.MEASURED, Outcome.COMPLETED, sent, sent, sent, 0, ns, ns + 1000, 0, 200 + 6 * asked,
                endpoint.most_tokens(turn), endpoint.expected_results(turn), asked, 16, 200, False, "",
            ).pack()  # fmt: skip
            file.write(RECORD.pack(len(note), NOTE, number, 0, 0, 0) + note)
    rows, chunks, errors = collect(path, endpoint)
    worker = WorkerFacts("worker-0", "native", True, cpu_share=0.1, cpu_share_max=0.1)
    records = Records(rows[np.argsort(rows["scheduled_ns"])], chunks, errors, [worker], START, ns, 0, "0-")
    made = report(spec, records)
    return Done(list(jsonl.rows(made.records)), [], made)
