"""Answers of the chat and completions APIs, streamed and not: typed decoding of the usual chunk, plain JSON for the
rest.

msgspec decodes a chunk into these types at half the cost of a dict; a chunk that does not fit them (an
error, parts where text is usual, counts that are no whole numbers) is read again as a dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from swarmtune.loadgen.endpoints.base import Answer, Piece
from swarmtune.loadgen.endpoints.sse import (
    DONE,
    complaint_of,
    cut_off,
    events,
    excerpt,
    failure_of,
    joined,
    json_object,
    not_a_stream,
    shown,
    whole,
    whole_number,
)

HIDDEN = re.compile(rb"reasoning|think|thought")  # what the name of every form of reasoning holds
ODD = re.compile(  # of an event without usual content: it may have some all the same
    rb'reasoning|think|thought|"(?:message|content|text|audio|images?|token_ids)":\s*(?!\s|null|""|\[\]|\{\})'
)
ENDS = ("reasoning_tokens", "thinking_tokens")  # names that hold it and are none
LABELS = ("type", "id", "index", "format", "signature", "data", "encrypted_content", "status", "role", "name", "object")
WORDS = ("text", "transcript", "content", "value", "refusal", "audio")  # where a part of a content has its text
WORDLESS = ("data", "token_ids", "url", "b64_json", "audio", "image", "images", "image_url", "audio_url", "video_url")
DEPTH = 8  # levels of a message that are looked through
MOST_CHOICES = 255
ENDINGS = 2  # tokens of an answer that may be counted and not listed, or listed and not counted: those of its end
BAD_ENDS = (
    "error",
    "abort",
    "insufficient_system_resource",
    "content_filter",
)  # finish_reasons of vLLM, SGLang, DeepSeek and OpenAI that gave up, or withheld the answer


class Delta(msgspec.Struct, gc=False):
    """What an event adds to a chat answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None


