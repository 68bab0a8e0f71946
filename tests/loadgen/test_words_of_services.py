"""What a service says of its errors reaches the user, whatever its form; what cannot be is refused before a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loadgen_servers import Done, Load, Peer, RawServer, Script
from loadgen_spools import spooled

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.ask.target import check_sources
from swarmtune.loadgen.contradictions import contradictions
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.options import LoadgenOptions

Start = Callable[[Script], Awaitable[RawServer]]
Answered = Callable[..., Done]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return Load(tmp_path, "python")


@pytest.fixture
def answered(tmp_path: Path) -> Answered:
    return partial(spooled, tmp_path)


def event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def text(end: Any = None) -> bytes:
    return event({"choices": [{"index": 0, "text": " w", "finish_reason": end}]})


def errors(done: Done) -> set[str]:
    return {row["error"] for row in done.rows}


TRACEBACK = """Traceback (most recent call last):
  File "server.py", line 3, in <module>
    run()
torch.OutOfMemoryError: CUDA out of memory
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error_code": 336003, "error_msg": "too long"}', "HTTP 400: too long (error_code 336003)"),
        (b'{"error_code":"ModelArts.81001","error_msg":"no quota"}', "HTTP 400: no quota (error_code ModelArts.81001)"),
        (b'{"message": "no model m"}', "HTTP 400: no model m"),
        (b'{"detail": [{"loc": ["body"], "msg": "wrong"}]}', "HTTP 400: [{'loc': ['body'], 'msg': 'wrong'}]"),
        (b'{"error": {"message": "bad"}}', "HTTP 400: bad"),
        (TRACEBACK.encode(), "HTTP 400: torch.OutOfMemoryError: CUDA out of memory"),
        (b"<html><head>x</head><body><h1>502 Bad&nbsp;Gateway</h1></body></html>", "HTTP 400: 502 Bad Gateway"),
        (b"plain words", "HTTP 400: plain words"),
        (b'["a"]', "HTTP 400: [\"a\"]"),
        (b"", "HTTP 400"),
    ],
)  # fmt: skip
async def test_a_refusal_says_what_the_service_said(load: Load, raw_server: Start, body: bytes, words: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    done = await load((await raw_server(script)).url, request_count=2)
    assert errors(done) == {words}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([text(), b"RuntimeError: worker died\n"], "the last that came is 'RuntimeError: worker died'"),
        ([text(), event({"error_code": 17, "error_msg": "daily limit"})], "daily limit (error_code 17)"),
        ([text(), text("content_filter")], "finish_reason 'content_filter'"),
        ([text(), text({"type": "abort", "message": "out of KV cache"})], "out of KV cache"),
        ([text(), text({"type": "abort"})], "finish_reason 'abort'"),
    ],
)
def test_an_error_within_a_stream_is_told(events: list[bytes], words: str) -> None:
    found = make_endpoint("m", LoadgenOptions()).read([(0, b"".join(events))])
    assert found.error is not None
    assert words in found.error


@pytest.mark.parametrize(
    "more", [{"error_code": 0, "error_msg": "success"}, {"error_code": None}, {"error": None, "message": None}]
)
def test_an_answer_with_fields_of_errors_that_say_none_is_good(answered: Answered, more: dict[str, Any]) -> None:
    done = answered(*[event({"choices": [{"index": 0, "text": " w"}], **more})] * 16)
    assert done.outcomes == ["completed"] * 3


def test_an_end_that_is_an_object_without_a_mistake_is_good(answered: Answered) -> None:
    done = answered(*[text()] * 15, text({"type": "length", "length": 16}))
    assert done.outcomes == ["completed"] * 3


async def test_a_path_that_is_not_found_is_named(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b'HTTP/1.1 404 No\r\nContent-Length: 22\r\n\r\n{"detail":"Not Found"}')

    done = await load((await raw_server(script)).url, request_count=1)
    assert errors(done) == {"HTTP 404: Not Found (asked for was /v1/completions)"}


@pytest.mark.parametrize("end", ["", "/v1", "/v1/", "/v1/completions", "/x/v1/completions"])
async def test_a_url_with_the_whole_path_is_taken_as_it_is(load: Load, raw_server: Start, end: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(text(), b"data: [DONE]\n\n")

    server = await raw_server(script)
    done = await load(server.url + end, request_count=1)
    assert done.outcomes == ["completed"]
    path = b"/x/v1/completions" if "x" in end else b"/v1/completions"
    assert server.peers[-1].requests[0].startswith(b"POST " + path + b" HTTP")


def test_a_url_with_the_path_of_another_api_is_a_mistake() -> None:
    (told,) = contradictions(LoadgenOptions(), ["http://h/v1/chat/completions"])
    assert told == "--url ends with /v1/chat/completions: give --endpoint-type chat, or leave the path out"
    assert not contradictions(LoadgenOptions(endpoint_type="chat"), ["http://h/v1/chat/completions"])


async def test_headers_that_are_too_large_are_named(load: Load, raw_server: Start) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 160_000)
            await asyncio.sleep(1)

    done = await load((await raw_server(script)).url, request_count=1)
    assert errors(done) == {"the headers of the answer are too large: longer than 64 KB"}


@pytest.mark.parametrize("line", ["SSH-2.0-OpenSSH_9.6", "220 mail ESMTP"])
@pytest.mark.parametrize("wire", ["python", "auto"])
async def test_a_server_of_another_protocol_is_named(tmp_path: Path, raw_server: Start, line: str, wire: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(line.encode() + b"\r\n")
        await peer.reader.read(10)

    done = await Load(tmp_path, wire)((await raw_server(script)).url, request_count=2)
    kind = "an SSH server" if "SSH" in line else "no HTTP server"
    assert any(f"answers {kind} ({line!r})" in reason for reason in done.measurement.reasons)


# --- what is wrong before anything starts ----------------------------------------------------------------------------------


def test_a_schedule_that_begins_in_years_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"timestamp": 1767225600000, "input_length": 8, "output_length": 4}\n')
    given = {"input_file": str(file), "fixed_schedule": True}
    with pytest.raises(ConfigValidationError, match=r"1767225600000 ms.*--no-fixed-schedule-auto-offset"):
        make_dataset(LoadgenOptions(**given, fixed_schedule_auto_offset=False), 0)
    assert make_dataset(LoadgenOptions(**given), 0).schedule == (0,)
    file.write_text('{"timestamp": 60000, "input_length": 8, "output_length": 4}\n')
    made = make_dataset(LoadgenOptions(**given, fixed_schedule_auto_offset=False), 0)
    assert made.schedule == (60_000_000_000,)


def test_addresses_that_this_machine_has_not_are_mistakes() -> None:
    check_sources(LoadgenOptions(source_addresses=("127.0.0.1",)))
    with pytest.raises(
        ConfigValidationError, match=r"--source-addresses: 203\.0\.113\.9 is no address of this machine"
    ):
        check_sources(LoadgenOptions(source_addresses=("127.0.0.1", "203.0.113.9")))


def test_a_tokenizer_that_is_not_there_is_named_always(answered: Answered) -> None:
    used = event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 16}})
    done = answered(*[text()] * 16, used, tokenizer="gpt2")
    (told,) = [note for note in done.report.results.notes if note.startswith("tokenizer:")]
    assert "gpt2 is no folder with a tokenizer.json here" in told
    assert told.endswith("the built-in tokenizer counts where the service states no tokens")
    done = answered(*[text()] * 16, used, tokenizer="builtin")
    assert not [note for note in done.report.results.notes if note.startswith("tokenizer:")]
