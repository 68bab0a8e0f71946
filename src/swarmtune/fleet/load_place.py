"""Where load generators run: on this machine, or on the master of the group that they measure."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swarmtune.errors import BenchmarkExecutionError, Culprit, IPCCommandError
from swarmtune.execution.executors.base import Executor, Handle
from swarmtune.files import opened
from swarmtune.fleet.job import Service
from swarmtune.loadgen.ask.spec import HIDDEN_VARIABLE
from swarmtune.records import Command
from swarmtune.redaction import ours

NOT_THERE = ("No module named", "unknown option -P", "Unknown option: -P")  # -P is of Python 3.11
WAY_OUT = (
    "Install swarmtune there for a Python of 3.11 or later and name it in parallel.benchmark_python, or set benchmark_on = "
    '"tuner".'
)
FILES = "loads/files"  # on a master: copies of what load generators read
MOST_TOLD = 100_000  # bytes of a variable of the environment, of which the kernel takes 128 KiB
MOST_BYTES = 256 * 2**20  # of a file that is copied to a master


@dataclass(frozen=True)
class LoadPlace:
    """``here`` runs load generators on this machine; ``python``: they run on each group's master, by this program there."""

    here: Executor
    python: str | None = None

    async def start(self, command: Command, service: Service, folder: Path, reads: Sequence[str] = ()) -> Handle:
        """Start our own load generator; its files are in ``folder`` after ``fetch``. ``reads``: see Benchmark.

        BenchmarkExecutionError, with the culprit user, if that Python is missing, or a file cannot be read.
        CommunicationError if the node is lost; a part of a file may be left there until the node is released.
        """
        if self.python is None:
            return await self.here.start(replace(_told_secrets(command), directory=str(folder)))
        command = await _with_files(command, reads, _master(service))
        there = replace(command, argv=(self.python, *command.argv[1:]), directory=_place(folder))
        try:
            return await _master(service).start(there)
        except IPCCommandError as error:
            if error.culprit is not Culprit.USER:
                raise
            text = f"the load generator cannot run on {service.group.master}: {error.message}. {WAY_OUT}"
            raise BenchmarkExecutionError(text, culprit=Culprit.USER) from error

    def failed(self, service: Service, text: str, code: int, log: str) -> BenchmarkExecutionError:
        """The error of a load generator that ended with this code; the user's if swarmtune is not there."""
        details = {"exit_code": code}
        if self.python is not None and any(sign in log for sign in NOT_THERE):
            text = f"{self.python} on {service.group.master} cannot run swarmtune.loadgen. {WAY_OUT}\n{log}"
            return BenchmarkExecutionError(text, details=details, culprit=Culprit.USER)
        if code < 0:
            known = -code in signal.valid_signals()
            text = f"{text} was ended by {signal.Signals(-code).name if known else f'signal {-code}'}\n{log}"
            return BenchmarkExecutionError(text.rstrip(), details=details)
        return BenchmarkExecutionError(f"{text} ended with code {code}: {log}", details=details)

    async def fetch(self, service: Service, folder: Path) -> None:
        """Copy the files of a load generator that has ended. CommunicationError if its node is lost."""
        if self.python is not None:
            await _master(service).get(_place(folder), folder)


def _told_secrets(command: Command) -> Command:
    """The command of a load generator of ours on this machine, which hides in its files what this process hides."""
    if "swarmtune.loadgen" not in command.argv:
        return command
    values, size = [], 0
    for value in ours.values:
        size += len(json.dumps(value)) + 2
        if size > MOST_TOLD:
            break
        values.append(value)
    env = {**command.env, HIDDEN_VARIABLE: json.dumps(values)} if values else command.env
    return replace(command, env=env, secrets=command.secrets | {HIDDEN_VARIABLE})


async def _with_files(command: Command, reads: Sequence[str], master: Executor) -> Command:
    """The command with copies of these files in their place. A copy is named after its content; it goes with the folder of
    the executor, when the node is released.
    """
    copies: dict[str, str] = {}
    for path in reads:
        try:
            digest = await asyncio.to_thread(_digest, path)
        except OSError as error:
            text = f"{path}, which the load generator reads, cannot be copied to the master: {error.strerror or error}"
            raise BenchmarkExecutionError(text, culprit=Culprit.USER) from error
        copy = f"{digest}-{Path(path).name}"
        await master.put(Path(path), f"{FILES}/{copy}")
        copies[path] = f"../../../files/{copy}"  # as seen from _place
    if not copies:
        return command
    return replace(
        command,
        files=tuple(replace(f, content=json.dumps(_renamed(json.loads(f.content), copies))) for f in command.files),
    )


def _digest(path: str) -> str:
    with opened(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _renamed(data: Any, copies: Mapping[str, str]) -> Any:
    """Plain data with the copies' names."""
    if isinstance(data, dict):
        return {key: _renamed(value, copies) for key, value in data.items()}
    if isinstance(data, list):
        return [_renamed(value, copies) for value in data]
    return copies.get(data, data) if isinstance(data, str) else data


def too_large(reads: Sequence[str]) -> list[str]:
    """A sentence for each of these files that is too large to be copied to each master."""
    sizes = {path: Path(path).stat().st_size for path in reads if Path(path).is_file()}
    most = MOST_BYTES // 2**20
    return [
        f"{path} has {size / 2**20:.0f} MiB, and at most {most} are copied to a master; take a part of it, or "
        'benchmark_on = "tuner"'
        for path, size in sizes.items()
        if size > MOST_BYTES
    ]


def _place(folder: Path) -> str:
    """The folder on the master: below the executor's, with names that are its own in a run."""
    return "/".join(("loads", *folder.parts[-3:]))


def _master(service: Service) -> Executor:
    assert service.nodes is not None  # noqa: S101 - a service of a run has its nodes
    return service.nodes.executors[0]
