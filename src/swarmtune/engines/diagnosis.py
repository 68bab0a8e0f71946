"""Why a service did not start or ended early, from its exit code and the last lines of its log.

The last cause that was raised counts. Lines of level DEBUG, INFO and WARNING, hints, and exceptions that Python ignored
are no causes; an exception that only says that another one was raised gives way to it, and so does what other processes
say when one has ended.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from swarmtune.engines.cause_words import CLOSER, ENDED, NOT_BUILT, PROGRAM_WAY_OUT, WORDS
from swarmtune.engines.causes import (
    COMMON,
    CONSEQUENCES,
    CULPRITS,
    GENERAL,
    HINTS,
    IGNORED,
    KILLS_ITSELF,
    PRECISE,
    RERAISED,
    SHARED_MEMORY,
    Cause,
    Patterns,
)
from swarmtune.engines.log_lines import FRAME, Level, Line, lines_of, plain_text
from swarmtune.errors import Culprit, SimulatorStartError

__all__ = ["CULPRITS", "TAIL_LINES", "Cause", "Patterns", "classify", "diagnose"]

TAIL_LINES = 15  # of the log, shown in the message
MOST_TAIL = 4000  # characters of them
MOST_EVIDENCE = 500
SHELL_SIGNAL_BASE = 128  # a shell reports a child ended by signal n as exit code 128 + n
NOT_RUN = {126: "a program cannot be executed", 127: "a program is missing"}  # exit codes of a shell
FORCED = (signal.SIGKILL, signal.SIGTERM)
FREE_ENOUGH = 0.5  # of a device: with less free, other processes hold what the least demanding setting needs
CHAINED = ("during handling of the above exception", "the above exception was the direct cause")
TRACEBACK = "Traceback (most recent call last)"
MOST_FRAMES = 300  # lines of one traceback
CODE_LINES = 6  # at most, between the last frame of a traceback and its exception
_SHARING = re.compile(r'File "[^"]{0,400}\b(multiprocessing/(?:synchronize|shared_memory)\.py)"')
_TROUBLE = re.compile(
    r"\b(error|fail|unable|cannot|invalid|unsupported|assert|requires?\b|must\b)|_ASSERT", re.IGNORECASE
)
_WHILE_RUNNING = (Cause.OUT_OF_MEMORY, Cause.DEVICE_ERROR)  # a worker died of it; the front end still waits for it
_FREE = re.compile(r"memory on (?:device|node)[^(]{0,80}\((\d+(?:\.\d+)?)/(\d+(?:\.\d+)?) GiB\)", re.IGNORECASE)
_TOTAL = re.compile(r"total capacity of (\d+(?:\.\d+)?) GiB")
_OTHERS = re.compile(r"Process \d+ has (\d+(?:\.\d+)?) GiB memory in use")


@dataclass(frozen=True)
class _Finding:
    cause: Cause
    line: str = ""
    at: int = 0  # index of the line


def diagnose(engine: str, exit_code: int | None, log: str, own: Patterns | None = None) -> SimulatorStartError:
    """The error for a service that ended this way. The engine's ``own`` patterns are tried before the common ones;
    exit_code None: it still runs.

    ``details``: cause, exit_code, log_tail. SIGKILL and SIGTERM are blamed on the infrastructure, not on the setting, unless
    the log shows that memory ran out, or that the service ended itself.
    """
    lines = _read(log)
    found = _finding(exit_code, lines, own or {})
    what, way_out, line = _words(found, lines, exit_code, own or {})
    tail = "\n".join(plain_text(log[-MOST_TAIL * TAIL_LINES :]).rstrip().splitlines()[-TAIL_LINES:])[-MOST_TAIL:]
    message = f"{engine} did not serve: {what} ({_ended(exit_code)}). {way_out}".rstrip()
    if line and not tail.endswith(line):
        message += f"\nThe line with the cause: {line[:MOST_EVIDENCE]}"
    message += f"\nLast lines of its log:\n{tail}" if tail else "\nIts log is empty."
    details = {"cause": found.cause.value, "exit_code": exit_code, "log_tail": tail}
    return SimulatorStartError(message, details=details, culprit=CULPRITS.get(found.cause, Culprit.SETTING))


def classify(exit_code: int | None, log: str, own: Patterns) -> Cause:
    """The cause alone. In each line the engine's own patterns are tried before the common ones, in the order of Cause."""
    return _finding(exit_code, _read(log), own).cause


