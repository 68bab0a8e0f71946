"""What is installed where a service will run: asked of the node through its executor, and remembered on this machine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmtune.clock import Clock, within
from swarmtune.errors import CommunicationError, IPCTimeoutError, one_line
from swarmtune.execution import look
from swarmtune.execution.executors.base import Executor, Handle
from swarmtune.files import created
from swarmtune.records import Command

HELP_S = 120.0  # for a program: a cold vLLM imports for a minute before it prints anything
REACH_S = 30.0  # for the node to start anything at all
REST_S = 3 * look.TOOL_S  # for drivers' tools, and for the way there
MOST_BYTES = 2**21  # of a help text
KEPT_S = 24 * 3600.0  # behind a start script the program may change, and the script does not
MOST_FILES = 64
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PAGER": "cat"}
"""Environment variables under which programs print their help plainly."""


@dataclass(frozen=True)
class Request:
    """What to ask of a node; the fields are those of ``look``."""

    paths: tuple[str, ...] = ()
    package: str = ""
    help: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    tools: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a node said. ``program``: its path there, empty: there is none; ``fault``: why that cannot be
    executed, as the rest of a sentence that begins with its path; empty: it can.

    ``paths``: is each there (None: nobody can say yet); ``package``: can it be imported (None: nobody can say). ``help``
    is empty where it was not asked, or ``trouble`` says why there is none. ``tools``: what those printed that are there.
    """

    program: str
    fault: str = ""
    paths: Mapping[str, bool | None] = field(default_factory=dict)
    package: bool | None = None
    version: str = ""
    help: str = ""
    trouble: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""


class Memory:
    """The help of programs by the place where they were asked: small files in a folder of the user's cache.

    What cannot be read or written there is forgotten; that costs time and nothing else.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def read(self, place: str) -> tuple[str, str, str]:
        """Stamp, version and help that were last kept for this place; empty texts if there are none, or old ones."""
        try:
            with self._file(place).open("rb") as file:
                kept = json.loads(file.read(4 * MOST_BYTES))
            stamp, version, text, at = kept["stamp"], kept["version"], kept["help"], float(kept["at"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return "", "", ""
        texts = all(isinstance(one, str) for one in (stamp, version, text))
        return (stamp, version, text) if texts and 0 <= self._clock.wall() - at < KEPT_S else ("", "", "")

    def keep(self, place: str, answer: Answer) -> None:
        """Remember the help in this answer; the oldest of MOST_FILES files goes."""
        content = {"stamp": answer.stamp, "version": answer.version, "help": answer.help, "at": self._clock.wall()}
        file = self._file(place)
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with created(fresh, "w") as target:
                target.write(json.dumps(content))
            fresh.replace(file)
            kept = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for old in kept[:-MOST_FILES]:
                old.unlink(missing_ok=True)

    def _file(self, place: str) -> Path:
        return self._folder / f"{hashlib.sha256(place.encode(errors='replace')).hexdigest()[:32]}.json"


async def ask(
    executor: Executor,
    command: Command,
    request: Request,
    clock: Clock,
    *,
    python: str = "python3",
    known: tuple[str, str, str] = ("", "", ""),
    limit_s: float = HELP_S,
) -> Answer:
    """What the node of this executor says of the program with which ``command`` begins, in its environment and folder.

    ``python``: any from 3.8 on, on the node. ``known``: what ``Memory`` has; a program that did not change is not asked for
    its help again. ``limit_s``: seconds for all that the program is asked. CommunicationError if the node cannot be reached
    or does not answer in time; nothing of the question is left running there.
    """
    facts = {
        "program": command.argv[0],
        "directory": command.cwd or command.directory,
        "paths": request.paths,
        "package": request.package,
        "help": request.help,
        "version": request.version,
        "tools": request.tools,
        "stamp": known[0] if known[2] else "",
        "limit_s": limit_s,
        "most_bytes": MOST_BYTES,
    }
    text = Path(look.__file__).read_text(encoding="utf-8")
    argv = (python, "-I", "-S", "-c", text, json.dumps(facts))
    question = Command(argv, {**PLAIN, **command.env}, secrets=command.secrets)
    try:
        handle = await within(clock, REACH_S, executor.start(question))
    except TimeoutError as error:
        raise IPCTimeoutError(f"it has not started anything within {REACH_S:g} s") from error
    try:
        await within(clock, limit_s + REST_S, _ended(handle, clock))
        answer = _read(await handle.logs(20))
    except TimeoutError as error:
        raise IPCTimeoutError(f"it has not answered within {limit_s + REST_S:g} s") from error
    finally:
        await handle.stop(0.0)
    if known[2] and answer.stamp and answer.stamp == known[0]:
        return replace(answer, version=answer.version or known[1], help=known[2])
    return answer


async def _ended(handle: Handle, clock: Clock) -> None:
    pause_s = 0.02
    while await handle.poll() is None:
        await clock.sleep(pause_s)
        pause_s = min(0.5, pause_s * 1.5)


def _harmless(text: str) -> str:
    """The text without what would steer a terminal."""
    return one_line(" ".join(text.split()))


def _read(log: str) -> Answer:
    """The answer in what the question printed. CommunicationError if there is none."""
    lines = [line for line in log.splitlines() if line.startswith('{"program": ')]
    try:
        found: dict[str, Any] = json.loads(lines[-1])
        package = found["package"]
        return Answer(
            program=str(found["program"]),
            fault=_harmless(str(found["fault"])),
            paths=dict(found["paths"]),
            package=None if package is None else bool(package[0] or package[1]),
            version=_harmless(str(found["version"])),
            help=_unpacked(found["help"]),
            trouble=_harmless(str(found["trouble"])),
            tools={str(name): str(text) for name, text in dict(found["tools"]).items()},
            stamp=str(found["stamp"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, zlib.error) as error:
        said = [line.strip() for line in log.splitlines() if line.strip()]
        raise CommunicationError(
            f"its answer makes no sense{f': {_harmless(said[-1][:200])}' if said else ''}"
        ) from error


def _unpacked(text: str) -> str:
    return zlib.decompressobj().decompress(base64.b64decode(text), MOST_BYTES).decode(errors="replace") if text else ""
