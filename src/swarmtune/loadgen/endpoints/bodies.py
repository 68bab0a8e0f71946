"""What the bodies of several APIs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import ChatMessage
from swarmtune.loadgen.endpoints.chunks import plain_text
from swarmtune.workload.session import Turn


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


def streamed(body: dict[str, Any], *, stream: bool, usage: bool = True) -> dict[str, Any]:
    """The body with the fields that ask for an event stream, and for token counts at its end."""
    body["stream"] = stream
    if stream and usage:
        body["stream_options"] = {"include_usage": True}
    return body


def payload_of(turn: Turn, model: str, *, stream: bool) -> bytes:
    """A whole body from the data: its model and ``stream`` are ours, all the rest is sent as it is."""
    body = {**(turn.payload or {}), "model": model, "stream": stream}
    if stream:
        body.setdefault("stream_options", {"include_usage": True})
    else:
        body.pop("stream_options", None)
    return orjson.dumps(body)
