"""What is sent: the bodies of every API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.loadgen import ENDPOINTS
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Turn

TURN = Turn(('say\n"hi" é',), 4, 32)
TEMPLATE = (
    '{"q": {{prompt}}, "n": {{ output_tokens }}, "m": "{{model}}", "t": "<{{prompt}}|{{output_tokens}}>", '
    '"all": {{texts}}}'
)


def body(kind: str, turn: Turn = TURN, history: Any = (), **options: Any) -> Any:
    return orjson.loads(make_endpoint("m", LoadgenOptions(endpoint_type=kind, **options)).body(turn, history))


def test_chat() -> None:
    assert body("chat") == {
        "model": "m",
        "messages": [{"role": "user", "content": TURN.texts[0]}],
        "temperature": 0,
        "max_tokens": 32,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_completions_not_streamed_and_free_to_end() -> None:
    assert body("completions", streaming=False, ignore_eos=False) == {
        "model": "m", "prompt": TURN.texts[0], "temperature": 0, "max_tokens": 32, "stream": False,
    }  # fmt: skip
    assert not {"max_tokens", "ignore_eos"} & body("chat", Turn(("a",), 1)).keys()  # the server decides


def test_conversations_grow() -> None:
    chat = make_endpoint("m", LoadgenOptions(endpoint_type="chat"))
    history = chat.continued([], Turn(("one",), 1, 5, system="be"), "two")
    history = chat.continued(history, Turn(("three",), 1, 5), "four")
    last = Turn(("five",), 1, 5)
    roles = [(message["role"], message["content"]) for message in body("chat", last, history)["messages"]]
    assert roles == [("system", "be"), ("user", "one"), ("assistant", "two"), ("user", "three"),
                     ("assistant", "four"), ("user", "five")]  # fmt: skip
    assert body("completions", last, history)["prompt"] == "be\none\ntwo\nthree\nfour\nfive"
    assert body("responses", last, history)["input"] == body("chat", last, history)["messages"]
    assert body("tgi", last, history)["inputs"] == "be\none\ntwo\nthree\nfour\nfive"


def test_messages_of_the_data_are_sent_as_they_are() -> None:
    messages = ({"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url"}], "name": "x"},)
    turn = Turn((), 1, 5, system="be", messages=messages)
    assert body("chat", turn)["messages"] == [{"role": "system", "content": "be"}, *messages]
    assert body("completions", turn)["prompt"] == "be\nsee"


@pytest.mark.parametrize("kind", ["chat", "completions", "responses", "embeddings", "rankings", "template"])
def test_extra_fields_win_in_their_order(kind: str) -> None:
    turn = Turn(("a", "b"), 2, 5, extra={"top_k": 2})
    found = body(
        kind, turn, payload_template=TEMPLATE, extra_inputs=("top_k:1", '{"top_p": 0.5, "model": "other"}', "user:me")
    )
    assert (found["top_k"], found["top_p"], found["model"], found["user"]) == (2, 0.5, "other", "me")


@pytest.mark.parametrize("kind", sorted(set(ENDPOINTS) - {"tgi"}))
def test_a_payload_is_the_body_but_for_the_model_and_further_fields(kind: str) -> None:
    payload = {"model": "theirs", "anything": [1, {"deep": None}], "max_tokens": 3, "top_p": 1}
    extra = ("top_k:1", "top_p:0.5")  # its own fields are before those of all
    found = body(kind, Turn((), 1, payload=payload), payload_template=TEMPLATE, extra_inputs=extra)
    for added in ("stream", "stream_options"):
        found.pop(added, None)
    assert found == payload | {"model": "m", "top_k": 1}


def test_a_payload_is_streamed_as_the_options_say() -> None:
    turn = Turn((), 1, payload={"stream": True, "stream_options": {"include_usage": True, "x": 1}})
    assert body("chat", turn, streaming=False) == {"model": "m", "stream": False}
    assert body("chat", turn)["stream_options"]["x"] == 1
    assert body("responses", turn, streaming=False)["stream"] is False
    assert body("tgi", turn) == turn.payload  # no model, no switch
    asked = Turn((), 1, payload={"inputs": "a", "parameters": {"top_k": 2, "seed": 3}})
    assert body("tgi", asked, extra_inputs=("top_k:1", "top_p:1"))["parameters"] == {"top_k": 2, "seed": 3, "top_p": 1}
    assert body("tgi", Turn((), 1, payload={"inputs": "a"}), extra_inputs="top_k:1")["parameters"] == {"top_k": 1}


def test_responses() -> None:
    assert body("responses") == {
        "model": "m", "input": TURN.texts[0], "temperature": 0, "store": False, "max_output_tokens": 32,
        "ignore_eos": True, "stream": True,
    }  # fmt: skip


def test_tgi() -> None:
    parameters = {"details": True, "do_sample": False, "max_new_tokens": 32, "ignore_eos_token": True, "top_k": 1}
    assert body("tgi", extra_inputs="top_k:1") == {"inputs": TURN.texts[0], "parameters": parameters}
    assert make_endpoint("m", LoadgenOptions(endpoint_type="tgi")).path == "/generate_stream"
    assert make_endpoint("m", LoadgenOptions(endpoint_type="tgi", streaming=False)).path == "/generate"


def test_embeddings_and_rankings() -> None:
    turn = Turn(("q", "a", "b"), 3)
    assert body("embeddings", turn) == {"model": "m", "input": ["q", "a", "b"], "encoding_format": "float"}
    nim = {"model": "m", "query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b"}]}
    assert body("rankings", turn) == nim
    cohere = {"model": "m", "query": "q", "documents": ["a", "b"]}
    assert body("rankings", turn, custom_endpoint="/v2/rerank?x=1") == cohere
    assert body("rankings", turn, custom_endpoint="/rerank") == {"query": "q", "texts": ["a", "b"]}
    for kind in ("embeddings", "rankings"):
        assert not make_endpoint("m", LoadgenOptions(endpoint_type=kind)).streams


def test_template(tmp_path: Path) -> None:
    expected = {
        "q": TURN.texts[0], "n": 32, "m": "m", "t": f"<{TURN.texts[0]}|32>", "all": list(TURN.texts),
    }  # fmt: skip
    assert body("template", payload_template=TEMPLATE) == expected
    file = tmp_path / "template.json"
    file.write_text(TEMPLATE, encoding="utf-8")
    assert body("template", payload_template=str(file)) == expected
    assert body("template", Turn(("{{model}}",), 1), payload_template='{"a": "{{prompt}}"}') == {"a": "{{model}}"}


@pytest.mark.parametrize(
    ("template", "error", "words"),
    [
        ("nowhere.json", ConfigPathError, "neither JSON"),
        ("/dev/zero", ConfigPathError, "not a regular file"),
        ("[" * 400 + "]" * 400, ConfigValidationError, "not JSON"),
        ('{"a": {{prompts}}}', ConfigValidationError, r"\{\{prompts\}\} is unknown"),
        ('{"a": {{prompt}}', ConfigValidationError, "not JSON"),
    ],
)
def test_bad_templates_are_told(template: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_endpoint("m", LoadgenOptions(endpoint_type="template", payload_template=template))


def test_a_path_of_ones_own() -> None:
    assert make_endpoint("m", LoadgenOptions(custom_endpoint="/x")).path == "/x"
