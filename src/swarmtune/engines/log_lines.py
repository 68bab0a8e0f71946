"""The lines of a service's log, without colours and prefixes, each with its level. Pure, and bounded on any text."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import IntEnum

MOST_LINES = 4000  # the last ones are read
MOST_LOG = 1024 * 1024  # characters of them
MOST_CHARACTERS = 1200  # of a line: its beginning and its end
MOST_PREFIXES = 24
KEPT_END = 400
FRAME = 'File "'  # of a traceback: a line of code follows

_COLOURS = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|\x1b\][^\x07\x1b]{0,300}(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]{0,4}[0-Z\\^-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_WORD = r"TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|ERR|CRITICAL|FATAL|SEVERE|PANIC"
_TIME = r"\d{1,2}:\d\d:\d\d(?:[.,:]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"
# One piece of what stands before a message. The groups that matter name a level.
_PREFIX = re.compile(
    r"\s+"
    rf"|(?P<word>{_WORD})\b:?(?=[\s\]|:]|$)"
    r"|(?P<named>(?:WARNING|Warning|warning|DeprecationWarning|note)): "
    r"|(?:level|lvl|severity)=\"?(?P<field>\w{1,10})\"?"
    r"|(?:time|ts|timestamp)=\S{1,60}"
    rf"|\[(?P<bracket>(?i:{_WORD}))\s*\]"
    r"|\[?(?P<glog>[IWEFD])\d{3,4}[ -]\d\d:\d\d:\d\d[^\]]{0,120}\]"
    r"|\d{1,6}\.\d\d\.\d{3}\.\d{3} (?P<llama>[DIWE])\b"
    r"|(?P<short>[DIWEF])(?= [\w./-]{1,80}\.(?:cpp|cc|c|cu|h|hpp|py|rs|go)\b)"
    rf"|\d{{4}}[-/]\d\d[-/]\d\d(?:[T -]{_TIME})?"
    rf"|\d\d-\d\d {_TIME}"
    rf"|{_TIME}(?=\s)"
    r"|[\w./-]{1,100}\.(?:py|cc|cpp|go|rs):\d{1,6}\]"
    r"|\[rank ?\d{1,6}\]:?"
    r"|\((?:rank|[^()\n]{0,60}(?:pid|rank)[= ])[^()\n]{0,120}\)"
    r"|\((?:EngineCore|APIServer|Worker|VllmWorker|ApiServer)\w{0,30}\)"
    r"|\[(?!Errno\b|MIE\d\dE)[^\[\]\n]{1,160}\](?=[\s:]|\[|$):?"
    r"|[\w.-]{1,60} {1,20}\| |\|(?= )"
    rf"|[A-Z][a-z]{{2}} [ \d]\d {_TIME} [\w.-]{{1,64}} [\w./@-]{{1,64}}(?:\[\d{{1,9}}\])?:"
)
_RAISED = re.compile(
    r"(?:[A-Za-z_][\w.]{0,120}\.)?(?:[A-Z]\w{0,80}(?:Error|Exception|Interrupt|Exit|Failure|Timeout)|Exception)\b"
    r"(?:: |:?\s*$|\()"
    r"|\S{1,200}:\d{1,7}: .{0,200}(?:\bGGML_ASSERT\(|Assertion [`'])"
)
_WARNED = re.compile(r"(?:\S{1,300}:\d{1,7}: )?\w{0,60}Warning: ")
_SURVIVED = re.compile(
    r"\bretrying\b|\btrying (?:port|again|another|the next|next|to use|with|\d)|\bwill (?:re)?try\b"
    r"|\bfall(?:s|ing)? ?back\b|\bfallback\b|\bignored\b|\bskipp(?:ed|ing)\b"
    r"|\b(?:using|running on) (?:the )?CPU\b",
    re.IGNORECASE,
)


class Level(IntEnum):
    """How much a line says of why a service ended."""

    HARMLESS = 0  # of level DEBUG, INFO or WARNING
    PLAIN = 1  # without a level
    ERROR = 2  # of level ERROR or above, or an exception


@dataclass(frozen=True)
class Line:
    """``text``: without prefixes. ``raised``: it is the last line of an exception. ``indented``: by two spaces or more."""

    text: str
    level: Level
    raised: bool = False
    indented: bool = False


def lines_of(log: str) -> list[Line]:
    """The last lines of a log that are not empty, in order."""
    whole = log[-MOST_LOG:].replace("\r", "\n")
    found: list[Line] = []
    for raw in whole.split("\n")[-MOST_LINES:]:
        line = _line(raw)
        if found and found[-1].text.startswith(FRAME) and not line.raised:
            line = replace(line, level=Level.HARMLESS)  # code that may hold the text of any error
        if line.text:
            found.append(line)
    return found


def plain_text(log: str) -> str:
    """A log without colours and control characters, but with its prefixes."""
    return "\n".join(_COLOURS.sub("", line).rstrip() for line in log.replace("\r\n", "\n").split("\n"))


def _line(raw: str) -> Line:
    if len(raw) > MOST_CHARACTERS:
        raw = f"{raw[: MOST_CHARACTERS - KEPT_END]} ... {raw[-KEPT_END:]}"
    text, level, at = _COLOURS.sub("", raw).rstrip(), Level.PLAIN, 0
    for _ in range(MOST_PREFIXES):
        found = _PREFIX.match(text, at)
        if found is None or found.end() == at:
            break
        named = next((value for value in found.groupdict().values() if value), None)
        level = level if named is None else _level(named)
        at = found.end()
    indented = text[:at].endswith(("  ", "\t"))
    text = text[at:].strip() or text.strip()
    raised = _RAISED.match(text) is not None and not _WARNED.match(text)
    if level is Level.PLAIN and (_WARNED.match(text) or (not raised and _SURVIVED.search(text))):
        level = Level.HARMLESS
    return Line(text, Level.ERROR if raised and level is Level.PLAIN else level, raised, indented)


def _level(name: str) -> Level:
    first = name[0].upper()
    return Level.HARMLESS if first in "DIWNT" else Level.ERROR
