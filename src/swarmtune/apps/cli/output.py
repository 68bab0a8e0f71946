"""Standard output of one command: the result alone with ``--json``, and what happens when it cannot be written."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from swarmtune.errors import SwarmTuneError, shown
from swarmtune.redaction import ours


class Discreet:
    """The border of the terminal: a text stream that shows no secret that this process knows, and nothing that steers a
    terminal or turns words around, whoever wrote the text. So it is no terminal for what would colour its text.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """See io.TextIOBase."""
        self.stream.write(shown(ours.hide(text)))
        return len(text)

    def isatty(self) -> bool:
        """See io.TextIOBase."""
        return False

    def writelines(self, lines: Iterable[str]) -> None:
        """See io.IOBase."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class SideStream:
    """The text stream of what is told beside the result: stderr, or a log. It may fail without its program: the first error
    is kept in ``error``, and nothing more is written.

    BrokenPipeError: whoever read it has gone away.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """See io.TextIOBase; nothing of it waits to be written."""
        if self.error is None:
            try:
                self.stream.write(text)
                self.stream.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Nothing waits to be written."""

    def close(self) -> None:
        """Close the stream, also one that took no more."""
        try:
            self.stream.close()
        except OSError as error:
            self.error = self.error or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Descriptor(io.RawIOBase):
    """A descriptor that is written to until an error, which is kept and not raised."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self.error is None:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except OSError as error:
                self.error = error
        return size


class Output:
    """``sys.stdout`` for the time of a command. ``alone``: only the JSON object goes there, all else to stderr."""

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.place = ""  # the file that holds the result, too
        self._written = False
        self._raw: _Descriptor | None = None
        self._stack = contextlib.ExitStack()
        self._stream: Any = sys.stdout

    def __enter__(self) -> Output:
        for descriptor, stream in enumerate((sys.__stdin__, sys.stdout, sys.__stderr__)):
            if stream is None:  # closed: a file that is opened later must not get its descriptor
                _take(descriptor, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
        if sys.stdout is None or sys.stdout is sys.__stdout__:
            self._raw = self._replaced()
        if self.alone:
            self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def _replaced(self) -> _Descriptor:
        before = sys.stdout
        raw = _Descriptor(self._kept() if self.alone else 1)
        encoding = before.encoding if before is not None else "utf-8"
        lines = raw.isatty()
        self._stream = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines
        )
        self._stack.enter_context(contextlib.redirect_stdout(Discreet(self._stream)))
        return raw

    def _kept(self) -> int:
        """A copy of standard output; the descriptor itself leads to stderr until the end, for child processes as well."""
        kept = os.dup(1)
        os.dup2(2, 1)
        self._stack.callback(os.close, kept)
        self._stack.callback(os.dup2, kept, 1)
        return kept

    def __exit__(self, *_: object) -> None:
        if self._raw is not None:
            self._stream.flush()
        self._stack.close()

    def write_json(self, data: Any) -> None:
        """Print the one object."""
        self._written = True
        self._stream.write(json.dumps(ours.hide_in(data)) + "\n")

    def fail(self, error: SwarmTuneError | str, code: int, culprit: str = "user") -> None:
        """Print an error as the one object, where only that may be printed and nothing is yet."""
        if not self.alone or self._written:
            return
        culprit = str(error.culprit) if isinstance(error, SwarmTuneError) else culprit
        data: dict[str, Any] = {"error": str(error), "culprit": culprit, "exit_code": code}
        if mistakes := getattr(error, "mistakes", None):
            data["mistakes"] = mistakes
        self.write_json(data)

    @property
    def trouble(self) -> str:
        """The reason why the result could not be printed; empty if it was, or if its reader has gone, as ``| head``."""
        error = self._raw.error if self._raw is not None else None
        if error is None or error.errno == errno.EPIPE:
            return ""
        return f"the result could not be printed: {error.strerror}" + (f"; it is in {self.place}" if self.place else "")


def _take(descriptor: int, flags: int) -> None:
    null = os.open(os.devnull, flags)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def wants_json(command: str, arguments: Sequence[str]) -> bool:
    """Whether standard output must hold one JSON object and nothing else."""
    return (
        command in ("optimizer", "bench", "train", "calibrate", "simulate")
        and "--json" in arguments
        and not {"-h", "--help"} & set(arguments)
    )
