"""``python -m swarmtune.loadgen SPEC.json``: run one load, leave measurement.json, results.json and requests.jsonl here.

Exit codes: 0 done (failed requests are told by success_rate), 1 failed, 2 bad command line or spec, 3 the endpoint cannot be
reached (if it was lost during the run, the files hold what there is), 4 the disk is full, 130 interrupted (the files hold
what there is).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from swarmtune.errors import CommunicationError, ConfigurationError, SwarmTuneError
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed import run
from swarmtune.loadgen.exports.report import report, write_files
from swarmtune.loadgen.records import Records
from swarmtune.redaction import ours

FAILED, BAD_SPEC, UNREACHABLE, DISK_FULL, INTERRUPTED = 1, 2, 3, 4, 130


def execute(spec: Spec, directory: Path) -> Records:
    """The run: one worker works in this process, several in processes of their own."""
    workers = spec.options.workers_max
    return run(spec, workers, directory, run_type="single" if workers == 1 else None)


def _say(text: str) -> None:
    sys.stderr.write(f"{ours.hide(text)}\n")


def main(argv: Sequence[str]) -> int:
    """Run the spec in ``argv[0]`` in the working directory; the exit code."""
    if len(argv) != 1:
        _say("usage: python -m swarmtune.loadgen SPEC.json")
        return BAD_SPEC
    try:
        spec = Spec.read(Path(argv[0]))
        records = execute(spec, Path.cwd())
        write_files(report(spec, records), Path.cwd())
    except ConfigurationError as error:
        _say(str(error))
        return BAD_SPEC
    except CommunicationError as error:
        _say(str(error))
        return UNREACHABLE
    except SwarmTuneError as error:
        _say(str(error))
        return FAILED
    except OSError as error:
        _say(f"What was received cannot be written to {Path.cwd()}: {error.strerror or error}")
        return DISK_FULL
    if records.lost:
        _say(f"The endpoint {', '.join(spec.url)} was lost during the run.")
        return UNREACHABLE
    return INTERRUPTED if records.interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