def _read(log: str) -> list[Line]:
    """The lines of a log, in which hints and the tracebacks of ignored exceptions are harmless."""
    lines, ignored, after = lines_of(log), False, False
    lines = [_placed(line, lines[max(0, i - CODE_LINES) : i]) for i, line in enumerate(lines)]
    for i, line in enumerate(lines):
        chained = line.text.lower().startswith(CHAINED)
        if _matches(IGNORED, line.text) or (after and chained):
            ignored, after = True, False
        elif ignored:
            ignored = chained or line.indented or TRACEBACK in line.text
            after = not ignored
        elif not _matches(HINTS, line.text):
            after = False
            continue
        lines[i] = replace(line, level=Level.HARMLESS, raised=False)
    return lines


def _placed(line: Line, before: Sequence[Line]) -> Line:
    """The line; where Python's shared memory found no space and does not say so, with the module that raised it."""
    if line.raised and "No space left" in line.text:
        for above in reversed(before):
            if above.raised:
                break
            if above.text.startswith(FRAME):
                place = _SHARING.match(above.text)
                return replace(line, text=f"{line.text} (in {place[1]})") if place else line
    return line


def _finding(exit_code: int | None, lines: Sequence[Line], own: Patterns) -> _Finding:
    forced = _signal(exit_code) in FORCED and not any(_matches((KILLS_ITSELF,), line.text) for line in lines)
    candidates = _WHILE_RUNNING if exit_code is None else (Cause.OUT_OF_MEMORY,) if forced else tuple(Cause)
    found = _last_cause(lines, own, candidates)
    if found is not None:
        return found
    if exit_code is None:
        return _Finding(Cause.HANG)
    if exit_code in NOT_RUN:
        return _Finding(Cause.MISSING_MODEL, _last_raised(lines))
    if _signal(exit_code) == signal.SIGILL:
        return _Finding(Cause.MISSING_MODEL)
    if forced or _signal(exit_code) == signal.SIGINT:
        return _Finding(Cause.KILLED)
    return _Finding(Cause.CRASHED, _last_raised(lines, any_trouble=exit_code != 0))


def _last_cause(lines: Sequence[Line], own: Patterns, candidates: Sequence[Cause]) -> _Finding | None:
    """From the last line back: the first that names a cause. A line without a level does not count above an exception of
    another kind, which the service met later, unless it tells of memory or a device.
    """
    chained: _Finding | None = None
    raised_later = False
    for i in range(len(lines) - 1, -1, -1):
        line = lines[i]
        if line.level is Level.HARMLESS:
            continue
        cause = _cause(line.text, (own, PRECISE, COMMON), candidates)
        if cause is not None and not (raised_later and line.level is Level.PLAIN and cause not in _WHILE_RUNNING):
            return _Finding(cause, line.text, i)
        general = _cause(line.text, (GENERAL,), candidates)
        if general is not None:
            chained = chained or _Finding(general, line.text, i)
            if not (_matches(RERAISED, line.text) or _is_chained(lines, i)):
                return chained
        raised_later |= line.raised and not _is_secondary(line.text)
    return chained or _consequence(lines, candidates)


def _consequence(lines: Sequence[Line], candidates: Sequence[Cause]) -> _Finding | None:
    """What the log says of other processes that ended, unless an exception of an unknown kind came before that."""
    for i, line in enumerate(lines):
        if line.level is Level.HARMLESS:
            continue
        cause = _cause(line.text, (CONSEQUENCES,), candidates)
        if cause is not None:
            return _Finding(cause, line.text, i)
        if line.raised and not _is_secondary(line.text):
            return None
    return None


def _cause(text: str, tables: Sequence[Patterns], candidates: Sequence[Cause]) -> Cause | None:
    for table in tables:
        for cause in Cause:
            if cause in table and _matches(tuple(table[cause]), text):
                held = cause is Cause.OUT_OF_MEMORY and _held_by_others(text)
                named = Cause.DEVICE_ERROR if held else cause
                shared = candidates is _WHILE_RUNNING and _matches(SHARED_MEMORY, text)
                return named if named in candidates or shared else None
    return None


