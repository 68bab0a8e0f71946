"""Answers that other tools were seen to misread: what each of them is worth, and what is said of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadgen_servers import DONE, HEAD, Done, Load, Peer, RawServer, Script, chunk
from loadgen_spools import spooled

from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import Answer
from swarmtune.loadgen.judge.latencies import columns, gaps_of, request_samples
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.counts import Evidence, Text, estimate, settle, spread

Start = Callable[[Script], Awaitable[RawServer]]
Json = dict[str, Any]
TOKENS = 16
PIECES = "came in one piece and not as streams"
FALSE = "the service stated token counts that cannot be true"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return Load(tmp_path, "python")


def event(body: Json | str) -> bytes:
    return f"data: {body if isinstance(body, str) else json.dumps(body)}\n\n".encode()


def text(word: str = "w", index: int = 0, **more: Any) -> bytes:
    return event({"choices": [{"index": index, "text": word, "finish_reason": None}], **more})


def delta(**message: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": message, "finish_reason": None}]})


def usage(prompt: Any, completion: Any, **more: Any) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


def used(prompt: Any, completion: Any, **more: Any) -> bytes:
    return event({"choices": [], "usage": usage(prompt, completion, **more)})


Answered = Callable[..., Done]


@pytest.fixture
def answered(tmp_path: Path) -> Answered:
    """A run whose reads come 40, 50, 60 ... ms after each request."""
    return partial(spooled, tmp_path)


def tokens(done: Done) -> list[int]:
    return [row["output_tokens"] for row in done.rows]


def samples(done: Done) -> dict[str, Any]:
    return request_samples(columns(done.report.records))


def agree(done: Done) -> None:
    """TPOT and ITL say the same: over all requests, weighted by tokens, they are one number."""
    data = columns(done.report.records)
    gaps = gaps_of(data)
    itl = done.report.results.statistics["itl_ms"].mean
    amounts = np.bincount(gaps.row, gaps.tokens, len(data.rows))
    assert itl == pytest.approx(float((gaps.tpot_ms * amounts).sum() / amounts.sum()), rel=1e-6)


# --- counts of tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated",
    [
        pytest.param(usage(11, -35), id="negative"),
        pytest.param(usage(0, 0), id="all-zeros"),
        pytest.param(usage(11, 5), id="fewer-than-events"),
        pytest.param(usage(11, 10**7), id="more-than-asked"),
    ],
)
def test_a_count_that_contradicts_the_stream_is_left_out_and_named(answered: Answered, stated: Json) -> None:
    done = answered(*[text()] * TOKENS, event({"choices": [], "usage": stated}))
    assert tokens(done) == [TOKENS] * 3
    assert [row["server_counted"] for row in done.rows] == [False] * 3
    assert done.measurement.metrics["estimated_count"] == 3
    assert any(reason.startswith(FALSE) for reason in done.measurement.reasons)
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3)
    agree(done)


@pytest.mark.parametrize("words", ["w", " the"])
def test_usage_of_each_event_alone_is_summed(answered: Answered, words: str) -> None:
    done = answered(*[text(words, usage=usage(11, 1))] * TOKENS, slos={"tpot_ms": 5.0})
    assert tokens(done) == [TOKENS] * 3
    assert done.measurement.metrics["good_request_share"] == 0
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3)


def test_without_usage_the_text_is_counted_and_the_output_says_so(answered: Answered) -> None:
    words = [text("time year people way")] + [text(" time year people way")] * 3
    done = answered(*words)
    assert tokens(done) == [TOKENS] * 3
    assert samples(done)["tpot_ms"] == pytest.approx([2.5] * 3, rel=0.03)  # three gaps of 10 ms, twelve tokens
    assert any("estimated" in note for note in done.report.results.notes)
    assert any("give --tokenizer DIR" in note and "pip install" in note for note in done.report.results.notes)
    assert done.measurement.metrics["osl_mismatch_count"] == 0
    agree(done)


def test_a_first_event_of_several_tokens_is_known_from_its_count(answered: Answered) -> None:
    first = text("w w w w w w w w", usage=usage(11, 8))
    done = answered(first, *[text(" w", usage=usage(11, n)) for n in range(9, 17)])
    assert tokens(done) == [TOKENS] * 3
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3)
    agree(done)


def test_a_first_event_of_several_tokens_is_known_from_its_text(answered: Answered) -> None:
    done = answered(text("w w w w w w w w"), *[text(" w")] * 8, used(11, TOKENS))
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3, rel=0.1)
    agree(done)


def test_pieces_of_tokens_are_no_tokens(answered: Answered) -> None:
    done = answered(*[text("w")] * (4 * TOKENS), used(11, TOKENS))
    assert tokens(done) == [TOKENS] * 3
    assert not any(FALSE in reason for reason in done.measurement.reasons)
    assert samples(done)["tpot_ms"] == pytest.approx([42.0] * 3)  # 63 gaps of 10 ms, 15 tokens
    assert done.report.results.statistics["itl_ms"].n == pytest.approx(3 * (TOKENS - 1))
    agree(done)


def test_reasoning_that_is_not_among_the_completion_tokens_is_added(answered: Answered) -> None:
    thoughts = [delta(reasoning_content="w ")] * 8
    details = {"completion_tokens_details": {"reasoning_tokens": 8}}
    done = answered(*thoughts, *[delta(content="w ")] * 8, used(11, 8, **details), endpoint_type="chat")
    assert tokens(done) == [TOKENS] * 3
    assert not any(FALSE in reason for reason in done.measurement.reasons)


@given(
    stated=st.lists(st.integers(-1, 60), max_size=20),
    chunks=st.integers(0, 20),
    completion=st.one_of(st.none(), st.integers(-1, 80)),
    limit=st.integers(-1, 40),
    by_text=st.integers(0, 60),
    sizes=st.lists(st.integers(1, 9), min_size=20, max_size=20),
)
def test_whatever_is_stated_the_counts_fit_together(
    stated: list[int], chunks: int, completion: int | None, limit: int, by_text: int, sizes: list[int]
) -> None:
    answer = Answer(list(range(chunks)), sizes[:chunks], completion_tokens=completion)
    answer.stated_counts = stated if len(stated) == chunks else []
    evidence = Evidence(limit, 10**9, 300, 5000)
    settle(answer, evidence, lambda: Text(by_text, 0))
    total = answer.completion_tokens
    if total is None:
        total = estimate(answer, evidence, Text(by_text, 0), streamed=True)
        assert total >= chunks or chunks > evidence.output_limit
    spread(answer, total, lambda: Text(by_text, 0))
    assert 0 <= total <= max(evidence.output_limit, max(chunks, Text(by_text, 0).most_tokens) + 2)
    assert total > 0 or not chunks
    if answer.chunk_tokens:
        assert len(answer.chunk_tokens) == chunks
        assert min(answer.chunk_tokens) >= 0
        assert sum(answer.chunk_tokens) <= total + 1e-6


# --- streams that are none, and several in one ------------------------------------------------------------------------


async def test_a_stream_that_is_held_back_has_no_time_per_token(load: Load, raw_server: Start) -> None:
    whole = b"".join([*[text(" w")] * TOKENS, used(11, TOKENS), DONE])

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.04)
            peer.writer.write(HEAD + chunk(whole) + chunk(b""))

    server = await raw_server(script)
    done = await load(server.url, request_count=8, concurrency=2, osl=TOKENS, slos={"tpot_ms": 1e6})
    metrics = done.measurement.metrics
    assert metrics["completed"] == 8
    assert metrics["good_request_share"] == 0
    assert not [name for name in metrics if "tpot" in name or "itl" in name or "icl" in name or "ttst" in name]
    assert metrics["p50_ttft_ms"] >= 40
    (reason,) = [reason for reason in done.measurement.reasons if PIECES in reason]
    assert reason.startswith("8 of 8 answers")


def test_the_gaps_of_several_choices_are_those_of_each(answered: Answered) -> None:
    step = b"".join(text(" w", index) for index in range(4))
    done = answered(*[step] * TOKENS, used(11, 4 * TOKENS), extra_inputs="n:4", slos={"tpot_ms": 5.0})
    assert tokens(done) == [4 * TOKENS] * 3
    assert [row["choices"] for row in done.rows] == [4] * 3
    metrics = done.measurement.metrics
    assert (metrics["good_request_share"], metrics["osl_mismatch_count"]) == (0, 0)
    assert metrics["p50_itl_ms"] == pytest.approx(10.0)
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3)
    agree(done)


def test_a_single_token_needs_no_second_one_but_a_single_piece_does(answered: Answered) -> None:
    done = answered(text(), used(11, 1), osl=1, slos={"tpot_ms": 1.0})
    assert done.measurement.metrics["good_request_share"] == 1
    done = answered(text("w w w w"), used(11, 4), osl=4, slos={"tpot_ms": 1.0})
    assert done.measurement.metrics["good_request_share"] == 0


# --- reasoning --------------------------------------------------------------------------------------------------------

THOUGHTS: dict[str, Callable[[str], Json]] = {
    "reasoning": lambda word: {"reasoning": word},
    "reasoning_content": lambda word: {"reasoning_content": word, "content": None},
    "reasoning_text": lambda word: {"reasoning_text": word, "content": ""},
    "details": lambda word: {
        "content": "",
        "reasoning_details": [{"type": "reasoning.text", "text": word, "index": 0}],
    },
    "summary": lambda word: {"reasoning_details": [{"type": "reasoning.summary", "summary": word}]},
    "thinking": lambda word: {"thinking": word},
    "thinking-parts": lambda word: {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": word}], "closed": True}]
    },
    "reasoning-part": lambda word: {"content": [{"type": "reasoning", "text": word}]},
    "thought": lambda word: {"thought": {"text": word}},
}


@pytest.mark.parametrize("form", sorted(THOUGHTS))
def test_reasoning_of_any_form_is_output(answered: Answered, form: str) -> None:
    events = [delta(**THOUGHTS[form]("w "))] * 8 + [delta(content="w ")] * 8
    done = answered(delta(role="assistant"), *events, used(11, TOKENS), endpoint_type="chat")
    assert {len(row["token_ns"]) for row in done.rows} == {TOKENS}
    assert {row["first_answer"] for row in done.rows} == {8}
    assert samples(done)["ttft_ms"] == pytest.approx([50.0] * 3)  # a first event with the role alone came before
    assert samples(done)["ttfo_ms"] == pytest.approx([130.0] * 3)
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3)


@pytest.mark.parametrize("form", sorted(THOUGHTS))
def test_reasoning_alone_has_a_first_token(answered: Answered, form: str) -> None:
    done = answered(*[delta(**THOUGHTS[form]("w "))] * 8, used(11, 8), endpoint_type="chat", osl=8)
    assert done.outcomes == ["completed"] * 3
    assert done.measurement.metrics["p50_ttft_ms"] == pytest.approx(40.0)
    assert "p50_ttfo_ms" not in done.measurement.metrics


def test_the_text_of_an_answer_holds_no_reasoning() -> None:
    endpoint = make_endpoint("m", LoadgenOptions(endpoint_type="chat"))
    stream = b"".join([*(delta(**made("hm ")) for made in THOUGHTS.values()), delta(content="so")]) + DONE
    answer = endpoint.read([(0, stream)], keep_text=True)
    assert (answer.text, answer.content) == ("so", "hm " * len(THOUGHTS) + "so")


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "words"),
    [
        pytest.param([b'data: {"choices":[{"index":0,"text":"\xe4\xbd"}]}\n\n'], "\ufffd", id="half-a-character"),
        pytest.param([event(r'{"choices":[{"text":"\ud83d"}]}'), event(r'{"choices":[{"text":"\ude00"}]}')], "\U0001f600",
                     id="halves-of-a-pair"),
        pytest.param([event(r'{"choices":[{"text":"a\ud83d"}]}')], "a\ufffd", id="a-lone-half"),
        pytest.param([text("a"), b"data:\n\n", b"data: \n\n", b": beat\n\n", b"event: ping\ndata:\n\n", text("b")], "ab",
                     id="signs-of-life"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_what_every_client_reads_is_read(events: Sequence[bytes], words: str, kind: str) -> None:
    stream = b"".join(events)
    if kind == "chat":
        stream = (
            stream.replace(b'"text":', b'"delta":{"content":')
            .replace(b'"}]}', b'"}}]}')
            .replace(b'", "finish_reason"', b'"}, "finish_reason"')
        )
    answer = make_endpoint("m", LoadgenOptions(endpoint_type=kind)).read([(0, stream + DONE)], keep_text=True)  # type: ignore[arg-type]
    assert (answer.error, answer.text) == (None, words)


async def test_one_bad_answer_costs_at_most_itself(load: Load, raw_server: Start) -> None:
    count = 0

    async def script(peer: Peer) -> None:
        nonlocal count
        while True:
            await peer.request()
            count += 1
            bad = b'data: {"choices":[{"index":0,"text":"\xe4' if count % 3 == 0 else text()
            await peer.answer(bad + b"\n\n", text(), DONE)

    server = await raw_server(script)
    done = await load(server.url, request_count=9)
    assert sorted(done.outcomes) == ["completed"] * 6 + ["failed"] * 3


# --- a warm-up that fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "named"), [(0, False), (10, True)])
async def test_a_warm_up_that_failed_is_named(load: Load, raw_server: Start, bad: int, named: bool) -> None:
    count = 0

    async def script(peer: Peer) -> None:
        nonlocal count
        while True:
            await peer.request()
            count += 1
            if count <= bad:
                await peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 7\r\n\r\nloading")
            else:
                await peer.answer(text(), text(), DONE)

    server = await raw_server(script)
    done = await load(server.url, request_count=3, warmup_request_count=10)
    told = [reason for reason in done.measurement.reasons if "did not begin warm" in reason]
    assert bool(told) is named
    if named:
        assert told[0].startswith("10 of 10 warm-up requests failed: HTTP 503: loading")


# --- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        ([[0.1]], "an answer with 1 results for 4 texts"),
        ([[None, None]] * 4, "an embedding without numbers"),
        ([[]] * 4, "an embedding without numbers"),
        ([None] * 4, "an embedding without numbers"),
        (["!!!"] * 4, "an embedding without numbers"),
        ([[0.1], [0.1], [0.1], [0.1, 0.2]], "embeddings of different lengths"),
        (["AAAA"] * 4, None),
        (["AA+/_-A="] * 4, None),
        ([[-1, 2e-3]] * 4, None),
        ([[[0.5], [1]]] * 4, None),
    ],
)
async def test_an_answer_has_a_vector_for_each_text(
    load: Load, raw_server: Start, vectors: list[Any], error: str | None
) -> None:
    data = [{"index": at, "object": None, "embedding": vector} for at, vector in enumerate(vectors)]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": -5}}).encode()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    server = await raw_server(script)
    done = await load(server.url, request_count=2, endpoint_type="embeddings", prompt_batch_size=4)
    if error is None:
        assert done.outcomes == ["completed"] * 2
        assert done.measurement.metrics["total_token_throughput"] > 0
        assert any(reason.startswith(FALSE) for reason in done.measurement.reasons)
    else:
        assert all(error in row["error"] for row in done.rows)


# --- what an attack found -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        {"error": ""},
        {"detail": "boom"},
        {"code": 50507, "message": "boom", "data": None},
        {"status": "error", "msg": "boom"},
    ],
)
@pytest.mark.parametrize("before", [0, 3])
def test_an_error_event_of_any_form_fails_the_answer(answered: Answered, error: Json, before: int) -> None:
    done = answered(*[text(" a")] * before, event(error), osl=8)
    assert done.outcomes == ["failed"] * 3
    assert all(("boom" in row["error"]) is ("error" not in error) for row in done.rows)


@pytest.mark.parametrize("stated", [16, 12, 11])
def test_more_tokens_than_were_asked_for_are_not_believed(answered: Answered, stated: int) -> None:
    done = answered(*[text(" a")] * 8, used(11, stated), osl=8)
    assert tokens(done) == [8] * 3
    assert any(reason.startswith(FALSE) for reason in done.measurement.reasons)


def test_the_sentence_speaks_of_estimates_only_where_there_are_some(answered: Answered) -> None:
    done = answered(*[text(" a")] * 8, used(10**12, 8), osl=8)
    (reason,) = [reason for reason in done.measurement.reasons if reason.startswith(FALSE)]
    assert "estimated" not in reason


def test_choices_whose_numbers_are_texts(answered: Answered) -> None:
    step = b"".join(text(" w").replace(b'"index": 0', f'"index": "{index}"'.encode()) for index in range(2))
    done = answered(*[step] * 8, used(11, 16), extra_inputs="n:2", osl=8)
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3)


def test_encrypted_reasoning_has_its_time(answered: Answered) -> None:
    hidden = delta(reasoning_details=[{"type": "reasoning.encrypted", "data": "AAAA"}])
    done = answered(*[hidden] * 4, *[delta(content=" a")] * 4, used(11, 8), endpoint_type="chat", osl=8)
    assert samples(done)["ttft_ms"] == pytest.approx([40.0] * 3)


def test_a_message_where_a_delta_is_usual(answered: Answered) -> None:
    events = [event({"choices": [{"index": 0, "message": {"role": "assistant", "content": " a"}}]})] * 8
    done = answered(*events, used(11, 8), endpoint_type="chat", osl=8)
    assert samples(done)["tpot_ms"] == pytest.approx([10.0] * 3)


def test_tokens_without_any_text_are_named(answered: Answered) -> None:
    done = answered(*[text("")] * 8, used(11, 8), osl=8, slos={"ttft_ms": 1e6})
    assert any("no text that is understood" in reason for reason in done.measurement.reasons)
    assert done.measurement.metrics["good_request_share"] == 0


def test_pieces_without_usage_are_at_most_what_was_allowed(answered: Answered) -> None:
    done = answered(*[text("w")] * 19, osl=8)
    assert all(count <= 8 for count in tokens(done))


@pytest.mark.parametrize("value", ["t:NaN", "x:99999999999999999999999", '{"a":[1e999]}'])
def test_extra_inputs_that_json_cannot_send_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="JSON cannot send"):
        LoadgenOptions(extra_inputs=(value,))


@pytest.mark.parametrize("header", ["Content-Length: 5", "transfer-encoding: gzip", "A: b\r\nX: y"])
def test_headers_that_would_break_the_request_are_refused(header: str) -> None:
    with pytest.raises(ValueError, match="header"):
        LoadgenOptions(header=(header,))


@pytest.mark.parametrize(
    ("ranks", "error"),
    [
        ([{"index": 0, "score": 0.5}], "an answer with 1 results for 2 texts"),
        ([{"index": 0, "score": 0.5}, {"index": 0, "score": 0.4}], "two ranks of one passage"),
        ([{"index": 0, "score": None}, {"index": 1, "score": 0.4}], "a rank without a score"),
        ([{"index": 0}, {"index": 1, "score": 0.4}], "a rank without a score"),
        ([{"index": "a", "score": 1}, {"index": 1, "score": 0.4}], "a rank without the number of its passage"),
        (["a", "b"], "a ranking that is no list of ranks"),
        ([{"index": 100, "score": 1}, {"index": 1, "score": 0.4}], "a rank of passage 100, where 2 were sent"),
        ([{"index": 1, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0}], None),
        ([{"index": 1, "logit": -3}, {"index": 0, "logit": 2.5}], None),
    ],
)
async def test_a_ranking_has_each_passage_once(
    load: Load, raw_server: Start, ranks: list[Any], error: str | None
) -> None:
    body = json.dumps({"results": ranks}).encode()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    server = await raw_server(script)
    done = await load(server.url, request_count=2, endpoint_type="rankings", prompt_batch_size=2)
    assert {row["error"] for row in done.rows} == {error}


def test_two_embeddings_of_one_index() -> None:
    body = json.dumps({"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]}).encode()
    answer = make_endpoint("m", LoadgenOptions(endpoint_type="embeddings")).read([(0, body)])
    assert answer.error == "two embeddings of one index"


def test_more_choices_than_any_request_asks_for(answered: Answered) -> None:
    done = answered(b"".join(text(" w", index) for index in range(-3, 400)), used(11, 403), osl=8)
    assert {row["choices"] for row in done.rows} == {255}


@pytest.mark.parametrize("thought", [2**31 - 1, 10**9, 100])
def test_reasoning_that_cannot_be_is_not_added(answered: Answered, thought: int) -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": thought}}
    done = answered(*[text(" a")] * TOKENS, used(11, 8, **details))
    assert tokens(done) == [TOKENS] * 3
    assert any(reason.startswith(FALSE) for reason in done.measurement.reasons)


@pytest.mark.parametrize(("location", "words"), [
    (b"Location: /good/v1/completions\r\n", "a redirect to /good/v1/completions is not followed"),
    (b"location: https://example.org/\x1b[31m\xe4?token=abc\r\n", "to https://example.org/\\x1b[31m\ufffd?token=*** is not"),
    (b"Location: http://x/" + b"y" * 5000 + b"\r\n", "to http://x/" + "y" * 191 + " is not followed"),
    (b"", "a redirect, which does not say where to, is not followed: give the address of the service itself"),
])  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_named(load: Load, raw_server: Start, status: int, location: bytes, words: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 %d Elsewhere\r\n%bContent-Length: 0\r\n\r\n" % (status, location))

    done = await load((await raw_server(script)).url, request_count=2)
    (told,) = done.report.results.errors
    assert told.startswith(f"HTTP {status}: ")
    assert words in told