class Logprobs(msgspec.Struct, gc=False):
    """An entry for each token of an event: ``content`` in a chat, ``tokens`` in a completion."""

    content: list[msgspec.Raw] | None = None
    tokens: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers of an event: ``delta`` in a chat, ``text`` in a completion."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    error: Any = None  # of OpenRouter, whose provider has failed
    token_ids: list[int] | None = None  # of vLLM, if asked for; so are
    logprobs: Logprobs | None = None


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
        self.texts: list[str] | None = [] if keep_text else None  # answers of the first choice,
        self._contents: list[str] = []  # and all content
        self._open: set[int] = set()  # choices that have begun and not ended
        self._greeted: set[int] = set()  # choices whose first event had no content: their role
        self._ended = False
        self._listed = 0  # tokens that were listed so far, by their ids or probabilities,
        self._listed_counts: list[int] = []  # and with each chunk

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
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                answer.error = self._odd(data, name, read)
            else:
                if chunk.error or name == "error":
                    answer.error = self._odd(data, name, read)
                elif not self._take(chunk, read):
                    before = len(answer.chunks)
                    if ODD.search(data):
                        answer.error = self._odd(data, name, read, taken=True)
                    if len(answer.chunks) == before:
                        self._keep_silent(chunk, read)
            if answer.error is not None:
                return self._closed()
        if not seen:
            answer.error = not_a_stream(pieces)
        else:
            answer.finished = answer.finished or (self._ended and not self._open)
            if not answer.finished:
                answer.error = cut_off(pieces)
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
            complaint = complaint_of(found)
            told = f"an answer without choices: {excerpt(b''.join(data for _, data in pieces))}"
            answer.error = told if complaint is None else f"error in the answer: {complaint}"
            return answer
        self._take(typed(found, whole=True), pieces[-1][0])
        answer.finished = answer.error is None
        answer.stated_counts = []
        if answer.finished and not answer.chunks and not answer.completion_tokens:
            answer.error = "an answer without a token"
        return self._closed()

    def _take(self, chunk: Chunk, read: int) -> bool:
        """Note what this event brought; did it bring content?"""
        answer = self.answer
        before, listed_before = len(answer.chunks), self._listed
        for choice in chunk.choices:
            text, delta, thought = choice.text, choice.delta, ""
            if delta is not None:
                text = delta.content
                if not text or self.texts is not None:
                    thought = delta.reasoning_content or delta.reasoning or ""
                    text = text or delta.refusal or called(delta)
            if text or thought:
                if text and answer.first_answer is None:
                    answer.first_answer = len(answer.chunks)
                answer.chunks.append(read)
                answer.chunk_sizes.append(len(text or thought))
                if choice.index or answer.chunk_choices:
                    self._place(choice.index)
                if self.texts is not None:
                    self._keep(choice, text or "", thought)
            if choice.token_ids is not None or choice.logprobs is not None:
                self._listed += listed(choice)
            if choice.error:
                answer.error = f"error in the stream: {failure_of({'error': choice.error})}"
            if choice.finish_reason is None:
                self._open.add(choice.index)
            elif choice.finish_reason:
                self._end(choice)
        if self._listed > listed_before and len(answer.chunks) == before + 1:
            self._listed_counts.append(self._listed)
        if chunk.usage is not None:
            self._count(chunk.usage, len(answer.chunks) - before)
        return len(answer.chunks) > before

    def _keep_silent(self, chunk: Chunk, read: int) -> None:
        """Note an event without content."""
        for choice in chunk.choices:
            if self.answer.chunks:
                self.answer.silent.append(read)
            elif choice.delta is None or choice.index in self._greeted:
                self.answer.silent_before += 1
            else:
                self._greeted.add(choice.index)

    def _place(self, index: int) -> None:
        """The last chunk belongs to this choice."""
        placed = self.answer.chunk_choices
        placed += [0] * (len(self.answer.chunks) - 1 - len(placed))
        placed.append(min(MOST_CHOICES, max(0, index)))

    def _keep(self, choice: Choice, text: str, thought: str) -> None:
        self._contents += (thought, text)
        if self.texts is not None and choice.index == 0 and (choice.delta is None or choice.delta.content):
            self.texts.append(text)

    def _end(self, choice: Choice) -> None:
        self._open.discard(choice.index)
        self._ended = True
        if choice.finish_reason in BAD_ENDS and self.answer.error is None:
            self.answer.error = f"the server gave up: finish_reason {choice.finish_reason!r}"

    def _count(self, usage: Usage, contents: int) -> None:
        answer, prompt, completion = self.answer, usage.prompt_tokens_details, usage.completion_tokens_details
        if contents == 1 and usage.completion_tokens is not None:
            answer.stated_counts.append(usage.completion_tokens)
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

    def _odd(self, data: bytes, name: str, read: int, *, taken: bool = False) -> str | None:
        """Read an event that is not a usual chunk; what is wrong with it, None if it could be understood.

        ``taken``: it was read as a usual one, and may hold content under names that are not usual.
        """
        chunk = json_object(data)
        if chunk is None:
            return f"an event that is not a JSON object: {excerpt(data)}"
        failure = failure_of(chunk, name)
        if failure is not None:
            return f"error in the stream: {failure}"
        if (complaint := complaint_of(chunk)) is not None:
            return f"error in the stream: {complaint}"
        found = typed(chunk)
        if taken:  # its ends and counts are known
            found = Chunk([Choice(c.index, c.delta, c.text, "") for c in found.choices])
        self._take(found, read)
        return self.answer.error

    def _closed(self) -> Answer:
        answer = self.answer
        if len(answer.stated_counts) != len(answer.chunks):  # not with every chunk: of no use
            answer.stated_counts = []
        if not answer.stated_counts and len(self._listed_counts) == len(answer.chunks):
            self._take_listed()
        answer.choices = min(MOST_CHOICES, max(1, len(set(answer.chunk_choices))))
        if self.texts is not None:
            answer.text, answer.content = joined(self.texts), joined(self._contents)
        return answer

    def _take_listed(self) -> None:
        """Count by the tokens that were listed, if they are as many as stated, or one with each event at least."""
        answer, counts = self.answer, self._listed_counts
        if answer.completion_tokens is None and counts:
            answer.completion_tokens = self._listed
        if answer.completion_tokens is not None and abs(answer.completion_tokens - self._listed) <= ENDINGS:
            answer.stated_counts = counts


def listed(choice: Choice) -> int:
    """How many tokens of this event are listed."""
    if choice.token_ids is not None:
        return len(choice.token_ids)
    entries = choice.logprobs and (choice.logprobs.content or choice.logprobs.tokens)
    return len(entries or ())


def called(delta: Delta) -> str:
    """What a delta says of functions to be called, as text: names and arguments."""
    if not delta.tool_calls and not delta.function_call:
        return ""
    calls = [call.get("function") for call in delta.tool_calls or () if isinstance(call, dict)] + [delta.function_call]
    texts = [call.get(key) for call in calls if isinstance(call, dict) for key in ("name", "arguments")]
    return "".join(text for text in texts if isinstance(text, str)) or "?"