def _held_by_others(text: str) -> bool:
    """Does the line say that other processes hold the device, so that no setting would find enough memory?"""
    if free := _FREE.search(text):
        return float(free[1]) < FREE_ENOUGH * float(free[2])
    total, held = _TOTAL.search(text), sum(float(size) for size in _OTHERS.findall(text))
    return total is not None and "this process has" in text and held > (1 - FREE_ENOUGH) * float(total[1])


def _is_secondary(text: str) -> bool:
    return _matches(RERAISED, text) or any(_matches(tuple(p), text) for p in CONSEQUENCES.values())


def _is_chained(lines: Sequence[Line], i: int) -> bool:
    """Does the exception that ends in this line name another one as its cause?"""
    for start in range(i - 1, max(-1, i - MOST_FRAMES), -1):
        if TRACEBACK in lines[start].text:
            return start > 0 and lines[start - 1].text.lower().startswith(CHAINED)
    return False


def _last_raised(lines: Sequence[Line], any_trouble: bool = True) -> str:
    """The last exception that is not only about another one, else the last line of level ERROR, else (``any_trouble``) one
    that sounds like trouble and has only lines about it behind it.
    """
    first = [line for line in reversed(lines) if line.level is not Level.HARMLESS and not _is_secondary(line.text)]
    raised = next((line.text for line in first if line.raised), "")
    error = raised or next((line.text for line in first if line.level is Level.ERROR), "")
    return error or (first[0].text if any_trouble and first and _TROUBLE.search(first[0].text) else "")


def _words(found: _Finding, lines: Sequence[Line], exit_code: int | None, own: Patterns) -> tuple[str, str, str]:
    """What happened, the way out, and the line that tells: of those with this cause nearby, the last that says more."""
    what, way_out = WORDS[found.cause]
    if exit_code in NOT_RUN and found.cause is Cause.MISSING_MODEL:
        what, way_out = NOT_RUN[exit_code], PROGRAM_WAY_OUT
    if found == _Finding(Cause.MISSING_MODEL) and _signal(exit_code) == signal.SIGILL:
        what, way_out = NOT_BUILT
    if exit_code == 0 and found == _Finding(Cause.CRASHED):
        what, way_out = ENDED
    if not found.line:
        return what, way_out, ""
    for text in (found.line, *_nearby(found, lines, own)):
        for pattern, closer, way in CLOSER.get(found.cause, ()):
            if _matches((pattern,), text):
                return closer, way, text
    return what, way_out, found.line


def _nearby(found: _Finding, lines: Sequence[Line], own: Patterns) -> Iterator[str]:
    """The lines with this cause near the one that was found, from the last."""
    for line in reversed(lines[max(0, found.at - MOST_FRAMES) : found.at + MOST_FRAMES]):
        if line.level is not Level.HARMLESS and _cause(line.text, (own, PRECISE, COMMON), (found.cause,)) is not None:
            yield line.text


@lru_cache(maxsize=256)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """For lower-case text: many times as fast as re.IGNORECASE."""
    whole = "|".join(f"(?:{pattern})" for pattern in patterns)
    return re.compile(re.sub(r"\\.|[A-Z]", lambda found: found[0] if found[0][0] == "\\" else found[0].lower(), whole))


def _matches(patterns: tuple[str, ...], text: str) -> bool:
    return _compiled(patterns).search(text.lower()) is not None


def _signal(exit_code: int | None) -> int | None:
    if exit_code is None:
        return None
    if exit_code < 0:
        return -exit_code
    return exit_code - SHELL_SIGNAL_BASE if SHELL_SIGNAL_BASE < exit_code <= SHELL_SIGNAL_BASE + signal.NSIG else None


def _ended(exit_code: int | None) -> str:
    number = _signal(exit_code)
    if number is not None:
        known = number in signal.valid_signals()
        return f"ended by {signal.Signals(number).name if known and number < signal.SIGRTMIN else f'signal {number}'}"
    return "no exit" if exit_code is None else f"exit code {exit_code}"
