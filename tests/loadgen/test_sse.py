"""The parser of stored streams, against the ways in which servers write them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.sse import Answer, events, read


def text(word: str, reason: str | None = None) -> str:
    return "data: " + json.dumps({"choices": [{"text": word, "finish_reason": reason}]}, ensure_ascii=False) + "\n\n"


def delta(**parts: object) -> str:
    return "data: " + json.dumps({"choices": [{"delta": parts, "finish_reason": None}]}) + "\n\n"


USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}\n\n'
DONE = "data: [DONE]\n\n"


def read_at_once(stream: str) -> Answer:
    return read([(100, stream.encode())])


def test_a_plain_stream() -> None:
    answer = read([(1, text(" a").encode()), (2, text(" b", "length").encode()), (3, (USAGE + DONE).encode())])
    assert answer == Answer([1, 2], 9, 5, finished=True)
    assert answer.output_tokens == 5


def test_several_events_in_one_read_share_its_stamp() -> None:
    assert read_at_once(text("a") + text("b") + DONE).stamps_ns == [100, 100]


@given(st.lists(st.integers(0, 400), max_size=30), st.sampled_from(["\n", "\r\n"]))
def test_any_split_gives_the_same_tokens_and_the_stamp_of_the_read_that_ends_the_line(
    cuts: list[int], newline: str
) -> None:
    stream = (text("日本") + ": ping\n\n" + text("über") + text("", "stop") + USAGE + DONE).replace("\n", newline)
    raw = stream.encode()
    edges = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    pieces = [(end, raw[start:end]) for start, end in pairwise(edges)]
    answer = read(pieces)
    assert answer.error is None
    ends = [raw.index(newline.encode(), raw.index(word.encode())) + len(newline) for word in ("日本", "über")]
    assert answer.stamps_ns == [next(stamp for stamp, _ in pieces if stamp >= end) for end in ends]
    assert answer.output_tokens == 5


def test_role_only_and_empty_deltas_are_no_tokens_and_reasoning_is() -> None:
    stream = delta(role="assistant", content="") + delta(content=None) + delta() + 'data: {"choices":[]}\n\n'
    stream += delta(reasoning_content="hm") + delta(reasoning="so") + delta(content="x") + DONE
    assert len(read_at_once(stream).stamps_ns) == 3


def test_tokens_are_counted_by_content_without_usage() -> None:
    assert read_at_once(text("a") + text("b") + DONE).output_tokens == 2


@pytest.mark.parametrize("end", [DONE, text("b", "stop"), text("", "length"), text("b", "stop").rstrip()])
def test_an_end_is_done_or_a_finish_reason(end: str) -> None:
    assert read_at_once(text("a") + end).error is None


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (text("a"), "cut off"),
        (text("a") + 'data: {"choices": [{"te', "not JSON"),
        (text("a") + 'data: {"error": {"message": "CUDA error", "code": 500}}\n\n' + DONE, "CUDA error"),
        (text("a") + 'event: error\ndata: {"message": "dead"}\n\n', "dead"),
        (text("a") + 'data: {"object": "error", "message": "dead too"}\n\n' + DONE, "dead too"),
        (text("a") + 'data: {"error": "plain text"}\n\n', "plain text"),
        ("<html><body>Bad gateway</body></html>", "no event stream but '<html>"),
        ('{"choices": [{"text": "not streamed"}]}', "no event stream"),
        ("", "empty answer"),
        (DONE, "without a token"),
        ("data: [1]\n\n", "not a JSON object"),
        ('data: {"choices": [1], "usage": 3}\n\n' + DONE, "without a token"),
    ],
)
def test_failures_are_told(stream: str, words: str) -> None:
    assert words in (read_at_once(stream).error or "")


def test_event_format_details() -> None:
    raw = b"\xef\xbb\xbf: comment\nid: 4\ndata:one\ndata: two\n\n\n\ndata: three"
    assert list(events([(5, raw)])) == [(5, "", b"one\ntwo"), (5, "", b"three")]


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=40)), max_size=8))
def test_no_bytes_raise(pieces: list[tuple[int, bytes]]) -> None:
    assert read(pieces).error
