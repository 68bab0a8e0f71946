"""Services that state counts of tokens which cannot be true, and services that never end: the run tells of both."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadgen_servers import DONE, HEAD, TEXT, Done, Load, Peer, RawServer, Script, chunk, token
from loadgen_spools import spooled

from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import Answer, Endpoint, Piece, understood
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.counts import Evidence, Text, settle, spread
from swarmtune.workload.session import Turn

Start = Callable[[Script], Awaitable[RawServer]]
WORDS = token(" a") + token(" b") + token(" c", "length")
BLAME = "the service stated token counts that cannot be true"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return Load(tmp_path, "python")


async def told(load: Load, start: Start, usage: str, **options: object) -> Done:
    """A run of three requests that are all answered with these counts."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(WORDS, f'data: {{"choices":[],"usage":{usage}}}\n\n'.encode(), DONE)

    server = await start(script)
    return await load(server.url, request_count=3, osl=3, **options)


@pytest.mark.parametrize(
    "count", ["-5", "1e9", "1000000000", "4000000000", "1e30", "1" * 300, "2.5", '"3"', "true", "[]"]
)
async def test_a_false_count_of_the_answer_is_replaced_by_the_stream(load: Load, raw_server: Start, count: str) -> None:
    done = await told(load, raw_server, f'{{"prompt_tokens":7,"completion_tokens":{count}}}')
    assert done.outcomes == ["completed"] * 3
    assert [(row["output_tokens"], row["server_counted"], row["false_usage"]) for row in done.rows] == [
        (3, False, True)
    ] * 3
    assert done.measurement.metrics["false_usage_count"] == 3
    assert done.measurement.metrics["total_output_tokens"] == 9
    (blame,) = [reason for reason in done.measurement.reasons if reason.startswith(BLAME)]
    assert "3 of 3 answers: they were left out" in blame


@pytest.mark.parametrize(
    "usage",
    [
        '{"prompt_tokens":-5,"completion_tokens":3}',
        '{"prompt_tokens":1e9,"completion_tokens":3}',
        '{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}',
        '{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":-8}}',
        '{"prompt_tokens":7,"completion_tokens":3,"completion_tokens_details":{"reasoning_tokens":4}}',
    ],
)
async def test_false_counts_of_other_kinds(load: Load, raw_server: Start, usage: str) -> None:
    done = await told(load, raw_server, usage)
    row = done.rows[0]
    assert (row["output_tokens"], row["server_counted"], row["false_usage"]) == (3, True, True)
    assert 0 < row["input_tokens"] <= 7
    assert (row["cached_tokens"], row["reasoning_tokens"]) == (-1, -1)
    assert any(reason.startswith(BLAME) for reason in done.measurement.reasons)


async def test_counts_that_can_be_true_are_believed(load: Load, raw_server: Start) -> None:
    done = await told(load, raw_server, '{"prompt_tokens":7,"completion_tokens":4}')
    assert done.rows[0]["output_tokens"] == 4
    assert done.measurement.metrics["false_usage_count"] == 0
    assert not any(BLAME in reason for reason in done.measurement.reasons)


@pytest.mark.parametrize("count", [-5, 0, 10**9, 10**30])
async def test_without_a_stream_the_text_stands_in_for_a_false_count(load: Load, raw_server: Start, count: int) -> None:
    body = json.dumps(
        {"choices": [{"text": "a b c", "finish_reason": "length"}], "usage": {"completion_tokens": count}}
    )

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body.encode()))

    server = await raw_server(script)
    done = await load(server.url, request_count=3, osl=3, streaming=False)
    assert done.outcomes == ["completed"] * 3
    assert done.measurement.metrics["total_output_tokens"] == 9
    assert any(reason.startswith(BLAME) for reason in done.measurement.reasons)


async def test_a_false_count_is_no_sign_of_a_token(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b'data: {"choices":[],"usage":{"completion_tokens":1000000000}}\n\n', DONE)

    done = await load((await raw_server(script)).url, request_count=1)
    assert [(row["outcome"], row["error"]) for row in done.rows] == [("failed", "an answer without a token")]


@pytest.mark.parametrize(
    ("evidence", "most"),
    [
        (Evidence(32, 10**9, 500, 10**6), 34),  # as asked, and a little more
        (Evidence(10_000, 10**9, 500, 10**6), 10_200),
        (Evidence(10_000, 10**7, 500, 900), 900),  # a byte holds a token at most
        (Evidence(-1, 10**9, 500, 900), 20_000),  # no limit asked: hidden reasoning takes its time
    ],
)
def test_the_most_tokens_that_can_be_true(evidence: Evidence, most: int) -> None:
    assert not settle(Answer(chunks=[0], completion_tokens=most), evidence, lambda: Text(most, 0))
    answer = Answer(chunks=[0], completion_tokens=most + 1)
    assert settle(answer, evidence, lambda: Text(most, 0))
    assert answer.completion_tokens is None