def typed(chunk: Mapping[str, Any], *, whole: bool = False) -> Chunk:
    """A chunk of any JSON, as far as it can be understood. ``whole``: its choices have a message instead of a delta."""
    choices = chunk.get("choices")
    found = [_choice(one, whole) for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    usage = chunk.get("usage")
    return Chunk(found, _usage(usage) if isinstance(usage, dict) else None)


def _choice(one: Mapping[str, Any], whole: bool) -> Choice:
    delta = one.get("message" if whole else "delta") or one.get("message")
    text = said(one.get("text")) or said(one.get("content")) or None
    made = _delta(delta) if isinstance(delta, dict) else Delta(said(delta)) if delta else None
    if not text and (made is None or not adds(made)) and wordless(one):
        made = Delta(refusal="?")
    end, error = one.get("finish_reason"), one.get("error")
    if isinstance(end, dict):  # SGLang's own form
        error = error or (end.get("message") and end)
        end = end.get("type")
    return Choice(number(one.get("index")), made, text, None if end is None or end is False else shown(end), error)


def _delta(delta: Mapping[str, Any]) -> Delta:
    calls, call, refusal = delta.get("tool_calls"), delta.get("function_call"), delta.get("refusal")
    text = said(delta.get("content")) or said(delta.get("audio"))
    made = Delta(
        text,
        reasoning=thoughts(delta),
        refusal=None if not refusal else refusal if isinstance(refusal, str) else "?",
        tool_calls=calls if isinstance(calls, list) else None,
        function_call=call if isinstance(call, dict) else None,
    )
    silent = not adds(made) and (wordless(delta) or wordless(delta.get("content")))
    return Delta(refusal="?") if silent else made


def adds(delta: Delta) -> bool:
    """Is there any output in it?"""
    return any(msgspec.structs.astuple(delta))


def number(index: Any) -> int:
    """The number of a choice; some servers write it as text."""
    if isinstance(index, str) and index.isascii() and index.isdigit():
        return int(index[:4])
    return index if isinstance(index, int) else 0


def thoughts(delta: Mapping[str, Any]) -> str:
    """The reasoning in a message, under whatever name and in whatever form servers give it: reasoning_content, reasoning,
    reasoning_details, thinking, parts of the content whose type says so."""
    found = [value for key, value in delta.items() if HIDDEN.search(key.encode(errors="replace")) and key not in ENDS]
    content = delta.get("content")
    if isinstance(content, list):
        found += [part for part in content if isinstance(part, dict) and is_thought(part)]
    return "".join(_texts(found, DEPTH)) or ("?" if any(found) else "")  # "?": encrypted


def is_thought(part: Mapping[str, Any]) -> bool:
    """Is this part of a message's content reasoning?"""
    kind = part.get("type")
    return isinstance(kind, str) and HIDDEN.search(kind.encode(errors="replace")) is not None


def _texts(value: Any, depth: int) -> Iterator[str]:
    """The texts inside, at most ``depth`` levels down; no labels."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth:
        for one in value:
            yield from _texts(one, depth - 1)
    elif isinstance(value, dict) and depth:
        for key, one in value.items():
            if key not in LABELS:
                yield from _texts(one, depth - 1)


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


def said(content: Any, depth: int = DEPTH) -> str:
    """The text of an answer's content in any form: a text, a number, parts of which some have text (the words of a sound
    are its transcript); no reasoning. At most ``depth`` levels down."""
    if isinstance(content, str):
        return content
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        return shown(content)
    if not depth:
        return ""
    if isinstance(content, list):
        return "".join(said(part, depth - 1) for part in content)
    if isinstance(content, dict) and not is_thought(content):
        return "".join(said(content.get(name), depth - 1) for name in WORDS)
    return ""


def wordless(content: Any, depth: int = DEPTH) -> bool:
    """Is there output that has no text: sound, pictures, numbers of tokens?"""
    if isinstance(content, list):
        return depth > 0 and any(wordless(part, depth - 1) for part in content)
    if not isinstance(content, dict) or is_thought(content) or not depth:
        return False
    found = [content[name] for name in WORDLESS if content.get(name)]
    return any(
        not isinstance(value, (dict, list)) or wordless(value, depth - 1) or is_numbers(value) for value in found
    )


def is_numbers(value: Any) -> bool:
    """A list that begins with a number."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)


def plain_text(content: Any) -> str:
    """The text of a message's content: text itself, or parts of which some are text; no reasoning."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict) and not is_thought(part)]
    return "".join(text for text in texts if isinstance(text, str))
