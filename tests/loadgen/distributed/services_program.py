"""A controller, or a host, as a process of its own: ``python services_program.py controller|host JSON``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from swarmtune.errors import SwarmTuneError
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed import Patience, Remote, run, serve_host
from swarmtune.loadgen.judge.certify import certify
from swarmtune.loadgen.records import Progress


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def patience_of(given: dict) -> Patience:
    return Patience(*given.get("patience", (10.0, 30.0)))


def controller(given: dict) -> None:
    spec = Spec.model_validate(given["spec"])
    phases: set[str] = set()

    def told(progress: Progress) -> None:
        if progress.stage not in phases:
            phases.add(progress.stage)
            say(phase=progress.stage)

    remote = None
    if "listen" in given:
        remote = Remote(
            given["listen"], given["hosts"], Path(given["token"]), 60.0, listening=lambda address: say(address=address)
        )
    records = run(spec, given["workers"], Path(given["directory"]), told, remote=remote, patience=patience_of(given))
    rows, chunks = records.requests, records.chunks
    verdict = certify(records, spec.options)
    say(
        interrupted=records.interrupted,
        sessions=sorted(rows["session"].tolist()),
        by_worker={str(w): int((rows["worker"] == w).sum()) for w in set(rows["worker"].tolist())},
        outcomes=rows["outcome"].tolist(),
        ordered=bool((rows["scheduled_ns"][1:] >= rows["scheduled_ns"][:-1]).all()),
        early_ms=float((records.started_ns - rows["scheduled_ns"].min()) / 1e6) if len(rows) else 0.0,
        late_ms=float((max(rows["end_ns"].max(), chunks["ns"].max()) - records.ended_ns) / 1e6) if len(chunks) else 0.0,
        offset_errors_ms=[facts.clock_offset_error_ms for facts in records.workers],
        level=verdict.level,
        reasons=verdict.reasons,
    )


def host(given: dict) -> None:
    serve_host(
        given["address"], Path(given["token"]), given["workers"], Path(given["directory"]), lambda note: say(note=note),
        clock_offset_ns=given.get("clock_offset_ns", 0), patience=patience_of(given),
    )  # fmt: skip
    say(done=True)


if __name__ == "__main__":
    try:
        {"controller": controller, "host": host}[sys.argv[1]](json.loads(sys.argv[2]))
    except SwarmTuneError as error:
        say(error=error.message, kind=type(error).__name__)
        raise SystemExit(1) from None