@pytest.mark.parametrize(
    ("options", "turn", "most"),
    [
        ({}, Turn(("a",), 1, 9), 9),
        ({}, Turn(("a",), 1), -1),
        ({"extra_inputs": "n:4"}, Turn(("a",), 1, 9), 36),
        ({"extra_inputs": "max_tokens:500"}, Turn(("a",), 1, 9), -1),
        ({}, Turn(("a",), 1, 9, extra={"max_completion_tokens": 99}), -1),
        ({}, Turn(("a",), 1, 9, payload={"prompt": "a", "max_tokens": 9, "n": 2}), 18),
        ({}, Turn(("a",), 1, 9, payload={"prompt": "a"}), -1),
        ({"endpoint_type": "embeddings"}, Turn(("a",), 1, 9), -1),
    ],
)
def test_what_a_request_allows(options: dict[str, Any], turn: Turn, most: int) -> None:
    assert make_endpoint("m", LoadgenOptions(**options)).most_tokens(turn) == most


# --- whatever a service sends ------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**4200, -(10**30), 2**63, 1e308]))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def some(*names: str, **inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of these fields, of any values or of those given; or anything else."""
    fields = dict.fromkeys(names, ANYTHING) | {name: st.one_of(one, ANYTHING) for name, one in inner.items()}
    return st.one_of(st.fixed_dictionaries({}, optional=fields), ANYTHING)


COUNTS = some("cached_tokens", "reasoning_tokens")
USAGE = some(
    "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "reasoning_tokens",
    prompt_tokens_details=COUNTS, completion_tokens_details=COUNTS, input_tokens_details=COUNTS,
    output_tokens_details=COUNTS,
)  # fmt: skip
MESSAGE = some(
    "content",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking",
    "refusal",
    "tool_calls",
    "function_call",
)
CHOICE = some("index", "text", "finish_reason", "logprobs", delta=MESSAGE, message=MESSAGE)
EVENT = some(
    "error", "error_type", "object", "created", "timings", "type", "text", "generated_text", "data", "results", "status",
    choices=st.lists(CHOICE, max_size=3), usage=USAGE, delta=ANYTHING, response=some("error", usage=USAGE),
    token=some("text", "special"), details=some("generated_tokens", "prefill", "input_length"),
    output=st.lists(some("type", "content"), max_size=2),
)  # fmt: skip
NAMES = st.sampled_from(["", "error", "response.completed", "response.output_text.delta"])
KINDS = ["chat", "completions", "responses", "tgi", "template", "embeddings", "rankings"]
DEEP = [b'{"%s":%s%s}' % (name, b"[" * depth, b"]" * depth) for name in (b"error", b"choices", b"text", b"usage", b"data")
        for depth in (300, 1000, 100_000)]  # fmt: skip
DIGITS = b'{"choices":[],"usage":{"completion_tokens":%s}}' % (b"9" * 10_000)
SURROGATE = rb'{"choices":[{"text":"\ud800","index":0}],"text":"\udfff","generated_text":"\ud800"}'


def endpoint(kind: str, *, streaming: bool) -> Endpoint:
    template = {"payload_template": "{}"} if kind == "template" else {}
    return make_endpoint("m", LoadgenOptions(endpoint_type=kind, streaming=streaming, **template))  # type: ignore[arg-type]


def check(kind: str, bodies: list[bytes], name: str = "") -> None:
    for streaming in (True, False):
        head = f"event: {name}\n".encode() if name else b""
        stream = b"".join(head + b"data: " + body + b"\n\n" for body in bodies) + DONE
        for data in (stream, *bodies):
            answer = endpoint(kind, streaming=streaming).read([(0, data)], keep_text=True)
            settle(answer, Evidence(32, 10**8, 300, len(data)), lambda: Text(1, 0))
            answer.text.encode()
            assert len(answer.error or "") < 3000
            for count in (
                answer.prompt_tokens,
                answer.completion_tokens,
                answer.cached_tokens,
                answer.reasoning_tokens,
            ):
                assert count is None or (isinstance(count, int) and 0 <= count < 2**31)


@pytest.mark.parametrize("kind", KINDS)
@given(events=st.lists(EVENT, max_size=3), name=NAMES)
def test_readers_raise_nothing_whatever_is_in_an_answer(kind: str, events: list[Any], name: str) -> None:
    check(kind, [json.dumps(event).encode() for event in events], name)


@given(st.sampled_from(["chat", "completions", "responses", "tgi"]), st.lists(EVENT, max_size=5), NAMES)
def test_whatever_is_in_an_answer_the_run_has_its_rows(kind: str, events: list[Any], name: str) -> None:
    head = f"event: {name}\n".encode() if name else b""
    reads = [head + b"data: " + json.dumps(one).encode() + b"\n\n" for one in events] or [b"\n"]
    with tempfile.TemporaryDirectory() as folder:
        done = spooled(Path(folder), *reads, requests=1, endpoint_type=kind)
    (row,) = done.rows
    assert row["outcome"] in ("completed", "failed")
    assert 0 <= row["output_tokens"] < 2**31
    json.dumps(row)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [*DEEP, DIGITS, SURROGATE], ids=lambda body: f"{body[:12].decode()}-{len(body)}")
