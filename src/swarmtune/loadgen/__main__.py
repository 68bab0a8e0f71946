"""``python -m swarmtune.loadgen SPEC.json``: run one load, leave measurement.json and requests.jsonl here.

Exit codes: 0 done (failed requests are told by success_rate), 2 bad command line or spec, 3 the endpoint cannot be
reached (if it was lost during the run, the files hold what there is), 130 interrupted (the files hold what there is).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError, ConfigurationError
from swarmtune.loadgen.export import write
from swarmtune.loadgen.run import Result, Run
from swarmtune.loadgen.spec import Spec

BAD_SPEC, UNREACHABLE, INTERRUPTED = 2, 3, 130


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if sys.platform == "win32":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


async def _execute(spec: Spec) -> Result:
    run = Run(spec, RealClock())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, run.interrupt)
    return await run.execute()


def main(argv: Sequence[str]) -> int:
    """Run the spec in ``argv[0]`` in the working directory; the exit code."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m swarmtune.loadgen SPEC.json\n")
        return BAD_SPEC
    try:
        spec = Spec.read(Path(argv[0]))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_SPEC
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            result = runner.run(_execute(spec))
    except CommunicationError as error:
        sys.stderr.write(f"{error}\n")
        return UNREACHABLE
    write(result.rows, result.measurement, Path.cwd())
    if result.lost:
        sys.stderr.write(f"The endpoint {spec.url} was lost during the run.\n")
        return UNREACHABLE
    return INTERRUPTED if result.interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
