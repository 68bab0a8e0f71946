"""What the bodies of several APIs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import ChatMessage
from swarmtune.loadgen.endpoints.chunks import plain_text
from swarmtune.workload.session import Turn

SAID = ("role", "content", "name")  # of a message, what a text can hold or do without


def messages_of(turn: Turn, history: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The chat messages to be sent: the history, a system prompt at its start, and what this turn adds."""
    system = ({"role": "system", "content": turn.system},) if turn.system and not history else ()
    mine = turn.messages or ({"role": "user", "content": "\n".join(turn.texts)},)
    return [*history, *system, *mine]


def prompt_of(turn: Turn, history: Sequence[ChatMessage]) -> str:
    """The same as one text, for APIs without messages."""
    if not history and not turn.messages and not turn.system:
        return "\n".join(turn.texts)
    return "\n".join(plain_text(message.get("content")) for message in messages_of(turn, history))


def lost_as_text(turn: Turn) -> str:
    """What of this turn's messages would be lost in a single text, as a reason to refuse it; empty: nothing."""
    for message in turn.messages:
        if lost := sorted(key for key, value in message.items() if key not in SAID and value is not None):
            return f"{lost[0][:60]!r} of a message can be sent to a chat endpoint only (endpoint_type)"
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        kinds = [part.get("type") if isinstance(part, dict) else part for part in parts]
        if others := [kind for kind in kinds if kind != "text"]:
            return f"a part {str(others[0])[:60]!r} of a message can be sent to a chat endpoint only (endpoint_type)"
    return ""


def streamed(body: dict[str, Any], *, stream: bool, usage: bool = True) -> dict[str, Any]:
    """The body with the fields that ask for an event stream, and for token counts at its end."""
    body["stream"] = stream
    if stream and usage:
        body["stream_options"] = {"include_usage": True}
    return body


def payload_of(turn: Turn, model: str, extra: Mapping[str, Any], *, stream: bool) -> bytes:
    """A whole body from the data: its model and ``stream`` are ours, all the rest is sent as it is, after ``extra``."""
    body = {**plain_payload(turn, model, extra), "stream": stream}
    if stream:
        body.setdefault("stream_options", {"include_usage": True})
    else:
        body.pop("stream_options", None)
    return orjson.dumps(body)


def plain_payload(turn: Turn, model: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The same for APIs without ``stream``."""
    return {**extra, **(turn.payload or {}), "model": extra.get("model", model)}
