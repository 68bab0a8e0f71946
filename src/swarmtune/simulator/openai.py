"""The OpenAI API: parses requests and writes answers, without any I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

WORDS = ("the", "of", "über", "and", "to", "naïve", "in", "a", "日本", "is", "that", "for", "it", "as", "was", "with")
DEFAULT_MAX_TOKENS = {"completions": 16, "chat": 128}


class BadRequestError(ValueError):
    """The request cannot be served; ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Generation:
    """One parsed request."""

    endpoint: str
    id: str
    model: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    stream: bool
    include_usage: bool


def _prompt_tokens(prompt: Any) -> int:
    if isinstance(prompt, str):
        return max(1, len(prompt.split()))
    if isinstance(prompt, list) and prompt:
        if all(isinstance(token, int) for token in prompt):
            return len(prompt)
        if len(prompt) == 1:
            return _prompt_tokens(prompt[0])
    raise BadRequestError("prompt must be a text or a list of token ids")


def _message_tokens(messages: Any) -> int:
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequestError("messages must be a list of objects with role and content")
    words = 0
    for message in messages:
        content = message.get("content") or ""
        parts = content if isinstance(content, list) else [{"text": content}]
        words += sum(len(str(part.get("text", "")).split()) for part in parts)
    return max(1, words)


def _output_tokens(body: Mapping[str, Any], endpoint: str, seed: int) -> tuple[int, str]:
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    limit = DEFAULT_MAX_TOKENS[endpoint] if max_tokens is None else max_tokens
    if not isinstance(limit, int) or limit < 1:
        raise BadRequestError("max_tokens must be at least 1")
    if body.get("ignore_eos"):
        return limit, "length"
    natural = random.Random(f"{seed}:{body.get('prompt', body.get('messages'))}").randint(1, 2 * limit)
    return (natural, "stop") if natural < limit else (limit, "length")


def parse(raw: bytes, endpoint: str, model: str, number: int, seed: int) -> Generation:
    """Read a request body. Without ``ignore_eos`` the answer ends at a length drawn from the prompt and the seed."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError("the body is not a JSON object")
    if body.get("model", model) != model:
        raise BadRequestError(f"The model `{body['model']}` does not exist.", 404)
    chat = endpoint == "chat"
    prompt_tokens = _message_tokens(body.get("messages")) if chat else _prompt_tokens(body.get("prompt"))
    output_tokens, reason = _output_tokens(body, endpoint, seed)
    options = body.get("stream_options") or {}
    return Generation(
        endpoint=endpoint,
        id=f"{'chatcmpl' if chat else 'cmpl'}-{number}",
        model=model,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        finish_reason=reason,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
    )


def word(index: int) -> str:
    """The text of the token at this place of the answer."""
    return f" {WORDS[index % len(WORDS)]}"


def usage(generation: Generation) -> dict[str, int]:
    """The usage object of a finished generation."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.output_tokens,
        "total_tokens": generation.prompt_tokens + generation.output_tokens,
    }


def _envelope(generation: Generation, kind: str) -> dict[str, Any]:
    return {"id": generation.id, "object": kind, "created": 0, "model": generation.model}


def _event(payload: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def _kind(generation: Generation) -> str:
    return "chat.completion.chunk" if generation.endpoint == "chat" else "text_completion"


def role_event(generation: Generation) -> bytes:
    """The first event of a chat stream: a role and no token."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    return _event({**_envelope(generation, _kind(generation)), "choices": [choice]})


def token_event(generation: Generation, index: int, text: str) -> bytes:
    """The event of one token; the last one carries the finish reason."""
    reason = generation.finish_reason if index + 1 == generation.output_tokens else None
    content = {"delta": {"content": text}} if generation.endpoint == "chat" else {"text": text}
    choice = {"index": 0, **content, "finish_reason": reason}
    return _event({**_envelope(generation, _kind(generation)), "choices": [choice]})


def closing_events(generation: Generation) -> bytes:
    """Usage, if asked for, and the end mark."""
    done = b"data: [DONE]\n\n"
    if not generation.include_usage:
        return done
    return _event({**_envelope(generation, _kind(generation)), "choices": [], "usage": usage(generation)}) + done


def answer(generation: Generation, text: str) -> bytes:
    """The whole answer of a request without streaming."""
    chat = generation.endpoint == "chat"
    content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **content, "finish_reason": generation.finish_reason}
    kind = "chat.completion" if chat else "text_completion"
    return orjson.dumps({**_envelope(generation, kind), "choices": [choice], "usage": usage(generation)})


def error(message: str, status: int) -> bytes:
    """An error object as vLLM writes it."""
    kind = {400: "BadRequestError", 404: "NotFoundError"}.get(status, "ServiceUnavailableError")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}})
