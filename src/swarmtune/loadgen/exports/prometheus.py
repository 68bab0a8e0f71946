"""The Prometheus text format (exposition format 0.0.4): text in, samples out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LINE = re.compile(rf"^({_NAME})\s*(?:\{{(.*)\}})?\s+(\S+)(?:\s+-?\d+)?\s*$")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPE = re.compile(r"\\(.)")
KINDS = ("counter", "gauge", "histogram", "summary", "untyped")


@dataclass(frozen=True)
class Sample:
    """One line. ``kind``: of the family it belongs to; ``labels``: name and value, in order of the name."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    kind: str


def parse(text: str) -> list[Sample]:
    """All samples; lines that are none (comments, garbage) are passed over. ValueError if the text holds no sample at all
    although it is not empty: it is no Prometheus text.
    """
    kinds: dict[str, str] = {}
    found: list[Sample] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#"):
            words = line.split()
            if len(words) >= 4 and words[1] == "TYPE" and words[3] in KINDS:
                kinds[words[2]] = words[3]
        elif sample := _sample(line, kinds):
            found.append(sample)
    if not found and any(line.strip() and not line.startswith("#") for line in text.splitlines()):
        raise ValueError("no Prometheus text")
    return found


def _sample(line: str, kinds: dict[str, str]) -> Sample | None:
    match = _LINE.match(line)
    if match is None:
        return None
    name, inside, number = match.groups()
    try:
        value = float(number)  # Prometheus writes +Inf and NaN as Python reads them
    except ValueError:
        return None
    labels: list[tuple[str, str]] = []
    place = 0
    while inside and place < len(inside.rstrip()):
        label = _LABEL.match(inside, place)
        if label is None:
            return None
        labels.append((label[1], _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], label[2])))
        place = label.end()
    return Sample(name, tuple(sorted(labels)), value, _kind(name, kinds))


def _kind(name: str, kinds: dict[str, str]) -> str:
    for family in (name, *(name.removesuffix(end) for end in ("_bucket", "_sum", "_count", "_total"))):
        if family in kinds:
            return kinds[family]
    return "counter" if name.endswith("_total") else "gauge"
