"""A tuner that dies: a process of its own that runs a family of commands through an executor until it is killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys

PROGRAM = """
import asyncio, sys
from pathlib import Path
from swarmtune.clock import RealClock
from swarmtune.records import Command
from swarmtune.testing.executor import FAMILY, printed, python
{imports}

async def main() -> None:
    executor = {executor}
    handle = await executor.start(Command(python(FAMILY, "600", "polite")))
    print(await printed(handle, "family"), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def tuner_of(executor: str, imports: str = "") -> tuple[subprocess.Popen[str], list[int]]:
    """The process, to be killed, and the pids of its family, which runs. ``executor``: the expression that makes it."""
    program = PROGRAM.format(executor=executor, imports=imports)
    process = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    family = [int(word) for word in (await asyncio.to_thread(process.stdout.readline)).split()[1:]]
    assert len(family) == 3
    return process, family


def kill(tuner: subprocess.Popen[str]) -> None:
    """SIGKILL, and wait for its end."""
    tuner.kill()
    tuner.communicate()
