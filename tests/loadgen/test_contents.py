"""Content of an answer in every form: it is output with its meaning and its time, or the answer fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loadgen_servers import DONE, Done
from loadgen_spools import spooled

from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.judge.latencies import columns, request_samples
from swarmtune.loadgen.options import LoadgenOptions

Json = dict[str, Any]
TOKENS = 8
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CHAT: dict[str, tuple[Json, str]] = {  # a choice, and its text
    "parts": ({"delta": {"content": [{"type": "text", "text": "w "}]}}, "w "),
    "texts": ({"delta": {"content": ["w", " "]}}, "w "),
    "number": ({"delta": {"content": 5}}, "5"),
    "zero": ({"delta": {"content": 0.0}}, "0.0"),
    "object": ({"delta": {"content": {"type": "text", "text": "w "}}}, "w "),
    "value": ({"delta": {"content": [{"type": "text", "text": {"value": "w ", "annotations": []}}]}}, "w "),
    "mixed": ({"delta": {"content": [{"type": "text", "text": "w"}, 1, PICTURE, None, True]}}, "w1"),
    "audio": ({"delta": {"content": None, "audio": {"id": "a", "transcript": "w "}}}, "w "),
    "sound": ({"delta": {"audio": {"data": "AAAA"}}}, ""),
    "audio-part": (
        {"delta": {"content": [{"type": "output_audio", "audio": {"data": "A", "transcript": "w "}}]}},
        "w ",
    ),
    "sound-part": ({"delta": {"content": [{"type": "audio", "audio": {"data": "AAAA"}}]}}, ""),
    "picture": ({"delta": {"content": "", "images": [PICTURE]}}, ""),
    "picture-part": ({"delta": {"content": [PICTURE]}}, ""),
    "message": ({"message": {"role": "assistant", "content": [{"type": "text", "text": "w "}]}}, "w "),
    "message-text": ({"message": "w "}, "w "),
    "delta-text": ({"delta": "w "}, "w "),
    "content": ({"content": "w "}, "w "),
    "token-numbers": ({"delta": {"content": ""}, "token_ids": [5]}, ""),
}
COMPLETIONS: dict[str, tuple[Json, str]] = {
    "number": ({"text": 5}, "5"),
    "parts": ({"text": ["w", {"text": " "}]}, "w "),
    "token-numbers": ({"text": "", "token_ids": [5]}, ""),
    "message": ({"message": {"content": "w "}}, "w "),
}
SILENT: list[Json] = [
    {"delta": {"role": "assistant", "content": ""}},
    {"delta": {"content": [], "audio": {"id": "a", "expires_at": 5}}},
    {"delta": {"content": [{"type": "text", "text": ""}], "images": []}},
    {"delta": {"audio": {"transcript": ""}}},
    {"delta": {"content": False}},
    {"text": "", "token_ids": []},
    {"delta": {}},
]


def event(body: Json) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def choice(one: Json) -> bytes:
    return event({"choices": [{"index": 0, **one, "finish_reason": None}]})


USED = event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": TOKENS}})


@pytest.fixture
def answered(tmp_path: Path) -> Callable[..., Done]:
    return partial(spooled, tmp_path)


@pytest.mark.parametrize(
    ("kind", "form"), [*(("chat", form) for form in CHAT), *(("completions", form) for form in COMPLETIONS)]
)
@pytest.mark.parametrize("usage", [True, False])
def test_content_of_every_form_has_its_time(answered: Callable[..., Done], kind: str, form: str, usage: bool) -> None:
    one, words = (CHAT if kind == "chat" else COMPLETIONS)[form]
    done = answered(*[choice(one)] * TOKENS, *([USED] if usage else []), endpoint_type=kind, osl=TOKENS)
    assert done.outcomes == ["completed"] * 3
    assert {row["output_tokens"] for row in done.rows} == {TOKENS}
    found = request_samples(columns(done.report.records))
    assert found["ttft_ms"] == pytest.approx([40.0] * 3)
    assert found["ttfo_ms"] == pytest.approx([40.0] * 3)
    assert found["tpot_ms"] == pytest.approx([10.0] * 3)
    endpoint = make_endpoint("m", LoadgenOptions(endpoint_type=kind))  # type: ignore[arg-type]
    assert endpoint.read([(0, choice(one) + DONE)], keep_text=True).text == words


@pytest.mark.parametrize("form", sorted(CHAT))
def test_a_whole_answer_of_every_form(form: str) -> None:
    one, words = CHAT[form]
    whole = {"message": one["delta"] if "delta" in one else one.get("message"), **one}
    endpoint = make_endpoint("m", LoadgenOptions(endpoint_type="chat", streaming=False))
    answer = endpoint.read([(0, json.dumps({"choices": [whole]}).encode())], keep_text=True)
    assert (answer.error, answer.text, len(answer.chunks)) == (None, words, 1)


@pytest.mark.parametrize("one", SILENT, ids=str)
def test_what_adds_nothing_is_no_token(answered: Callable[..., Done], one: Json) -> None:
    done = answered(choice(one), *[choice({"delta": {"content": "w"}})] * TOKENS, endpoint_type="chat", osl=TOKENS)
    assert {len(row["token_ns"]) for row in done.rows} == {TOKENS}
    done = answered(*[choice(one)] * TOKENS, endpoint_type="chat")
    assert {row["error"] for row in done.rows} == {"the stream ended without a token"}


def test_an_answer_that_is_not_understood_is_never_valid(answered: Callable[..., Done]) -> None:
    strange = choice({"blob": "w"})
    assert answered(*[strange] * TOKENS, endpoint_type="chat").outcomes == ["failed"] * 3
    done = answered(*[strange] * TOKENS, USED, endpoint_type="chat", osl=TOKENS)
    assert done.report.facts.verdict == "degraded"


def test_reasoning_beside_numbers_of_tokens_is_reasoning(answered: Callable[..., Done]) -> None:
    thought = {"delta": {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "token_ids": [5]}
    done = answered(
        *[choice(thought)] * 4, *[choice({"delta": {"content": "w"}})] * 4, USED, endpoint_type="chat", osl=8
    )
    assert {row["first_answer"] for row in done.rows} == {4}


def test_sound_of_the_responses_api(answered: Callable[..., Done]) -> None:
    sound = event({"type": "response.output_audio.delta", "delta": "AAAA" * 999})
    words = event({"type": "response.output_audio_transcript.delta", "delta": "w "})
    end = event({"type": "response.completed", "response": {"usage": {"input_tokens": 11, "output_tokens": TOKENS}}})
    done = answered(*[sound, words] * 4, end, endpoint_type="responses", osl=TOKENS)
    assert request_samples(columns(done.report.records))["ttft_ms"] == pytest.approx([40.0] * 3)
    assert done.report.results.statistics["tpot_ms"].mean == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["a b", "c d"], "a b c d"),
        ("a b", "a b"),
        ([{"text": "a b"}, {"text": "c"}], "a b c"),
        (7, "7"),
        ({"other": 1}, "{'other': 1}"),
        (["w " * 2000], "w " * 2000),
    ],
)
def test_several_texts_at_a_response_field_are_texts(found: Any, words: str) -> None:
    options = LoadgenOptions(endpoint_type="template", payload_template="{}", response_field="text")
    answer = make_endpoint("m", options).read([(0, json.dumps({"text": found}).encode())], keep_text=True)
    assert (answer.error, answer.text) == (None, words)
