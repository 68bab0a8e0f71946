"""The folder of ``swarmtune bench``'s results: the files in one folder belong to one run (or one sweep)."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from pathlib import Path

from swarmtune.errors import ConfigPathError
from swarmtune.files import refuse_planted
from swarmtune.loadgen.exports.report import FILES

MARK = ".swarmtune-bench"  # there while a run writes, so that another one takes another folder
SELF_TEST_FILE = "self-test.json"
OURS = FILES | {MARK, SELF_TEST_FILE}
SWEEP = (  # how folders of a sweep begin
    *("concurrency", "request_rate", "isl", "osl", "prefill_concurrency", "isl_stddev", "osl_stddev", "request_count"),
    *("benchmark_duration", "conversation_num", "conversation_turn_mean", "num_users", "run"),
)
MOST = 100_000  # folders of one name


class Place:
    """The folder ``base``, or the first of ``base-2``, ``base-3`` ... that holds no files of another run.

    ``overwrite``: remove the files of the earlier run in ``base`` instead; only those that ``bench`` writes, and only if
    no other run writes there.
    """

    def __init__(self, base: Path, *, overwrite: bool) -> None:
        self._base, self._overwrite = base, overwrite
        self._taken: Path | None = None
        self._lock = -1
        self._made: list[Path] = []
        self._given: Counter[str] = Counter()

    def folder(self, name: str = "") -> Path:
        """The folder of a run; ``name``: of one run of a sweep (a value given twice: with a number). ConfigPathError if it
        cannot be made.
        """
        try:
            if self._taken is None:
                self._taken = self._take()
            self._given[name] += 1
            folder = self._taken / (name if self._given[name] == 1 else f"{name}-{self._given[name]}")
            if not folder.is_dir():
                folder.mkdir(parents=True)
                self._made.append(folder)
        except OSError as error:
            raise ConfigPathError(
                f"--artifact-dir: {self._base} cannot be made: {error.strerror}. Choose another."
            ) from error
        return folder

    def close(self) -> None:
        """The run has ended. Folders that were made here and stayed empty are removed."""
        if self._taken is not None:
            (self._taken / MARK).unlink(missing_ok=True)
            os.close(self._lock)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _take(self) -> Path:
        for number in range(1, MOST):
            folder = self._numbered(number)
            refuse_planted(folder, folder=True)
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)  # another run may do so at this moment
                self._made.append(folder)
            elif _holds_a_run(folder) and not (self._overwrite and number == 1):
                continue
            if (lock := _locked(folder)) is None:
                continue
            if self._overwrite and number == 1:
                _clear(folder)
            try:
                with (folder / MARK).open("x") as mark:
                    mark.write(f"{os.getpid()}\n")
            except FileExistsError:  # another run has begun there at this moment
                os.close(lock)
                continue
            self._lock = lock
            return folder
        raise ConfigPathError(
            f"--artifact-dir: {self._base} has {MOST - 1:,} runs: give another folder, or --overwrite"
        )

    def _numbered(self, number: int) -> Path:
        if number == 1:
            return self._base
        if self._base.name in ("", ".."):  # the current folder and its like have no name to put a number after
            return self._base / f"run-{number}"
        return self._base.with_name(f"{self._base.name}-{number}")


def _locked(folder: Path) -> int | None:
    """The descriptor of this folder, with a lock that ends with this process; None: another run has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # some file systems have no such locks: there the mark has to do
        if isinstance(error, BlockingIOError) or (folder / MARK).exists():
            os.close(descriptor)
            return None
    return descriptor


def _holds_a_run(folder: Path) -> bool:
    if any((folder / name).exists() for name in OURS):
        return True
    return any(_holds_a_run(inner) for inner in _sweep(folder))


def _sweep(folder: Path) -> list[Path]:
    """The folders of the runs of a sweep."""
    return [inner for inner in folder.iterdir() if inner.name.startswith(SWEEP) and inner.is_dir()]


def _clear(folder: Path) -> None:
    for inner in _sweep(folder):
        _clear(inner)
        with contextlib.suppress(OSError):
            inner.rmdir()
    for name in OURS:
        (folder / name).unlink(missing_ok=True)
