"""Hugging Face Text Generation Inference: /generate_stream and /generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.bodies import lost_as_text, prompt_of
from swarmtune.loadgen.endpoints.sse import cut_off, join, joined, read_events, whole, whole_number
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Turn


class Tgi(Endpoint):
    """One event is one token; special tokens (the end of the text) are no content. ``extra_inputs`` and a turn's
    extra fields go into ``parameters``, as with AIPerf. The path follows from ``streaming``.
    """

    default_path = "/generate_stream"
    limit_field = "max_new_tokens"

    def __init__(self, model: str, options: LoadgenOptions) -> None:
        super().__init__(model, options)
        if not options.custom_endpoint and not options.streaming:
            self.path = "/generate"

    def refusal(self, turn: Turn) -> str:
        return lost_as_text(turn)

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        if turn.payload is not None:
            own = turn.payload.get("parameters")
            given = self.options.extra_body() | (own if isinstance(own, dict) else {})
            body = dict(turn.payload)  # this API has no model and no switch to stream
            return orjson.dumps(body | {"parameters": given} if given else body)
        parameters: dict[str, Any] = {"details": True, "do_sample": False}
        if turn.output_tokens is not None:
            parameters["max_new_tokens"] = turn.output_tokens
            if self.options.ignore_eos:
                parameters["ignore_eos_token"] = True
        parameters |= self.options.extra_body() | dict(turn.extra)
        return orjson.dumps({"inputs": prompt_of(turn, history), "parameters": parameters})

    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        return _read_stream(pieces, keep_text) if self.streams else _read_whole(pieces, keep_text)


def _read_stream(pieces: Sequence[Piece], keep_text: bool) -> Answer:
    answer = Answer()
    texts: list[str] = []

    def take(_name: str, event: Mapping[str, Any], read: int) -> None:
        token = event.get("token")
        text = token.get("text") if isinstance(token, Mapping) and not token.get("special") else None
        if text and isinstance(text, str):
            if answer.first_answer is None:
                answer.first_answer = 0
            answer.chunks.append(read)
            answer.chunk_sizes.append(len(text))
            texts.append(text)
        elif answer.chunks:
            answer.silent.append(read)
        elif isinstance(token, Mapping):
            answer.silent_before += 1
        if event.get("generated_text") is not None or isinstance(event.get("details"), Mapping):
            _take_details(event.get("details"), answer)
            answer.finished = True

    read_events(pieces, answer, take)
    if answer.error is None and not answer.finished:
        answer.error = cut_off(pieces)
    elif answer.error is None and not answer.chunks and not answer.completion_tokens:
        answer.error = "the stream ended without a token"
    if keep_text:
        answer.text = answer.content = joined(texts)
    return answer


def _read_whole(pieces: Sequence[Piece], keep_text: bool) -> Answer:
    answer = Answer()
    body = join(pieces).strip()
    if body.startswith(b"[") and body.endswith(b"]"):
        body = body[1:-1]  # behind some gateways the one answer comes in a list
    found = whole([(0, body)], answer)
    if found is None:
        return answer
    text = found.get("generated_text")
    if not isinstance(text, str):
        answer.error = "an answer without generated_text"
        return answer
    _take_details(found.get("details"), answer)
    if not text and not answer.completion_tokens:
        answer.error = "an answer without a token"
        return answer
    answer.chunks, answer.first_answer, answer.finished = [pieces[-1][0]], 0, True
    answer.chunk_sizes = [len(text)]
    answer.text = answer.content = joined([text]) if keep_text else ""
    return answer


def _take_details(details: Any, answer: Answer) -> None:
    if not isinstance(details, Mapping):
        return
    answer.completion_tokens = whole_number(details.get("generated_tokens"))
    prefill = details.get("prefill")
    if isinstance(prefill, list) and prefill:
        answer.prompt_tokens = len(prefill)
    else:
        answer.prompt_tokens = whole_number(details.get("input_length"))