def test_readers_raise_nothing_however_deep_an_answer_is(kind: str, body: bytes) -> None:
    check(kind, [body])
    check(kind, [body], "error")


def test_an_endpoint_of_a_plugin_that_fails_costs_one_answer() -> None:
    made = endpoint("chat", streaming=True)

    def read(pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        raise IndexError(len(pieces), keep_text)

    made.read = read  # type: ignore[method-assign]
    assert (understood(made, [(0, b"x")]).error or "").startswith("an answer that cannot be read: IndexError")


@pytest.mark.parametrize("status", ["000", "999"])
@pytest.mark.parametrize(
    "body", [b"[" * 900 + b"]" * 900, b'{"error":' + b"[" * 900 + b"]" * 900 + b"}", b"\xed\xa0\x80"]
)
@pytest.mark.parametrize("wire", ["native", "python"])
async def test_a_refusal_of_any_form(tmp_path: Path, raw_server: Start, wire: str, status: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status} X\r\nRetry-After: {'9' * 400}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + body)

    server = await raw_server(script)
    done = await Load(tmp_path, wire)(server.url, request_count=1, request_timeout_seconds=0.5)
    assert done.outcomes == ["failed"]


# --- answers without end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["native", "python"])
@pytest.mark.parametrize("streaming", [True, False], ids=["endless", "silent"])
async def test_a_service_that_does_not_end_ends_with_its_time(
    tmp_path: Path, raw_server: Start, wire: str, streaming: bool
) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(3):
            await peer.request()
            await peer.answer(TEXT)
        await peer.request()
        await peer.send(HEAD if streaming else b"")
        while streaming:
            await peer.send(chunk(token()))
        await peer.reader.read()

    server = await raw_server(script)
    done = await Load(tmp_path / "timeout", wire)(server.url, request_count=4, request_timeout_seconds=0.2)
    assert done.outcomes == ["completed"] * 3 + ["failed"]
    assert done.rows[-1]["error"] == "no complete answer within 0.2 s"
    limits = {"benchmark_duration": 0.2, "benchmark_grace_period": 0.1}
    done = await Load(tmp_path / "duration", wire)(server.url, **limits)  # type: ignore[arg-type]
    assert done.outcomes[-1] == "incomplete"
    assert done.measurement.metrics["incomplete"] == 1


@pytest.mark.parametrize(
    ("events", "tokens", "reasoning", "first", "each"),
    [
        (10, 100, 90, 0, 1.0),  # kept back: all of it was over before the first word
        (5, 100, 90, 0, 2.0),
        (10, 100, 91, 0, 1.0),  # the end of the text is no token of its own
        (25, 100, 90, 0, 4.0),  # in the text, between marks: ten tokens cannot be 25 events
        (10, 100, 90, 4, 10.0),  # streamed, before the fifth
        (10, 100, None, 0, 10.0),
    ],
)
def test_reasoning_that_was_kept_back_came_with_no_word(
    events: int, tokens: int, reasoning: int | None, first: int, each: float
) -> None:
    """Else the words that came 10 ms apart would have come each millisecond, and every limit would be kept."""
    answer = Answer(
        chunks=list(range(events)), chunk_sizes=[4] * events, first_answer=first, completion_tokens=tokens,
        reasoning_tokens=reasoning,
    )  # fmt: skip
    spread(answer, tokens, lambda: Text(tokens, 0))
    assert answer.chunk_tokens == pytest.approx([each] * events)


@pytest.mark.parametrize(("words", "hidden"), [
    (["Versicherung", "Geschwindigkeit", "Aufenthaltstitel", "Bundesverfassung"], 0),
    (["suihkuturbiini", "apumekaanikko", "aliupseeri", "oppilaspalvelu"], 0),
    (["and", "so", "it", "is"], 12),
])  # fmt: skip
def test_long_words_may_be_several_tokens(words: list[str], hidden: int) -> None:
    """A token, then four events of a word, and 17 tokens: those of long words have a part in the gaps."""
    events = ["The", *words]
    answer = Answer(
        chunks=list(range(5)), chunk_sizes=[len(word) + 1 for word in events], first_answer=0, completion_tokens=17
    )
    assert spread(answer, 17, lambda: Text.of(" ".join(events), 5)) == hidden
    assert sum(answer.chunk_tokens) == pytest.approx(17 - hidden)


async def test_hidden_reasoning_makes_no_answer_fast(load: Load, raw_server: Start) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":100,"completion_tokens_details":'
    usage += b'{"reasoning_tokens":97}}}\n\n'

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HEAD, chunk(token(" a")))
            for event in (token(" b"), token(" c", "length")):
                await asyncio.sleep(0.02)  # the service's own pace
                await peer.send(chunk(event))
            await peer.send(chunk(usage), chunk(DONE), chunk(b""))

    server = await raw_server(script)
    metrics = (await load(server.url, request_count=3, osl=100)).measurement.metrics
    assert metrics["total_output_tokens"] == 300
    assert metrics["mean_tpot_ms"] >= 15  # three words, 20 ms apart
