"""Reading a stored server-sent event stream: which tokens came when, and did the answer end well."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

Piece = tuple[int, bytes]  # (stamp in ns, body bytes of one read)
EXCERPT = 200  # characters of a strange body that an error shows
CONTENT_KEYS = ("content", "reasoning_content", "reasoning", "tool_calls")  # of a chat delta


@dataclass
class Answer:
    """What a stream said. ``stamps_ns`` has one stamp per event that carried content; ``error`` None: it ended well."""

    stamps_ns: list[int] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finished: bool = False
    error: str | None = None

    @property
    def output_tokens(self) -> int:
        """The server's count if it gave one, else the number of events with content."""
        return len(self.stamps_ns) if self.completion_tokens is None else self.completion_tokens


def events(pieces: Sequence[Piece]) -> Iterator[tuple[int, str, bytes]]:
    """(stamp, event name, data) of every event, by the rules of the WHATWG event-stream format, LF or CRLF.

    The stamp is that of the read that brought the end of the event's last data line.
    """
    blob = b"".join(data for _, data in pieces)
    ends = list(itertools.accumulate(len(data) for _, data in pieces))
    stamp, name, lines = 0, "", list[bytes]()
    start = 3 if blob.startswith(b"\xef\xbb\xbf") else 0
    while start < len(blob):
        newline = blob.find(b"\n", start)
        stop = len(blob) if newline < 0 else newline
        line = blob[start:stop].removesuffix(b"\r")
        if line.startswith(b"data:"):
            stamp = pieces[bisect.bisect_right(ends, min(stop, len(blob) - 1))][0]
            lines.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode(errors="replace")
        elif not line and lines:
            yield stamp, name, b"\n".join(lines)
            name, lines = "", []
        start = stop + 1
    if lines:
        yield stamp, name, b"\n".join(lines)


def read(pieces: Sequence[Piece]) -> Answer:
    """Understand a whole stream of OpenAI chat or completion chunks; mistakes are told in ``error``, never raised."""
    answer = Answer()
    seen = False
    for stamp, name, data in events(pieces):
        seen = True
        if data.strip() == b"[DONE]":
            answer.finished = True
            break
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            answer.error = f"an event that is not JSON: {_excerpt(data)}"
            return answer
        if not isinstance(chunk, dict):
            answer.error = f"an event that is not a JSON object: {_excerpt(data)}"
            return answer
        if name == "error" or chunk.get("error") or chunk.get("object") == "error":
            answer.error = f"error in the stream: {error_message(chunk)}"
            return answer
        _take(chunk, stamp, answer)
    if not seen:
        body = b"".join(data for _, data in pieces)
        answer.error = f"no event stream but {_excerpt(body)}" if body else "an empty answer"
    elif not answer.finished:
        answer.error = "the stream was cut off: neither [DONE] nor a finish_reason came"
    elif answer.output_tokens == 0:
        answer.error = "the stream ended without a token"
    return answer


def error_message(chunk: Mapping[str, Any]) -> str:
    """The message of an OpenAI error object, in any of the forms that servers use."""
    error = chunk.get("error") or chunk
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)


def _take(chunk: Mapping[str, Any], stamp: int, answer: Answer) -> None:
    choices = chunk.get("choices") or ()
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = choice.get("delta") or {}
    if choice.get("text") or any(delta.get(key) for key in CONTENT_KEYS):
        answer.stamps_ns.append(stamp)
    if choice.get("finish_reason"):
        answer.finished = True
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        answer.prompt_tokens = usage.get("prompt_tokens", answer.prompt_tokens)
        answer.completion_tokens = usage.get("completion_tokens", answer.completion_tokens)


def _excerpt(data: bytes) -> str:
    return repr(data.decode(errors="replace").strip()[:EXCERPT])
