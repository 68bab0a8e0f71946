"""``--backup``: the command, files and output of the service, kept for every attempt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from swarmtune.errors import StoreError
from swarmtune.records import Command, command_line
from swarmtune.redaction import ours
from swarmtune.study.place import write_private

LIMIT_BYTES = 2**30  # for all backups of a study together, as in the older tuner


def back_up(command: Command, attempt_folder: Path, target: Path) -> bool:
    """Copy an attempt's command, service files and outputs to ``target``; False when the limit is reached.

    StoreError if they cannot be written; a part may remain. Secrets are hidden in the command line; service files are
    private.
    """
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _size(target.parent) + _size(attempt_folder) > LIMIT_BYTES:
            return False
        if attempt_folder.is_dir():
            shutil.copytree(attempt_folder, target, symlinks=True, dirs_exist_ok=True)
        (target / "files").mkdir(mode=0o700, parents=True, exist_ok=True)
        for number, file in enumerate(command.files):
            write_private(target / "files" / f"{number}-{Path(file.path).name}", file.content)
        write_private(target / "command.txt", ours.hide(command_line(command)) + "\n")
    except OSError as error:
        raise StoreError(f"{target}: the backup cannot be written: {error.strerror or error}") from error
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
