"""Answers of the chat and completions APIs, streamed and not: typed decoding of the usual chunk, plain JSON for the
rest.

msgspec decodes a chunk into these types at half the cost of a dict; a chunk that does not fit them (an
error, parts where text is usual, counts that are no whole numbers) is read again as a dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from swarmtune.loadgen.endpoints.base import Answer, Piece
from swarmtune.loadgen.endpoints.sse import (
    CUT_OFF,
    DONE,
    events,
    excerpt,
    failure_of,
    json_object,
    not_a_stream,
    shown,
    whole,
    whole_number,
)

SPEECH = ("content", "refusal", "tool_calls", "function_call")  # what of a message is answer,
THOUGHT = ("reasoning_content", "reasoning")  # and what is reasoning
BAD_ENDS = ("error", "abort")  # finish_reasons of vLLM and SGLang when the engine gave up


class Delta(msgspec.Struct, gc=False):
    """What an event adds to a chat answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers of an event: ``delta`` in a chat, ``text`` in a completion."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Details(msgspec.Struct, gc=False):
    """The parts of a token count."""

    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The server's token counts so far."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    reasoning_tokens: int | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event."""

    choices: list[Choice]
    usage: Usage | None = None
    error: Any = None


DECODE = msgspec.json.Decoder(Chunk).decode


class Reader:
    """What has been read of one answer."""

    def __init__(self, keep_text: bool) -> None:
        self.answer = Answer()
        self.texts: list[str] | None = [] if keep_text else None
        self._counted = 0  # completion_tokens at the last chunk with content
        self._open: set[int] = set()  # choices that have begun and not ended
        self._ended = False

    def stream(self, pieces: Sequence[Piece]) -> Answer:
        """The whole event stream."""
        answer, seen = self.answer, False
        for read, name, data in events(pieces):
            seen = True
            if data[:1] != b"{" and data.strip() == DONE:
                answer.finished = True
                break
            try:
                chunk = DECODE(data)
            except (msgspec.MsgspecError, RecursionError):
                answer.error = self._odd(data, name, read)
            else:
                if chunk.error or name == "error":
                    answer.error = self._odd(data, name, read)
                else:
                    self._take(chunk, read)
            if answer.error is not None:
                return self._closed()
        if not seen:
            answer.error = not_a_stream(pieces)
        else:
            answer.finished = answer.finished or (self._ended and not self._open)
            if not answer.finished:
                answer.error = CUT_OFF
            elif not answer.chunks and not answer.completion_tokens:
                answer.error = "the stream ended without a token"
        return self._closed()

    def whole(self, pieces: Sequence[Piece]) -> Answer:
        """An answer that was not streamed: its one chunk came with the last read."""
        answer = self.answer
        found = whole(pieces, answer)
        if found is None:
            return answer
        choices = found.get("choices")
        if not isinstance(choices, list) or not choices:
            answer.error = f"an answer without choices: {excerpt(b''.join(data for _, data in pieces))}"
            return answer
        self._take(typed(found, whole=True), pieces[-1][0])
        answer.finished = answer.error is None
        answer.chunk_tokens = []
        if answer.finished and not answer.chunks and not answer.completion_tokens:
            answer.error = "an answer without a token"
        return self._closed()

    def _take(self, chunk: Chunk, read: int) -> None:
        speech = thought = False
        for choice in chunk.choices:
            text, delta = choice.text, choice.delta
            if delta is not None:
                text = delta.content
                if not text:
                    thought = thought or bool(delta.reasoning_content or delta.reasoning)
                    speech = speech or bool(delta.tool_calls or delta.refusal or delta.function_call)
            if text:
                speech = True
                if self.texts is not None and choice.index == 0:
                    self.texts.append(text)
            if choice.finish_reason is None:
                self._open.add(choice.index)
            elif choice.finish_reason:
                self._end(choice)
        answer, usage = self.answer, chunk.usage
        if speech and answer.first_answer is None:
            answer.first_answer = len(answer.chunks)
        if speech or thought:
            answer.chunks.append(read)
        if usage is not None:
            self._count(usage, speech or thought)

    def _end(self, choice: Choice) -> None:
        self._open.discard(choice.index)
        self._ended = True
        if choice.finish_reason in BAD_ENDS:
            self.answer.error = f"the server gave up: finish_reason {choice.finish_reason!r}"

    def _count(self, usage: Usage, content: bool) -> None:
        answer, prompt, completion = self.answer, usage.prompt_tokens_details, usage.completion_tokens_details
        if content and usage.completion_tokens is not None:
            answer.chunk_tokens.append(usage.completion_tokens - self._counted)
            self._counted = usage.completion_tokens
        if usage.prompt_tokens is not None:
            answer.prompt_tokens = usage.prompt_tokens
        if usage.completion_tokens is not None:
            answer.completion_tokens = usage.completion_tokens
        if prompt is not None and prompt.cached_tokens is not None:
            answer.cached_tokens = prompt.cached_tokens
        if completion is not None and completion.reasoning_tokens is not None:
            answer.reasoning_tokens = completion.reasoning_tokens
        elif usage.reasoning_tokens is not None:
            answer.reasoning_tokens = usage.reasoning_tokens

    def _odd(self, data: bytes, name: str, read: int) -> str | None:
        """Read an event that is not a usual chunk; what is wrong with it, None if it could be understood."""
        chunk = json_object(data)
        if chunk is None:
            return f"an event that is not a JSON object: {excerpt(data)}"
        failure = failure_of(chunk, name)
        if failure is not None:
            return f"error in the stream: {failure}"
        self._take(typed(chunk), read)
        return self.answer.error

    def _closed(self) -> Answer:
        if len(self.answer.chunk_tokens) != len(self.answer.chunks):  # not with every chunk: of no use
            self.answer.chunk_tokens = []
        if self.texts is not None:
            self.answer.text = "".join(self.texts)
        return self.answer


def typed(chunk: Mapping[str, Any], *, whole: bool = False) -> Chunk:
    """A chunk of any JSON, as far as it can be understood. ``whole``: its choices have a message instead of a delta."""
    choices = chunk.get("choices")
    found = [_choice(one, whole) for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    usage = chunk.get("usage")
    return Chunk(found, _usage(usage) if isinstance(usage, dict) else None)


def _choice(one: Mapping[str, Any], whole: bool) -> Choice:
    delta = one.get("message" if whole else "delta")
    made = None
    if isinstance(delta, dict):
        said = plain_text(delta.get("content"))
        other = any(delta.get(key) for key in SPEECH[1:])
        thought = any(delta.get(key) for key in THOUGHT)
        made = Delta(said, reasoning="..." if thought else None, refusal="..." if other else None)
    end = one.get("finish_reason")
    if isinstance(end, dict):  # SGLang's own form
        end = end.get("type")
    text = one.get("text")
    return Choice(
        index if isinstance(index := one.get("index"), int) else 0,
        made,
        text if isinstance(text, str) else None,
        None if end is None or end is False else shown(end),
    )


def _usage(usage: Mapping[str, Any]) -> Usage:
    def part(name: str, of: str) -> Details | None:
        details = usage.get(name)
        return Details(**{of: whole_number(details.get(of))}) if isinstance(details, dict) else None

    return Usage(
        whole_number(usage.get("prompt_tokens")),
        whole_number(usage.get("completion_tokens")),
        part("prompt_tokens_details", "cached_tokens"),
        part("completion_tokens_details", "reasoning_tokens"),
        whole_number(usage.get("reasoning_tokens")),
    )


def plain_text(content: Any) -> str:
    """The text of a message's content: text itself, or parts of which some are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
