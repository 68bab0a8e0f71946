"""The Prometheus text format, read by prometheus_client: text in, readings out. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from swarmtune.devices.readings import Reading

KINDS = ("counter", "gauge", "histogram", "summary")


def parse(text: str) -> tuple[list[Reading], int]:
    """All samples, and the number of lines that are none. NaN and infinity are kept as they are.

    A counter keeps the name that the server gave it. ValueError if lines are left, and not one holds a sample: it is not
    Prometheus text.
    """
    try:
        return list(_readings(text)), 0
    except (ValueError, IndexError, KeyError, OverflowError):
        pass  # the parser gives up at the first bad line, so the good ones are looked for
    kinds: list[str] = []
    good: list[str] = []
    bad = 0
    for line in text.splitlines():
        try:
            list(_readings(line))
        except (ValueError, IndexError, KeyError, OverflowError):
            bad += 1
        else:
            (good if line.strip() and not line.startswith("#") else kinds).append(line)
    if not good:
        raise ValueError("not Prometheus text")
    return list(_readings(_joined(text, {*good, *kinds}))), bad


def _joined(text: str, kept: set[str]) -> str:
    return "".join(f"{line}\n" for line in text.splitlines() if line in kept)


def _readings(text: str) -> Iterator[Reading]:
    named = {words[2] for line in text.splitlines() if len(words := line.split()) > 3 and words[1] == "TYPE"}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = str(sample.name)
            kind = family.type if family.type in KINDS else "counter" if name.endswith("_total") else "gauge"
            if kind == "counter" and name not in named and name.removesuffix("_total") in named:
                name = name.removesuffix("_total")  # the parser adds what OpenMetrics wants
            yield Reading(name, float(sample.value), tuple(sorted(sample.labels.items())), kind)
