"""The winner, ready to run: command lines, and the files that its service reads."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from swarmtune.records import Setting, Trial, command_line
from swarmtune.study.place import write_private
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.result import Result

DEFAULT_PORT = 8000


@dataclass(frozen=True)
class KeptFile:
    """A file of the winner: the path from which its service reads it, and the path of the kept copy."""

    path: str
    kept: Path
    content: str


def run_lines(plan: Plan, trial: Trial) -> list[str]:
    """The command lines that run the service with this trial's setting, one for each node, ready to paste."""
    group = plan.groups[0]
    commands = plan.commands(trial.setting, replace(group, port=group.port or DEFAULT_PORT))
    return [command_line(command) for command in commands]


def live_lines(plan: Plan, setting: Setting) -> list[str]:
    """The command lines that give the running service the setting's values of live parameters, ready to paste."""
    group = plan.groups[0]
    url = replace(group, port=group.port or DEFAULT_PORT).url
    curl, kind = ("curl", "--fail", "-X"), ("-H", "Content-Type: application/json", "-d")
    requests = plan.engine.live_requests(setting)
    return [shlex.join((*curl, r.method, f"{url}{r.path}", *kind, json.dumps(dict(r.body)))) for r in requests]


def kept_files(result: Result) -> list[KeptFile]:
    """The files that the best setting's command reads, with the path of each copy in the study."""
    if result.best is None:
        return []
    group = result.plan.groups[0]
    command, *_ = result.plan.commands(result.best.setting, replace(group, port=group.port or DEFAULT_PORT))
    folder = Path(result.study) / "winner"
    return [KeptFile(f.path, folder / f"{i}-{Path(f.path).name}", f.content) for i, f in enumerate(command.files)]


def keep_files(result: Result) -> None:
    """Write these copies, readable by their owner only. ConfigPathError if one cannot be written."""
    for file in kept_files(result):
        file.kept.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(file.kept, file.content)
