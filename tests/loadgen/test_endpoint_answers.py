"""What comes back: answers of every API, in all the ways in which servers write and networks cut them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import Answer
from swarmtune.loadgen.endpoints.sse import events
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Turn

DONE = "data: [DONE]\n\n"
PATHS = {"template": "t.0"}


def read(stream: str | bytes | list[tuple[int, bytes]], kind: str = "chat", **options: Any) -> Answer:
    """The answer; each item of a list is one read, a text is read number 7."""
    pieces = (
        [(7, stream.encode() if isinstance(stream, str) else stream)] if isinstance(stream, str | bytes) else stream
    )
    made = make_endpoint(
        "m",
        LoadgenOptions(endpoint_type=kind, payload_template="{}", response_field=PATHS.get(kind, "text"), **options),
    )
    return made.read(pieces, keep_text=True)


def event(data: Any, name: str = "") -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


def delta(reason: str | None = None, usage: dict[str, Any] | None = None, index: int = 0, **parts: Any) -> str:
    choice = {"index": index, "delta": parts, "logprobs": None, "finish_reason": reason}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": usage})


def text(word: str, reason: str | None = None) -> str:
    return event({"choices": [{"index": 0, "text": word, "finish_reason": reason}]})


def usage(**counts: Any) -> str:
    return event({"choices": [], "usage": counts})


FULL = (
    "\ufeff: ping\n\n" + delta(role="assistant", content="") + delta(reasoning_content="日本") + delta(content="über")
    + ": ping\r\n" + delta(content=" x") + delta("length", content="")
    + usage(prompt_tokens=9, completion_tokens=5, prompt_tokens_details={"cached_tokens": 4}) + DONE
)  # fmt: skip
RESPONSES = (
    event({"type": "response.created", "response": {"error": None, "usage": None}}, "response.created")
    + event({"type": "response.reasoning_text.delta", "delta": "hm"}, "response.reasoning_text.delta")
    + event({"type": "response.output_text.delta", "delta": "日本"}, "response.output_text.delta")
    + event({"delta": " b"}, "response.output_text.delta")
    + event({"type": "response.output_text.done", "text": "日本 b"}, "response.output_text.done")
    + event({"type": "response.completed", "response": {"usage": {
        "input_tokens": 9, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 2}}}}, "response.completed")
)  # fmt: skip
TGI = "".join(
    "data:" + json.dumps({"index": n, "token": {"id": n, "text": word, "special": word == "</s>"}, **end}) + "\n\n"
    for n, (word, end) in enumerate([
        ("日本", {"generated_text": None, "details": None}), (" b", {"generated_text": None}),
        ("</s>", {"generated_text": "日本 b",
                  "details": {"finish_reason": "length", "generated_tokens": 3, "input_length": 9}}),
    ])
)  # fmt: skip
TEMPLATE = event({"t": ["日本"]}) + event({"t": [""]}) + event({"t": [" b"], "usage": {"prompt_tokens": 9}}) + DONE


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_plain_stream(kind: str) -> None:
    part = (lambda word, reason=None: delta(reason, content=word)) if kind == "chat" else text
    stream = [part(" a"), part(" b", "length") + usage(prompt_tokens=9, completion_tokens=2) + DONE]
    answer = read([(3, stream[0].encode()), (8, stream[1].encode())], kind)
    assert answer == Answer(
        [3, 8], [2, 2], first_answer=0, prompt_tokens=9, completion_tokens=2, text=" a b", content=" a b", finished=True
    )


@pytest.mark.parametrize(
    ("kind", "stream", "expected"),
    [
        ("chat", FULL, (3, 1, 9, 5, None, 4, "über x")),
        ("responses", RESPONSES, (3, 1, 9, 5, 2, 4, "日本 b")),
        ("tgi", TGI, (2, 0, 9, 3, None, None, "日本 b")),
        ("template", TEMPLATE, (2, 0, 9, None, None, None, "日本 b")),
    ],
)
@given(cuts=st.lists(st.integers(0, 1600), max_size=40), newline=st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_cut_gives_the_same_answer_and_the_reads_of_its_ends(
    kind: str, stream: str, expected: tuple[Any, ...], cuts: list[int], newline: str
) -> None:
    raw = stream.replace("\r\n", "\n").replace("\n", newline).encode()
    edges = sorted([0, len(raw), *(min(cut, len(raw)) for cut in cuts)])
    pieces = [(end, raw[start:end]) for start, end in pairwise(edges)]
    answer, at_once = read(pieces, kind), read([(7, raw)], kind)
    assert answer.error is None
    assert answer.finished
    assert (
        len(answer.chunks), answer.first_answer, answer.prompt_tokens, answer.completion_tokens,
        answer.reasoning_tokens, answer.cached_tokens, answer.text,
    ) == expected  # fmt: skip
    assert at_once.chunks == [7] * expected[0]
    assert len(at_once.silent) == len(answer.silent)
    at_once.chunks, at_once.silent = answer.chunks, answer.silent
    assert answer == at_once
    word = "日本".encode()
    found = raw.find(word) if word in raw else raw.find(json.dumps("日本")[1:-1].encode())
    last = raw.index(newline.encode(), found)  # the first line end behind the word: its data is whole there
    assert answer.chunks[1 if kind == "responses" else 0] == next(read for read, _ in pieces if read >= last)


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=40)), max_size=8), st.sampled_from(
    ["chat", "completions", "embeddings", "responses", "rankings", "tgi", "template"]), st.booleans())  # fmt: skip
def test_no_bytes_raise(pieces: list[tuple[int, bytes]], kind: str, streaming: bool) -> None:
    assert read(pieces, kind, streaming=streaming).error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "delta", "message", "content", "usage", "completion_tokens", "prompt_tokens_details", "cached_tokens",
         "error", "finish_reason", "text", "index", "token", "details", "response", "output", "type", "t", "data"]
    ), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["choices", "usage", "token", "details", "response", "output", "t", "data"]), JSON),
       st.sampled_from(["chat", "embeddings", "responses", "rankings", "tgi", "template"]), st.booleans())  # fmt: skip
def test_no_json_raises(chunk: dict[str, Any], kind: str, streaming: bool) -> None:
    answer = read(event(chunk) if streaming else json.dumps(chunk), kind, streaming=streaming)
    assert answer.finished or answer.error


def test_what_is_a_chunk_and_what_is_answer() -> None:
    stream = delta(role="assistant", content="") + delta(content=None) + delta() + event({"choices": []})
    stream += (
        delta(reasoning_content="hm") + delta(reasoning="so") + delta(content="x") + delta(tool_calls=[{"index": 0}])
    )
    answer = read(stream + delta(content=[{"type": "text", "text": "y"}]) + DONE)
    assert (len(answer.chunks), answer.first_answer, answer.text) == (5, 2, "xy")
    assert read(delta(reasoning="a") + DONE).first_answer is None
    assert read(delta(tool_calls=[{"index": 0}]) + DONE).first_answer == 0


def test_tokens_of_each_chunk_from_continuous_usage() -> None:
    def counted(n: int, word: str) -> str:
        return delta(content=word, usage={"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n})

    stream = counted(0, "") + counted(1, "a") + counted(2, "") + counted(5, "bcd") + counted(6, "e")
    assert read(stream + usage(completion_tokens=7) + DONE).stated_counts == [1, 5, 6]
    assert read(stream + delta(content="f") + DONE).stated_counts == []  # not of all: of no use
    assert read(delta(content="a") + usage(completion_tokens=1) + DONE).stated_counts == []


def listed(word: str, count: int, *, of: str) -> str:
    """An event that lists its tokens."""
    entries: dict[str, Any] = {
        "token_ids": {"token_ids": [7] * count},
        "tokens": {"logprobs": {"tokens": ["x"] * count}},
    }
    entries["content"] = {"logprobs": {"content": [{"token": "x", "logprob": -0.5, "bytes": [120]}] * count}}
    return event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None, **entries[of]}]})


@pytest.mark.parametrize("of", ["token_ids", "content", "tokens"])
def test_tokens_of_each_chunk_from_their_list(of: str) -> None:
    stream = listed("a", 1, of=of) + listed("bcd", 3, of=of) + listed("e", 2, of=of)
    answer = read(stream + DONE)
    assert (answer.stated_counts, answer.completion_tokens) == ([1, 4, 6], 6)
    answer = read(stream + usage(completion_tokens=7) + DONE)  # and one that ends the text
    assert (answer.stated_counts, answer.completion_tokens) == ([1, 4, 6], 7)
    answer = read(stream + usage(completion_tokens=20) + DONE)  # not all are listed
    assert (answer.stated_counts, answer.completion_tokens) == ([], 20)
    answer = read(stream + delta(content="f") + DONE)  # not with every chunk
    assert (answer.stated_counts, answer.completion_tokens) == ([], None)
    answer = read(listed("a", 0, of=of) + listed("b", 0, of=of) + DONE)  # always empty
    assert (answer.stated_counts, answer.completion_tokens) == ([], None)


def test_token_counts_in_all_their_places() -> None:
    answer = read(delta(content="a") + usage(prompt_tokens=9, completion_tokens=5.0, reasoning_tokens=3) + DONE)
    assert (answer.completion_tokens, answer.reasoning_tokens) == (5, 3)
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    answer = read(delta(content="a") + usage(prompt_tokens="9", **details) + DONE)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.reasoning_tokens) == (-1, 4, 2)


@pytest.mark.parametrize(
    "end", [DONE, delta("stop"), delta("length", content="b"), delta("stop").rstrip(), "data:[DONE]"]
)
def test_an_end_is_done_or_a_finish_reason(end: str) -> None:
    answer = read(delta(content="a") + end)
    assert (answer.error, answer.finished) == (None, True)


def test_several_choices_end_when_all_have_ended() -> None:
    stream = delta(content="a") + delta(content="A", index=1) + delta("stop", index=1)
    assert "cut off" in (read(stream).error or "")
    answer = read(stream + delta("stop"))
    assert (answer.error, answer.text, len(answer.chunks)) == (None, "a", 2)


@pytest.mark.parametrize("kind", ["chat", "completions", "responses", "tgi"])
@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (
            'data: {"error": {"message": "CUDA error", "type": "InternalServerError", "code": 500}}\n\n' + DONE,
            "CUDA error",
        ),
        ('data: {"object": "error", "message": "dead too", "code": 400}\n\n' + DONE, "dead too"),
        ('data: {"error": {"code": 500, "message": "slot lost", "type": "server_error"}}\n\n', "slot lost"),
        ('error: {"code": 500, "message": "old llama.cpp"}\n\n', "old llama.cpp"),
        ('data: {"error": "out of queue", "error_type": "overloaded"}\n\n', "out of queue (overloaded)"),
        ('event: error\ndata: {"message": "named"}\n\n', "named"),
        ('data: {"type": "error", "code": "x", "message": "typed"}\n\n', "typed"),
        ('data: {"choices": [], "error": {"message": "with choices"}}\n\n', "with choices"),
        ('data: {"choices": [{"te', "not a JSON object"),
        ("data: [1]\n\n", "not a JSON object"),
        ("data: Internal Server Error\n\n", "'Internal Server Error'"),
        ("<html><body>Bad gateway</body></html>", "no event stream but a page: 'Bad gateway'"),
        ('{"error": {"message": "whole body"}}', "error in the answer: whole body"),
        ('{"detail": "not found"}', "error in the answer: not found"),
        ('{"base_resp": {"status_code": 1004, "status_msg": "login fail"}}', "error in the answer: login fail"),
        ('{"Response": {"Error": {"Code": "AuthFailure", "Message": "no key"}}}', "error in the answer: no key"),
        ('{"data": {"id": 1}, "code": 0, "msg": "success"}', "streaming = false"),
        ('data: {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}\n\n', "login fail"),
        ('data: {"choices": [], "code": 500, "msg": "boom"}\n\n', "boom"),
        ("<html><head><title>Just a moment...</title></head><body></body></html>", "a page: 'Just a moment...'"),
        (": ping\n\n: ping\n\n", "cut off"),
        ("", "an empty answer"),
        ("\n", "an empty answer"),
        (DONE, "without a token"),
    ],
)
def test_failures_are_told(kind: str, stream: str, words: str) -> None:
    answer = read(stream, kind)
    assert words in (answer.error or "")
    assert not (answer.finished and words != "without a token")


def test_what_came_before_a_failure_is_kept() -> None:
    answer = read(
        [(1, delta(content="a").encode()), (2, delta(content="b").encode()), (3, b'data: {"error": "x"}\n\n')]
    )
    assert (answer.chunks, answer.text, answer.error) == ([1, 2], "ab", "error in the stream: x")
    assert "cut off" in (read(delta(content="a")).error or "")
    assert "gave up" in (read(delta("abort")).error or "")
    assert "gave up" in (read(delta("insufficient_system_resource")).error or "")  # DeepSeek
    choice = {
        "index": 0,
        "delta": {"content": ""},
        "finish_reason": None,
        "error": {"message": "provider died", "code": 502},
    }
    inside = read([(1, delta(content="a").encode()), (2, event({"choices": [choice]}).encode())])  # OpenRouter
    assert (inside.chunks, inside.error) == ([1], "error in the stream: provider died")
    assert "gave up" in (read(event({"type": "response.cancelled", "response": {}}), "responses").error or "")
    failed = event({"type": "response.failed", "response": {"error": {"message": "no memory"}}})
    assert "no memory" in (read(failed, "responses").error or "")


WHOLE = {
    "chat": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi", "reasoning_content": "hm"},
                          "finish_reason": "length"}], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
    "completions": {"choices": [{"text": "hi"}], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
    "responses": {"status": "incomplete", "error": None, "usage": {"input_tokens": 9, "output_tokens": 5}, "output": [
        {"type": "reasoning", "content": []}, {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]},
    "tgi": {"generated_text": "hi", "details": {"generated_tokens": 5, "prefill": [{"id": 1}] * 9}},
    "template": {"t": ["hi"], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_whole_answers(kind: str) -> None:
    raw = json.dumps(WHOLE[kind]).encode()
    answer = read([(2, raw[:9]), (6, raw[9:])], kind, streaming=False)
    thought = "hm" if kind == "chat" else ""
    assert answer == Answer(
        [6], [2], first_answer=0, prompt_tokens=9, completion_tokens=5, text="hi", content=f"{thought}hi", finished=True
    )


@pytest.mark.parametrize("kind", ["chat", "completions", "responses", "tgi", "embeddings", "rankings"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "too long"}}', "error in the answer: too long"),
        ('{"detail": "odd"}', ""),
        ("<html>", "no JSON object but '<html>'"),
        (DONE, "an event stream, where"),
        (" ", "an empty answer"),
    ],
)
def test_whole_answers_that_fail(kind: str, body: str, words: str) -> None:
    answer = read(body, kind, streaming=False)
    if "detail" in body:  # chat and completions say it
        words = "error in the answer: odd" if kind in ("chat", "completions") else "an answer without"
    assert words in (answer.error or "")
    assert not answer.finished


@pytest.mark.parametrize(
    ("kind", "body", "prompt_tokens"),
    [
        ("embeddings", {"data": [{"embedding": [0.1, 0.2]}], "usage": {"prompt_tokens": 9, "total_tokens": 9}}, 9),
        ("embeddings", {"data": [{"embedding": "AAAA"}]}, None),
        ("rankings", {"rankings": [{"index": 0, "logit": 1.5}], "usage": {"prompt_tokens": 9}}, 9),
        ("rankings", {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 9}}, 9),
        ("rankings", [{"index": 0, "score": 0.5}], None),
    ],
)
def test_answers_without_tokens(kind: str, body: Any, prompt_tokens: int | None) -> None:
    answer = read(json.dumps(body), kind)
    highest = 0 if kind == "rankings" else -1
    wanted = Answer(prompt_tokens=prompt_tokens, completion_tokens=0, results=1, highest=highest, finished=True)
    assert answer == wanted


@pytest.mark.parametrize(("reason", "error"), [
    ("content_filter", "the server gave up: content_filter"), ("max_output_tokens", None), (None, None),
])  # fmt: skip
def test_a_response_that_is_withheld(reason: str | None, error: str | None) -> None:
    ended = {"status": "incomplete", "incomplete_details": reason and {"reason": reason}, "usage": {"output_tokens": 1}}
    stream = event({"type": "response.output_text.delta", "delta": "a"})
    assert read(stream + event({"type": "response.incomplete", "response": ended}), "responses").error == error
    output = [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}]
    assert read(json.dumps({**ended, "output": output}), "responses", streaming=False).error == error


@pytest.mark.parametrize("vector", ['["0.1", "x"]', '[1, "2"]', "[true]"])
def test_vectors_of_texts_are_none(vector: str) -> None:
    answer = read(f'{{"data": [{{"index": 0, "embedding": {vector}}}]}}', "embeddings")
    assert (answer.error or "").startswith("an embedding without numbers")


def test_of_a_traceback_in_an_error_the_last_line_tells() -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: CUDA out of memory. Tried 2 GiB'
    answer = read(json.dumps({"error": {"message": text}}))
    assert answer.error == "error in the answer: RuntimeError: CUDA out of memory. Tried 2 GiB"


@pytest.mark.parametrize(("template", "most"), [('{"n": "{{output_tokens}}"}', 16), ('{"n": 5}', -1)])
def test_a_template_with_the_length_sets_a_limit(template: str, most: int) -> None:
    made = make_endpoint("m", LoadgenOptions(endpoint_type="template", payload_template=template))
    assert made.most_tokens(Turn(texts=("a",), input_tokens=1, output_tokens=16)) == most


def test_a_template_without_its_field() -> None:
    assert "nothing at response_field 't.0' in '{\"x\":1}'" in (read('{"x":1}', "template").error or "")


def test_event_format_details() -> None:
    raw = b"\xef\xbb\xbf: comment\nid: 4\ndata:one\ndata: two\n\n\n\nretry: 5\ndata: three"
    assert list(events([(5, raw)])) == [(5, "", b"one\ntwo"), (5, "", b"three")]
    cut = [(1, b"data: a\r"), (2, b""), (3, b"\n\r\nevent: n\rdata: b"), (4, b"\r\rdata:  c\r\n\r\n")]
    assert list(events(cut)) == [(1, "", b"a"), (3, "n", b"b"), (4, "", b" c")]
