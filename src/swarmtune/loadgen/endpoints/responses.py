"""OpenAI Responses API: named events, reasoning in events of its own, token counts in the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.bodies import messages_of, plain_payload, streamed
from swarmtune.loadgen.endpoints.chunks import said, thoughts
from swarmtune.loadgen.endpoints.sse import cut_off, joined, read_events, shown, whole, whole_number
from swarmtune.workload.session import Turn

TEXT = "response.output_text.delta"
REASONING = "response.reasoning"  # how the names of its events begin
SOUND = (
    "response.audio.delta",
    "response.output_audio.delta",
)  # has no text; its transcript comes in events of its own
ENDS = ("response.completed", "response.incomplete")  # incomplete: it reached max_output_tokens
CHAT_PARTS = ("image_url", "input_audio", "video_url", "audio_url")
FAILURES = ("response.failed", "response.cancelled")


class Responses(Endpoint):
    """Answers are not stored on the server (``store`` false), as no test reads them again."""

    default_path = "/v1/responses"
    limit_field = "max_output_tokens"

    def refusal(self, turn: Turn) -> str:
        for message in turn.messages:
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                if isinstance(part, dict) and part.get("type") in CHAT_PARTS:
                    return f"{part['type']!r} is a part of chat messages; this API has input_image and input_file"
        return ""

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        if turn.payload is not None:
            return orjson.dumps({**plain_payload(turn, self.model, self.options.extra_body()), "stream": self.streams})
        plain = not history and not turn.messages and not turn.system
        body: dict[str, Any] = {
            "model": self.model,
            "input": "\n".join(turn.texts) if plain else messages_of(turn, history),
            "temperature": 0,
            "store": False,
        }
        if turn.output_tokens is not None:
            body["max_output_tokens"] = turn.output_tokens
            if self.options.ignore_eos:
                body["ignore_eos"] = True
        body = streamed(body, stream=self.streams, usage=False)
        return orjson.dumps(body | self.options.extra_body() | dict(turn.extra))

    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        answer = Answer()
        if not self.streams:
            found = whole(pieces, answer)
            if found is not None:
                _take_whole(found, pieces[-1][0], answer, keep_text)
            return answer
        texts: list[str] = []
        contents: list[str] = []

        def take(name: str, event: Mapping[str, Any], read: int) -> None:
            kind = event.get("type") or name
            delta = event.get("delta")
            if isinstance(kind, str) and kind.startswith("response.") and kind.endswith(".delta") and delta:
                if answer.first_answer is None and not kind.startswith(REASONING):
                    answer.first_answer = len(answer.chunks)
                text = "" if kind in SOUND else said(delta)
                answer.chunks.append(read)
                answer.chunk_sizes.append(len(text) or 1)
                contents.append(text)
                if kind == TEXT:
                    texts.append(text)
            elif kind in ENDS:
                _take_usage(event.get("response"), answer)
                answer.error = withheld(event.get("response"))
                answer.finished = True
                if answer.chunks:
                    answer.silent.append(read)
            elif kind in FAILURES:
                answer.error = f"the server gave up: {kind}"

        read_events(pieces, answer, take)
        if answer.error is None and not answer.finished:
            answer.error = cut_off(pieces)
        elif answer.error is None and not answer.chunks and not answer.completion_tokens:
            answer.error = "the stream ended without a token"
        if keep_text:
            answer.text, answer.content = joined(texts), joined(contents)
        return answer


def _take_whole(found: Mapping[str, Any], read: int, answer: Answer, keep_text: bool) -> None:
    if found.get("status") in ("failed", "cancelled"):
        answer.error = f"the server gave up: status {found['status']}"
        return
    answer.error = withheld(found)
    _take_usage(found, answer)
    output = found.get("output")
    items = [item for item in output if isinstance(item, Mapping)] if isinstance(output, list) else []
    text = joined([said(item.get("content")) for item in items if item.get("type") == "message"])
    if not items and not answer.completion_tokens:
        answer.error = "an answer without a token"
        return
    answer.chunks, answer.chunk_sizes = [read], [max(1, len(text))]
    if any(item.get("type") != "reasoning" for item in items):
        answer.first_answer = 0
    if keep_text:
        answer.text, answer.content = text, joined([thoughts({"reasoning": items})])
    answer.finished = True


def withheld(response: Any) -> str | None:
    """Why an answer is incomplete, unless it reached the length that was asked for."""
    details = response.get("incomplete_details") if isinstance(response, Mapping) else None
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return f"the server gave up: {shown(reason)}" if reason and reason != "max_output_tokens" else None


def _take_usage(response: Any, answer: Answer) -> None:
    usage = response.get("usage") if isinstance(response, Mapping) else None
    if not isinstance(usage, Mapping):
        return
    answer.prompt_tokens = whole_number(usage.get("input_tokens"))
    answer.completion_tokens = whole_number(usage.get("output_tokens"))
    for name, key in (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens")):
        details = usage.get(name)
        if isinstance(details, Mapping):
            setattr(answer, key, whole_number(details.get(key)))
