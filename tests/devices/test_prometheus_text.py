"""The Prometheus text format: what the library's parser reads, and what it would give up at."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.devices.prometheus import parse
from swarmtune.devices.readings import Reading


def test_labels_escapes_and_kinds() -> None:
    text = (
        "# HELP a_total A\n# TYPE a_total counter\n"
        'a_total{path="C:\\\\x",say="\\"hi\\"\\nthere, {you}"} 3 1700000000000\n'
        '# TYPE b gauge\r\nb -1.5e3\n b2 +Inf\nd{x="1",} NaN\nrequests_total 7\n'
    )
    found, bad = parse(text)
    assert bad == 0
    assert found[0] == Reading("a_total", 3.0, (("path", "C:\\x"), ("say", '"hi"\nthere, {you}')), "counter")
    assert [(r.name, r.kind) for r in found[1:]] == [
        ("b", "gauge"), ("b2", "gauge"), ("d", "gauge"), ("requests_total", "counter")
    ]  # fmt: skip
    assert math.isnan(found[3].value)
    assert parse("") == ([], 0)


def test_a_counter_keeps_the_name_that_the_server_gave_it() -> None:
    found, _ = parse("# TYPE c counter\nc 1\n# TYPE vllm:tokens_total counter\nvllm:tokens_total 2\n")
    assert [(r.name, r.kind) for r in found] == [("c", "counter"), ("vllm:tokens_total", "counter")]


def test_bad_lines_are_counted_and_the_others_read() -> None:
    text = '# TYPE good counter\ngood 1\nbad bad bad\nc{x=1} 2\nd{x="1",x="2"} 3\nlast{le="nan"} 2\n'
    found, bad = parse(text)
    assert [(r.name, r.kind) for r in found] == [("good", "counter"), ("last", "gauge")]
    assert bad == 3


def test_what_is_not_prometheus_text() -> None:
    with pytest.raises(ValueError, match="not Prometheus text"):
        parse("<html><body>404</body></html>")


@given(st.text(alphabet='a1_:{}=",\\#+. \n\tTYPEHELPNaInf', max_size=200))
def test_no_text_is_a_traceback(text: str) -> None:
    try:
        found, _ = parse(text)
    except ValueError:
        return
    assert all(isinstance(reading.value, float) for reading in found)
